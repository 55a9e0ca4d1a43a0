import { byId, clockText, el, setText } from './dom.js'
import { problemCard, showProblem } from './problem-view.js'
import { fillSampleMenu } from './samples.js'

/** Where a prompt is written and sent, and where a running turn is interrupted. */
export class Composer {
  #form = byId('composer')
  #prompt = byId('prompt')
  #onBusy = byId('on-busy')
  #send = byId('send')
  #interrupt = byId('interrupt')
  #samples = byId('samples-field')
  #place = byId('composer-problem')
  #session
  #sending = false
  /** The turn that refused the last prompt; the refusal is taken away when that turn is over. */
  #blockedBy

  constructor() {
    fillSampleMenu(byId('samples'), this.#prompt)
    this.#form.addEventListener('submit', (event) => {
      event.preventDefault()
      void this.#submit(this.#onBusy.value)
    })
    this.#prompt.addEventListener('keydown', (event) => {
      // While an input method is composing, Enter belongs to it.
      if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return
      event.preventDefault()
      this.#form.requestSubmit()
    })
    this.#interrupt.addEventListener('click', () => void this.interrupt())
    document.addEventListener('keydown', (event) => {
      if (event.key !== 'Escape' || document.querySelector('dialog[open]')) return
      // There it means: forget the filter.
      if (event.target.matches?.('input[type=search]')) return
      if (this.#session?.conversation.running !== undefined) void this.interrupt()
    })
  }

  show(session) {
    this.#session = session
    this.#place.replaceChildren()
    this.#blockedBy = undefined
    this.refresh()
  }

  focus() {
    this.#prompt.focus({ preventScroll: true })
  }

  /** Follows the state of the session: who can send, what can be interrupted. */
  refresh() {
    const session = this.#session
    const usable = session !== undefined && session.ended === undefined
    this.#form.hidden = !usable
    if (!usable) return this.#place.replaceChildren()
    this.#samples.hidden = session.view?.state.agent !== 'scripted'
    this.#send.disabled = this.#sending
    setText(this.#send, this.#sending ? 'Sending' : 'Send')
    const { running } = session.conversation
    this.#interrupt.disabled = running === undefined
    if (this.#blockedBy !== undefined && session.conversation.turn(this.#blockedBy)?.status !== 'running') {
      this.#blockedBy = undefined
      this.#place.replaceChildren()
    }
  }

  async interrupt() {
    const session = this.#session
    const { running } = session.conversation
    if (running === undefined) return
    try {
      await session.interrupt(running.number)
    } catch (problem) {
      if (session === this.#session) showProblem(this.#place, problem)
    }
  }

  async #submit(onBusy) {
    const session = this.#session
    const prompt = this.#prompt.value
    if (this.#sending || prompt.trim() === '') return this.focus()
    this.#sending = true
    this.#place.replaceChildren()
    this.#blockedBy = undefined
    this.refresh()
    try {
      await session.send(prompt, onBusy)
      // Whatever was typed meanwhile is the next prompt.
      if (this.#prompt.value === prompt) this.#prompt.value = ''
    } catch (problem) {
      if (session === this.#session) this.#refused(problem)
    } finally {
      this.#sending = false
      this.refresh()
    }
  }

  #refused(problem) {
    const active = problem.body?.active_turn
    if (problem.code !== 'SESSION_BUSY' || active === undefined) return showProblem(this.#place, problem)
    this.#blockedBy = active.turn
    const since = active.started_at === undefined ? '' : ` since ${clockText(active.started_at)}`
    const what = `Turn ${active.turn} is in the way: ${active.status}${since}, last event ${active.last_seq}. Your prompt is kept.`
    const button = (label, onBusy) =>
      el('button', { type: 'button', on: { click: () => void this.#submit(onBusy) } }, label)
    const card = problemCard(
      problem,
      button(`Interrupt turn ${active.turn} and send`, 'interrupt'),
      button('Wait in line', 'enqueue'),
    )
    card.querySelector('strong').after(el('p', {}, what))
    this.#place.replaceChildren(card)
  }
}
