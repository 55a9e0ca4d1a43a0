/**
 * Folds a session's events into turns, model calls and their parts: what the chat shows, without a word about how.
 *
 * turn  { number, prompt?, status, calls, result?, error?, code?, partial? }
 * call  { number?, parts, stopReason?, usage? }
 * part  { kind: 'text' | 'reasoning', text, done, superseded?, rewritten? }
 *       { kind: 'tool', id, name, args, state, result?, durationMs?, expiresAt? }
 *       { kind: 'note', text, tone }
 */
export class Conversation {
  /** In the order in which they ran; turns that wait in line come last. */
  turns = []
  /** By number, for turns whose first events are no longer kept. */
  prompts = new Map()
  #byNumber = new Map()
  #touched

  /** `touched(turn)` is called after every change of a turn. */
  constructor(touched) {
    this.#touched = touched
  }

  get running() {
    return this.turns.find((turn) => turn.status === 'running')
  }

  turn(number) {
    return this.#byNumber.get(number)
  }

  /** A turn that the server has admitted and whose events may be still to come. */
  admit({ turn: number, prompt, status }) {
    if (this.#byNumber.has(number) || status !== 'queued') return
    this.#touched(this.#add({ number, prompt, status, calls: [] }))
  }

  apply(event) {
    // What an agent reports outside of any turn is in the event log.
    if (event.turn === 0) return
    const turn = this.#byNumber.get(event.turn) ?? this.#begin(event)
    const fold = folds[event.type]
    if (fold === undefined) return
    if (event.type === 'run_started') this.#moveBeforeQueued(turn)
    fold(turn, event)
    this.#touched(turn)
  }

  #begin({ type, turn: number }) {
    const partial = type !== 'run_started'
    return this.#add({ number, status: 'running', calls: [], partial, prompt: this.prompts.get(number) })
  }

  #add(turn) {
    this.#byNumber.set(turn.number, turn)
    this.turns.push(turn)
    return turn
  }

  /** A turn that interrupts goes before those that wait, so that numbers may run out of order. */
  #moveBeforeQueued(turn) {
    this.turns.splice(this.turns.indexOf(turn), 1)
    const firstQueued = this.turns.findIndex(({ status }) => status === 'queued')
    this.turns.splice(firstQueued < 0 ? this.turns.length : firstQueued, 0, turn)
  }
}

/** One function a type. A type that is not here changes nothing in the chat, as the protocol asks of its clients. */
const folds = {
  run_started(turn, { prompt }) {
    turn.status = 'running'
    turn.prompt = prompt
  },
  turn_started(turn, { turn_number: number }) {
    settle(turn)
    turn.calls.push({ number, parts: [] })
  },
  text_delta: (turn, { delta }) => append(turn, 'text', delta),
  reasoning_delta: (turn, { delta }) => append(turn, 'reasoning', delta),
  text_complete: (turn, { content }) => complete(turn, 'text', content),
  reasoning_complete: (turn, { content }) => complete(turn, 'reasoning', content),
  tool_call_requested(turn, { id, name, args }) {
    finishOpenText(turn)
    call(turn).parts.push({ kind: 'tool', id, name, args, state: 'requested' })
  },
  tool_execution_started(turn, { id, name }) {
    tool(turn, id, name).state = 'running'
  },
  tool_execution_completed(turn, { id, name, result, is_error: isError, duration_ms: durationMs }) {
    Object.assign(tool(turn, id, name), { state: isError ? 'failed' : 'done', result, durationMs })
  },
  tool_execution_timed_out(turn, { id, name, timeout_ms: durationMs }) {
    Object.assign(tool(turn, id, name), { state: 'timed out', durationMs })
  },
  tool_approval_requested(turn, { id, name, args, expires_at: expiresAt }) {
    // What would run, which a hook may have changed since the model asked.
    Object.assign(tool(turn, id, name), { args, state: 'waiting', expiresAt })
  },
  tool_approval_resolved(turn, { id, name, approved, reason }) {
    tool(turn, id, name).state = approved ? 'allowed' : 'refused'
    if (!approved) note(turn, `Tool ${name} was refused${reason === undefined ? '' : `: ${reason}`}`, 'warning')
  },
  interaction_started: (turn, { source }) => note(turn, `Something came in from ${source}`),
  interaction_failed: (turn, { error }) => note(turn, `It was not dealt with: ${error}`, 'warning'),
  hook_denied: (turn, { hook_id: hook, message }) => note(turn, `Hook ${hook} said no: ${message}`, 'warning'),
  hook_failed: (turn, { hook_id: hook, error }) => note(turn, `Hook ${hook} failed: ${error}`, 'warning'),
  hook_rewrite_applied: (turn, { hook_id: hook, point }) => note(turn, `Hook ${hook} changed something at ${point}`),
  turn_completed(turn, { stop_reason: stopReason, usage }) {
    finishOpenText(turn)
    Object.assign(call(turn), { stopReason, usage })
  },
  retrying(turn, { attempt, max_attempts: max, error, delay_ms: delay }) {
    // The next attempt says everything anew; what the failed one said is no part of the answer.
    for (const part of call(turn).parts)
      if (!part.done && isProse(part)) Object.assign(part, { done: true, superseded: true })
    note(turn, `Attempt ${attempt} of ${max} failed: ${error}. Trying again in ${delay} ms.`, 'warning')
  },
  skills_resolved: (turn, { skills }) => note(turn, `Skills used: ${skills.join(', ')}`),
  skill_resolution_failed: (turn, { reference, error }) => note(turn, `Skill ${reference} failed: ${error}`, 'warning'),
  budget_warning: (turn, { budget_type: type, used, limit }) =>
    note(turn, `Budget of ${type.replace('_', ' ')}: ${used} of ${limit} used`, 'warning'),
  compaction_started: (turn, { message_count: messages }) => note(turn, `Summarising ${messages} older messages`),
  compaction_completed: (turn, { messages_before: before, messages_after: after }) =>
    note(turn, `History was summarised: ${before} messages became ${after}`),
  compaction_failed: (turn, { error }) => note(turn, `Summarising failed, history stays: ${error}`, 'warning'),
  run_completed: (turn, { result }) => end(turn, 'completed', { result }),
  run_interrupted: (turn, { result }) => end(turn, 'interrupted', { result }),
  run_failed: (turn, { error, code }) => end(turn, 'failed', { error, code }),
}

const OPEN_STATES = ['requested', 'waiting', 'allowed', 'running']
const isProse = (part) => part.kind === 'text' || part.kind === 'reasoning'

/** The model call in progress; one without a number for what comes before the first. */
function call(turn) {
  if (turn.calls.length === 0) turn.calls.push({ parts: [] })
  return turn.calls.at(-1)
}

function append(turn, kind, delta) {
  const { parts } = call(turn)
  const last = parts.at(-1)
  if (last?.kind === kind && !last.done) {
    last.text += delta
    return
  }
  finishOpenText(turn)
  parts.push({ kind, text: delta, done: false })
}

/** The whole text of a model call. It has the last word should it differ from what was streamed. */
function complete(turn, kind, content) {
  const { parts } = call(turn)
  const said = parts.filter((part) => part.kind === kind && !part.superseded)
  const same = said.map((part) => part.text).join('') === content
  for (const part of said) part.done = true
  if (same) return
  if (said.length === 0) return parts.push({ kind, text: content, done: true })
  const [first, ...others] = said
  Object.assign(first, { text: content, rewritten: !turn.partial })
  for (const part of others) parts.splice(parts.indexOf(part), 1)
}

function finishOpenText(turn) {
  const last = turn.calls.at(-1)?.parts.at(-1)
  if (last !== undefined && isProse(last)) last.done = true
}

function tool(turn, id, name) {
  for (const { parts } of turn.calls) {
    const known = parts.find((part) => part.kind === 'tool' && part.id === id)
    if (known !== undefined) return known
  }
  const unknown = { kind: 'tool', id, name, args: undefined, state: 'requested' }
  call(turn).parts.push(unknown)
  return unknown
}

function note(turn, text, tone = 'plain') {
  call(turn).parts.push({ kind: 'note', text, tone })
}

/** Closes whatever is open: nothing may look as if it were still running. */
function settle(turn) {
  for (const part of turn.calls.at(-1)?.parts ?? []) {
    if (isProse(part)) part.done = true
    else if (OPEN_STATES.includes(part.state)) part.state = 'unanswered'
  }
}

function end(turn, status, outcome) {
  settle(turn)
  Object.assign(turn, { status }, outcome)
  const said = turn.calls.some(({ parts }) => parts.some((part) => part.kind === 'text' && !part.superseded))
  if (!said && outcome.result?.text) call(turn).parts.push({ kind: 'text', text: outcome.result.text, done: true })
}

/**
 * The messages that no retained event tells of: all of a fork's or an import's history, and what a truncated log has
 * lost. Turns that are over are found in the transcript from its end; what comes before the first one is the rest.
 */
export function messagesBefore(messages, turns, firstTurn) {
  let end = messages.length
  for (const turn of turns.filter((t) => t.turn >= firstTurn && t.ended_at !== undefined).reverse()) {
    const at = messages.slice(0, end).findLastIndex((m) => m.role === 'user' && m.content === turn.prompt)
    if (at >= 0) end = at
  }
  return messages.slice(0, end).filter((message) => message.role !== 'system')
}
