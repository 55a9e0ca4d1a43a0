import { byId, count, el, onceAFrame, StickToBottom, setText } from './dom.js'

/** Rows in the DOM. The rest of the log is kept as data and can be paged through. */
const PAGE = 300
const PREVIEW = 300
/** What the columns before the JSON say already. */
const KNOWN = /^\{"type":"\w+",?(?:"seq":\d+,"turn":\d+,?)?/

/** The raw event log: every frame as it came, oldest first, filterable. */
export class LogView {
  #list = byId('log')
  #bottom = new StickToBottom(this.#list)
  #filter = byId('log-filter')
  #hideDeltas = byId('log-hide-deltas')
  #summary = byId('log-summary')
  #older = byId('log-older')
  #newer = byId('log-newer')
  #session
  /** The entries that pass the filter, and how many of the log were looked at. */
  #matches = []
  #seen = 0
  #dropped = 0
  /** End of the page in `matches`; undefined follows the newest. */
  #end
  #rows = new Map()
  #flush = onceAFrame(() => this.#render())

  constructor() {
    this.#filter.addEventListener('input', () => this.#restart())
    this.#hideDeltas.addEventListener('change', () => this.#restart())
    this.#older.addEventListener('click', () => this.#turnPage(-PAGE))
    this.#newer.addEventListener('click', () => this.#turnPage(PAGE))
    new ResizeObserver(() => this.#end === undefined && this.#bottom.settle()).observe(this.#list)
  }

  show(session) {
    this.#session = session
    this.#restart()
  }

  added() {
    this.#flush()
  }

  #restart() {
    this.#matches = []
    this.#seen = 0
    this.#dropped = this.#session?.logDropped ?? 0
    this.#end = undefined
    this.#flush()
  }

  #turnPage(by) {
    const end = (this.#end ?? this.#matches.length) + by
    this.#end = end >= this.#matches.length ? undefined : Math.max(end, Math.min(PAGE, this.#matches.length))
    this.#flush()
  }

  #render() {
    const log = this.#session?.log ?? []
    if (this.#session !== undefined && this.#session.logDropped !== this.#dropped) this.#restart()
    const accepts = this.#predicate()
    for (; this.#seen < log.length; this.#seen++) if (accepts(log[this.#seen])) this.#matches.push(log[this.#seen])
    const end = this.#end ?? this.#matches.length
    const page = this.#matches.slice(Math.max(0, end - PAGE), end)
    this.#place(page)
    this.#older.disabled = end <= PAGE
    this.#newer.disabled = this.#end === undefined
    setText(this.#summary, this.#summaryText(page.length, log.length))
  }

  /** Rows that stay keep their element: an opened one stays open while new events come in. */
  #place(page) {
    const rows = new Map()
    for (const entry of page) rows.set(entry, this.#rows.get(entry) ?? row(entry))
    for (const [entry, node] of this.#rows) if (!rows.has(entry)) node.remove()
    let next = this.#list.firstChild
    for (const node of rows.values()) {
      if (node === next) next = next.nextSibling
      else this.#list.insertBefore(node, next)
    }
    this.#rows = rows
    if (this.#end === undefined) this.#bottom.settle()
  }

  #summaryText(shown, total) {
    const matching = this.#matches.length
    const parts = [shown === matching ? `${count(shown, 'frame')}` : `${shown} of ${count(matching, 'frame')}`]
    if (matching !== total) parts.push(`${count(total, 'in all', 'in all')}`)
    if (this.#dropped > 0) parts.push(`the oldest ${this.#dropped} are no longer in memory`)
    return parts.join(', ')
  }

  /** Words that must all be found; `turn:3` means that turn alone. */
  #predicate() {
    const hideDeltas = this.#hideDeltas.checked
    const words = this.#filter.value.toLowerCase().split(/\s+/).filter(Boolean)
    const tests = words.map((word) => {
      const [, turn] = word.match(/^turn:(\d+)$/) ?? []
      if (turn !== undefined) return (entry) => entry.turn === Number(turn)
      return (entry) => entry.type.includes(word) || entry.raw.toLowerCase().includes(word)
    })
    return (entry) => !(hideDeltas && entry.type.endsWith('_delta')) && tests.every((test) => test(entry))
  }
}

function row(entry) {
  const { seq, turn, type, raw, local } = entry
  const name = el('span', { class: 'log-type' }, type)
  if (local !== undefined) {
    return el(
      'div',
      { class: 'log-row log-remark', data: { local } },
      el('span', { class: 'log-seq' }),
      name,
      el('span', {}, raw),
    )
  }
  const json = raw.slice(0, PREVIEW).replace(KNOWN, '{')
  const summary = el(
    'summary',
    {},
    el('span', { class: 'log-seq' }, seq === undefined ? '–' : String(seq)),
    el('span', { class: 'log-turn' }, turn === undefined ? '' : `t${turn}`),
    name,
    el('code', { class: 'log-json' }, json),
  )
  const node = el('details', { class: 'log-row', data: { group: groupOf(type) } }, summary)
  // Written when it is opened: most rows never are.
  node.addEventListener(
    'toggle',
    () => node.append(el('pre', { class: 'value' }, JSON.stringify(JSON.parse(raw), null, 2))),
    {
      once: true,
    },
  )
  return node
}

function groupOf(type) {
  if (type.startsWith('run_')) return 'run'
  if (type.startsWith('tool_')) return 'tool'
  if (type.startsWith('reasoning_')) return 'reasoning'
  if (type.startsWith('text_')) return 'text'
  return 'other'
}
