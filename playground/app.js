import { Api } from './api.js'
import { ChatView } from './chat-view.js'
import { Composer } from './composer.js'
import { ConnectionView } from './connection-view.js'
import { CreateView } from './create-view.js'
import { askForKey, askHowToArchive } from './dialogs.js'
import { byId, count, el, onceAFrame, setText, usageText } from './dom.js'
import { HistoryView } from './history-view.js'
import { LogView } from './log-view.js'
import { initPanes, initTabs, showPane } from './panes.js'
import { showProblem } from './problem-view.js'
import { RequestsView } from './requests-view.js'
import { SAMPLES } from './samples.js'
import { OpenSession } from './session.js'
import { SessionsView } from './sessions-view.js'

/** Puts the parts of the page together: one open session, whose changes go to the views that show them. */

const requests = new RequestsView()
const api = new Api({
  askForKey,
  onCall(call) {
    requests.add(call)
    byId('forget-key').hidden = !api.hasKey
  },
})
const chat = new ChatView()
const log = new LogView()
const history = new HistoryView()
const connection = new ConnectionView()
const composer = new Composer()
const sessions = new SessionsView(api, (id) => visit(id))
const create = new CreateView(api, (id) => visit(id))

let session
const refreshComposer = onceAFrame(() => composer.refresh())

/** What the open session tells, and who wants to hear it. */
const listeners = {
  view: renderHead,
  turn(turn) {
    chat.touch(turn)
    refreshComposer()
  },
  event(event) {
    chat.heard(event)
    if (event.type.startsWith('run_')) afterChange()
  },
  log: () => log.added(),
  earlier: (messages) => chat.showEarlier(messages),
  truncated: ({ missed_from: from, missed_to: to }) =>
    chat.remark(`Events ${from} to ${to} are no longer kept by the server. The transcript under History is complete.`),
  connection: (status) => connection.update(status),
  alarm: (text) => connection.alarm(text),
  ended: renderEnded,
}

/** A turn began or ended: counters, list and transcript have changed. Many such events make one round of requests. */
const afterChange = debounce(() => {
  const current = session
  void sessions.load()
  if (current === undefined || current.ended !== undefined) return
  current.refresh().catch((problem) => current === session && showProblem(byId('chat-problem'), problem))
  if (!byId('history-panel').hidden) void history.load()
}, 150)

function debounce(work, ms) {
  let timer
  return () => {
    clearTimeout(timer)
    timer = setTimeout(work, ms)
  }
}

function visit(id) {
  window.history.pushState(null, '', `?session=${encodeURIComponent(id)}`)
  void sessions.load()
  void show(id)
}

/** Leaves the open session and opens another, or none. */
async function show(id) {
  session?.leave()
  const opened =
    id === undefined
      ? undefined
      : new OpenSession(api, id, (topic, value) => {
          if (session === opened) listeners[topic](value)
        })
  session = opened
  byId('welcome').hidden = opened !== undefined
  byId('session').hidden = opened === undefined
  byId('chat-problem').replaceChildren()
  byId('ended').replaceChildren()
  renderHead(undefined)
  chat.show(opened)
  log.show(opened)
  history.show(opened)
  connection.show(opened?.follower)
  composer.show(opened)
  sessions.mark(id)
  showPane('chat')
  if (opened === undefined) return
  try {
    await opened.open()
    if (session !== opened) return
    const { turn, is_active: active } = opened.view.state
    chat.announceAfter(active ? turn - 1 : turn)
    composer.refresh()
    composer.focus()
    if (!byId('history-panel').hidden) void history.load()
  } catch (problem) {
    if (session === opened && opened.ended === undefined) {
      const again = el('button', { type: 'button', on: { click: () => void show(id) } }, 'Try again')
      showProblem(byId('chat-problem'), problem, again)
    }
  }
}

function renderHead(view) {
  byId('archive').disabled = view === undefined || session.ended !== undefined
  if (view === undefined) {
    for (const id of ['session-id', 'session-facts']) setText(byId(id), '')
    setText(byId('session-title'), 'Session')
    return
  }
  const { session_id: id, agent, model, labels, message_count: messages } = view.state
  setText(byId('session-title'), labels.name ?? labels.title ?? `Session with ${agent}`)
  setText(byId('session-id'), id)
  const facts = [agent, model, count(messages, 'message'), usageText(view.billing.usage)]
  setText(byId('session-facts'), facts.filter(Boolean).join(' · '))
}

const END_TEXT = {
  archived: 'This session is archived.',
  over: 'This session is over: it was archived, or its server was stopped.',
  gone: 'The server does not know this session: it was archived, or the server was restarted without a durable store.',
}

function renderEnded(how) {
  const again = el('button', { type: 'button', on: { click: () => create.open() } }, 'New session')
  byId('ended').replaceChildren(
    el('div', { class: 'ended' }, el('p', {}, `${END_TEXT[how]} What was received stays readable here.`), again),
  )
  byId('archive').disabled = true
  composer.refresh()
  void sessions.load()
}

byId('archive').addEventListener('click', async () => {
  const current = session
  const mode = await askHowToArchive(current.conversation.running !== undefined)
  if (mode === undefined) return
  try {
    await current.archive(mode)
  } catch (problem) {
    if (current === session && current.ended === undefined) showProblem(byId('chat-problem'), problem)
  }
})

byId('turns').addEventListener('approval', async ({ target, detail: { callId, approved } }) => {
  const current = session
  try {
    await current.approve(target.closest('[data-turn]').dataset.turn, callId, approved)
  } catch (problem) {
    if (current === session) showProblem(byId('chat-problem'), problem)
  }
})

for (const button of document.querySelectorAll('[data-new-session]')) {
  button.addEventListener('click', () => create.open())
}
byId('forget-key').addEventListener('click', () => {
  api.forgetKey()
  byId('forget-key').hidden = true
})

/** The front page's ways to begin, each one request away. */
const STARTS = {
  echo: {
    agent: 'echo',
    prompt: 'Hello! This answer comes word by word over Server-Sent Events, and every event has a number.',
    provider_params: { delay_ms: 80 },
  },
  tools: { agent: 'scripted', prompt: SAMPLES[2].script },
  slow: { agent: 'scripted', prompt: SAMPLES[1].script },
}
for (const button of document.querySelectorAll('[data-start]')) {
  button.addEventListener('click', async () => {
    try {
      await create.quick(STARTS[button.dataset.start])
    } catch (problem) {
      showProblem(byId('welcome-problem'), problem)
    }
  })
}

window.addEventListener('popstate', () => {
  // A link within the page is a step in the history too, and no reason to begin anew.
  if (chosen() !== session?.id) void show(chosen())
})

function chosen() {
  return new URLSearchParams(location.search).get('session') ?? undefined
}

async function loadAgents() {
  try {
    const { agents } = await api.get('/agents')
    create.offer(agents)
    const names = agents.map(({ name }) => name)
    for (const button of document.querySelectorAll('[data-start]')) {
      button.hidden = !names.includes(STARTS[button.dataset.start].agent)
    }
  } catch (problem) {
    showProblem(byId('welcome-problem'), problem)
  }
}

// Boxes that scroll are reached with the keyboard; not every browser sees to that itself.
for (const id of ['conversation', 'log', 'history', 'requests']) byId(id).tabIndex = 0
initPanes()
initTabs((panel) => {
  if (panel === 'history-panel') void history.load()
})
void loadAgents()
void sessions.load()
void show(chosen())
