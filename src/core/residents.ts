import type { Changes } from './changes.ts'
import type { DurableStore } from './durable-store.ts'
import { CapacityReachedError, type SessionError, SessionNotFoundError, StoreUnavailableError } from './errors.ts'
import type { EventLog } from './event-log.ts'
import type { Followers } from './followers.ts'
import type { IdempotencyKeys } from './idempotency.ts'
import { Interaction } from './interaction.ts'
import type { Journal } from './journal.ts'
import type { LogFiller } from './log-filler.ts'
import { ElsewhereError, type Ownership } from './ownership.ts'
import { recover } from './recovery.ts'
import { RefusedSessions } from './refused-sessions.ts'
import type { Semaphore } from './semaphore.ts'
import type { SessionFactory } from './session-factory.ts'
import type { SessionRegistry } from './session-registry.ts'
import { recordOf, refreshed } from './session-rows.ts'
import type { Page, ServiceObserver } from './session-service.ts'
import type { SessionTask } from './session-task.ts'
import type { TurnRecord } from './turn-record.ts'
import type { TurnSlots } from './turn-slots.ts'

const RESUME_AGAIN_MS = 1_000
const ALL: Page = { offset: 0, limit: Number.MAX_SAFE_INTEGER }

/** What an engine has, and its places. */
export interface EngineParts {
  registry: SessionRegistry
  factory: SessionFactory
  activeTurns: Semaphore
  keys: IdempotencyKeys
  changes: Changes
}

export interface ResidentsParts {
  engine: EngineParts
  journal: Journal
  store: DurableStore
  ownership: Ownership
  followers: Followers
  logs: LogFiller
  slots: TurnSlots | undefined
  observer: ServiceObserver
}

/**
 * The sessions that a store keeps and that are in memory: they come when something is to happen in them, and leave when
 * nothing has for a while, or when others need the room.
 */
export class Residents {
  readonly #engine: EngineParts
  readonly #journal: Journal
  readonly #store: DurableStore
  readonly #ownership: Ownership
  readonly #followers: Followers
  readonly #logs: LogFiller
  readonly #slots: TurnSlots | undefined
  readonly #observer: ServiceObserver
  /** On their way into memory. */
  readonly #coming = new Map<string, Promise<SessionTask>>()
  readonly #refused: RefusedSessions
  /** How many are dealing with a session: it may not leave. */
  readonly #pins = new Map<string, number>()
  /** What was used last is last. */
  readonly #usedAt = new Map<string, number>()

  constructor({ engine, journal, store, ownership, followers, logs, slots, observer }: ResidentsParts) {
    this.#engine = engine
    this.#journal = journal
    this.#store = store
    this.#ownership = ownership
    this.#followers = followers
    this.#logs = logs
    this.#slots = slots
    this.#observer = observer
    journal.onLost = (session) => void this.lose(session)
    this.#refused = new RefusedSessions({
      residents: this,
      engine,
      journal,
      store,
      ownership,
      followers,
      observer,
    })
  }

  /** A session that is here, archived or not, as far as it is known here. */
  get(sessionId: string): SessionTask | undefined {
    return this.#engine.registry.getReadable(sessionId)
  }

  /** The same where it can only be changed here. */
  owned(sessionId: string): SessionTask | undefined {
    return this.#ownership.has(sessionId) ? this.get(sessionId) : undefined
  }

  /**
   * Runs `act` while the session is in memory, and this server's. Rejects with a `SessionNotFoundError` for one that takes
   * no more turns, and with an `ElsewhereError` where another server has it.
   */
  async with<T>(sessionId: string, act: (session: SessionTask) => T | Promise<T>): Promise<T> {
    this.#pins.set(sessionId, (this.#pins.get(sessionId) ?? 0) + 1)
    try {
      // It may have been given back between two steps, or taken over.
      for (;;) {
        const session = await this.#bring(sessionId)
        if (this.owned(sessionId) === session) return await this.#act(session, act)
      }
    } finally {
      const pins = (this.#pins.get(sessionId) ?? 1) - 1
      if (pins === 0) this.#pins.delete(sessionId)
      else this.#pins.set(sessionId, pins)
      this.used(sessionId)
      this.#giveBack(sessionId)
    }
  }

  async #act<T>(session: SessionTask, act: (session: SessionTask) => T | Promise<T>): Promise<T> {
    try {
      return await act(session)
    } catch (error) {
      const isLost = this.get(session.id) !== session && !session.isOver
      // It is not here any more, but it is elsewhere.
      throw isLost && error instanceof SessionNotFoundError ? new StoreUnavailableError(error) : error
    }
  }

  used(sessionId: string): void {
    this.#usedAt.delete(sessionId)
    this.#usedAt.set(sessionId, performance.now())
  }

  /** Lets the session go that was not used for longest, where all places are taken. */
  async makeRoom(): Promise<void> {
    const { taken, max } = this.#engine.factory.residents
    if (taken < max) return
    for (const id of this.#usedAt.keys()) {
      const session = this.get(id)
      if (session !== undefined && this.#isIdle(session)) {
        await this.#evict(session)
        return
      }
    }
  }

  /** Lets sessions go that were not used since `before`, by the clock of `performance.now`. */
  async evictIdle(before: number): Promise<void> {
    for (const [id, usedAt] of this.#usedAt) {
      if (usedAt > before) return
      const session = this.get(id)
      if (session === undefined) this.#usedAt.delete(id)
      else if (this.#isIdle(session)) await this.#evict(session)
    }
  }

  /** Takes up what no server has: turns that were lost end, those in line run. Resolves with how many it could not take. */
  async adopt(sessionIds: Iterable<string>): Promise<number> {
    let left = 0
    for (const id of sessionIds) {
      if (this.#refused.isHopeless(id)) continue
      try {
        await this.with(id, () => {})
      } catch (error) {
        if (error instanceof StoreUnavailableError) throw error
        // Another server was quicker, or there is no room yet.
        if (!(error instanceof ElsewhereError || error instanceof SessionNotFoundError)) left++
      }
    }
    await this.#journal.flush()
    return left
  }

  /** Takes up what the last process left and, where there is one server, who has a name among peers. */
  async recover(): Promise<void> {
    await this.adopt((await this.#store.orphans()).map(({ id }) => id))
    if (this.#store.cluster !== undefined) return
    for (const { id } of await this.#store.allNamed()) await this.#bring(id)
  }

  /** A copy of one that was archived on another server is in nobody's way. */
  async forgetStale({ id, name }: { id?: string; name?: string }): Promise<void> {
    const { registry } = this.#engine
    const session = id === undefined ? registry.getNamed(name as string) : registry.get(id)
    if (session !== undefined && !this.#ownership.has(session.id)) await this.lose(session)
  }

  /** Whether the session is on its way into memory. */
  isComing(sessionId: string): boolean {
    return this.#coming.has(sessionId) || this.#ownership.isClaiming(sessionId)
  }

  /** Another server has the session: the agent stops, and readers come again elsewhere. */
  async lose(session: SessionTask): Promise<void> {
    const { activeRecord } = session
    const open = this.drop(session)
    if (open === undefined) return
    if (activeRecord !== undefined) {
      this.#observer.sessionLost?.({ session_id: session.id, turn: activeRecord.turn })
    }
    this.handOver(session, open)
    await this.letGo(session)
  }

  /** Nothing is found of the session here from now on. Returns its turns that the store may know more of. */
  drop(session: SessionTask, refusal?: SessionError, keepsLog = false): TurnRecord[] | undefined {
    if (!this.#engine.registry.forget(session)) return undefined
    const open = this.#journal.lose(session, refusal, keepsLog)
    // They may have started what nobody will ever see.
    if (session.keys !== undefined) this.#engine.keys.forget(session.keys)
    this.#usedAt.delete(session.id)
    session.lose()
    return open
  }

  /** Who waits for the end of a turn learns it from the store. */
  handOver(session: SessionTask, open: readonly TurnRecord[]): void {
    for (const record of open) record.reopen()
    const interactions = session.inbox?.unfinished ?? []
    if (open.length > 0 || interactions.length > 0) this.#followers.takeOver(session.id, open, interactions)
  }

  /** Waits until the agent has stopped. */
  async letGo(session: SessionTask): Promise<void> {
    const { changes } = this.#engine
    while (session.isActive) await changes.next()
    await session.release()
    session.permit.release()
    changes.announce()
  }

  /** Lets all of them go: what they were is in the store. */
  async release(): Promise<void> {
    const { registry } = this.#engine
    for (const session of registry.residents()) {
      if (registry.get(session.id) === session && !session.isActive) await this.#evict(session)
    }
  }

  async #bring(sessionId: string): Promise<SessionTask> {
    let coming = this.#coming.get(sessionId)
    const owned = coming === undefined ? this.owned(sessionId) : undefined
    if (owned !== undefined) return owned
    if (coming === undefined) {
      coming = this.#take(sessionId).finally(() => this.#coming.delete(sessionId))
      this.#coming.set(sessionId, coming)
    }
    return coming
  }

  async #take(sessionId: string): Promise<SessionTask> {
    await this.#refused.gone(sessionId)
    if (this.#store.cluster === undefined) return this.#restore(sessionId, 1)
    const claim = await this.#ownership.claim(sessionId)
    const resident = this.get(sessionId)
    // One that is over can still be read here.
    if (resident !== undefined && !resident.isOver) {
      if (this.#ownership.renew(resident, claim)) return resident
      await this.lose(resident)
    }
    try {
      return await this.#restore(sessionId, claim.epoch)
    } catch (error) {
      await this.#ownership.release(sessionId, claim.epoch)
      throw error
    }
  }

  async #restore(sessionId: string, epoch: number): Promise<SessionTask> {
    const row = await this.#store.session(sessionId)
    // One that was archived in its last turn is here to see that turn end.
    if (row === undefined || (row.isArchived && !row.isActive)) throw new SessionNotFoundError(sessionId)
    const [turns, messages, interactions] = await Promise.all([
      this.#store.turns(sessionId, ALL),
      this.#store.messages(sessionId, ALL),
      this.#store.interactions(sessionId),
    ])
    await this.makeRoom()
    const { id, createdAt, updatedAt, metadata, usage, ranMs, toolCalls } = row
    const records = turns.map((turn) => {
      const held = this.#followers.turn(id, turn.turn)
      return held === undefined ? recordOf(id, turn) : refreshed(held, turn)
    })
    const init = { id, createdAt, updatedAt, metadata, messages, usage, turns: records, ranMs, toolCalls }
    const log = await this.#followers.open(row)
    const session = this.#engine.factory.restore(init, log)
    this.#journal.restored(session)
    this.#followers.giveBack(id)
    this.#ownership.hold(session, epoch)
    if (interactions.length > 0) {
      session.inbox = session.openInbox()
      session.lostInteractions = session.inbox.restore(
        interactions.map(({ state }) => {
          const held = this.#followers.interaction(id, state.id)
          held?.refresh(state)
          return held ?? Interaction.restored(state)
        }),
      )
    }
    if (row.isActive) await this.#recover(session, log)
    if (row.isArchived) {
      this.#engine.registry.archive(session)
      session.shutdown(true)
    } else if (row.isActive) {
      // Not before the end of the turn before is persisted: the store may refuse it.
      this.#journal.whenSettled(id, () => void this.#resume(session))
    }
    return session
  }

  /** Ends turns that were lost. Where that fails nothing of the session is here. */
  async #recover(session: SessionTask, log: EventLog): Promise<void> {
    try {
      const { id } = session
      const eventsAfter = (after: number) => this.#logs.events(id, log, after)
      const lost = await recover(session, eventsAfter, this.#refused.endingOf(id))
      this.#journal.whenSettled(id, () => {
        this.#refused.forget(id)
        for (const record of lost) {
          record.announceEnd()
          this.#observer.turnEnded?.(record, undefined)
        }
      })
    } catch (error) {
      await this.lose(session)
      throw error
    }
  }

  /** The store is told that nothing goes on in the session, where that is all there is to tell. */
  #giveBack(sessionId: string): void {
    const session = this.owned(sessionId)
    if (this.#store.cluster === undefined || session === undefined || this.#pins.has(sessionId)) return
    const isIdle = !session.isActive && session.queue.isEmpty
    if (isIdle && this.#journal.isSettled(sessionId)) this.#journal.changed(session)
  }

  /** Starts the first turn in line, as soon as one may run. */
  async #resume(session: SessionTask): Promise<void> {
    const { activeTurns, changes } = this.#engine
    const start = async () => {
      const permit = activeTurns.tryAcquire()
      if (permit === undefined) return false
      session.resume(permit)
      return true
    }
    while (!session.queue.isEmpty && !session.isActive && this.owned(session.id) === session) {
      try {
        if (await (this.#slots === undefined ? start() : this.#slots.during(start))) return
      } catch (error) {
        if (!(error instanceof CapacityReachedError || error instanceof StoreUnavailableError)) throw error
      }
      // On another server a place may become free without a word.
      await changes.nextWithin(RESUME_AGAIN_MS)
    }
  }

  #isIdle(session: SessionTask): boolean {
    const { id } = session
    const isNeeded =
      this.#store.cluster === undefined &&
      (session.metadata.comms_name !== undefined || session.inbox?.isEmpty === false)
    const isBusy = session.isActive || session.isArchived || !session.queue.isEmpty || this.#pins.has(id)
    return !isNeeded && !isBusy && this.#journal.isSettled(id)
  }

  async #evict(session: SessionTask): Promise<void> {
    this.#usedAt.delete(session.id)
    this.#ownership.giveUp(session.id)
    this.#engine.registry.remove(session)
    this.#journal.evicted(session)
    await session.release()
    session.permit.release()
    this.#engine.changes.announce()
  }
}
