import http from 'node:http'
import { DEADLINE_MS, onlyIfAwaited } from './http.ts'

/**
 * A reader of event streams that knows the contract and nothing of the server.
 *
 * It holds every frame against the framing rules of the contract as it comes: LF only, `event`, one line of `data`
 * and `id` in this order, `retry: 1000` in the first block and in no other, comments between blocks only, the event's name
 * equal to its `type`, ids that rise by exactly 1; on the stream of one turn they may leave out others. What breaks a rule makes every later read of the stream fail.
 */

export interface StreamEvent {
  type: string
  seq?: number
  turn?: number
  [field: string]: unknown
}

export interface Frame {
  /** The block as it came, without comment lines, without its blank line. */
  raw: string
  /** The same without the `retry` line of a first block: what every reader of this event must see alike. */
  block: string
  id: string | undefined
  event: string
  json: StreamEvent
}

/** `clean`: last chunk, then the end. `destroyed`: the connection broke off. `left`: this reader went away. */
export type StreamEnd = 'clean' | 'destroyed' | 'left'

export interface OpenStream {
  method?: 'GET' | 'POST'
  headers?: Record<string, string>
  /** Sent as the JSON body of a POST. */
  json?: unknown
  /** Goes away, as a dead network does, once so many bytes of the body have come. */
  cutAfterBytes?: number
}

const UNNUMBERED = ['session_loaded', 'stream_truncated', 'heartbeat', 'done']

export class EventStream {
  readonly status: number
  readonly headers: http.IncomingHttpHeaders
  readonly frames: Frame[] = []
  readonly comments: string[] = []
  /** The whole body so far. */
  text = ''
  end: StreamEnd | undefined
  readonly #response: http.IncomingMessage
  /** Others, that were interrupted in line, may have ended between its events. */
  readonly #isOfTurn: boolean
  readonly #decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
  #pending = ''
  #block: string[] = []
  #fault: Error | undefined
  #wakes: (() => void)[] = []
  #read = 0
  #lastId: number | undefined
  #bytes = 0

  constructor(response: http.IncomingMessage, cutAfterBytes?: number, isOfTurn = false) {
    this.#response = response
    this.#isOfTurn = isOfTurn
    this.status = response.statusCode ?? 0
    this.headers = response.headers
    response.on('data', (chunk: Buffer) => {
      if (this.end !== undefined) return
      const room = cutAfterBytes === undefined ? chunk.length : cutAfterBytes - this.#bytes
      this.#bytes += chunk.length
      this.#take(chunk.subarray(0, Math.max(0, room)))
      if (cutAfterBytes !== undefined && this.#bytes >= cutAfterBytes) this.leave()
    })
    response.on('error', () => this.#finish('destroyed'))
    response.on('close', () => this.#finish(response.complete ? 'clean' : 'destroyed'))
  }

  /** The next frame, or undefined when the stream has ended. */
  async next(): Promise<Frame | undefined> {
    for (;;) {
      if (this.#fault) throw this.#fault
      const frame = this.frames[this.#read]
      if (frame !== undefined) {
        this.#read++
        return frame
      }
      if (this.end !== undefined) return undefined
      await this.#change('the next frame')
    }
  }

  /** Reads up to and with the first frame that fits; fails when the stream ends before. */
  async upTo(wanted: string | ((frame: Frame) => boolean)): Promise<Frame> {
    for (;;) {
      const frame = await this.next()
      if (frame === undefined) {
        throw new Error(`Stream ended (${this.end}) without ${wanted} after ${JSON.stringify(this.text.slice(-500))}`)
      }
      if (typeof wanted === 'string' ? frame.event === wanted : wanted(frame)) return frame
    }
  }

  /** All frames of the stream, when it has ended. */
  async all(): Promise<Frame[]> {
    while ((await this.next()) !== undefined);
    return this.frames
  }

  /** How the stream ended, when it has. */
  async ended(): Promise<StreamEnd> {
    await this.all()
    return this.end ?? 'clean'
  }

  /** Resolves when the body so far satisfies `found`. */
  async sees(what: string, found: (stream: EventStream) => boolean): Promise<void> {
    while (!found(this)) {
      if (this.#fault) throw this.#fault
      if (this.end !== undefined) throw new Error(`Stream ended (${this.end}) before ${what}`)
      await this.#change(what)
    }
  }

  /** Goes away without a word. */
  leave(): void {
    if (this.end === undefined) this.#finish('left')
    this.#response.destroy()
  }

  [Symbol.dispose](): void {
    this.leave()
  }

  #take(chunk: Buffer): void {
    try {
      const text = this.#decoder.decode(chunk, { stream: true })
      this.text += text
      if (text.includes('\r')) throw new Error('a carriage return in the stream')
      this.#pending += text
      for (let at = this.#pending.indexOf('\n'); at !== -1; at = this.#pending.indexOf('\n')) {
        const line = this.#pending.slice(0, at)
        this.#pending = this.#pending.slice(at + 1)
        this.#line(line)
      }
    } catch (error) {
      this.#fault ??= new Error(`Framing: ${String(error)} in ${JSON.stringify(this.text.slice(-500))}`)
    }
    this.#wake()
  }

  #line(line: string): void {
    if (line.startsWith(':')) {
      if (this.#block.length > 0) throw new Error('a comment inside a block')
      this.comments.push(line)
      return
    }
    if (line !== '') {
      this.#block.push(line)
      return
    }
    const lines = this.#block
    this.#block = []
    this.#frame(lines)
  }

  #frame(lines: string[]): void {
    const raw = lines.join('\n')
    const retries = lines.filter((line) => line.startsWith('retry'))
    const expected = this.frames.length === 0 ? ['retry: 1000'] : []
    if (retries.join() !== expected.join()) throw new Error(`retry lines ${JSON.stringify(retries)}`)
    const block = lines.filter((line) => !line.startsWith('retry')).join('\n')
    const parts = /^event: ([a-z_]+)\ndata: ([^\n\u0085\u2028\u2029]+)(?:\nid: (\d+))?$/.exec(block)
    if (parts === null) throw new Error(`a block that is not event, data, id: ${JSON.stringify(block)}`)
    const [, event = '', data = '', id] = parts
    const json = JSON.parse(data) as StreamEvent
    if (json.type !== event) throw new Error(`event ${event} with type ${json.type}`)
    if (id === undefined) {
      if (!UNNUMBERED.includes(event)) throw new Error(`${event} without an id`)
      if (event === 'stream_truncated') this.#skip(json)
    } else {
      if (String(json.seq) !== id || typeof json.seq !== 'number') throw new Error(`id ${id} with seq ${json.seq}`)
      if (typeof json.turn !== 'number') throw new Error(`an event without a turn: ${data}`)
      const head = Object.keys(json).slice(0, 3).join()
      if (head !== 'type,seq,turn') throw new Error(`an event that begins with ${head}`)
      const step = json.seq - (this.#lastId ?? json.seq - 1)
      if (this.#isOfTurn ? step < 1 : step !== 1) {
        throw new Error(`id ${id} after ${this.#lastId}`)
      }
      this.#lastId = json.seq
    }
    this.frames.push({ raw, block, id, event, json })
  }

  /** A gap is allowed where it is announced, and only exactly as announced. */
  #skip({ missed_from, missed_to }: StreamEvent): void {
    if (typeof missed_from !== 'number' || typeof missed_to !== 'number' || missed_to < missed_from) {
      throw new Error(`stream_truncated from ${missed_from} to ${missed_to}`)
    }
    if (this.#lastId !== undefined && missed_from !== this.#lastId + 1 && !this.#isOfTurn) {
      throw new Error(`stream_truncated from ${missed_from} after ${this.#lastId}`)
    }
    this.#lastId = missed_to
  }

  #finish(end: StreamEnd): void {
    if (this.end !== undefined) return
    this.end = end
    if (end === 'clean' && (this.#pending !== '' || this.#block.length > 0)) {
      this.#fault ??= new Error(`Framing: a clean end inside a block: ${JSON.stringify(this.text.slice(-500))}`)
    }
    this.#wake()
  }

  async #change(what: string): Promise<void> {
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        reject(new Error(`Waited ${DEADLINE_MS} ms in vain for ${what} after ${JSON.stringify(this.text.slice(-500))}`))
      }, DEADLINE_MS)
    })
    const woken = new Promise<void>((resolve) => this.#wakes.push(resolve))
    try {
      await Promise.race([woken, late])
    } finally {
      clearTimeout(timer)
    }
  }

  #wake(): void {
    const wakes = this.#wakes
    this.#wakes = []
    for (const wake of wakes) wake()
  }
}

/** What stands in the `data` line of a block. */
export function dataOf(block: string): string {
  return /^data: (.*)$/m.exec(block)?.[1] ?? ''
}

/** Opens a stream on a connection of its own and resolves with its headers; whatever the status is. */
export function openStream(
  url: string,
  { method, headers = {}, json, cutAfterBytes }: OpenStream = {},
): Promise<EventStream> {
  const payload = json === undefined ? undefined : JSON.stringify(json)
  const stream = new Promise<EventStream>((resolve, reject) => {
    const request = http.request(url, {
      method: method ?? (json === undefined ? 'GET' : 'POST'),
      agent: false,
      headers: {
        ...(payload === undefined
          ? {}
          : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(payload) }),
        ...headers,
      },
    })
    request.on('error', reject)
    request.on('response', (response) => resolve(new EventStream(response, cutAfterBytes, url.includes('/turns/'))))
    request.end(payload)
  })
  return onlyIfAwaited(stream)
}

/** The events of frames, as they were in `data`. */
export function events(frames: readonly Frame[]): StreamEvent[] {
  return frames.map((frame) => frame.json)
}

/** Their types, in order. */
export function types(frames: readonly Frame[]): string[] {
  return frames.map((frame) => frame.event)
}

/** The text of all `text_delta` events. */
export function textOf(frames: readonly Frame[]): string {
  return frames
    .filter((frame) => frame.event === 'text_delta')
    .map((frame) => String(frame.json.delta))
    .join('')
}
