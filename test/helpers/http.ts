import http from 'node:http'
import net from 'node:net'
import { patience } from './slowness.ts'

/** How long any helper waits for something that must happen before it says that it did not. */
export const DEADLINE_MS = patience(10_000)

export interface Answer<T = unknown> {
  status: number
  headers: http.IncomingHttpHeaders
  rawHeaders: string[]
  text: string
  /** The parsed JSON of any JSON media type, else undefined. */
  body: T
}

export interface Send {
  headers?: Record<string, string | string[]>
  /** Sent as `application/json`, unless `headers` say otherwise. */
  json?: unknown
  /** Sent as it is, with no content type but that of `headers`. */
  bytes?: string | Buffer
  agent?: http.Agent
}

/** One request on a connection of its own (unless `agent` is given), answered whole. */
export function send<T = unknown>(url: string, method: string, { headers = {}, json, bytes, agent }: Send = {}) {
  const payload = json === undefined ? bytes : JSON.stringify(json)
  const answer = new Promise<Answer<T>>((resolve, reject) => {
    const request = http.request(url, {
      method,
      agent: agent ?? false,
      headers: {
        ...(json === undefined ? {} : { 'content-type': 'application/json' }),
        ...(payload === undefined ? {} : { 'content-length': Buffer.byteLength(payload) }),
        ...headers,
      },
    })
    request.on('error', reject)
    request.on('response', (response) => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.on('error', reject)
      response.on('end', () => {
        const text = Buffer.concat(chunks).toString()
        const isJson = /^application\/([\w.-]+\+)?json\b/.test(response.headers['content-type'] ?? '')
        const body = (isJson && text !== '' ? JSON.parse(text) : undefined) as T
        const { headers, rawHeaders } = response
        resolve({ status: response.statusCode ?? 0, headers, rawHeaders, text, body })
      })
    })
    request.end(payload)
  })
  return onlyIfAwaited(answer)
}

/** Of a test that failed before it looked at an answer, nothing more is said than why it did. */
export function onlyIfAwaited<T>(answer: Promise<T>): Promise<T> {
  answer.catch(() => {})
  return answer
}

export interface Client {
  get<T = unknown>(path: string, headers?: Record<string, string>): Promise<Answer<T>>
  post<T = unknown>(path: string, json?: unknown, headers?: Record<string, string>): Promise<Answer<T>>
  delete<T = unknown>(path: string, headers?: Record<string, string>): Promise<Answer<T>>
  send<T = unknown>(method: string, path: string, options?: Send): Promise<Answer<T>>
}

/** Talks to the server at what `base()` says; it is asked at every request, so a client can be made before its server. */
export function client(base: () => string): Client {
  return {
    get: (path, headers = {}) => send(base() + path, 'GET', { headers }),
    post: (path, json, headers = {}) => send(base() + path, 'POST', { headers, json }),
    delete: (path, headers = {}) => send(base() + path, 'DELETE', { headers }),
    send: (method, path, options) => send(base() + path, method, options),
  }
}

/** Asks again and again until the answer is something, or fails after the deadline naming what it waited for. */
export async function until<T>(what: string, ask: () => Promise<T | undefined | false> | T | undefined | false) {
  const end = Date.now() + DEADLINE_MS
  for (;;) {
    const answer = await ask()
    if (answer !== undefined && answer !== false) return answer as T
    if (Date.now() > end) throw new Error(`Waited ${DEADLINE_MS} ms in vain until ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}

/** `promise`, or a rejection that names `what` after the deadline. */
export async function within<T>(what: string, promise: Promise<T>, deadlineMs = DEADLINE_MS): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`Waited ${deadlineMs} ms in vain for ${what}`)), deadlineMs)
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}

/** A TCP connection on which a test says exactly the bytes that it means. */
export class RawSocket {
  readonly #socket: net.Socket
  #received = Buffer.alloc(0)
  #changed: (() => void)[] = []
  #closed = false
  /** `fin`: the server said that it has nothing more. `reset`: the connection was torn down. */
  end: 'fin' | 'reset' | undefined

  private constructor(socket: net.Socket) {
    this.#socket = socket
    socket.on('data', (chunk: Buffer) => {
      this.#received = Buffer.concat([this.#received, chunk])
      this.#wake()
    })
    socket.on('end', () => {
      this.end ??= 'fin'
      this.#wake()
    })
    socket.on('error', () => {
      this.end ??= 'reset'
    })
    socket.on('close', () => {
      this.#closed = true
      this.end ??= 'reset'
      this.#wake()
    })
  }

  static connect(port: number): Promise<RawSocket> {
    return new Promise((resolve, reject) => {
      const socket = net.connect({ port, host: '127.0.0.1' })
      socket.once('error', reject)
      socket.once('connect', () => {
        socket.off('error', reject)
        resolve(new RawSocket(socket))
      })
    })
  }

  /** All bytes that came so far, as Latin-1, so that one character is one byte. */
  get received(): string {
    return this.#received.toString('latin1')
  }

  get bytes(): Buffer {
    return this.#received
  }

  write(bytes: string | Buffer): void {
    this.#socket.write(bytes)
  }

  destroy(): void {
    this.#socket.destroy()
  }

  /** Resolves when the server ended the connection, in whatever way. */
  async closed(deadlineMs = DEADLINE_MS): Promise<void> {
    while (!this.#closed && this.end === undefined) {
      await within(
        `the connection to close, having received ${JSON.stringify(this.received)}`,
        this.#change(),
        deadlineMs,
      )
    }
  }

  /** Resolves when `found` says yes to what has come so far; fails when the connection ends before. */
  async seen(found: (received: string) => boolean, deadlineMs = DEADLINE_MS): Promise<void> {
    while (!found(this.received)) {
      if (this.end !== undefined) throw new Error(`Connection ended after ${JSON.stringify(this.received)}`)
      await within(`more than ${JSON.stringify(this.received)}`, this.#change(), deadlineMs)
    }
  }

  /** The next whole response; interim (1xx) ones are skipped. */
  async response<T = unknown>(deadlineMs = DEADLINE_MS): Promise<Answer<T>> {
    for (;;) {
      const parsed = parseResponse(this.#received, this.end !== undefined)
      if (parsed !== undefined) {
        this.#received = this.#received.subarray(parsed.length)
        if (parsed.answer.status >= 200) return parsed.answer as Answer<T>
        continue
      }
      if (this.end !== undefined) {
        throw new Error(`Connection ended (${this.end}) without a whole response: ${JSON.stringify(this.received)}`)
      }
      await within(`a response, having received ${JSON.stringify(this.received)}`, this.#change(), deadlineMs)
    }
  }

  #change(): Promise<void> {
    return new Promise((resolve) => this.#changed.push(resolve))
  }

  #wake(): void {
    const waiting = this.#changed
    this.#changed = []
    for (const wake of waiting) wake()
  }
}

/** Writes `bytes` on a new connection and reads one response. */
export async function exchange<T = unknown>(port: number, bytes: string | Buffer, deadlineMs?: number) {
  const socket = await RawSocket.connect(port)
  try {
    socket.write(bytes)
    return await socket.response<T>(deadlineMs)
  } finally {
    socket.destroy()
  }
}

/** Undoes `Transfer-Encoding: chunked`; undefined while the last chunk is missing. */
export function dechunk(bytes: Buffer): { body: Buffer; length: number } | undefined {
  const parts: Buffer[] = []
  let at = 0
  for (;;) {
    const lineEnd = bytes.indexOf('\r\n', at)
    if (lineEnd === -1) return undefined
    const size = Number.parseInt(bytes.toString('latin1', at, lineEnd), 16)
    const start = lineEnd + 2
    if (bytes.length < start + size + 2) return undefined
    if (size === 0) return { body: Buffer.concat(parts), length: start + 2 }
    parts.push(bytes.subarray(start, start + size))
    at = start + size + 2
  }
}

function parseResponse(bytes: Buffer, ended: boolean): { answer: Answer; length: number } | undefined {
  const headEnd = bytes.indexOf('\r\n\r\n')
  if (headEnd === -1) return undefined
  const [statusLine = '', ...lines] = bytes.toString('latin1', 0, headEnd).split('\r\n')
  const status = Number(/^HTTP\/1\.[01] (\d{3})/.exec(statusLine)?.[1])
  if (!Number.isInteger(status)) throw new Error(`Not a status line: ${JSON.stringify(statusLine)}`)
  const headers: http.IncomingHttpHeaders = {}
  const rawHeaders: string[] = []
  for (const line of lines) {
    const [, name = '', value = ''] = /^([^:]+):\s*(.*)$/.exec(line) ?? []
    rawHeaders.push(name, value)
    headers[name.toLowerCase()] = value
  }
  const rest = bytes.subarray(headEnd + 4)
  const payload = bodyOf(rest, headers, status, ended)
  if (payload === undefined) return undefined
  const text = payload.body.toString()
  const isJson = /^application\/([\w.-]+\+)?json\b/.test(headers['content-type'] ?? '')
  const body: unknown = isJson && text !== '' ? JSON.parse(text) : undefined
  return { answer: { status, headers, rawHeaders, text, body }, length: headEnd + 4 + payload.length }
}

function bodyOf(rest: Buffer, headers: http.IncomingHttpHeaders, status: number, ended: boolean) {
  if (status < 200 || status === 204 || status === 304) return { body: Buffer.alloc(0), length: 0 }
  if (headers['transfer-encoding'] === 'chunked') return dechunk(rest)
  if (headers['content-length'] !== undefined) {
    const length = Number(headers['content-length'])
    return rest.length < length ? undefined : { body: rest.subarray(0, length), length }
  }
  return ended ? { body: rest, length: rest.length } : undefined
}
