import { el } from './dom.js'

/** What a person can do about it. The codes are the server's; NO_ANSWER is this page's own. */
const ADVICE = {
  INVALID_PARAMS: 'Mend the named fields and send it again.',
  UNAUTHORIZED: 'Give a valid API key: the next request asks for it.',
  FORBIDDEN: 'This key may not do that. Use another key.',
  SESSION_NOT_FOUND: 'The session was archived, or the server was restarted without a durable store. Create a new one.',
  TURN_NOT_FOUND: 'Refresh the session and look at its turns.',
  SESSION_BUSY: 'Wait for the turn, interrupt it, or send again with on_busy set to enqueue or interrupt.',
  SESSION_PERSISTENCE_DISABLED: 'Its events may still be there: see the event log.',
  SESSION_NOT_RUNNING: 'There is nothing to interrupt: the turn is already over.',
  PAYLOAD_TOO_LARGE: 'Send less, or raise BODY_LIMIT on the server.',
  IDEMPOTENCY_KEY_REUSED: 'Send it again: this page makes a new key each time.',
  BUDGET_EXHAUSTED: 'The budget of this session is used up. Create a new session.',
  RATE_LIMITED: 'Wait a little, then try again.',
  AGENT_ERROR: 'The agent gave up. The session is still usable: change the prompt and send it again.',
  INTERNAL_ERROR: 'The cause is in the server log, under the request id. The session is still usable.',
  CAPABILITY_UNAVAILABLE: 'Leave that option out, or enable it on the server: GET /capabilities says why it is off.',
  PROVIDER_ERROR: 'Check the model name, the provider key on the server and the state of the provider.',
  SESSION_CAPACITY_REACHED: 'Archive a session that is no longer needed, or raise MAX_SESSIONS.',
  SHUTTING_DOWN: 'The server is stopping. Try again when it is back.',
  STORE_UNAVAILABLE: 'The server has lost its store. Try again in a moment.',
  NO_ANSWER: 'Check that the server is running, then try again.',
}

/** A problem as a card: what happened, why, under which name to look it up, and what to do next. */
export function problemCard(problem, ...actions) {
  const { title, detail, code, status, requestId, body } = problem
  const facts = [code]
  if (status > 0) facts.push(`status ${status}`)
  if (requestId !== undefined) facts.push(`request ${requestId}`)
  const fields = (body.errors ?? []).map(({ path, message }) =>
    el('li', {}, el('code', {}, path || '/'), ` ${message}`),
  )
  return el(
    'div',
    { class: 'problem' },
    el('strong', {}, title),
    detail === '' || detail === title ? undefined : el('p', {}, detail),
    fields.length === 0 ? undefined : el('ul', {}, ...fields),
    ADVICE[code] === undefined ? undefined : el('p', { class: 'advice' }, ADVICE[code]),
    el('p', { class: 'facts' }, facts.join(' · ')),
    actions.length === 0 ? undefined : el('div', { class: 'actions' }, ...actions),
  )
}

/** The same for a turn that failed, of which only the text and the code are known. */
export function runProblem(error, code) {
  return problemCard({ title: 'The turn failed', detail: error, code, status: 0, body: {} })
}

/** Puts a problem into a place on the page, with a way to put it away. */
export function showProblem(place, problem, ...actions) {
  const dismiss = el(
    'button',
    { type: 'button', class: 'quiet', on: { click: () => place.replaceChildren() } },
    'Dismiss',
  )
  place.replaceChildren(problemCard(problem, ...actions, dismiss))
}
