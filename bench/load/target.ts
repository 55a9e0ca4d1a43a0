import type { Connection, Receiver } from './connection.ts'
import type { Plant } from './plant.ts'
import { StreamCheck, StreamFault } from './stream-check.ts'

/** The server under test, and what it takes to speak to it. */
export interface Target {
  kind: 'raw' | 'suricate'
  port: number
  /** Where readers go. */
  readersPort?: number
  /** Sent as a bearer token. */
  token?: string
  plant?: Plant
}

let lastTopic = 0

/** A session of Suricate's, or the topic that stands for one at the raw server. */
export class Session {
  readonly id: string
  readonly #target: Target

  constructor(target: Target, id: string) {
    this.#target = target
    this.id = id
  }

  startTurn(prompt: string, query = ''): Buffer {
    if (this.#target.kind === 'raw') return request(this.#target, 'POST', '/turns', { prompt, topic: this.id })
    return request(this.#target, 'POST', `/sessions/${this.id}/turns/stream${query}`, { prompt })
  }

  openStream(): Buffer {
    return request(this.#target, 'GET', this.#target.kind === 'raw' ? `/${this.id}` : `/sessions/${this.id}/events`)
  }

  read(): Buffer {
    return request(this.#target, 'GET', `/sessions/${this.id}`)
  }
}

/** A new session. With a prompt its first turn is run, and the answer waited for. */
export async function createSession(target: Target, connection: Connection, prompt?: string): Promise<Session> {
  if (target.kind === 'raw') return new Session(target, `topic-${++lastTopic}`)
  const body = prompt === undefined ? { agent: 'bench', initial_turn: 'deferred' } : { agent: 'bench', prompt }
  const created = await exchange(connection, request(target, 'POST', '/sessions', body))
  return new Session(target, (JSON.parse(created) as { session_id: string }).session_id)
}

export function listSessions(target: Target, query: string): Buffer {
  return request(target, 'GET', `/sessions?${query}`)
}

/** Sends a request, and gives the text of the answer, which must be a success. */
export function exchange(connection: Connection, bytes: Buffer): Promise<string> {
  return new Promise((resolve, reject) => connection.send(bytes, new TextReceiver(resolve, reject)))
}

/** One client with a session of its own, which runs turn after turn. */
export class TurnClient {
  readonly connection: Connection
  readonly session: Session
  readonly check: StreamCheck
  sentAt = 0
  readonly #requests = new Map<string, Buffer>()

  constructor(target: Target, session: Session, connection: Connection) {
    this.connection = connection
    this.session = session
    this.check = new StreamCheck({ name: `The stream of ${session.id}`, sampleEvery: 16, plant: target.plant })
  }

  /** Resolves when the response is over and nothing was wrong with it. */
  turn(prompt: string, query?: string): Promise<void> {
    let bytes = this.#requests.get(prompt)
    if (bytes === undefined) {
      bytes = this.session.startTurn(prompt, query)
      this.#requests.set(prompt, bytes)
    }
    const turns = this.check.turns
    return new Promise((resolve, reject) => {
      const ended = () => {
        this.check.end()
        if (this.check.turns === turns + 1) resolve()
        else reject(new StreamFault(`The stream of ${this.session.id} ended after ${this.check.turns - turns} turns`))
      }
      this.sentAt = performance.now()
      this.connection.send(bytes, new StreamReceiver(this.check, () => {}, ended, reject))
    })
  }
}

/** One client that reads a session across its turns. */
export class Reader {
  readonly connection: Connection
  readonly check: StreamCheck
  readonly #session: Session

  constructor(target: Target, session: Session, connection: Connection) {
    this.connection = connection
    this.#session = session
    this.check = new StreamCheck({ name: `A reader of ${session.id}`, plant: target.plant })
  }

  /** Resolves when the stream said its first word. What goes wrong later is thrown where nobody can miss it. */
  open(): Promise<void> {
    return new Promise((resolve, reject) => {
      let opened = false
      const receiver = new StreamReceiver(
        this.check,
        () => {
          opened = true
          resolve()
        },
        () => reject(new StreamFault(`The stream of ${this.#session.id} ended`)),
        (error) => {
          if (opened) throw error
          reject(error)
        },
      )
      this.connection.send(this.#session.openStream(), receiver)
    })
  }
}

class StreamReceiver implements Receiver {
  readonly #check: StreamCheck
  readonly #onFirst: () => void
  readonly #onEnd: () => void
  readonly #onFault: (error: Error) => void
  #status = 0
  #first = true
  #problem = ''

  constructor(check: StreamCheck, onFirst: () => void, onEnd: () => void, onFault: (error: Error) => void) {
    this.#check = check
    this.#onFirst = onFirst
    this.#onEnd = onEnd
    this.#onFault = onFault
  }

  head(status: number): void {
    this.#status = status
  }

  body(bytes: Buffer, start: number, end: number): void {
    if (this.#status !== 200) {
      this.#problem += bytes.toString('utf8', start, end)
      return
    }
    this.#check.body(bytes, start, end)
    if (!this.#first) return
    this.#first = false
    this.#onFirst()
  }

  end(): void {
    if (this.#status === 200) this.#onEnd()
    else this.#onFault(new StreamFault(`A stream was refused: ${this.#status} ${this.#problem}`))
  }

  cut(reason: string): void {
    this.#onFault(new StreamFault(`A stream was cut off after ${this.#check.events} events: ${reason}`))
  }
}

class TextReceiver implements Receiver {
  readonly #resolve: (text: string) => void
  readonly #reject: (error: Error) => void
  #status = 0
  #text = ''

  constructor(resolve: (text: string) => void, reject: (error: Error) => void) {
    this.#resolve = resolve
    this.#reject = reject
  }

  head(status: number): void {
    this.#status = status
  }

  body(bytes: Buffer, start: number, end: number): void {
    this.#text += bytes.toString('utf8', start, end)
  }

  end(): void {
    if (this.#status < 300) this.#resolve(this.#text)
    else this.#reject(new StreamFault(`A request was refused: ${this.#status} ${this.#text}`))
  }

  cut(reason: string): void {
    this.#reject(new StreamFault(`A request was cut off: ${reason}`))
  }
}

function request(target: Target, method: string, path: string, body?: unknown): Buffer {
  const json = body === undefined ? '' : JSON.stringify(body)
  const head = [`${method} ${path} HTTP/1.1`, `Host: 127.0.0.1:${target.port}`]
  if (target.token !== undefined) head.push(`Authorization: Bearer ${target.token}`)
  if (body !== undefined) head.push('Content-Type: application/json', `Content-Length: ${Buffer.byteLength(json)}`)
  return Buffer.from(`${head.join('\r\n')}\r\n\r\n${json}`)
}
