/** Requests to the server. The one place that knows about the API key, problem details and safe repetition. */

const KEY_ITEM = 'suricate.api-key'
const TIMEOUT_MS = 30_000
const ATTEMPTS = 4

/** Problem details (RFC 9457), or what stands for them when no answer came. */
export class Problem extends Error {
  constructor(body, response) {
    super(body.detail ?? body.title ?? 'The request failed')
    this.name = 'Problem'
    this.body = body
    this.status = body.status ?? response?.status ?? 0
    this.code = body.code ?? `HTTP_${this.status}`
    this.title = body.title ?? `The server answered ${this.status}`
    this.detail = body.detail ?? ''
    this.requestId = body.request_id ?? response?.headers.get('x-request-id') ?? undefined
    this.retryAfterMs = retryAfterMs(response)
  }
}

/** The date form of Retry-After is legal too; this server sends seconds, and anything else counts as absent. */
function retryAfterMs(response) {
  const seconds = Number(response?.headers.get('retry-after') ?? Number.NaN)
  return Number.isFinite(seconds) ? seconds * 1000 : undefined
}

export async function problemOf(response) {
  const body = await response.json().catch(() => undefined)
  return new Problem(typeof body === 'object' && body !== null ? body : {}, response)
}

/** Not crypto.randomUUID: that is missing on a plain http page that is not localhost. */
function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('')
}

export class Api {
  #key = readKey()
  #asking
  #askForKey
  #onCall

  /** `askForKey(wasRefused)` resolves with a key, or with nothing when the user declines. */
  constructor({ askForKey, onCall }) {
    this.#askForKey = askForKey
    this.#onCall = onCall
  }

  get hasKey() {
    return this.#key !== ''
  }

  forgetKey() {
    this.#key = ''
    sessionStorage.removeItem(KEY_ITEM)
  }

  /** The answer as it comes, whatever its status, once the question of the key is settled. */
  async open(method, path, { headers = {}, body, signal } = {}) {
    for (;;) {
      const key = this.#key
      const response = await this.#fetch(method, path, { headers, body, signal }, key)
      if (response.status !== 401) return response
      // Several requests may be refused at once: whoever comes first asks, the others use what was given.
      if (key === this.#key && !(await this.#ask(key !== ''))) return response
    }
  }

  /** `{ status, headers, data }` of an answer that is a success; everything else throws a Problem. */
  async json(method, path, options = {}) {
    const response = await this.open(method, path, { signal: AbortSignal.timeout(TIMEOUT_MS), ...options })
    if (!response.ok) throw await problemOf(response)
    const data =
      response.status === 204 ? undefined : await response.json().catch((error) => Promise.reject(noAnswer(error)))
    return { status: response.status, headers: response.headers, data }
  }

  async get(path) {
    return (await this.json('GET', path)).data
  }

  /** A POST that runs once however often the line drops: every attempt carries the same Idempotency-Key. */
  async post(path, body, headers = {}) {
    const key = newKey()
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.json('POST', path, { body, headers: { ...headers, 'idempotency-key': key } })
      } catch (error) {
        if (error.code !== 'NO_ANSWER' || attempt === ATTEMPTS) throw error
        await new Promise((resolve) => setTimeout(resolve, 250 * 2 ** attempt))
      }
    }
  }

  async #fetch(method, path, { headers, body, signal }, key) {
    const call = { method, path, headers, body, withKey: key !== '', at: Date.now(), status: 0 }
    const init = { method, headers: { ...headers }, signal, cache: 'no-store' }
    if (key !== '') init.headers.authorization = `Bearer ${key}`
    if (body !== undefined) {
      init.headers['content-type'] = 'application/json'
      init.body = JSON.stringify(body)
    }
    try {
      const response = await fetch(path, init)
      call.status = response.status
      return response
    } catch (error) {
      throw noAnswer(error)
    } finally {
      call.ms = Date.now() - call.at
      this.#onCall(call)
    }
  }

  #ask(wasRefused) {
    this.#asking ??= this.#askForKey(wasRefused).then((key) => {
      this.#asking = undefined
      if (!key) return false
      this.#key = key
      sessionStorage.setItem(KEY_ITEM, key)
      return true
    })
    return this.#asking
  }
}

function readKey() {
  return sessionStorage.getItem(KEY_ITEM) ?? ''
}

function noAnswer(cause) {
  return new Problem({
    code: 'NO_ANSWER',
    title: 'The server did not answer',
    detail: cause.name === 'TimeoutError' ? `No answer within ${TIMEOUT_MS / 1000} s.` : 'The connection failed.',
  })
}
