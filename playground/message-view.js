import { el, makeScrollable, prettyJson } from './dom.js'

const ROLE_TEXT = { system: 'System', user: 'User', block_assistant: 'Assistant', tool_results: 'Tool results' }

/** One committed message, as the transcript has it. */
export function messageView(message, number) {
  const { role, stop_reason: reason } = message
  const head = el('header', {}, el('strong', {}, ROLE_TEXT[role] ?? role))
  if (number !== undefined) head.prepend(el('span', { class: 'number' }, String(number)))
  if (reason !== undefined) head.append(el('span', { class: 'status push' }, reason))
  return el('article', { class: 'message', data: { role } }, head, ...contents(message))
}

function contents({ role, content, blocks, results }) {
  if (role === 'block_assistant') return blocks.map(blockView)
  if (role === 'tool_results') return results.map(resultView)
  return [prose(content)]
}

function blockView({ block_type: type, data }) {
  if (type === 'text') return prose(data.text)
  if (type === 'reasoning')
    return el('details', { class: 'reasoning' }, el('summary', {}, 'Reasoning'), prose(data.text))
  if (type === 'tool_use') return labelled(el('span', {}, 'Calls ', el('code', {}, data.name)), prettyJson(data.args))
  return labelled(type, prettyJson(data))
}

function resultView({ tool_use_id: id, content, is_error: isError }) {
  const label = el('span', {}, isError ? 'Error of ' : 'Answer to ', el('code', {}, id))
  const view = labelled(label, content)
  view.classList.toggle('is-error', isError)
  return view
}

function prose(text) {
  const box = el('div', { class: 'text' }, text)
  makeScrollable(box, text)
  return box
}

function labelled(label, text) {
  const value = el('pre', { class: 'value' }, text)
  makeScrollable(value, text)
  return el('div', { class: 'labelled' }, el('p', { class: 'value-label' }, label), value)
}
