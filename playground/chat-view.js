import { byId, el, onceAFrame, StickToBottom } from './dom.js'
import { messageView } from './message-view.js'
import { TurnView } from './turn-view.js'

/** Turns in the DOM; older ones come back a page at a time. */
const WINDOW = 60
const SENTENCE = /^[\s\S]*[.!?:;。！？\n](?=\s|$)/
/** Said without waiting for the end of a sentence, should there be none. */
const MAX_PENDING = 400
const MAX_SPOKEN = 40

/** The conversation: turns as they run, what came before them, and a voice for those who listen. */
export class ChatView {
  #bottom = new StickToBottom(byId('conversation'), (atBottom) => {
    this.#jump.hidden = atBottom
  })
  #turns = byId('turns')
  #earlier = byId('earlier')
  #older = byId('older-turns')
  #jump = byId('jump')
  #announcer = new Announcer(byId('live'))
  #session
  #views = new Map()
  #dirty = new Set()
  #limit = WINDOW
  #flush = onceAFrame(() => this.#render())

  constructor() {
    this.#older.addEventListener('click', () => {
      this.#limit += WINDOW
      this.#flush()
    })
    this.#jump.addEventListener('click', () => this.#bottom.toBottom())
    // The prompt, a refusal or another pane may take room from the conversation.
    new ResizeObserver(() => this.#bottom.settle()).observe(byId('conversation'))
  }

  show(session) {
    this.#session = session
    this.#views.clear()
    this.#dirty.clear()
    this.#limit = WINDOW
    this.#turns.replaceChildren()
    this.#earlier.replaceChildren()
    this.#announcer.reset()
    this.#jump.hidden = true
    this.#bottom.toBottom()
    this.#flush()
  }

  /** Turns up to this one are history: they are shown, not read out. */
  announceAfter(turn) {
    this.#announcer.quietUpTo = turn
  }

  touch(turn) {
    this.#dirty.add(turn)
    this.#flush()
  }

  heard(event) {
    this.#announcer.hear(event)
  }

  showEarlier(messages) {
    const label = el('p', { class: 'divider' }, 'Earlier, from the transcript')
    this.#earlier.replaceChildren(label, ...messages.map((message) => messageView(message)))
    this.#bottom.settle()
  }

  remark(text) {
    this.#earlier.append(el('p', { class: 'note', data: { tone: 'warning' } }, text))
  }

  #render() {
    if (this.#session === undefined) return
    const all = this.#session.conversation.turns
    const shown = all.slice(-this.#limit)
    this.#older.hidden = shown.length === all.length
    this.#place(shown)
    for (const turn of this.#dirty) this.#views.get(turn)?.update()
    this.#dirty.clear()
    this.#bottom.settle()
  }

  /** Puts the turns' elements in the order of the turns, moving none that is where it should be. */
  #place(shown) {
    const wanted = new Set(shown)
    for (const [turn, view] of this.#views) {
      if (wanted.has(turn)) continue
      view.root.remove()
      this.#views.delete(turn)
    }
    let next = this.#turns.firstChild
    for (const turn of shown) {
      let view = this.#views.get(turn)
      if (view === undefined) {
        view = new TurnView(turn)
        view.update()
        this.#views.set(turn, view)
      }
      if (view.root === next) next = next.nextSibling
      else this.#turns.insertBefore(view.root, next)
    }
  }
}

/**
 * Says the answer to screen readers a sentence at a time. Word by word, as it is shown, it would stutter; all at once,
 * one would wait as long as for an answer that is not streamed.
 */
class Announcer {
  quietUpTo = 0
  #region
  #pending = ''

  constructor(region) {
    this.#region = region
  }

  reset() {
    this.#pending = ''
    this.#region.replaceChildren()
  }

  hear(event) {
    if (event.turn <= this.quietUpTo) return
    if (event.type === 'text_delta') this.#collect(event.delta)
    else if (event.type === 'tool_approval_requested') this.#say(`Tool ${event.name} waits for your permission.`)
    else if (event.type === 'tool_execution_started') this.#say(`Tool ${event.name} runs.`)
    else if (event.type === 'tool_execution_completed' && event.is_error) this.#say(`Tool ${event.name} failed.`)
    else if (event.type === 'run_completed') this.#say(`Turn ${event.turn} is complete.`)
    else if (event.type === 'run_interrupted') this.#say(`Turn ${event.turn} was interrupted.`)
    else if (event.type === 'run_failed') this.#say(`Turn ${event.turn} failed: ${event.error}`)
  }

  #collect(delta) {
    this.#pending += delta
    const [whole] = this.#pending.length > MAX_PENDING ? [this.#pending] : (this.#pending.match(SENTENCE) ?? [])
    if (whole === undefined) return
    this.#pending = this.#pending.slice(whole.length)
    this.#add(whole)
  }

  #say(text) {
    if (this.#pending !== '') this.#add(this.#pending)
    this.#pending = ''
    this.#add(text)
  }

  #add(text) {
    if (text.trim() === '') return
    this.#region.append(el('p', {}, text))
    while (this.#region.childElementCount > MAX_SPOKEN) this.#region.firstChild.remove()
  }
}
