import { count, durationText, el, makeScrollable, prettyJson, setText, usageText } from './dom.js'
import { runProblem } from './problem-view.js'

const STATUS_TEXT = {
  queued: 'waiting in line',
  running: 'running',
  completed: 'completed',
  interrupted: 'interrupted',
  failed: 'failed',
}
const TOOL_TEXT = {
  requested: 'asked for',
  waiting: 'waits for you',
  allowed: 'allowed',
  refused: 'refused',
  running: 'running',
  done: 'done',
  failed: 'error',
  'timed out': 'timed out',
  unanswered: 'never answered',
}

/** One turn on the screen. `update` brings the DOM up to what the turn is now, touching only what has changed. */
export class TurnView {
  #turn
  #calls = []
  #status = el('span', { class: 'status' })
  #prompt = el('div', { class: 'prompt' })
  #partial = el('p', { class: 'note', hidden: true }, 'The first events of this turn are no longer kept.')
  #answer = el('div', { class: 'answer' })
  #end

  constructor(turn) {
    this.#turn = turn
    const heading = el('h3', {}, `Turn ${turn.number}`)
    this.root = el(
      'article',
      { class: 'turn', 'aria-label': `Turn ${turn.number}`, data: { turn: turn.number } },
      el('header', { class: 'turn-head' }, heading, this.#status),
      this.#prompt,
      this.#partial,
      this.#answer,
    )
  }

  update() {
    const turn = this.#turn
    this.root.dataset.status = turn.status
    setText(this.#status, STATUS_TEXT[turn.status])
    const { prompt = '' } = turn
    setText(this.#prompt, prompt)
    makeScrollable(this.#prompt, prompt)
    this.#partial.hidden = !turn.partial
    turn.calls.forEach((call, index) => {
      this.#calls[index] ??= this.#addCall()
      this.#calls[index].update(call, turn.status)
    })
    if (this.#end === undefined && turn.status !== 'running' && turn.status !== 'queued') {
      this.#end = turnEnd(turn)
      this.root.append(this.#end)
    }
  }

  #addCall() {
    const view = new CallView()
    this.#answer.append(view.root)
    return view
  }
}

/** What one call of the model said, up to the line that says how it stopped. */
class CallView {
  #label = el('p', { class: 'call-label' })
  #parts = el('div', { class: 'parts' })
  #end = el('p', { class: 'call-end', hidden: true })
  /** By part, since a part may go away when the whole text of a call replaces what was streamed. */
  #views = new Map()
  root = el('section', { class: 'call' }, this.#label, this.#parts, this.#end)

  update({ number, parts, stopReason, usage }, turnStatus) {
    setText(this.#label, number === undefined ? '' : `Model call ${number + 1}`)
    for (const [part, view] of this.#views) {
      if (parts.includes(part)) continue
      view.root.remove()
      this.#views.delete(part)
    }
    for (const part of parts) {
      if (!this.#views.has(part)) this.#add(part)
      this.#views.get(part).update(part)
    }
    const live = turnStatus === 'running' && stopReason === undefined
    this.root.classList.toggle('live', live)
    if (stopReason !== undefined) {
      this.#end.hidden = false
      setText(this.#end, `${stopReason} · ${usageText(usage)}`)
    }
  }

  #add(part) {
    const view = new PART_VIEWS[part.kind](part)
    this.#views.set(part, view)
    this.#parts.append(view.root)
  }
}

/** Text that grows at its end: what is shown stays as it is, so that a selection survives. */
class GrowingText {
  #node = document.createTextNode('')
  #shown = ''

  constructor(box) {
    box.append(this.#node)
  }

  show(text) {
    if (text.length === this.#shown.length && text === this.#shown) return
    if (text.startsWith(this.#shown)) this.#node.appendData(text.slice(this.#shown.length))
    else this.#node.data = text
    this.#shown = text
  }
}

class TextPart {
  root = el('div', { class: 'text' })
  #text = new GrowingText(this.root)
  #remark

  update({ text, done, superseded, rewritten }) {
    this.#text.show(text)
    this.root.classList.toggle('growing', !done)
    this.root.classList.toggle('superseded', superseded === true)
    if ((superseded || rewritten) && this.#remark === undefined) {
      const remark = superseded
        ? 'From an attempt that failed; no part of the answer.'
        : 'Changed after it was streamed.'
      this.#remark = el('p', { class: 'remark' }, remark)
      this.root.after(this.#remark)
    }
  }
}

class ReasoningPart {
  #box = el('div', { class: 'text' })
  #text = new GrowingText(this.#box)
  #summary = el('summary')

  constructor(part) {
    // Open while one can watch it come, closed when it is old: nothing moves under a reader's eyes.
    this.root = el('details', { class: 'reasoning', open: !part.done }, this.#summary, this.#box)
  }

  update({ text, done, superseded }) {
    this.#text.show(text)
    setText(this.#summary, done ? 'Reasoning' : 'Reasoning …')
    this.#box.classList.toggle('growing', !done)
    this.root.classList.toggle('superseded', superseded === true)
  }
}

class ToolPart {
  #state = el('span', { class: 'tool-state' })
  #arguments = el('pre', { class: 'value' })
  #result = el('pre', { class: 'value result' })
  #answer = el('div', { hidden: true }, el('p', { class: 'value-label' }, 'Result'), this.#result)
  #question = el('div', { class: 'approval', hidden: true })

  constructor({ id, name }) {
    const head = el('header', {}, el('span', { class: 'tool-label' }, 'Tool'), el('code', {}, name), this.#state)
    const given = el('div', {}, el('p', { class: 'value-label' }, 'Arguments'), this.#arguments)
    this.#question.append(
      el('p', {}, `May ${name} run with these arguments?`),
      this.#choice('Allow', 'primary', id, true),
      this.#choice('Refuse', '', id, false),
    )
    this.root = el(
      'section',
      { class: 'tool', 'aria-label': `Tool ${name}` },
      head,
      given,
      this.#question,
      this.#answer,
    )
  }

  /** Whoever listens further up knows the turn and the server. */
  #choice(label, look, callId, approved) {
    const detail = { callId, approved }
    const choose = () => this.root.dispatchEvent(new CustomEvent('approval', { bubbles: true, detail }))
    return el('button', { type: 'button', class: look, on: { click: choose } }, label)
  }

  update({ state, args, result, durationMs }) {
    this.root.dataset.state = state
    this.#question.hidden = state !== 'waiting'
    const given = args === undefined ? 'no longer kept' : prettyJson(args)
    setText(this.#arguments, given)
    makeScrollable(this.#arguments, given)
    const took = durationMs === undefined ? '' : ` · ${durationText(durationMs)}`
    setText(this.#state, TOOL_TEXT[state] + took)
    if (result === undefined) return
    this.#answer.hidden = false
    setText(this.#result, result)
    makeScrollable(this.#result, result)
  }
}

class NotePart {
  constructor({ text, tone }) {
    this.root = el('p', { class: 'note', data: { tone } }, text)
  }

  update() {}
}

const PART_VIEWS = { text: TextPart, reasoning: ReasoningPart, tool: ToolPart, note: NotePart }

function turnEnd({ status, result, error, code }) {
  if (status === 'failed') return el('footer', { class: 'turn-end' }, runProblem(error, code))
  const { stop_reason: reason, turns, tool_calls: tools, usage, session_usage: sum } = result
  const facts = [reason, count(turns, 'model call')]
  if (tools > 0) facts.push(count(tools, 'tool call'))
  facts.push(usageText(usage), `session ${count(sum.total_tokens ?? 0, 'token')}`)
  const label = status === 'interrupted' ? 'Interrupted' : 'Completed'
  const what =
    status === 'interrupted' ? el('p', {}, 'The turn was interrupted. What it had said so far is kept.') : undefined
  return el(
    'footer',
    { class: 'turn-end' },
    what,
    el('p', { class: 'facts' }, el('strong', {}, label), ` · ${facts.join(' · ')}`),
  )
}
