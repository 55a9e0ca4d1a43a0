/**
 * Building DOM without markup. Whatever a user or a model wrote goes through text nodes, so it can never become HTML;
 * and the page's policy forbids inline styles and handlers, so there are none.
 */

export const byId = (id) => document.getElementById(id)

/** `props` are DOM properties, except `class`, `data`, `on` and anything with a dash, which become attributes. */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag)
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined) continue
    if (name === 'class') node.className = value
    else if (name === 'data') Object.assign(node.dataset, value)
    else if (name === 'on') for (const [type, listener] of Object.entries(value)) node.addEventListener(type, listener)
    else if (name === 'role' || name.includes('-')) node.setAttribute(name, value)
    else node[name] = value
  }
  node.append(...children.filter((child) => child !== undefined))
  return node
}

/** Writes only when something changes: a rewrite would drop the reader's text selection. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text
}

/** A page that is busy drawing must still take a click: after costly work comes a rest of this many times its cost. */
const REST = 2
const MAX_REST_MS = 400
const FRAME_MS = 16

/** Runs `work` once in the next frame, however often it is asked for until then. */
export function onceAFrame(work) {
  let asked = false
  let rest = 0
  return () => {
    if (asked) return
    asked = true
    const draw = () =>
      requestAnimationFrame(() => {
        asked = false
        const start = performance.now()
        work()
        const cost = performance.now() - start
        rest = cost > FRAME_MS ? Math.min(cost * REST, MAX_REST_MS) : 0
      })
    if (rest === 0) draw()
    else setTimeout(draw, rest)
  }
}

const isAtBottom = (box) => box.scrollHeight - box.scrollTop - box.clientHeight < 48

/** Keeps a box at its end while things are added, unless its reader has scrolled away from there. */
export class StickToBottom {
  #box
  #sticks = true

  /** `moved(atBottom)` is called when that changes what the reader sees. */
  constructor(box, moved = () => {}) {
    this.#box = box
    box.addEventListener(
      'scroll',
      () => {
        // A box in a hidden pane has no height and knows nothing of its reader.
        if (box.clientHeight === 0) return
        this.#sticks = isAtBottom(box)
        moved(this.#sticks)
      },
      { passive: true },
    )
  }

  /** To be called after every change of the box's contents or of its size. */
  settle() {
    if (this.#sticks) this.#box.scrollTop = this.#box.scrollHeight
  }

  toBottom() {
    this.#sticks = true
    this.settle()
  }
}

/** Longer text than this scrolls in a box of its own, which then has to be reachable with the keyboard. */
const LONG = 1_200
const LONG_LINES = 14

export function makeScrollable(box, text) {
  const long = text.length > LONG || text.split('\n', LONG_LINES + 2).length > LONG_LINES
  box.classList.toggle('long', long)
  if (long) box.tabIndex = 0
}

const numbers = new Intl.NumberFormat('en')
export const count = (n, one, many = `${one}s`) => `${numbers.format(n)} ${n === 1 ? one : many}`

export function usageText({ input_tokens: input = 0, output_tokens: output = 0, cache_read_tokens: cached = 0 }) {
  const parts = [`${numbers.format(input)} in`, `${numbers.format(output)} out`]
  if (cached > 0) parts.push(`${numbers.format(cached)} cached`)
  return parts.join(' · ')
}

export function durationText(ms) {
  return ms < 1000 ? `${ms} ms` : `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)} s`
}

export const clockText = (time) => new Date(time).toLocaleTimeString('en-GB')

const relative = new Intl.RelativeTimeFormat('en', { numeric: 'auto', style: 'short' })

export function agoText(time) {
  const seconds = Math.round((Date.parse(time) - Date.now()) / 1000)
  if (seconds > -10) return 'just now'
  for (const [unit, size] of [
    ['day', 86_400],
    ['hour', 3_600],
    ['minute', 60],
  ]) {
    if (-seconds >= size) return relative.format(Math.ceil(seconds / size), unit)
  }
  return relative.format(seconds, 'second')
}

/** The end of a UUID v7 is what tells two sessions apart; its beginning is the time. */
export const shortId = (id) => id.slice(-8)

export function prettyJson(value) {
  return typeof value === 'string' ? value : JSON.stringify(value, null, 2)
}
