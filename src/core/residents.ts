import type { Changes } from './changes.ts'
import type { DurableStore } from './durable-store.ts'
import { SessionNotFoundError } from './errors.ts'
import type { IdempotencyKeys } from './idempotency.ts'
import { Interaction } from './interaction.ts'
import type { Journal } from './journal.ts'
import type { LogFiller } from './log-filler.ts'
import { recover } from './recovery.ts'
import type { Semaphore } from './semaphore.ts'
import type { SessionFactory } from './session-factory.ts'
import type { SessionRegistry } from './session-registry.ts'
import { recordOf } from './session-rows.ts'
import type { Page } from './session-service.ts'
import type { SessionTask } from './session-task.ts'

const ALL: Page = { offset: 0, limit: Number.MAX_SAFE_INTEGER }

/** What an engine has, and its places. */
export interface EngineParts {
  registry: SessionRegistry
  factory: SessionFactory
  activeTurns: Semaphore
  keys: IdempotencyKeys
  changes: Changes
}

/**
 * The sessions that a store keeps and that are in memory: they come when something is to happen in them, and leave when
 * nothing has for a while, or when others need the room.
 */
export class Residents {
  readonly #engine: EngineParts
  readonly #journal: Journal
  readonly #store: DurableStore
  readonly #logs: LogFiller
  /** On their way into memory. */
  readonly #coming = new Map<string, Promise<SessionTask>>()
  /** How many are dealing with a session: it may not leave. */
  readonly #pins = new Map<string, number>()
  /** What was used last is last. */
  readonly #usedAt = new Map<string, number>()

  constructor(engine: EngineParts, journal: Journal, store: DurableStore, logs: LogFiller) {
    this.#engine = engine
    this.#journal = journal
    this.#store = store
    this.#logs = logs
  }

  /** A session that is here, archived or not. */
  get(sessionId: string): SessionTask | undefined {
    return this.#engine.registry.getReadable(sessionId)
  }

  /** Runs `act` while the session is in memory. Rejects with a `SessionNotFoundError` for one that takes no more turns. */
  async with<T>(sessionId: string, act: (session: SessionTask) => T | Promise<T>): Promise<T> {
    this.#pins.set(sessionId, (this.#pins.get(sessionId) ?? 0) + 1)
    try {
      return await act(await this.#bring(sessionId))
    } finally {
      const pins = (this.#pins.get(sessionId) ?? 1) - 1
      if (pins === 0) this.#pins.delete(sessionId)
      else this.#pins.set(sessionId, pins)
      this.used(sessionId)
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

  /** Ends the turns that the last process lost, goes on with those in line, and takes in who has a name among peers. */
  async recover(): Promise<void> {
    for (const { id } of await this.#store.orphans()) {
      const session = await this.#bring(id)
      await recover(session, (after) => this.#logs.events(id, session.log, after))
      void this.#resume(session)
      this.used(id)
    }
    for (const { id } of await this.#store.allNamed()) await this.#bring(id)
    await this.#journal.flush()
  }

  /** Lets all of them go: what they were is in the store. */
  async release(): Promise<void> {
    const { registry } = this.#engine
    for (const session of registry.residents()) {
      if (registry.get(session.id) === session && !session.isActive) await this.#evict(session)
    }
  }

  async #bring(sessionId: string): Promise<SessionTask> {
    const resident = this.get(sessionId)
    if (resident !== undefined) return resident
    let coming = this.#coming.get(sessionId)
    if (coming === undefined) {
      coming = this.#restore(sessionId).finally(() => this.#coming.delete(sessionId))
      this.#coming.set(sessionId, coming)
    }
    return coming
  }

  async #restore(sessionId: string): Promise<SessionTask> {
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
    const records = turns.map((turn) => recordOf(id, turn))
    const init = { id, createdAt, updatedAt, metadata, messages, usage, turns: records, ranMs, toolCalls }
    const session = this.#engine.factory.restore(init, this.#journal.openLog(id, row.lastSeq))
    const firstOpen = records.findIndex((record) => !record.isOver)
    this.#journal.restored(session, firstOpen === -1 ? records.length : firstOpen)
    if (interactions.length > 0) {
      session.inbox = session.openInbox()
      session.lostInteractions = session.inbox.restore(interactions.map(({ state }) => Interaction.restored(state)))
    }
    if (row.isArchived) {
      this.#engine.registry.archive(session)
      session.shutdown(true)
    }
    return session
  }

  /** Starts the first turn in line, as soon as one may run. */
  async #resume(session: SessionTask): Promise<void> {
    if (session.queue.isEmpty) return
    const { activeTurns, changes } = this.#engine
    let permit = activeTurns.tryAcquire()
    while (permit === undefined) {
      await changes.next()
      permit = activeTurns.tryAcquire()
    }
    session.resume(permit)
  }

  #isIdle(session: SessionTask): boolean {
    const { id } = session
    const isNeeded = session.metadata.comms_name !== undefined || session.inbox?.isEmpty === false
    const isBusy = session.isActive || session.isArchived || !session.queue.isEmpty || this.#pins.has(id)
    return !isNeeded && !isBusy && this.#journal.isSettled(id)
  }

  async #evict(session: SessionTask): Promise<void> {
    this.#usedAt.delete(session.id)
    this.#engine.registry.remove(session)
    this.#journal.evicted(session)
    await session.release()
    session.permit.release()
    this.#engine.changes.announce()
  }
}
