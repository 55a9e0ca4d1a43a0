import { Problem } from './api.js'
import { byId, setText } from './dom.js'
import { showProblem } from './problem-view.js'
import { fillSampleMenu } from './samples.js'

/** The dialog that makes a session. */
export class CreateView {
  #api
  #created
  #dialog = byId('create')
  #form = byId('create-form')
  #agent = byId('create-agent')
  #prompt = byId('create-prompt')
  #problem = byId('create-problem')
  #submit = byId('create-submit')
  #agents = []

  /** `created(id)` is called with the new session. */
  constructor(api, created) {
    this.#api = api
    this.#created = created
    fillSampleMenu(byId('create-samples'), this.#prompt)
    byId('create-cancel').addEventListener('click', () => this.#dialog.close())
    this.#agent.addEventListener('change', () => this.#showFields())
    this.#form.addEventListener('change', () => this.#showFields())
    this.#prompt.addEventListener('keydown', (event) => {
      if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return
      event.preventDefault()
      this.#form.requestSubmit()
    })
    this.#form.addEventListener('submit', (event) => {
      event.preventDefault()
      void this.#create()
    })
  }

  /** Offers the agents that the server has, with its default chosen. */
  offer(agents) {
    this.#agents = agents
    this.#agent.replaceChildren(
      ...agents.map(({ name, is_default: isDefault }) => new Option(name, name, isDefault, isDefault)),
    )
    this.#showFields()
  }

  open() {
    this.#problem.replaceChildren()
    this.#showFields()
    this.#dialog.showModal()
    this.#prompt.focus()
  }

  /** Creates a session without the dialog, for the samples of the front page. */
  async quick(request) {
    const { data } = await this.#post(request)
    this.#created(data.session_id)
  }

  #post(request) {
    return this.#api.post('/sessions', request, { prefer: 'respond-async' })
  }

  #showFields() {
    const name = this.#agent.value
    const agent = this.#agents.find((known) => known.name === name)
    setText(byId('create-agent-about'), agent?.description ?? '')
    byId('create-samples-field').hidden = name !== 'scripted'
    byId('create-delay-field').hidden = name !== 'echo'
    byId('create-model-field').hidden = name === 'echo' || name === 'scripted'
    const deferred = byId('create-deferred').checked
    this.#prompt.disabled = deferred
    setText(this.#submit, deferred ? 'Create' : 'Create and run')
  }

  async #create() {
    try {
      const request = this.#request()
      this.#submit.disabled = true
      const { data } = await this.#post(request)
      this.#done(data.session_id)
    } catch (problem) {
      // A first turn that fails at once leaves a session all the same; its stream tells what happened.
      if (problem.body?.session_created) this.#done(problem.body.session_id)
      else showProblem(this.#problem, problem)
    } finally {
      this.#submit.disabled = false
    }
  }

  #done(id) {
    this.#dialog.close()
    this.#prompt.value = ''
    this.#created(id)
  }

  /** Only what was filled in: an option that is not sent cannot be refused. */
  #request() {
    const name = this.#agent.value
    const request = { agent: name }
    const add = (key, value) => {
      if (value !== '' && value !== undefined) request[key] = value
    }
    if (byId('create-deferred').checked) request.initial_turn = 'deferred'
    else if (this.#prompt.value.trim() === '')
      throw wrong('/prompt', 'Write a first prompt, or create the session idle.')
    else request.prompt = this.#prompt.value
    add('system_prompt', byId('create-system').value.trim())
    add('labels', parseLabels(byId('create-labels').value))
    const delay = byId('create-delay').value
    if (name === 'echo' && delay !== '') request.provider_params = { delay_ms: Number(delay) }
    if (!byId('create-model-field').hidden) add('model', byId('create-model').value.trim())
    const maxTokens = byId('create-max-tokens').value
    if (maxTokens !== '') request.max_tokens = Number(maxTokens)
    return request
  }
}

/** `key=value` a line. */
function parseLabels(text) {
  const lines = text.split('\n').filter((line) => line.trim() !== '')
  if (lines.length === 0) return undefined
  const labels = {}
  for (const line of lines) {
    const at = line.indexOf('=')
    if (at < 1) throw wrong('/labels', `"${line.trim()}" is not key=value.`)
    labels[line.slice(0, at).trim()] = line.slice(at + 1).trim()
  }
  return labels
}

const wrong = (path, message) =>
  new Problem({ title: 'This cannot be sent yet', code: 'INVALID_PARAMS', errors: [{ path, message }] })
