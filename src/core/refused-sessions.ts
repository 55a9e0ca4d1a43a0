import type { DurableStore, KeyRow } from './durable-store.ts'
import {
  CapacityReachedError,
  InternalError,
  SessionError,
  SessionNotFoundError,
  StoreUnavailableError,
  TurnFailedError,
  TurnLostError,
} from './errors.ts'
import type { Followers } from './followers.ts'
import type { Journal } from './journal.ts'
import type { MemoryEventLog } from './memory-event-log.ts'
import { ElsewhereError, type Ownership } from './ownership.ts'
import type { TurnEnding } from './recovery.ts'
import type { EngineParts, Residents } from './residents.ts'
import type { ServiceObserver } from './session-service.ts'
import type { SessionTask } from './session-task.ts'
import type { Pending } from './session-writes.ts'
import type { TurnRecord } from './turn-record.ts'

/** The end of a turn is written with what the turn has said, then without it, and then no more. */
const ATTEMPTS = 2
const HOPELESS = ATTEMPTS + 1
const AGAIN_MS = 1_000

export interface RefusedSessionsParts {
  residents: Residents
  engine: EngineParts
  journal: Journal
  store: DurableStore
  ownership: Ownership
  followers: Followers
  observer: ServiceObserver
}

/**
 * What becomes of a session whose write the store refuses: a new one is not made; of another one the running turn fails,
 * and the session goes on from what is persisted. Other sessions do not notice.
 */
export class RefusedSessions {
  readonly #parts: RefusedSessionsParts
  /** Until the end of their turns is persisted. */
  readonly #refused = new Map<string, { error: SessionError; count: number }>()
  /** Those whose agents have not stopped yet. */
  readonly #leaving = new Map<string, Promise<void>>()

  constructor(parts: RefusedSessionsParts) {
    this.#parts = parts
    parts.journal.onRefused = (session, error, write) => void this.#refuse(session, error, write)
  }

  /** Resolves once the session may be taken up again. */
  async gone(sessionId: string): Promise<void> {
    await this.#leaving.get(sessionId)
  }

  /** How a turn of the session ends that no node runs any more. */
  endingOf(sessionId: string): TurnEnding {
    const refused = this.#refused.get(sessionId)
    if (refused === undefined) return { errorOf: (turn) => new TurnLostError(sessionId, turn), keepsSpeech: true }
    const { error, count } = refused
    return {
      errorOf: (turn) => new TurnFailedError(error, { session_id: sessionId, turn }),
      keepsSpeech: count < ATTEMPTS,
    }
  }

  /** Not even the end of its turn can be persisted: only a request tries that again. */
  isHopeless(sessionId: string): boolean {
    return (this.#refused.get(sessionId)?.count ?? 0) >= HOPELESS
  }

  forget(sessionId: string): void {
    this.#refused.delete(sessionId)
  }

  async #refuse(session: SessionTask, cause: unknown, write: Pending): Promise<void> {
    const { residents, journal, ownership, observer } = this.#parts
    const { id } = session
    observer.writeRefused?.(cause, { session_id: id })
    const error = cause instanceof SessionError ? cause : new InternalError(cause)
    if (!write.isNew && this.#takeBack(session, error, write)) return
    if (write.isNew) {
      residents.drop(session, error)
      await residents.letGo(session)
      return
    }
    this.#refused.set(id, { error, count: (this.#refused.get(id)?.count ?? 0) + 1 })
    const open = residents.drop(session, error, true) ?? []
    residents.handOver(session, open)
    const log = session.log as MemoryEventLog
    const gone = residents.letGo(session).then(() => journal.rewind(id, log))
    this.#leaving.set(id, gone)
    await gone
    this.#leaving.delete(id)
    if (!this.isHopeless(id) && (await this.#takeUp(session))) return
    this.#refused.set(id, { error, count: HOPELESS })
    this.#fail(session, open, error)
    await ownership.release(id, ownership.epochOf(session))
  }

  /** What came into the inbox is refused first, and the rest is written without it. False where nothing did. */
  #takeBack({ id, inbox }: SessionTask, error: SessionError, write: Pending): boolean {
    const { journal, engine } = this.#parts
    const waiting = [...write.interactions].filter(({ firstSeq, isOver }) => firstSeq === 0 && !isOver)
    if (waiting.length === 0) return false
    inbox?.refuse(waiting, error)
    const isTaken = ({ handle }: KeyRow) => !waiting.some((interaction) => interaction.id === handle.interactionId)
    engine.keys.forget(write.keys.filter((key) => !isTaken(key)).map(({ entryKey }) => entryKey))
    const interactions = new Set([...write.interactions].filter((interaction) => !waiting.includes(interaction)))
    journal.retry(id, { ...write, interactions, keys: write.keys.filter(isTaken) })
    return true
  }

  /** Takes the session up again, where the store has it in the middle of a turn. False where the store refuses even that. */
  async #takeUp(session: SessionTask): Promise<boolean> {
    const { residents, engine, store, ownership } = this.#parts
    const { id } = session
    while (!engine.factory.closing) {
      try {
        if ((await store.session(id))?.isActive) await residents.with(id, () => {})
        else {
          this.forget(id)
          await ownership.release(id, ownership.epochOf(session))
        }
        return true
      } catch (error) {
        if (error instanceof ElsewhereError || error instanceof SessionNotFoundError) return true
        if (!(error instanceof StoreUnavailableError || error instanceof CapacityReachedError)) return false
        await engine.changes.nextWithin(AGAIN_MS)
      }
    }
    return true
  }

  /** Tells those who wait here that the turns failed, although the store cannot be told. */
  #fail({ id, log }: SessionTask, open: readonly TurnRecord[], error: SessionError): void {
    const { journal, followers, observer } = this.#parts
    for (const record of open) {
      record.status = 'failed'
      record.error = new TurnFailedError(error, { session_id: id, turn: record.turn })
      record.endedAt = Date.now()
      // Who waits for one that has not begun has no events to read.
      if (record.firstSeq > 0) {
        record.lastSeq = log.lastSeq + 1
        log.append(record.terminalEvent(), record.turn)
      }
    }
    journal.abandon(id, log as MemoryEventLog)
    followers.giveBack(id)
    for (const record of open) {
      record.announceEnd()
      observer.turnEnded?.(record, undefined)
    }
  }
}
