import { agoText, byId, count, el, setText, shortId } from './dom.js'
import { showProblem } from './problem-view.js'

const PAGE = 20

/** The list of sessions, newest first, a page at a time. The server lists the oldest first, so pages count from the end. */
export class SessionsView {
  #api
  #open
  #list = byId('session-list')
  #problem = byId('sessions-problem')
  #summary = byId('sessions-summary')
  #previous = byId('sessions-previous')
  #next = byId('sessions-next')
  /** Sessions that are newer than the page. */
  #newer = 0
  #current
  #loading = 0

  /** `open(id)` is called when one is chosen. */
  constructor(api, open) {
    this.#api = api
    this.#open = open
    byId('sessions-refresh').addEventListener('click', () => this.load())
    this.#previous.addEventListener('click', () => this.load(this.#newer - PAGE))
    this.#next.addEventListener('click', () => this.load(this.#newer + PAGE))
  }

  async load(newer = this.#newer) {
    const load = ++this.#loading
    this.#list.ariaBusy = 'true'
    try {
      const { total } = await this.#api.get('/sessions?limit=0')
      // The last page can vanish under one's feet when sessions are archived.
      const skip = Math.max(0, Math.min(newer, total - 1))
      const end = total - skip
      const offset = Math.max(0, end - PAGE)
      const { sessions } = await this.#api.get(`/sessions?limit=${end - offset}&offset=${offset}`)
      if (load !== this.#loading) return
      this.#newer = skip
      this.#render(sessions.reverse(), total)
    } catch (problem) {
      if (load === this.#loading) showProblem(this.#problem, problem)
    } finally {
      this.#list.ariaBusy = 'false'
    }
  }

  mark(id) {
    this.#current = id
    for (const link of this.#list.querySelectorAll('a')) {
      if (link.dataset.id === id) link.ariaCurrent = 'true'
      else link.ariaCurrent = null
    }
  }

  #render(sessions, total) {
    this.#problem.replaceChildren()
    this.#list.replaceChildren(...sessions.map((session) => el('li', {}, this.#item(session))))
    this.mark(this.#current)
    const last = this.#newer + sessions.length
    setText(this.#summary, sessions.length === 0 ? 'No sessions yet' : `${this.#newer + 1} to ${last} of ${total}`)
    this.#previous.disabled = this.#newer === 0
    this.#next.disabled = last >= total
  }

  #item({
    session_id: id,
    updated_at: updated,
    message_count: messages,
    total_tokens: tokens,
    is_active: active,
    labels,
  }) {
    const name = el('span', { class: 'session-name' }, labels.name ?? labels.title ?? `Session ${shortId(id)}`)
    if (active) name.append(el('span', { class: 'active-mark' }, 'running'))
    const time = el('time', { dateTime: updated, title: new Date(updated).toLocaleString() }, agoText(updated))
    const facts = el('span', { class: 'facts' }, `${count(messages, 'message')} · ${count(tokens, 'token')} · `, time)
    const chips = Object.entries(labels).map(([key, value]) => el('span', { class: 'chip' }, `${key}=${value}`))
    const link = el('a', { href: `?session=${id}`, class: 'session', data: { id } }, name, facts)
    if (chips.length > 0) link.append(el('span', { class: 'chips' }, ...chips))
    link.addEventListener('click', (event) => {
      // Leave new tabs and windows to the browser.
      if (event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return
      event.preventDefault()
      this.#open(id)
    })
    return link
  }
}
