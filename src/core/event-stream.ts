import { StoreUnavailableError } from './errors.ts'
import { decodeFrames, encodeNotice, endOf } from './event-frame.ts'
import type { EventLog } from './event-log.ts'
import type { AgentEvent } from './events.ts'

export interface TurnStreamOptions {
  /** The last `seq` that the reader has; its next event is the one after. Default: from the turn's first event. */
  after?: number | undefined
}

export interface SessionStreamOptions {
  /** As above. Default: from the running turn's first event, or else from the next event. */
  after?: number | undefined
}

/**
 * A reader's place in a session's log. It holds a position and nothing else, so a slow reader costs nobody anything.
 *
 * Read until `undefined`, then wait for `onReadable`. When `ended` is true the last frame that was read was the turn's
 * terminal event or `done`, and nothing will follow. `close` when the reader leaves. `read` throws where this server
 * cannot go on: the reader is to come again, with its position.
 */
export interface EventStream {
  readonly sessionId: string
  /** The turn this stream is confined to. */
  readonly turn: number | undefined
  /** `seq` of the last event that was read: how far the reader is. */
  readonly position: number
  /** How often events were already gone when the reader came to them. */
  readonly truncations: number
  readonly ended: boolean
  /** Whole frames, ready to be sent; shared by all readers, so do not write to them. */
  read(): Buffer | undefined
  /** One listener, called whenever `read` may have something new. */
  onReadable(listener: () => void): void
  close(): void
}

/** What a stream needs to know of the turn, or of the part of a turn, that it is confined to. */
export interface TurnScope {
  readonly turn: number
  /** `seq` of its first event; 0 while it has not begun. */
  readonly firstSeq: number
  /** `seq` of the terminal event; 0 until there is one. */
  readonly lastSeq: number
  /** The terminal event's frame again, for when the log no longer has it. */
  terminalFrame(): string
}

interface LogStreamInit {
  sessionId: string
  log: EventLog
  position: number
  scope?: TurnScope
  /** A frame that comes before everything else. */
  preface?: string
}

export class LogStream implements EventStream {
  readonly sessionId: string
  position: number
  truncations = 0
  ended = false
  readonly #log: EventLog
  readonly #scope: TurnScope | undefined
  #preface: string | undefined
  #listener: (() => void) | undefined

  constructor({ sessionId, log, position, scope, preface }: LogStreamInit) {
    this.sessionId = sessionId
    this.position = position
    this.#log = log
    this.#scope = scope
    this.#preface = preface
  }

  get turn(): number | undefined {
    return this.#scope?.turn
  }

  read(): Buffer | undefined {
    if (this.#preface !== undefined) {
      const preface = Buffer.from(this.#preface)
      this.#preface = undefined
      return preface
    }
    const scope = this.#scope
    if (this.ended) return undefined
    if (scope?.firstSeq === 0) return this.#atEnd()
    if (scope !== undefined && this.position < scope.firstSeq - 1) this.position = scope.firstSeq - 1
    if (this.position + 1 < this.#log.firstSeq) return this.#truncated()
    let page = this.#log.read(this.position)
    // A turn that was interrupted in line ended while this one ran.
    while (page !== undefined && scope !== undefined && page.turn !== scope.turn) {
      this.position = page.last
      page = this.#log.read(this.position)
    }
    if (page === undefined) return this.#atEnd()
    const end = scope === undefined || scope.lastSeq === 0 ? page.last : Math.min(scope.lastSeq, page.last)
    this.position = end
    if (scope?.lastSeq === end) this.ended = true
    return end === page.last ? page.bytes : page.bytes.subarray(0, endOf(page.bytes, end))
  }

  onReadable(listener: () => void): void {
    this.#listener = listener
    this.#log.watch(listener)
  }

  close(): void {
    if (this.#listener !== undefined) this.#log.unwatch(this.#listener)
    this.#listener = undefined
  }

  #atEnd(): Buffer | undefined {
    if (this.#log.isLost) throw new StoreUnavailableError()
    if (this.#scope !== undefined || !this.#log.sealed) return undefined
    this.ended = true
    return Buffer.from(encodeNotice({ type: 'done', session_id: this.sessionId }))
  }

  /** Says which events are gone and goes on with the oldest that is left; a turn's terminal event is never lost. */
  #truncated(): Buffer {
    this.truncations++
    const missedFrom = this.position + 1
    const lastSeq = this.#scope?.lastSeq ?? 0
    const gone = this.#log.firstSeq - 1
    const terminalGone = lastSeq !== 0 && lastSeq <= gone
    this.position = terminalGone ? lastSeq : gone
    this.ended = terminalGone
    const missedTo = terminalGone ? lastSeq - 1 : gone
    let frames = ''
    if (missedTo >= missedFrom) {
      frames = encodeNotice({
        type: 'stream_truncated',
        reason: 'retention',
        missed_from: missedFrom,
        missed_to: missedTo,
      })
    }
    if (terminalGone) frames += this.#scope?.terminalFrame() ?? ''
    return Buffer.from(frames)
  }
}

/** A stream for code in this process: parsed events, until its end or until `signal` aborts. */
export async function* eventsOf(stream: EventStream, signal?: AbortSignal): AsyncGenerator<AgentEvent> {
  let wake = () => {}
  const stop = () => wake()
  stream.onReadable(() => wake())
  signal?.addEventListener('abort', stop)
  try {
    while (!signal?.aborted) {
      // Armed before the read, so that no append slips between.
      const woken = new Promise<void>((resolve) => {
        wake = resolve
      })
      const bytes = stream.read()
      if (bytes !== undefined) yield* decodeFrames(bytes)
      else if (stream.ended) return
      else await woken
    }
  } finally {
    signal?.removeEventListener('abort', stop)
    stream.close()
  }
}
