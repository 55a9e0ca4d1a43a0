import type { Turn } from '../helpers/contract.ts'
import { client, within } from '../helpers/http.ts'
import { type EventStream, type OpenStream, openStream } from '../helpers/sse.ts'
import { readBack, type Witness, witnessed } from './checker.ts'

const SCRIPT = 'say Once upon a time\ndeltas 20\nwait 5\ntool add {"a":1,"b":2}\nwait 5\ndeltas 20\nsay The end.'
/**
 * What a client may be told for a while: that a turn is not yet known to be lost, that a server cannot serve, or that a
 * request took too long to arrive, which a server that stood still believes.
 */
export const IN_PASSING = [408, 409, 503]
const TERMINAL = /^run_(completed|failed|interrupted)$/

export interface Patience {
  /** Asked at every attempt. */
  url(): string
  /** Leaves a server that says nothing for so long. */
  silenceMs?: number
  /** Gives up, and fails, when a turn has not been seen to its end after so long. */
  turnMs?: number
  script?: string
  /** What becomes of a turn that comes while another runs. */
  onBusy?: 'reject' | 'enqueue'
}

const wait = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms))

/** Opens a stream, or resolves with nothing when there is no answer: no connection, or silence for too long. */
async function opened(url: string, silenceMs: number, options?: OpenStream): Promise<EventStream | undefined> {
  const opening = openStream(url, options)
  try {
    return await within('an answer', opening, silenceMs)
  } catch {
    // Whoever stood still may answer yet.
    opening.then(
      (late) => late.leave(),
      () => {},
    )
    return undefined
  }
}

/** Takes in what a stream shows until it ends, or has been silent for too long. */
async function listen(stream: EventStream, witness: Witness, silenceMs: number, onSeq: (seq: number) => void) {
  let heard = 0
  let heardAt = performance.now()
  const watchdog = setInterval(() => {
    if (stream.text.length !== heard) heardAt = performance.now()
    else if (performance.now() - heardAt > silenceMs) stream.leave()
    heard = stream.text.length
  }, silenceMs / 5)
  try {
    for (let frame = await stream.next(); frame !== undefined; frame = await stream.next()) {
      if (frame.json.seq === undefined) continue
      witnessed(witness, frame.json.seq, frame.block)
      onSeq(frame.json.seq)
    }
  } catch (error) {
    if (stream.end !== 'destroyed' && stream.end !== 'left') witness.faults.push(String(error))
  } finally {
    clearInterval(watchdog)
    stream.leave()
  }
}

export function newWitness(session: string): Witness {
  return { session, seen: new Map(), acknowledged: new Map(), keys: [], faults: [] }
}

/** Asks for turn after turn, and takes up each where it was cut off, until it is told to stop. */
export class Storyteller {
  readonly witness: Witness
  readonly #patience: Required<Patience>
  #cursor = 0
  #isStopped = false
  /** How its newest attempt ended. */
  #outcome = ''

  /** Several may have one witness, and tell their stories in turns. */
  constructor(witness: Witness, patience: Patience) {
    this.witness = witness
    this.#patience = { silenceMs: 10_000, turnMs: 10_000, script: SCRIPT, onBusy: 'reject', ...patience }
  }

  stop(): void {
    this.#isStopped = true
  }

  async run(): Promise<void> {
    const { session, keys } = this.witness
    while (!this.#isStopped) {
      const key = `${session}-${keys.length}`
      keys.push(key)
      const deadline = performance.now() + this.#patience.turnMs
      while (!(await this.#attempt(key))) {
        if (performance.now() > deadline) {
          const turn = this.witness.acknowledged.get(key)
          throw new Error(`Waited in vain until turn ${turn} of ${key} is over; at last ${this.#outcome}`)
        }
        await wait(10)
      }
      await this.#readBack(key)
    }
  }

  /** True once the turn was seen to its end. */
  async #attempt(key: string): Promise<boolean> {
    const { session, acknowledged, faults } = this.witness
    const { url, silenceMs, script, onBusy } = this.#patience
    const headers = {
      'idempotency-key': key,
      ...(acknowledged.has(key) ? { 'last-event-id': String(this.#cursor) } : {}),
    }
    const path = `${url()}/sessions/${session}/turns/stream`
    const stream = await opened(path, silenceMs, { headers, json: { prompt: script, on_busy: onBusy } })
    this.#outcome = `${path} gave ${stream?.status ?? 'no answer'}`
    if (stream === undefined) return false
    if (stream.status === 204) return true
    if (stream.status !== 200) {
      if (!IN_PASSING.includes(stream.status)) {
        faults.push(`${key} was answered ${stream.status}: ${await answerOf(stream)}`)
      }
      stream.leave()
      return false
    }
    const turn = Number(/\/turns\/(\d+)$/.exec(String(stream.headers.location))?.[1])
    if (acknowledged.has(key) && acknowledged.get(key) !== turn) faults.push(`${key} is another turn now`)
    acknowledged.set(key, turn)
    await listen(stream, this.witness, silenceMs, (seq) => {
      this.#cursor = seq
    })
    this.#outcome += ` and ended ${stream.end} at event ${this.#cursor}, having said ${stream.text.length} characters`
    if (stream.end === 'clean' && !TERMINAL.test(stream.frames.at(-1)?.event ?? '')) {
      faults.push(`a stream of ${key} ended well before its turn did`)
    }
    return stream.end === 'clean'
  }

  /** What it saw the end of is over for whoever answers next. */
  async #readBack(key: string): Promise<void> {
    const { session, acknowledged } = this.witness
    const turn = acknowledged.get(key) as number
    const asked = client(this.#patience.url).get<Turn>(`/sessions/${session}/turns/${turn}`)
    const answer = await within('an answer', asked, this.#patience.silenceMs).catch(() => undefined)
    asked.catch(() => {})
    if (answer?.status === 200) readBack(this.witness, turn, answer.body.status)
    else if (answer !== undefined && !IN_PASSING.includes(answer.status)) {
      this.witness.faults.push(`turn ${turn} was over and was answered ${answer.status}`)
    }
  }
}

/** Follows the session of a storyteller, and sees what that sees, until it is told to stop. */
export class Listener {
  readonly #witness: Witness
  readonly #patience: Patience & { silenceMs: number }
  #cursor = 0
  #isStopped = false
  #stream: EventStream | undefined

  constructor(witness: Witness, patience: Patience & { silenceMs: number }) {
    this.#witness = witness
    this.#patience = patience
  }

  stop(): void {
    this.#isStopped = true
    this.#stream?.leave()
  }

  async run(): Promise<void> {
    const { url, silenceMs } = this.#patience
    while (!this.#isStopped) {
      const path = `${url()}/sessions/${this.#witness.session}/events?after=${this.#cursor}`
      this.#stream = await opened(path, silenceMs)
      if (this.#isStopped) this.#stream?.leave()
      else if (this.#stream !== undefined) await this.#follow(this.#stream)
      if (!this.#isStopped) await wait(10)
    }
  }

  async #follow(stream: EventStream): Promise<void> {
    const { faults } = this.#witness
    if (stream.status !== 200) {
      if (!IN_PASSING.includes(stream.status)) {
        faults.push(`a reader was answered ${stream.status}: ${await answerOf(stream)}`)
      }
      stream.leave()
      return
    }
    await listen(stream, this.#witness, this.#patience.silenceMs, (seq) => {
      if (seq !== this.#cursor + 1) faults.push(`a reader was shown ${seq} after ${this.#cursor}`)
      this.#cursor = seq
    })
    if (stream.end === 'clean') faults.push('a reader was told that a session is over which goes on')
  }
}

/** What came instead of a stream, as far as it came. */
async function answerOf(stream: EventStream): Promise<string> {
  await stream.all().catch(() => {})
  return stream.text
}

export const seenBy = (witnesses: readonly Witness[]) => witnesses.reduce((sum, { seen }) => sum + seen.size, 0)
