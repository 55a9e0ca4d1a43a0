import type { SessionError } from './errors.ts'
import { encodeEvent } from './event-frame.ts'
import type { TurnScope } from './event-stream.ts'
import type { NewEvent } from './events.ts'
import type { RunResult, TurnStatus, TurnView } from './session-service.ts'
import { NOTHING_SPENT, type Spent } from './usage.ts'

/** What a turn is asked for, whether its session is new or not. */
export interface TurnRequest {
  prompt: string
  skill_references?: readonly string[]
  host_mode?: boolean
}

/** What is kept of one turn: enough to answer every question about it after its events are gone. */
export class TurnRecord implements TurnView, TurnScope {
  readonly sessionId: string
  readonly turn: number
  readonly prompt: string
  readonly createdAt: number
  readonly skillReferences: readonly string[] | undefined
  /** After its prompt it goes on with what comes into the inbox. */
  readonly isHost: boolean
  status: TurnStatus = 'queued'
  startedAt: number | undefined = undefined
  endedAt: number | undefined = undefined
  /** Milliseconds between the two, by a clock that nobody sets. */
  durationMs = 0
  firstSeq = 0
  lastSeq = 0
  result: RunResult | undefined = undefined
  error: SessionError | undefined = undefined
  /** Messages of the transcript up to and including this turn; 0 until it is committed. */
  messageEnd = 0
  /** Runs of the agent whose messages are committed: one at its end, or in host mode one after another. */
  runs = 0
  /** What these runs spent. */
  spent: Spent = NOTHING_SPENT
  #waiting: Set<() => void> | undefined

  constructor(sessionId: string, turn: number, request: TurnRequest, createdAt: number) {
    this.sessionId = sessionId
    this.turn = turn
    this.prompt = request.prompt
    this.skillReferences = request.skill_references
    this.isHost = request.host_mode === true
    this.createdAt = createdAt
  }

  get isOver(): boolean {
    return this.endedAt !== undefined
  }

  /** Somebody waits for its end. */
  get isAwaited(): boolean {
    return this.#waiting !== undefined && this.#waiting.size > 0
  }

  /** The event that ended, or is about to end, this turn. */
  terminalEvent(): NewEvent {
    const session_id = this.sessionId
    if (this.error !== undefined) {
      return { type: 'run_failed', session_id, error: this.error.message, code: this.error.code }
    }
    const result = this.result as RunResult
    if (this.status === 'interrupted') return { type: 'run_interrupted', session_id, result }
    return { type: 'run_completed', session_id, result, usage: result.usage }
  }

  terminalFrame(): string {
    return encodeEvent(this.terminalEvent(), this.lastSeq, this.turn)
  }

  /** An end that was not kept: it is for the store to say what became of it. */
  reopen(): void {
    this.status = 'running'
    this.endedAt = undefined
    this.lastSeq = 0
    this.result = undefined
    this.error = undefined
  }

  /** Calls everyone who waits, once the record says all there is to say. */
  announceEnd(): void {
    const waiting = this.#waiting
    this.#waiting = undefined
    if (waiting !== undefined) for (const resolve of waiting) resolve()
  }

  /** Resolves when the turn is over. Rejects with `signal.reason` when that aborts first. */
  async ended(signal?: AbortSignal): Promise<void> {
    if (this.isOver) return
    signal?.throwIfAborted()
    await new Promise<void>((resolve, reject) => {
      const done = () => {
        signal?.removeEventListener('abort', left)
        resolve()
      }
      const left = () => {
        this.#waiting?.delete(done)
        reject(signal?.reason)
      }
      this.#waiting ??= new Set()
      this.#waiting.add(done)
      signal?.addEventListener('abort', left, { once: true })
    })
  }
}
