import type { DurableStore, InteractionRow, KeyRow, SessionWrite } from './durable-store.ts'
import { StoreUnavailableError } from './errors.ts'
import type { Retention } from './event-log.ts'
import type { Interaction } from './interaction.ts'
import { type Chunk, MemoryEventLog } from './memory-event-log.ts'
import { rowOf, turnRowOf } from './session-rows.ts'
import type { SessionTask } from './session-task.ts'

/** Between two commits all that is said is collected: for four times as long as the last one took, or this long. */
const LONGEST_PAUSE_MS = 20
/** After a commit that failed. */
const RETRY_MS = 250
/** Whoever waits for a commit that does not come is told so after this. */
const PATIENCE_MS = 5_000
/** After so many that were opened, logs that nobody has any more are forgotten. */
const FORGET_EVERY = 1_000
/** So much may wait for a store that is away before the sessions that talk are stopped. */
const MAX_WAITING_BYTES = 64 * 1024 * 1024

/** What of one session waits for a commit. */
interface Pending {
  isNew: boolean
  chunks: Chunk[]
  /** Make the chunks visible. */
  shows: (() => void)[]
  interactions: Set<Interaction>
  keys: KeyRow[]
}

/** How much of a session is kept already. */
interface Kept {
  messages: number
  /** Turns before this one are over and kept. */
  turns: number
}

interface Waiting {
  readonly id: string
  /** All that it waits for is in the commit under way. */
  isInFlight: boolean
  resolve(): void
}

/**
 * Carries what happens in sessions into a durable store: one commit for all of them, at once after a pause and then as
 * often as commits are cheap, at least every 20 ms. An event is seen by nobody before its commit; its turn's record,
 * messages and usage are part of the same.
 */
export class Journal {
  readonly #store: DurableStore
  readonly #retention: Retention
  readonly #fault: (error: unknown) => void
  #pending = new Map<string, Pending>()
  /** Of the commit under way. */
  #inFlight: ReadonlyMap<string, Pending> = new Map()
  readonly #kept = new WeakMap<SessionTask, Kept>()
  /** Sessions that are here; what is said before its session is made waits for that. */
  readonly #sessions = new Map<string, SessionTask>()
  #waiters: Waiting[] = []
  readonly #logs = new Map<string, WeakRef<MemoryEventLog>>()
  #opened = 0
  #timer: NodeJS.Timeout | undefined
  #immediate: NodeJS.Immediate | undefined
  #running: Promise<void> | undefined
  #lastCommit = 0
  #pauseMs = 0
  #isFailing = false
  /** Aborts when the store has been away for longer than anybody waits. */
  #away = new AbortController()
  #awayTimer: NodeJS.Timeout | undefined
  #waitingBytes = 0

  /** `fault` hears, once for each time that it is away, why the store cannot be written. */
  constructor(store: DurableStore, retention: Retention, fault: (error: unknown) => void) {
    this.#store = store
    this.#retention = retention
    this.#fault = fault
  }

  /** False while the store cannot be written. */
  get isAvailable(): boolean {
    return !this.#isFailing
  }

  /** Aborts, with a `StoreUnavailableError`, when the store has been away for long. */
  get away(): AbortSignal {
    return this.#away.signal
  }

  /**
   * The log of a session, one for all who have it, whether the session is in memory or not. It goes on after `lastSeq`;
   * its events are seen once they are kept.
   */
  openLog(sessionId: string, lastSeq: number): MemoryEventLog {
    const known = this.#logs.get(sessionId)?.deref()
    return known !== undefined && known.lastSeq >= lastSeq ? known : this.newLog(sessionId, lastSeq)
  }

  newLog(sessionId: string, lastSeq = 0): MemoryEventLog {
    const log = new MemoryEventLog(this.#retention, {
      lastSeq,
      keep: (chunk, show) => {
        const pending = this.#pendingOf(sessionId)
        pending.chunks.push(chunk)
        pending.shows.push(show)
        this.#waitingBytes += chunk.bytes.length
        if (this.#isFailing && this.#waitingBytes > MAX_WAITING_BYTES) this.#sessions.get(sessionId)?.cancel()
      },
    })
    this.#logs.set(sessionId, new WeakRef(log))
    if (++this.#opened % FORGET_EVERY === 0) {
      for (const [id, opened] of this.#logs) if (opened.deref() === undefined) this.#logs.delete(id)
    }
    return log
  }

  /** A session that was not there before. */
  created(session: SessionTask): void {
    this.#sessions.set(session.id, session)
    this.#kept.set(session, { messages: 0, turns: 0 })
    this.#pendingOf(session.id).isNew = true
    this.#schedule()
  }

  /** One that was never made. */
  forget(sessionId: string): void {
    if (this.#sessions.has(sessionId)) return
    this.#waitingBytes -= bytesOf(this.#pending.get(sessionId))
    this.#pending.delete(sessionId)
  }

  /** One that is over: it goes once the last of it is kept. */
  retired(session: SessionTask): void {
    if (this.isSettled(session.id)) this.evicted(session)
    else this.whenSettled(session.id, () => this.retired(session))
  }

  /** One that is not here any more. Only when it is settled. */
  evicted(session: SessionTask): void {
    if (this.#sessions.get(session.id) === session) this.#sessions.delete(session.id)
  }

  /** A session as the store has it. */
  restored(session: SessionTask, turns: number): void {
    this.#sessions.set(session.id, session)
    this.#kept.set(session, { messages: session.messages.length, turns })
  }

  /** Something of the session is not what the store has. */
  changed(session: SessionTask, interaction?: Interaction): void {
    const pending = this.#pendingOf(session.id)
    if (interaction !== undefined) pending.interactions.add(interaction)
  }

  /** The key goes with what it started. */
  keep(key: KeyRow): void {
    this.#pendingOf(key.sessionId).keys.push(key)
  }

  /** Whether nothing of the session waits for a commit. */
  isSettled(sessionId: string): boolean {
    return !this.#pending.has(sessionId) && !this.#inFlight.has(sessionId)
  }

  /** Calls `then` once all that has happened in the session so far is kept, whatever goes on there. */
  whenSettled(sessionId: string, then: () => void): void {
    if (this.isSettled(sessionId)) then()
    else this.#waiters.push({ id: sessionId, isInFlight: !this.#pending.has(sessionId), resolve: then })
  }

  /** The same as a promise. Rejects with a `StoreUnavailableError` when the store stays away. */
  settled(sessionId: string): Promise<void> {
    if (this.isSettled(sessionId)) return Promise.resolve()
    return new Promise((resolve, reject) => {
      const waiting: Waiting = {
        id: sessionId,
        isInFlight: !this.#pending.has(sessionId),
        resolve: () => {
          clearTimeout(timer)
          resolve()
        },
      }
      const timer = setTimeout(() => {
        this.#waiters = this.#waiters.filter((one) => one !== waiting)
        reject(new StoreUnavailableError())
      }, PATIENCE_MS)
      this.#waiters.push(waiting)
    })
  }

  /** Writes all that waits. Resolves when that is done, or has failed. */
  async flush(): Promise<void> {
    await this.#running
    if (this.#isReady) await this.#commit()
  }

  #pendingOf(sessionId: string): Pending {
    let pending = this.#pending.get(sessionId)
    if (pending === undefined) {
      pending = { isNew: false, chunks: [], shows: [], interactions: new Set(), keys: [] }
      this.#pending.set(sessionId, pending)
      this.#schedule()
    }
    return pending
  }

  #schedule(): void {
    if (this.#timer !== undefined || this.#immediate !== undefined || this.#running !== undefined) return
    if (!this.#isReady) return
    const wait = this.#lastCommit + (this.#isFailing ? RETRY_MS : this.#pauseMs) - performance.now()
    if (wait <= 0) this.#immediate = setImmediate(() => void this.#commit())
    else this.#timer = setTimeout(() => void this.#commit(), wait)
  }

  /** Something waits whose session is made: what is said before that, however long it takes, waits for it. */
  get #isReady(): boolean {
    for (const id of this.#pending.keys()) if (this.#sessions.has(id)) return true
    return false
  }

  #commit(): Promise<void> {
    clearTimeout(this.#timer)
    clearImmediate(this.#immediate)
    this.#timer = undefined
    this.#immediate = undefined
    const begunAt = performance.now()
    this.#running ??= this.#write().finally(() => {
      this.#running = undefined
      this.#lastCommit = performance.now()
      this.#pauseMs = Math.min(LONGEST_PAUSE_MS, 4 * (this.#lastCommit - begunAt))
      this.#schedule()
    })
    return this.#running
  }

  async #write(): Promise<void> {
    for (const id of this.#pending.keys()) (this.#sessions.get(id)?.log as MemoryEventLog | undefined)?.flush()
    const batch = new Map<string, Pending>()
    const early = new Map<string, Pending>()
    for (const [id, pending] of this.#pending) (this.#sessions.has(id) ? batch : early).set(id, pending)
    this.#pending = early
    if (batch.size === 0) return
    this.#inFlight = batch
    for (const waiting of this.#waiters) waiting.isInFlight = batch.has(waiting.id)
    const kept = new Map<SessionTask, Kept>()
    try {
      await this.#store.commit(
        [...batch].map(([id, pending]) => this.#writeOf(this.#sessions.get(id) as SessionTask, pending, kept)),
      )
    } catch (error) {
      this.#inFlight = new Map()
      this.#putBack(batch)
      for (const waiting of this.#waiters) waiting.isInFlight = false
      this.#failed(error)
      return
    }
    this.#back()
    this.#inFlight = new Map()
    for (const pending of batch.values()) this.#waitingBytes -= bytesOf(pending)
    for (const [session, state] of kept) this.#kept.set(session, state)
    for (const { shows } of batch.values()) for (const show of shows) show()
    const served = this.#waiters.filter(({ isInFlight }) => isInFlight)
    this.#waiters = this.#waiters.filter(({ isInFlight }) => !isInFlight)
    for (const { resolve } of served) resolve()
  }

  #failed(error: unknown): void {
    if (this.#isFailing) return
    this.#isFailing = true
    this.#fault(error)
    this.#awayTimer = setTimeout(() => this.#away.abort(new StoreUnavailableError()), PATIENCE_MS).unref()
  }

  #back(): void {
    if (!this.#isFailing) return
    this.#isFailing = false
    clearTimeout(this.#awayTimer)
    if (this.#away.signal.aborted) this.#away = new AbortController()
  }

  #writeOf(session: SessionTask, pending: Pending, kept: Map<SessionTask, Kept>): SessionWrite {
    const { isNew, chunks, interactions, keys } = pending
    const { messages: from, turns: known } = this.#kept.get(session) ?? { messages: 0, turns: 0 }
    const added = session.messages.slice(from)
    const open = session.turns.slice(known)
    const firstOpen = open.findIndex(({ isOver }) => !isOver)
    kept.set(session, {
      messages: session.messages.length,
      turns: firstOpen === -1 ? session.turns.length : known + firstOpen,
    })
    return {
      isNew,
      retain: this.#retention,
      row: rowOf(session),
      turns: open.map(turnRowOf),
      messages: { from, added },
      chunks,
      interactions: [...interactions].map((one): InteractionRow => ({ id: one.id, state: one.toState() })),
      keys,
    }
  }

  /** What could not be written goes before what has come since. */
  #putBack(batch: ReadonlyMap<string, Pending>): void {
    const since = this.#pending
    this.#pending = new Map(batch)
    for (const [id, later] of since) {
      const earlier = this.#pending.get(id)
      if (earlier === undefined) {
        this.#pending.set(id, later)
        continue
      }
      earlier.isNew ||= later.isNew
      earlier.chunks.push(...later.chunks)
      earlier.shows.push(...later.shows)
      earlier.keys.push(...later.keys)
      for (const interaction of later.interactions) earlier.interactions.add(interaction)
    }
  }
}

function bytesOf(pending: Pending | undefined): number {
  return pending?.chunks.reduce((sum, { bytes }) => sum + bytes.length, 0) ?? 0
}
