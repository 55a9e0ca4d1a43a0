import { byId, clockText, durationText, el, shortId } from './dom.js'

const MAX = 60
const UUID = /[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/

/** What this page asked the server for, and how to ask the same with curl: the page as an example of the API. */
export class RequestsView {
  #list = byId('requests')

  add(call) {
    this.#list.prepend(row(call))
    while (this.#list.childElementCount > MAX) this.#list.lastChild.remove()
  }
}

function row(call) {
  const { method, path, status, ms, at } = call
  const summary = el(
    'summary',
    {},
    el('span', { class: 'request-status', data: { ok: String(status > 0 && status < 400) } }, String(status || 'none')),
    el('code', { class: 'request-line' }, `${method} ${path.replace(UUID, (id) => `…${shortId(id)}`)}`),
    el('span', { class: 'request-time' }, durationText(ms)),
  )
  return el(
    'details',
    { class: 'request' },
    summary,
    el('pre', { class: 'value', tabIndex: 0 }, curl(call)),
    el('p', { class: 'facts' }, `sent at ${clockText(at)}`),
  )
}

/** Never with the key itself: this text is made to be copied. */
function curl({ method, path, headers, body, withKey }) {
  const lines = [`curl -N ${method === 'GET' ? '' : `-X ${method} `}${quote(location.origin + path)}`]
  if (withKey) lines.push(`-H "Authorization: Bearer $API_KEY"`)
  for (const [name, value] of Object.entries(headers)) lines.push(`-H ${quote(`${name}: ${value}`)}`)
  if (body !== undefined) lines.push(`--json ${quote(JSON.stringify(body))}`)
  return lines.join(' \\\n  ')
}

const quote = (text) => `'${text.replaceAll("'", `'\\''`)}'`
