import { type BatchOutcome, commitBatch } from './batch-commit.ts'
import type { DurableStore, SessionWrite } from './durable-store.ts'
import type { SessionError } from './errors.ts'
import type { Retention } from './event-log.ts'
import type { Interaction } from './interaction.ts'
import { MemoryEventLog } from './memory-event-log.ts'
import { OpenLogs } from './open-logs.ts'
import { Outage } from './outage.ts'
import type { Ownership } from './ownership.ts'
import type { SessionTask } from './session-task.ts'
import { bytesOf, type Kept, keptOf, NOTHING_KEPT, type Pending, putBefore, writeOf } from './session-writes.ts'
import { Settling } from './settling.ts'
import type { TurnRecord } from './turn-record.ts'

/**
 * Between two commits all that is said is collected: for four times as long as the last one took, and at the most so that
 * they begin this often. Whoever waits for more than an event gets a commit of its own sessions in between, at once.
 */
const PERIOD_MS = 22
const SHORTEST_PAUSE_MS = 2
/** After a commit that failed. */
const RETRY_MS = 250
/** Whoever waits for a commit that does not come is told so after this. */
const PATIENCE_MS = 5_000
/** So much may wait for a store that is away before the sessions that talk are stopped. */
const MAX_WAITING_BYTES = 64 * 1024 * 1024

/**
 * Carries what happens in sessions into a durable store: one commit for all of them, at once after a pause and then as
 * often as commits are cheap, at least every 22 ms; in between, one for those sessions of which somebody waits for more
 * than an event. An event is seen by nobody before its commit; its turn's record, messages and usage are part of the same.
 */
export class Journal {
  readonly #store: DurableStore
  readonly #retention: Retention
  readonly #ownership: Ownership
  readonly #outage: Outage
  /** Hears of a session that another server has taken over, or that could not be made. */
  onLost: (session: SessionTask) => void = () => {}
  /** Is called with a session whose write the store refuses, and with that write: it is not tried again. */
  onRefused: (session: SessionTask, error: unknown, write: Pending) => void = () => {}
  #pending = new Map<string, Pending>()
  /** Of the commit under way. */
  #inFlight: ReadonlyMap<string, Pending> = new Map()
  readonly #kept = new WeakMap<SessionTask, Kept>()
  /** Sessions that are here; what is said before its session is made waits for that. */
  readonly #sessions = new Map<string, SessionTask>()
  readonly #settling = new Settling()
  readonly #logs = new OpenLogs()
  /** Sessions that nobody goes on with here. */
  readonly #gone = new WeakSet<SessionTask>()
  #timer: NodeJS.Timeout | undefined
  #immediate: NodeJS.Immediate | undefined
  #running: Promise<void> | undefined
  /** When the last commit was over that had everything in it, and how long it took. */
  #lastWhole = Number.NEGATIVE_INFINITY
  #tookMs = 0
  #waitingBytes = 0

  /** `fault` hears, once for each time that it is away, why the store cannot be written. */
  constructor(store: DurableStore, retention: Retention, ownership: Ownership, fault: (error: unknown) => void) {
    this.#store = store
    this.#retention = retention
    this.#ownership = ownership
    this.#outage = new Outage(PATIENCE_MS, fault)
  }

  /** False while the store cannot be written. */
  get isAvailable(): boolean {
    return !this.#outage.isOngoing
  }

  /** Aborts, with an `OutcomeUnknownError`, when the store has been away for long. */
  get away(): AbortSignal {
    return this.#outage.signal
  }

  /**
   * The log of a session, one for all who have it, whether the session is in memory or not. It goes on after `lastSeq`;
   * its events are seen once they are kept.
   */
  openLog(sessionId: string, lastSeq: number): MemoryEventLog {
    const known = this.findLog(sessionId)
    // One that is over is not what a session of the same id goes on with.
    if (known !== undefined && known.lastSeq >= lastSeq && !known.sealed) return known
    // Whoever reads it has to come again.
    known?.abandon()
    return this.newLog(sessionId, lastSeq)
  }

  findLog(sessionId: string): MemoryEventLog | undefined {
    return this.#logs.find(sessionId)
  }

  newLog(sessionId: string, lastSeq = 0): MemoryEventLog {
    const log = new MemoryEventLog(this.#retention, {
      lastSeq,
      keep: (chunk, show) => {
        const pending = this.#pendingOf(sessionId)
        pending.chunks.push(chunk)
        pending.shows.push(show)
        this.#waitingBytes += chunk.bytes.length
        if (this.#outage.isOngoing && this.#waitingBytes > MAX_WAITING_BYTES) this.#sessions.get(sessionId)?.cancel()
      },
    })
    this.#logs.add(sessionId, log)
    return log
  }

  /** A session that was not there before. */
  created(session: SessionTask): void {
    this.#sessions.set(session.id, session)
    this.#kept.set(session, NOTHING_KEPT)
    this.#ownership.hold(session)
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
    this.#gone.add(session)
  }

  /** A session as the store has it. */
  restored(session: SessionTask): void {
    this.#sessions.set(session.id, session)
    this.#kept.set(session, keptOf(session))
  }

  /** Something of the session is not what the store has. */
  changed(session: SessionTask, interaction?: Interaction): void {
    if (this.#gone.has(session)) return
    const pending = this.#pendingOf(session.id)
    if (interaction !== undefined) pending.interactions.add(interaction)
  }

  /**
   * What waits here of the session is not written any more: another server has it, or the store refuses it, as
   * `refusal` says. Returns the turns of whose end the store may know more.
   */
  lose(session: SessionTask, refusal?: SessionError, keepsLog = false): TurnRecord[] {
    const { id } = session
    if (this.#gone.has(session)) return []
    this.#gone.add(session)
    const log = session.log as MemoryEventLog
    const isHere = this.#sessions.get(id) === session
    if (isHere) {
      this.#sessions.delete(id)
      this.#ownership.giveUp(id)
      this.#waitingBytes -= bytesOf(this.#pending.get(id))
      this.#pending.delete(id)
      this.#settling.drop(id, refusal)
    }
    const isAheadOfStore = session.isActive || log.isAhead || !isHere || refusal !== undefined
    if (isAheadOfStore && !keepsLog) this.#logs.abandon(id, log)
    return session.turns.slice(this.#kept.get(session)?.turns ?? 0)
  }

  /** Writes once more what the store refused, without what it was that it refused. */
  retry(sessionId: string, write: Pending): void {
    this.#waitingBytes += bytesOf(write)
    this.#pending = putBefore(new Map([[sessionId, write]]), this.#pending)
    this.#schedule()
  }

  /** The log of a session that the store refused: it goes on after the last event that is persisted. */
  rewind(sessionId: string, log: MemoryEventLog): void {
    this.forget(sessionId)
    log.rewind()
  }

  /** The same for the last of a log: it is shown although it is not persisted, and readers have to come again. */
  abandon(sessionId: string, log: MemoryEventLog): void {
    log.flush()
    for (const show of this.#pending.get(sessionId)?.shows ?? []) show()
    this.forget(sessionId)
    this.#logs.abandon(sessionId, log)
  }

  /** The store cannot be reached. */
  unreachable(error: unknown): void {
    this.#outage.begin(error)
  }

  /** It can again. */
  reachable(): void {
    if (this.#running === undefined && !this.#isReady) this.#outage.end()
  }

  /** Whether the session has not been written yet. */
  isUnwritten(sessionId: string): boolean {
    return (this.#pending.get(sessionId) ?? this.#inFlight.get(sessionId))?.isNew === true
  }

  /** The key goes with what it started. */
  keep(entryKey: string, fingerprint: string, handle: { sessionId: string }): void {
    const { sessionId } = handle
    this.#pendingOf(sessionId).keys.push({
      entryKey,
      fingerprint,
      sessionId,
      handle: { ...handle },
      createdAt: Date.now(),
    })
  }

  /** Whether nothing of the session waits for a commit. */
  isSettled(sessionId: string): boolean {
    return !this.#pending.has(sessionId) && !this.#inFlight.has(sessionId)
  }

  /** Calls `then` once all that has happened in the session so far is kept, whatever goes on there. */
  whenSettled(sessionId: string, then: () => void): void {
    if (this.isSettled(sessionId)) {
      then()
      return
    }
    this.#settling.add(sessionId, !this.#pending.has(sessionId), then)
    this.#hurry()
  }

  /**
   * The same as a promise. Rejects with an `OutcomeUnknownError` when the store stays away or another node takes the
   * session over, and with an `INTERNAL_ERROR` when the store refuses the write.
   */
  settled(sessionId: string): Promise<void> {
    if (this.isSettled(sessionId)) return Promise.resolve()
    const kept = this.#settling.wait(sessionId, !this.#pending.has(sessionId), PATIENCE_MS)
    this.#hurry()
    return kept
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
    const wait = this.#isHurried ? 0 : this.#untilWholeMs
    if (wait <= 0) this.#immediate = setImmediate(() => void this.#commit(this.#untilWholeMs <= 0))
    else this.#timer = setTimeout(() => void this.#commit(), wait)
  }

  get #untilWholeMs(): number {
    const rest = Math.max(SHORTEST_PAUSE_MS, PERIOD_MS - this.#tookMs)
    const pause = this.#outage.isOngoing ? RETRY_MS : Math.min(4 * this.#tookMs, rest)
    return this.#lastWhole + pause - performance.now()
  }

  /** Somebody waits for more than an event, of a session that is made. */
  get #isHurried(): boolean {
    if (this.#outage.isOngoing) return false
    for (const id of this.#settling.ids()) if (this.#pending.has(id) && this.#sessions.has(id)) return true
    return false
  }

  #hurry(): void {
    if (this.#timer === undefined) return
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#schedule()
  }

  /** Something waits whose session is made: what is said before that, however long it takes, waits for it. */
  get #isReady(): boolean {
    for (const id of this.#pending.keys()) if (this.#sessions.has(id)) return true
    return false
  }

  /** All that waits, or else only the sessions that somebody waits for. */
  #commit(whole = true): Promise<void> {
    clearTimeout(this.#timer)
    clearImmediate(this.#immediate)
    this.#timer = undefined
    this.#immediate = undefined
    const begunAt = performance.now()
    this.#running ??= this.#write(whole).finally(() => {
      this.#running = undefined
      if (whole || this.#outage.isOngoing) {
        this.#lastWhole = performance.now()
        this.#tookMs = this.#lastWhole - begunAt
      }
      this.#schedule()
    })
    return this.#running
  }

  async #write(whole: boolean): Promise<void> {
    const wanted = whole ? undefined : this.#settling.ids()
    const isDue = (id: string) => this.#sessions.has(id) && wanted?.has(id) !== false
    const away = [...this.#pending].filter(([id, pending]) => isDue(id) && !this.#isOurs(id, pending))
    if (away.length > 0 && !(await this.#takeBack(away.map(([id]) => this.#sessions.get(id) as SessionTask)))) return
    for (const id of this.#pending.keys()) {
      if (isDue(id)) (this.#sessions.get(id)?.log as MemoryEventLog | undefined)?.flush()
    }
    const batch = new Map<string, Pending>()
    const later = new Map<string, Pending>()
    for (const [id, pending] of this.#pending) {
      if (isDue(id) && this.#isOurs(id, pending)) batch.set(id, pending)
      else later.set(id, pending)
    }
    this.#pending = later
    if (batch.size === 0) return
    this.#inFlight = batch
    this.#settling.begun(batch)
    const sessions = new Map([...batch.keys()].map((id) => [id, this.#sessions.get(id) as SessionTask]))
    const kept = new Map<SessionTask, Kept>()
    const writes: SessionWrite[] = [...batch].map(([id, pending]) => {
      const session = sessions.get(id) as SessionTask
      const before = this.#kept.get(session) ?? NOTHING_KEPT
      const given = { epoch: this.#ownership.epochOf(session), retain: this.#retention }
      const write = writeOf(session, pending, before, given)
      kept.set(session, { ...keptOf(session, before), row: write.row })
      // Where the answer is lost it is not known any more.
      this.#kept.set(session, { ...before, row: undefined })
      return write
    })
    // From here on, since the answer may be late.
    for (const { row } of writes) if (!row.isActive) this.#ownership.giveUp(row.id)
    this.#conclude(await commitBatch(this.#store, writes), batch, sessions, kept)
  }

  #conclude(
    { leftOut, refused, away }: BatchOutcome,
    batch: Map<string, Pending>,
    sessions: ReadonlyMap<string, SessionTask>,
    kept: ReadonlyMap<SessionTask, Kept>,
  ): void {
    this.#inFlight = new Map()
    const take = (id: string): { session: SessionTask; pending: Pending } => {
      const pending = batch.get(id) as Pending
      batch.delete(id)
      return { session: sessions.get(id) as SessionTask, pending }
    }
    const unwritten = new Map<string, Pending>()
    for (const id of away?.ids ?? []) {
      const { session, pending } = take(id)
      if (this.#gone.has(session)) this.#waitingBytes -= bytesOf(pending)
      else unwritten.set(id, pending)
    }
    this.#pending = putBefore(unwritten, this.#pending)
    if (away === undefined) this.#outage.end()
    else this.unreachable(away.error)
    const lost = leftOut.map(take)
    const refusals = [...refused].map(([id, error]) => ({ ...take(id), error }))
    for (const { pending } of [...lost, ...refusals]) this.#waitingBytes -= bytesOf(pending)
    for (const pending of batch.values()) this.#waitingBytes -= bytesOf(pending)
    for (const [session, state] of kept) if (batch.has(session.id)) this.#kept.set(session, state)
    for (const { shows } of batch.values()) for (const show of shows) show()
    this.#settling.done(batch)
    for (const { session } of lost) this.onLost(session)
    for (const { session, pending, error } of refusals) {
      if (!this.#gone.has(session)) this.onRefused(session, error, pending)
    }
  }

  /** Whoever writes in a session has taken it: a copy elsewhere is known to be old by that. */
  #isOurs(id: string, { isNew }: Pending): boolean {
    return isNew || this.#ownership.has(id)
  }

  /** Sessions that changed while nobody had them. False when the store cannot be reached. */
  async #takeBack(sessions: readonly SessionTask[]): Promise<boolean> {
    try {
      for (const session of await this.#ownership.takeBack(sessions)) this.onLost(session)
      return true
    } catch (error) {
      this.unreachable(error)
      return false
    }
  }
}
