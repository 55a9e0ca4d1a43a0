import type { Approval, Comms } from './agent.ts'
import { AgentCatalog } from './agent-catalog.ts'
import { Changes } from './changes.ts'
import type { CommsCommand, CommsReceipt, Peer } from './comms.ts'
import {
  ApprovalNotFoundError,
  CapacityReachedError,
  InboxClosedError,
  InteractionNotFoundError,
  InvalidParamsError,
  ShuttingDownError,
} from './errors.ts'
import { type EventStream, eventsOf, type SessionStreamOptions, type TurnStreamOptions } from './event-stream.ts'
import type { AgentEvent } from './events.ts'
import { IdempotencyKeys } from './idempotency.ts'
import type { Journal } from './journal.ts'
import { sliceOf } from './page.ts'
import type { EngineParts } from './residents.ts'
import { type Permit, Semaphore } from './semaphore.ts'
import type { EphemeralSessionServiceOptions } from './service-options.ts'
import { peersOf, sendFrom } from './session-comms.ts'
import { forkOf, importInto } from './session-copies.ts'
import { SessionFactory } from './session-factory.ts'
import { SessionFinder, turnOf } from './session-finder.ts'
import type { SessionHost } from './session-host.ts'
import { SessionRegistry } from './session-registry.ts'
import { assertCursor, assertHostable, assertName } from './session-requests.ts'
import { rowOf, spentTurnOf } from './session-rows.ts'
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
import { readableOf, streamAll, streamPart } from './session-streams.ts'
import type { SessionTask } from './session-task.ts'
import { exportOf, listedBytesOf, summaryOf, viewOf } from './session-views.ts'
import type { ExportedSession, Message } from './transcript.ts'
import type { UsageQuery, UsageReport } from './usage.ts'
import { UsageLedger } from './usage-ledger.ts'

/** Once every turn was told to stop, agents have this long to be disposed before `close` gives up on them. */
const DISPOSE_MS = 2_000

/**
 * The engine: sessions whose record and transcript live in this process.
 *
 * Permits are taken before an agent is built and given back when it is disposed, so that what is counted is what is
 * really there. No method waits for an agent except `createSession`, `importSession` and `fork`, which build one.
 */
export class EphemeralSessionService implements SessionService {
  readonly available = true
  readonly #agents: AgentCatalog
  readonly #registry = new SessionRegistry()
  readonly #find = new SessionFinder(this.#registry)
  readonly #factory: SessionFactory
  readonly #activeTurns: Semaphore
  readonly #keys = new IdempotencyKeys()
  readonly #changes = new Changes()
  readonly #ledger = new UsageLedger()
  readonly #journal: Journal | undefined
  #closed: Promise<void> | undefined

  constructor(options: EphemeralSessionServiceOptions) {
    const agents = new AgentCatalog(options.agents, options.defaultAgent)
    this.#agents = agents
    this.#journal = options.journal
    this.#activeTurns = new Semaphore(options.maxActiveTurns)
    const host: SessionHost = {
      observer: options.observer ?? {},
      maxQueuedTurns: options.maxQueuedTurns,
      archiveDrainMs: options.archiveDrainMs,
      buildAgent: (session) => agents.rebuild(session),
      commsOf: options.commsOf ?? ((session) => this.#commsOf(session)),
      changed: (session, interaction) => options.journal?.changed(session, interaction),
      settled: ({ id }, then) => (options.journal === undefined ? then() : options.journal.whenSettled(id, then)),
      turnEnded: (session, record, durationMs) => {
        // A store that outlives the process counts by itself.
        if (options.journal === undefined) this.#ledger.add(session.metadata, spentTurnOf(record))
        options.observer?.turnEnded?.(record, durationMs)
      },
      turnsEnded: () => this.#changes.announce(),
      retired: (session) => this.#retired(session),
    }
    this.#factory = new SessionFactory({ options, agents, registry: this.#registry, changes: this.#changes, host })
  }

  get closing(): boolean {
    return this.#factory.closing
  }

  get stats(): ServiceStats {
    return {
      sessions: this.#registry.size,
      residents: this.#factory.residents.taken,
      maxSessions: this.#factory.residents.max,
      turnsRunning: this.#activeTurns.taken,
      maxActiveTurns: this.#activeTurns.max,
    }
  }

  /** What this is made of, for the service that keeps sessions in a store. */
  get parts(): EngineParts {
    const [registry, factory, activeTurns] = [this.#registry, this.#factory, this.#activeTurns]
    return { registry, factory, activeTurns, keys: this.#keys, changes: this.#changes }
  }

  createSession(request: CreateSessionRequest, options: StartOptions = {}): Promise<TurnHandle> {
    return this.#keys.once(
      'create',
      options,
      () => this.#create(request),
      (handle, key, fingerprint) => this.#remember(handle, key, fingerprint),
    )
  }

  startTurn(sessionId: string, request: StartTurnRequest, options: StartOptions = {}): Promise<TurnHandle> {
    return this.#keys.once(
      sessionId,
      options,
      () => this.#start(sessionId, request),
      (handle, key, fingerprint) => this.#remember(handle, key, fingerprint),
    )
  }

  async turnEnded(sessionId: string, turn: number, signal?: AbortSignal): Promise<TurnView> {
    const record = turnOf(this.#find.readable(sessionId), turn)
    await record.ended(signal)
    return record
  }

  interrupt(sessionId: string, turn?: InterruptTarget): { turn: number } {
    return this.#find.unfinished(sessionId).interrupt(turn)
  }

  approve(sessionId: string, turn: number, callId: string, approval: Approval): void {
    const session = this.#find.unfinished(sessionId)
    turnOf(session, turn)
    if (!session.approve(turn, callId, approval)) throw new ApprovalNotFoundError(sessionId, turn, callId)
  }

  inject(
    sessionId: string,
    { body, source = 'webhook' }: InjectRequest,
    { subscribe = false, ...options }: InjectOptions = {},
  ): Promise<InteractionHandle> {
    const put = () => {
      assertName(source, '/source')
      const session = this.#taking(sessionId)
      const { id } = session.inject({ kind: 'event', source, body }, subscribe)
      return { sessionId: session.id, interactionId: id, attached: false }
    }
    return this.#keys.once(`${sessionId}/interactions`, options, put, (handle, key, fingerprint) =>
      this.#remember(handle, key, fingerprint),
    )
  }

  streamInteraction(sessionId: string, interactionId: string, { after }: TurnStreamOptions = {}) {
    const session = this.#find.readable(sessionId)
    const interaction = session.inbox?.find(interactionId)
    if (interaction === undefined) throw new InteractionNotFoundError(session.id, interactionId)
    assertCursor(session.log, after)
    return streamPart(session, interaction, after)
  }

  peers(sessionId: string): Peer[] {
    return peersOf(this.#registry.named(), this.#find.live(sessionId).id)
  }

  send(sessionId: string, command: CommsCommand): CommsReceipt {
    return this.#send(this.#taking(sessionId), command)
  }

  read(sessionId: string): SessionView {
    return viewOf(rowOf(this.#find.readable(sessionId)))
  }

  list(query: SessionQuery): { sessions: SessionSummary[]; total: number } {
    const { sessions, total } = this.#registry.list(query)
    return { sessions: sessions.map((session) => summaryOf(rowOf(session))), total }
  }

  archive(sessionId: string, mode: 'drain' | 'cancel' = 'drain'): void {
    const session = mode === 'cancel' ? this.#find.unfinished(sessionId) : this.#find.live(sessionId)
    if (session.isArchived) {
      session.cancel()
      return
    }
    this.#registry.archive(session)
    if (session.keys !== undefined) this.#keys.forget(session.keys)
    session.shutdown(mode === 'cancel')
  }

  turns(sessionId: string, page: Page): { turns: TurnView[]; total: number } {
    const { turns } = this.#find.readable(sessionId)
    return { turns: sliceOf(turns, page, listedBytesOf), total: turns.length }
  }

  turn(sessionId: string, turn: number): TurnView {
    return turnOf(this.#find.readable(sessionId), turn)
  }

  messages(sessionId: string, page: Page): { messages: Message[]; total: number } {
    const { messages } = this.#find.withHistory(sessionId)
    return { messages: sliceOf(messages, page), total: messages.length }
  }

  exportSession(sessionId: string): ExportedSession {
    const session = this.#find.withHistory(sessionId)
    return exportOf(rowOf(session), session.messages)
  }

  /** `lastSeq` is what a store knows of the id. */
  async importSession(exported: ExportedSession, lastSeq?: number): Promise<SessionView> {
    return viewOf(rowOf(await importInto(this.#registry, this.#factory, exported, lastSeq)))
  }

  async fork(sessionId: string, turn?: number): Promise<SessionView> {
    const source = this.#find.live(sessionId)
    const record = turn === undefined ? undefined : turnOf(source, turn)
    return viewOf(rowOf(await forkOf(this.#factory, source, record)))
  }

  streamTurn(sessionId: string, turn: number, { after }: TurnStreamOptions = {}): EventStream | undefined {
    const session = this.#find.readable(sessionId)
    const record = turnOf(session, turn)
    assertCursor(session.log, after)
    return streamPart(session, record, after)
  }

  streamSession(sessionId: string, { after }: SessionStreamOptions = {}): EventStream | undefined {
    const session = this.#find.readable(sessionId)
    assertCursor(session.log, after)
    if (this.closing && !session.isOver) throw new ShuttingDownError()
    return streamAll(readableOf(session), after)
  }

  async *events(
    sessionId: string,
    options: { turn?: number; after?: number; signal?: AbortSignal } = {},
  ): AsyncGenerator<AgentEvent> {
    const { turn, after, signal } = options
    const stream =
      turn === undefined ? this.streamSession(sessionId, { after }) : this.streamTurn(sessionId, turn, { after })
    if (stream === undefined) return
    yield* eventsOf(stream, signal)
  }

  async waitSessionRegistered(sessionId?: string, { signal }: { signal?: AbortSignal } = {}): Promise<void> {
    const registered = () => (sessionId === undefined ? this.#registry.size > 0 : this.#registry.get(sessionId))
    while (!registered()) await this.#changes.next(signal)
  }

  usage(query: UsageQuery): UsageReport {
    return this.#ledger.report(query)
  }

  close({ drainMs = 10_000 }: { drainMs?: number } = {}): Promise<void> {
    this.#closed ??= this.#close(drainMs)
    return this.#closed
  }

  async #close(drainMs: number): Promise<void> {
    this.#factory.closing = true
    for (const session of this.#registry.residents()) session.drain()
    await this.#changes.until(() => this.#activeTurns.taken === 0, drainMs)
    for (const session of this.#registry.residents()) {
      if (this.#journal === undefined && this.#registry.get(session.id) === session) this.archive(session.id, 'cancel')
      else {
        session.queue.hold()
        session.cancel()
      }
    }
    const ended = this.#journal === undefined ? this.#factory.residents : this.#activeTurns
    await this.#changes.until(() => ended.taken === 0, DISPOSE_MS)
  }

  async #create(request: CreateSessionRequest): Promise<TurnHandle> {
    const { prompt } = request
    assertHostable(request)
    if (request.initial_turn === 'deferred') {
      const session = await this.#factory.make(request)
      return { sessionId: session.id, turn: 0, attached: false }
    }
    if (prompt === undefined) throw new InvalidParamsError('/prompt', 'is required unless initial_turn is "deferred"')
    this.#factory.refuseWhileClosing()
    const permit = this.#activePermit()
    try {
      let turn = 0
      // Before anybody can find the session: no other turn, and no archive, comes in between.
      const session = await this.#factory.make(request, {}, (created) => {
        created.claim()
        turn = created.start({ ...request, prompt }, permit).turn
      })
      return { sessionId: session.id, turn, attached: false }
    } catch (error) {
      permit.release()
      this.#changes.announce()
      throw error
    }
  }

  #start(sessionId: string, request: StartTurnRequest): TurnHandle {
    const session = this.#find.live(sessionId)
    this.#factory.refuseWhileClosing()
    this.#agents.assertAccepted(session, request)
    if (request.host_mode === true && session.metadata.comms_name === undefined) {
      throw new InvalidParamsError('/host_mode', 'needs a session that was created with a comms_name')
    }
    const verdict = session.claim()
    if (verdict === 'busy') {
      if (request.on_busy === undefined || request.on_busy === 'reject') throw session.busyError()
      return { sessionId: session.id, turn: session.enqueue(request).turn, attached: false }
    }
    let permit: Permit | undefined
    try {
      permit = this.#activePermit()
      const { turn } = session.start(request, permit)
      return { sessionId: session.id, turn, attached: false }
    } catch (error) {
      permit?.release()
      session.abortClaim()
      throw this.#factory.toSessionError(error, session.id)
    }
  }

  #commsOf(session: SessionTask): Comms {
    const peers = async () => peersOf(this.#registry.named(), session.id)
    return { peers, send: async (command) => this.#send(session, command) }
  }

  #send(session: SessionTask, command: CommsCommand): CommsReceipt {
    this.#factory.refuseWhileClosing()
    return sendFrom(this.#registry, session, command)
  }

  #activePermit(): Permit {
    const permit = this.#activeTurns.tryAcquire()
    if (permit !== undefined) return permit
    throw new CapacityReachedError('running turns', this.#activeTurns.taken, this.#activeTurns.max)
  }

  #remember(handle: { sessionId: string }, key: string, fingerprint: string): void {
    const session = this.#registry.get(handle.sessionId)
    if (session === undefined) {
      this.#keys.forget([key])
      return
    }
    session.keys ??= []
    session.keys.push(key)
    this.#journal?.keep(key, fingerprint, handle)
  }

  #retired(session: SessionTask): void {
    session.permit.release()
    this.#registry.retire(session)
    this.#journal?.retired(session)
    this.#changes.announce()
  }

  /** A session that takes interactions. */
  #taking(sessionId: string): SessionTask {
    const session = this.#find.readable(sessionId)
    if (this.#registry.get(sessionId) !== session) throw new InboxClosedError(session.id)
    this.#factory.refuseWhileClosing()
    return session
  }
}
