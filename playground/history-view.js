import { byId, count, el, setText } from './dom.js'
import { messageView } from './message-view.js'
import { showProblem } from './problem-view.js'

const PAGE = 100

/** The committed transcript: what the next turn's model gets to see. */
export class HistoryView {
  #list = byId('history')
  #summary = byId('history-summary')
  #session
  #loading = 0

  constructor() {
    byId('history-refresh').addEventListener('click', () => this.load())
  }

  show(session) {
    this.#session = session
    this.#list.replaceChildren()
    setText(this.#summary, '')
  }

  /** The newest page. Of two loads that overlap, the one that began last is shown. */
  async load() {
    const session = this.#session
    // The last that was read of a session that is over stays on the screen.
    if (session === undefined || (session.ended !== undefined && this.#list.childElementCount > 0)) return
    const load = ++this.#loading
    try {
      const { total } = await session.messages(0, 0)
      const offset = Math.max(0, total - PAGE)
      const { messages } = await session.messages(offset, PAGE)
      if (load !== this.#loading || session !== this.#session) return
      this.#list.replaceChildren(...this.#views(messages, offset))
      if (offset > 0) this.#list.prepend(this.#earlierButton(session, offset))
      setText(this.#summary, total === 0 ? 'Nothing is committed yet.' : `${count(total, 'committed message')}`)
    } catch (problem) {
      if (session === this.#session) showProblem(this.#list, problem)
    }
  }

  #views(messages, offset) {
    return messages.map((message, index) => messageView(message, offset + index + 1))
  }

  #earlierButton(session, end) {
    const button = el('button', { type: 'button', class: 'quiet wide' }, 'Show earlier messages')
    button.addEventListener('click', async () => {
      const offset = Math.max(0, end - PAGE)
      try {
        const { messages } = await session.messages(offset, end - offset)
        const earlier = offset > 0 ? [this.#earlierButton(session, offset)] : []
        button.replaceWith(...earlier, ...this.#views(messages, offset))
      } catch (problem) {
        button.after(el('p', { class: 'note', data: { tone: 'warning' } }, problem.title))
      }
    })
    return button
  }
}
