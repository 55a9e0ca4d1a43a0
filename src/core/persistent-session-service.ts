import type { Approval } from './agent.ts'
import type { CommsCommand, CommsReceipt, Peer } from './comms.ts'
import type { DurableStore } from './durable-store.ts'
import { EphemeralSessionService } from './ephemeral-session-service.ts'
import {
  ApprovalNotFoundError,
  InboxClosedError,
  onceBegun,
  SessionBusyError,
  SessionNotRunningError,
  ShuttingDownError,
  StoreUnavailableError,
  TurnNotFoundError,
} from './errors.ts'
import type { Retention } from './event-log.ts'
import { type EventStream, eventsOf, type SessionStreamOptions, type TurnStreamOptions } from './event-stream.ts'
import type { AgentEvent } from './events.ts'
import { Followers } from './followers.ts'
import { keepHouse } from './housekeeping.ts'
import { Journal } from './journal.ts'
import { Lease } from './lease.ts'
import { LogFiller } from './log-filler.ts'
import { Member } from './member.ts'
import { NewSessions } from './new-sessions.ts'
import { OperationRouter } from './operation-router.ts'
import { Ownership } from './ownership.ts'
import { Residents } from './residents.ts'
import type { EphemeralSessionServiceOptions } from './service-options.ts'
import { sessionOperations } from './session-operations.ts'
import type {
  CreateSessionRequest,
  InjectOptions,
  InjectRequest,
  InteractionHandle,
  InterruptTarget,
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
import { activeTurnOf } from './session-views.ts'
import { StartKeys } from './start-keys.ts'
import { StoredComms } from './stored-comms.ts'
import { StoredSessions } from './stored-sessions.ts'
import { StoredStreams } from './stored-streams.ts'
import type { ExportedSession, Message } from './transcript.ts'
import { TurnSlots } from './turn-slots.ts'
import type { UsageQuery, UsageReport } from './usage.ts'

const LOOK_AGAIN_MS = 1_000
/** What was asked before the end is answered before the store is closed. */
const LAST_ANSWERS_MS = 500

export interface PersistentSessionServiceOptions
  extends Omit<EphemeralSessionServiceOptions, 'store' | 'journal' | 'commsOf'> {
  store: DurableStore
  retention: Retention
  /** A session that does nothing for so long leaves memory, in milliseconds. It comes back when it is used. */
  idleEvictMs: number
  /** Turns that may run at a time over all servers of the store; no limit by default. */
  maxClusterTurns?: number | undefined
}

/**
 * The engine over a store that outlives it: sessions come into memory when something is to happen in them, and leave it
 * when nothing has for a while. What is read comes from the store; what is told to anybody is in it before. Where several
 * servers share the store, what has to happen where a session's turn runs is asked for there.
 */
export class PersistentSessionService implements SessionService {
  readonly #store: DurableStore
  readonly #engine: EphemeralSessionService
  readonly #journal: Journal
  readonly #residents: Residents
  readonly #sessions: StoredSessions
  readonly #streams: StoredStreams
  readonly #keys: StartKeys
  readonly #new: NewSessions
  readonly #router: OperationRouter
  readonly #comms: StoredComms
  readonly #slots: TurnSlots | undefined
  readonly #member: Member | undefined
  readonly #fault: (error: unknown) => void
  #endHousekeeping = () => {}
  #count = 0
  #calls = 0
  #closed: Promise<void> | undefined

  private constructor({ store, retention, maxClusterTurns, ...options }: PersistentSessionServiceOptions) {
    const { observer = {} } = options
    const fault = observer.storeFault ?? (() => {})
    const { cluster } = store
    const ownership = new Ownership(cluster)
    const lease = new Lease()
    const journal = new Journal(store, retention, ownership, fault)
    const logs = new LogFiller(store)
    const followers = new Followers(store, journal, ownership)
    const engine = new EphemeralSessionService({
      ...options,
      store: { openLog: (id, lastSeq) => journal.newLog(id, lastSeq) },
      journal,
      ...(cluster === undefined ? {} : { commsOf: ({ id }) => this.#comms.of(id) }),
    })
    const { activeTurns, changes, keys } = engine.parts
    if (cluster !== undefined && maxClusterTurns !== undefined) {
      this.#slots = new TurnSlots(cluster, maxClusterTurns, activeTurns, changes)
    }
    const residents = new Residents({
      engine: engine.parts,
      journal,
      store,
      ownership,
      followers,
      logs,
      slots: this.#slots,
      observer,
    })
    this.#store = store
    this.#engine = engine
    this.#journal = journal
    this.#residents = residents
    this.#fault = fault
    this.#sessions = new StoredSessions(store, journal, followers)
    this.#streams = new StoredStreams({ engine, residents, sessions: this.#sessions, followers, journal, logs, store })
    this.#new = new NewSessions({ store, journal, residents, sessions: this.#sessions })
    this.#keys = new StartKeys(keys, store, lease)
    const operations = sessionOperations(engine, journal, (start) => this.#duringStart(start))
    this.#router = new OperationRouter(residents, operations, ownership, cluster)
    this.#comms = new StoredComms(store, this.#sessions, this.#router)
    const { requests } = this.#router
    if (cluster === undefined || requests === undefined) return
    const changed = () => this.#recount()
    this.#member = new Member({
      store,
      cluster,
      lease,
      journal,
      ownership,
      residents,
      followers,
      requests,
      changed,
      fault,
    })
  }

  /** Takes up what the last process, or another server, left: turns that it lost end, turns in line go on. */
  static async open(options: PersistentSessionServiceOptions): Promise<PersistentSessionService> {
    const service = new PersistentSessionService(options)
    await service.#member?.join()
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
    return { ...this.#engine.stats, sessions: this.#count }
  }

  createSession(request: CreateSessionRequest, options: StartOptions = {}): Promise<TurnHandle> {
    return this.#underWay(async () => {
      this.#assertAvailable()
      const refuse = () => this.#new.refuseTakenName(request.comms_name, '/comms_name')
      const isDeferred = request.initial_turn === 'deferred'
      const handle = await this.#keys.once('create', options, (assertHeld) => {
        const create = async () => {
          assertHeld()
          return this.#engine.createSession(request, options)
        }
        // Not for as long as it takes until it is kept: what runs by then has its own place.
        return this.#new.make(() => (isDeferred ? create() : this.#duringStart(create)), refuse)
      })
      await this.#recountQuietly()
      return handle
    })
  }

  startTurn(sessionId: string, request: StartTurnRequest, options: StartOptions = {}): Promise<TurnHandle> {
    return this.#underWay(async () => {
      this.#assertAvailable()
      const mayWait = request.on_busy !== undefined && request.on_busy !== 'reject'
      const beforeAsking = mayWait ? undefined : () => this.#refuseIfBusy(sessionId)
      return this.#keys.once(sessionId, options, (assertHeld) =>
        this.#router.run('startTurn', sessionId, { request, options }, { assertHeld, beforeAsking }),
      )
    })
  }

  turnEnded(sessionId: string, turn: number, signal?: AbortSignal): Promise<TurnView> {
    // Whoever waits for its end has started it.
    return this.#underWay(() => onceBegun(this.#streams.turnEnded(sessionId, turn, signal)))
  }

  async interrupt(sessionId: string, turn?: InterruptTarget): Promise<{ turn: number }> {
    const isHere = this.#residents.owned(sessionId) !== undefined
    if (isHere || (await this.#sessions.unfinished(sessionId)).isActive)
      return this.#router.run('interrupt', sessionId, turn === undefined ? {} : { turn })
    throw new SessionNotRunningError(sessionId, turn)
  }

  async approve(sessionId: string, turn: number, callId: string, approval: Approval): Promise<void> {
    if (this.#residents.owned(sessionId) !== undefined) {
      this.#engine.approve(sessionId, turn, callId, approval)
      return
    }
    const { turnCount, isActive } = await this.#sessions.unfinished(sessionId)
    if (turn > turnCount) throw new TurnNotFoundError(sessionId, turn)
    if (!isActive) throw new ApprovalNotFoundError(sessionId, turn, callId)
    await this.#router.run('approve', sessionId, { turn, callId, approval })
  }

  async inject(sessionId: string, request: InjectRequest, options: InjectOptions = {}): Promise<InteractionHandle> {
    this.#assertAvailable()
    return this.#keys.once(`${sessionId}/interactions`, options, async (assertHeld) => {
      const row = await this.#sessions.readable(sessionId)
      if (row.isArchived) throw new InboxClosedError(sessionId)
      return this.#router.run('inject', sessionId, { request, options }, { assertHeld })
    })
  }

  streamInteraction(sessionId: string, interactionId: string, options: TurnStreamOptions = {}) {
    return this.#streams.interaction(sessionId, interactionId, options)
  }

  peers(sessionId: string): Promise<Peer[]> {
    return this.#comms.peers(sessionId)
  }

  async send(sessionId: string, command: CommsCommand): Promise<CommsReceipt> {
    this.#assertAvailable()
    if (this.closing) throw new ShuttingDownError()
    return this.#comms.send(sessionId, command)
  }

  read(sessionId: string): Promise<SessionView> {
    return this.#sessions.read(sessionId)
  }

  list(query: SessionQuery): Promise<{ sessions: SessionSummary[]; total: number }> {
    return this.#sessions.list(query)
  }

  async archive(sessionId: string, mode: 'drain' | 'cancel' = 'drain'): Promise<void> {
    this.#assertAvailable()
    await (mode === 'cancel' ? this.#sessions.unfinished(sessionId) : this.#sessions.live(sessionId))
    await this.#router.run('archive', sessionId, { mode })
    await this.#recountQuietly()
  }

  turns(sessionId: string, page: Page): Promise<{ turns: TurnView[]; total: number }> {
    return this.#sessions.turns(sessionId, page)
  }

  turn(sessionId: string, turn: number): Promise<TurnView> {
    return this.#sessions.turn(sessionId, turn)
  }

  messages(sessionId: string, page: Page): Promise<{ messages: Message[]; total: number }> {
    return this.#sessions.messages(sessionId, page)
  }

  exportSession(sessionId: string): Promise<ExportedSession> {
    return this.#sessions.export(sessionId)
  }

  async importSession(exported: ExportedSession): Promise<SessionView> {
    this.#assertAvailable()
    const id = exported.id.toLowerCase()
    const name = exported.metadata.session_metadata?.comms_name
    const make = async () => {
      const lastSeq = await this.#store.highestSeq(id)
      return { sessionId: id, view: await this.#engine.importSession(exported, lastSeq) }
    }
    const { view } = await this.#new.make(make, async () => {
      await this.#new.refuseTakenId(id)
      await this.#new.refuseTakenName(name, '/metadata/session_metadata/comms_name')
    })
    await this.#recountQuietly()
    return view
  }

  async fork(sessionId: string, turn?: number): Promise<SessionView> {
    this.#assertAvailable()
    await this.#sessions.live(sessionId)
    await this.#residents.makeRoom()
    const view = await this.#router.run('fork', sessionId, turn === undefined ? {} : { turn })
    await this.#recountQuietly()
    this.#residents.used(view.state.session_id)
    return view
  }

  streamTurn(sessionId: string, turn: number, options: TurnStreamOptions = {}): Promise<EventStream | undefined> {
    return this.#streams.turn(sessionId, turn, options)
  }

  streamSession(sessionId: string, options: SessionStreamOptions = {}): Promise<EventStream | undefined> {
    return this.#streams.session(sessionId, options)
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

  async waitSessionRegistered(sessionId?: string, { signal }: { signal?: AbortSignal } = {}): Promise<void> {
    const isThere = async () =>
      sessionId === undefined ? this.#count > 0 : (await this.#sessions.row(sessionId))?.isArchived === false
    const { changes } = this.#engine.parts
    while (!(await isThere())) {
      signal?.throwIfAborted()
      // On another server it is made without a word.
      if (this.#store.cluster === undefined) await changes.next(signal)
      else await changes.nextWithin(LOOK_AGAIN_MS, signal)
    }
  }

  usage(query: UsageQuery): Promise<UsageReport> {
    return this.#sessions.usage(query)
  }

  close(options: { drainMs?: number } = {}): Promise<void> {
    this.#closed ??= this.#close(options)
    return this.#closed
  }

  async #close(options: { drainMs?: number }): Promise<void> {
    this.#endHousekeeping()
    this.#member?.retire()
    await this.#engine.close(options)
    await this.#journal.flush()
    await this.#residents.release()
    // Who has just been told of a start asks for its end.
    await this.#engine.parts.changes.until(() => this.#calls === 0, LAST_ANSWERS_MS)
    // Where this fails the lease expires by itself.
    await this.#member?.leave().catch((error) => this.#fault(error))
    await this.#store.close()
  }

  /** What was just done is done, whether or not it can be counted. */
  #recountQuietly(): Promise<void> {
    return this.#recount().catch((error) => {
      if (!(error instanceof StoreUnavailableError)) this.#fault(error)
    })
  }

  async #recount(): Promise<void> {
    this.#count = (await this.#store.sessions({ offset: 0, limit: 0 })).total
  }

  async #underWay<T>(call: () => Promise<T>): Promise<T> {
    this.#calls++
    try {
      return await call()
    } finally {
      setImmediate(() => {
        this.#calls--
        if (this.closing) this.#engine.parts.changes.announce()
      })
    }
  }

  #assertAvailable(): void {
    if (!this.#journal.isAvailable) throw new StoreUnavailableError()
  }

  #duringStart<T>(start: () => Promise<T>): Promise<T> {
    return this.#slots === undefined ? start() : this.#slots.during(start)
  }

  /** Without asking the server that runs the turn: it may be gone, and its turn about to end. */
  async #refuseIfBusy(sessionId: string): Promise<void> {
    const row = await this.#sessions.live(sessionId)
    const active = await this.#sessions.activeRecord(row)
    if (active !== undefined) throw new SessionBusyError(sessionId, activeTurnOf(active, row.lastSeq))
  }
}
