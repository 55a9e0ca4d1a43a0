import type { Approval } from './agent.ts'
import type { CommsCommand, CommsReceipt, Peer } from './comms.ts'
import type { DurableStore, SessionRow } from './durable-store.ts'
import { EphemeralSessionService } from './ephemeral-session-service.ts'
import {
  ApprovalNotFoundError,
  IdempotencyKeyReusedError,
  InboxClosedError,
  InteractionNotFoundError,
  InvalidCursorError,
  PersistenceDisabledError,
  SessionExistsError,
  SessionNotFoundError,
  SessionNotRunningError,
  ShuttingDownError,
  StoreUnavailableError,
  TurnNotFoundError,
} from './errors.ts'
import type { Retention } from './event-log.ts'
import { type EventStream, eventsOf, type SessionStreamOptions, type TurnStreamOptions } from './event-stream.ts'
import type { AgentEvent } from './events.ts'
import { keepHouse } from './housekeeping.ts'
import { IdempotencyKeys } from './idempotency.ts'
import { Interaction } from './interaction.ts'
import { Journal } from './journal.ts'
import { LogFiller } from './log-filler.ts'
import { Residents } from './residents.ts'
import type { EphemeralSessionServiceOptions } from './service-options.ts'
import { recordOf } from './session-rows.ts'
import type {
  CreateSessionRequest,
  InjectOptions,
  InjectRequest,
  InteractionHandle,
  Page,
  ServiceStats,
  SessionQuery,
  SessionService,
  SessionSummary,
  SessionView,
  StartOptions,
  StartTurnRequest,
  TurnHandle,
  TurnView,
} from './session-service.ts'
import { streamAll, streamPart } from './session-streams.ts'
import { exportOf, summaryOf, viewOf } from './session-views.ts'
import type { ExportedSession, Message } from './transcript.ts'
import type { UsageQuery, UsageReport } from './usage.ts'

export interface PersistentSessionServiceOptions extends Omit<EphemeralSessionServiceOptions, 'store' | 'journal'> {
  store: DurableStore
  retention: Retention
  /** A session that does nothing for so long leaves memory, in milliseconds. It comes back when it is used. */
  idleEvictMs: number
}

/**
 * The engine over a store that outlives it: sessions come into memory when something is to happen in them, and leave it
 * when nothing has for a while. What is read comes from the store; what is told to anybody is in it before.
 */
export class PersistentSessionService implements SessionService {
  readonly #store: DurableStore
  readonly #engine: EphemeralSessionService
  readonly #journal: Journal
  readonly #logs: LogFiller
  readonly #residents: Residents
  readonly #fault: (error: unknown) => void
  #endHousekeeping = () => {}
  #sessions = 0
  #closed: Promise<void> | undefined

  private constructor({ store, retention, idleEvictMs: _, ...options }: PersistentSessionServiceOptions) {
    this.#store = store
    this.#fault = options.observer?.storeFault ?? (() => {})
    this.#journal = new Journal(store, retention, this.#fault)
    this.#logs = new LogFiller(store)
    const journal = this.#journal
    this.#engine = new EphemeralSessionService({ ...options, store: { openLog: (id) => journal.newLog(id) }, journal })
    this.#residents = new Residents(this.#engine.parts, journal, store, this.#logs)
  }

  /** Takes up what the last process left: turns that it lost end, turns in line go on. */
  static async open(options: PersistentSessionServiceOptions): Promise<PersistentSessionService> {
    const service = new PersistentSessionService(options)
    await service.#residents.recover()
    await service.#recount()
    const { store, idleEvictMs } = options
    service.#endHousekeeping = keepHouse({ residents: service.#residents, store, idleEvictMs, fault: service.#fault })
    return service
  }

  get closing(): boolean {
    return this.#engine.closing
  }

  get available(): boolean {
    return this.#journal.isAvailable
  }

  get stats(): ServiceStats {
    return { ...this.#engine.stats, sessions: this.#sessions }
  }

  async createSession(request: CreateSessionRequest, options: StartOptions = {}): Promise<TurnHandle> {
    this.#assertAvailable()
    await this.#recall('create', options)
    await this.#residents.makeRoom()
    const handle = await this.#engine.createSession(request, options)
    await this.#journal.settled(handle.sessionId)
    await this.#recount()
    this.#residents.used(handle.sessionId)
    return handle
  }

  async startTurn(sessionId: string, request: StartTurnRequest, options: StartOptions = {}): Promise<TurnHandle> {
    this.#assertAvailable()
    await this.#recall(sessionId, options)
    return this.#residents.with(sessionId, async () => {
      const handle = await this.#engine.startTurn(sessionId, request, options)
      await this.#journal.settled(sessionId)
      return handle
    })
  }

  async turnEnded(sessionId: string, turn: number, signal?: AbortSignal): Promise<TurnView> {
    if (this.#residents.get(sessionId) === undefined) return this.turn(sessionId, turn)
    const { away } = this.#journal
    const left = signal === undefined ? away : AbortSignal.any([signal, away])
    const view = await this.#engine.turnEnded(sessionId, turn, left)
    await this.#journal.settled(sessionId)
    return view
  }

  async interrupt(sessionId: string, turn?: number): Promise<{ turn: number }> {
    if (this.#residents.get(sessionId) !== undefined) return this.#engine.interrupt(sessionId, turn)
    await this.#live(sessionId)
    throw new SessionNotRunningError(sessionId, turn)
  }

  async approve(sessionId: string, turn: number, callId: string, approval: Approval): Promise<void> {
    if (this.#residents.get(sessionId) !== undefined) {
      this.#engine.approve(sessionId, turn, callId, approval)
      return
    }
    const { turnCount } = await this.#live(sessionId)
    if (turn > turnCount) throw new TurnNotFoundError(sessionId, turn)
    throw new ApprovalNotFoundError(sessionId, turn, callId)
  }

  async inject(sessionId: string, request: InjectRequest, options: InjectOptions = {}): Promise<InteractionHandle> {
    this.#assertAvailable()
    await this.#recall(`${sessionId}/interactions`, options)
    const row = await this.#readable(sessionId)
    if (row.isArchived) throw new InboxClosedError(sessionId)
    return this.#residents.with(sessionId, async () => {
      const handle = await this.#engine.inject(sessionId, request, options)
      await this.#journal.settled(sessionId)
      return handle
    })
  }

  async streamInteraction(sessionId: string, interactionId: string, options: TurnStreamOptions = {}) {
    const { after } = options
    const resident = this.#residents.get(sessionId)
    if (resident !== undefined) {
      const scope = resident.inbox?.find(interactionId)
      if (scope !== undefined) await this.#logs.fill(resident.id, resident.log, after ?? scope.firstSeq - 1)
      return this.#engine.streamInteraction(sessionId, interactionId, options)
    }
    const row = await this.#readable(sessionId)
    const kept = (await this.#store.interactions(sessionId)).find(({ id }) => id === interactionId)
    if (kept === undefined) throw new InteractionNotFoundError(sessionId, interactionId)
    const scope = Interaction.restored(kept.state)
    // What becomes of one that waits is known in memory first.
    if (!scope.isOver)
      return this.#residents.with(sessionId, () => this.#engine.streamInteraction(sessionId, interactionId, options))
    assertCursor(row, after)
    const log = this.#journal.openLog(row.id, row.lastSeq)
    await this.#logs.fill(sessionId, log, after ?? scope.firstSeq - 1)
    return streamPart({ id: sessionId, log }, scope, after)
  }

  async peers(sessionId: string): Promise<Peer[]> {
    return this.#residents.with(sessionId, () => this.#engine.peers(sessionId))
  }

  async send(sessionId: string, command: CommsCommand): Promise<CommsReceipt> {
    this.#assertAvailable()
    const row = await this.#readable(sessionId)
    if (row.isArchived) throw new InboxClosedError(sessionId)
    return this.#residents.with(sessionId, async () => {
      const receipt = this.#engine.send(sessionId, command)
      await this.#journal.flush()
      return receipt
    })
  }

  async read(sessionId: string): Promise<SessionView> {
    return viewOf(await this.#readable(sessionId))
  }

  async list(query: SessionQuery): Promise<{ sessions: SessionSummary[]; total: number }> {
    await this.#journal.flush()
    const { rows, total } = await this.#store.sessions(query)
    return { sessions: rows.map(summaryOf), total }
  }

  async archive(sessionId: string, mode: 'drain' | 'cancel' = 'drain'): Promise<void> {
    this.#assertAvailable()
    await this.#live(sessionId)
    await this.#residents.with(sessionId, async () => {
      this.#engine.archive(sessionId, mode)
      await this.#journal.settled(sessionId)
    })
    await this.#recount()
  }

  async turns(sessionId: string, page: Page): Promise<{ turns: TurnView[]; total: number }> {
    const { turnCount } = await this.#readable(sessionId)
    const rows = await this.#store.turns(sessionId, page)
    return { turns: rows.map((row) => recordOf(sessionId, row)), total: turnCount }
  }

  async turn(sessionId: string, turn: number): Promise<TurnView> {
    await this.#readable(sessionId)
    return this.#record(sessionId, turn)
  }

  async messages(sessionId: string, page: Page): Promise<{ messages: Message[]; total: number }> {
    const { messageCount } = await this.#withHistory(sessionId)
    return { messages: await this.#store.messages(sessionId, page), total: messageCount }
  }

  async exportSession(sessionId: string): Promise<ExportedSession> {
    const row = await this.#withHistory(sessionId)
    return exportOf(row, await this.#store.messages(sessionId, { offset: 0, limit: row.messageCount }))
  }

  async importSession(exported: ExportedSession): Promise<SessionView> {
    this.#assertAvailable()
    const id = exported.id.toLowerCase()
    const there = await this.#row(id)
    // One that is archived and still runs its last turn is in the way as well.
    if (there?.isArchived === false || this.#residents.get(id)?.isOver === false) throw new SessionExistsError(id)
    await this.#residents.makeRoom()
    const view = await this.#engine.importSession(exported)
    await this.#journal.settled(id)
    await this.#recount()
    this.#residents.used(id)
    return view
  }

  async fork(sessionId: string, turn?: number): Promise<SessionView> {
    this.#assertAvailable()
    await this.#live(sessionId)
    await this.#residents.makeRoom()
    return this.#residents.with(sessionId, async () => {
      const view = await this.#engine.fork(sessionId, turn)
      await this.#journal.settled(view.state.session_id)
      await this.#recount()
      this.#residents.used(view.state.session_id)
      return view
    })
  }

  async streamTurn(sessionId: string, turn: number, options: TurnStreamOptions = {}): Promise<EventStream | undefined> {
    const { after } = options
    const resident = this.#residents.get(sessionId)
    if (resident !== undefined) {
      const record = resident.turns[turn - 1]
      if (record !== undefined) await this.#logs.fill(sessionId, resident.log, after ?? record.firstSeq - 1)
      return this.#engine.streamTurn(sessionId, turn, options)
    }
    const row = await this.#readable(sessionId)
    const record = await this.#record(sessionId, turn)
    assertCursor(row, after)
    const log = this.#journal.openLog(row.id, row.lastSeq)
    await this.#logs.fill(sessionId, log, after ?? record.firstSeq - 1)
    return streamPart({ id: sessionId, log }, record, after)
  }

  async streamSession(sessionId: string, options: SessionStreamOptions = {}): Promise<EventStream | undefined> {
    const { after } = options
    const resident = this.#residents.get(sessionId)
    if (resident !== undefined) {
      const from = after ?? (resident.activeRecord?.firstSeq ?? resident.log.lastSeq + 1) - 1
      await this.#logs.fill(sessionId, resident.log, from)
      return this.#engine.streamSession(sessionId, options)
    }
    const row = await this.#readable(sessionId)
    assertCursor(row, after)
    if (this.closing && !row.isArchived) throw new ShuttingDownError()
    const log = this.#journal.openLog(row.id, row.lastSeq)
    await this.#logs.fill(sessionId, log, after ?? log.lastSeq)
    if (row.isArchived) log.seal()
    const { id, messageCount, turnCount, isArchived } = row
    return streamAll({ id, log, messageCount, turnCount, isActive: false, isOver: isArchived }, after)
  }

  async *events(
    sessionId: string,
    options: { turn?: number; after?: number; signal?: AbortSignal } = {},
  ): AsyncGenerator<AgentEvent> {
    const { turn, after, signal } = options
    const stream = await (turn === undefined
      ? this.streamSession(sessionId, { after })
      : this.streamTurn(sessionId, turn, { after }))
    if (stream !== undefined) yield* eventsOf(stream, signal)
  }

  async waitSessionRegistered(sessionId?: string, options: { signal?: AbortSignal } = {}): Promise<void> {
    if (sessionId === undefined ? this.#sessions > 0 : (await this.#row(sessionId))?.isArchived === false) return
    await this.#engine.waitSessionRegistered(sessionId, options)
  }

  usage(query: UsageQuery): UsageReport {
    return this.#engine.usage(query)
  }

  close(options: { drainMs?: number } = {}): Promise<void> {
    this.#closed ??= this.#close(options)
    return this.#closed
  }

  async #close(options: { drainMs?: number }): Promise<void> {
    this.#endHousekeeping()
    await this.#engine.close(options)
    await this.#journal.flush()
    await this.#residents.release()
    await this.#store.close()
  }

  async #recount(): Promise<void> {
    this.#sessions = (await this.#store.sessions({ offset: 0, limit: 0 })).total
  }

  // What is kept

  #assertAvailable(): void {
    if (!this.#journal.isAvailable) throw new StoreUnavailableError()
  }

  /** What the session is for everybody: what has happened in it is waited for. */
  async #row(sessionId: string): Promise<SessionRow | undefined> {
    await this.#journal.settled(sessionId)
    return this.#store.session(sessionId)
  }

  async #readable(sessionId: string): Promise<SessionRow> {
    const row = await this.#row(sessionId)
    if (row === undefined) throw new SessionNotFoundError(sessionId)
    return row
  }

  async #live(sessionId: string): Promise<SessionRow> {
    const row = await this.#readable(sessionId)
    if (row.isArchived) throw new SessionNotFoundError(sessionId)
    return row
  }

  async #withHistory(sessionId: string): Promise<SessionRow> {
    const row = await this.#readable(sessionId)
    if (row.isArchived) throw new PersistenceDisabledError(sessionId)
    return row
  }

  async #record(sessionId: string, turn: number) {
    const [row] = turn < 1 ? [] : await this.#store.turns(sessionId, { offset: turn - 1, limit: 1 })
    if (row === undefined) throw new TurnNotFoundError(sessionId, turn)
    return recordOf(sessionId, row)
  }

  /** Puts into memory what a key started before this process did. */
  async #recall(scope: string, { idempotency }: StartOptions): Promise<void> {
    if (idempotency === undefined) return
    const entryKey = IdempotencyKeys.entryKey(scope, idempotency)
    if (this.#engine.parts.keys.has(entryKey)) return
    const kept = await this.#store.key(entryKey)
    if (kept === undefined || this.#engine.parts.keys.has(entryKey)) return
    if (kept.fingerprint !== idempotency.fingerprint) throw new IdempotencyKeyReusedError()
    const handle = { ...kept.handle, sessionId: kept.sessionId, attached: true }
    this.#engine.parts.keys.restore(entryKey, kept.fingerprint, handle)
  }
}

function assertCursor({ lastSeq }: SessionRow, after: number | undefined): void {
  if (after !== undefined && after > lastSeq) throw new InvalidCursorError(lastSeq)
}
