import type { DurableStore, SessionRow } from './durable-store.ts'
import type { EphemeralSessionService } from './ephemeral-session-service.ts'
import { InteractionNotFoundError, ShuttingDownError, TurnNotFoundError } from './errors.ts'
import type { EventStream, SessionStreamOptions, TurnStreamOptions } from './event-stream.ts'
import type { Followers } from './followers.ts'
import { Interaction } from './interaction.ts'
import type { Journal } from './journal.ts'
import type { LogFiller } from './log-filler.ts'
import type { MemoryEventLog } from './memory-event-log.ts'
import type { Residents } from './residents.ts'
import { assertCursor } from './session-requests.ts'
import type { TurnView } from './session-service.ts'
import { readableOf, streamAll, streamPart } from './session-streams.ts'
import type { SessionTask } from './session-task.ts'
import type { StoredSessions } from './stored-sessions.ts'

export interface StoredStreamsParts {
  engine: EphemeralSessionService
  residents: Residents
  sessions: StoredSessions
  followers: Followers
  journal: Journal
  logs: LogFiller
  store: DurableStore
}

/**
 * Readers of what a store keeps: from memory where the session runs here, else from the store and whoever writes it. What
 * was found in memory is read there: while older events are fetched, the session may leave for others that need the room.
 */
export class StoredStreams {
  readonly #parts: StoredStreamsParts

  constructor(parts: StoredStreamsParts) {
    this.#parts = parts
  }

  async turnEnded(sessionId: string, turn: number, signal?: AbortSignal): Promise<TurnView> {
    const { engine, residents, journal } = this.#parts
    const left = signal === undefined ? journal.away : AbortSignal.any([signal, journal.away])
    if (residents.owned(sessionId) !== undefined) {
      const view = await engine.turnEnded(sessionId, turn, left)
      await journal.settled(sessionId)
      return view
    }
    const record = (await this.#copyWithAllOf(sessionId, turn))?.turns[turn - 1]
    return record ?? this.#endedElsewhere(sessionId, turn, left)
  }

  async #endedElsewhere(sessionId: string, turn: number, left: AbortSignal): Promise<TurnView> {
    const { sessions, followers } = this.#parts
    const row = await sessions.readable(sessionId)
    const record = await sessions.record(sessionId, turn)
    if (record.isOver) return record
    const log = await followers.open(row)
    const ended = record.ended(left)
    await followers.follow(sessionId, log, { turns: [record] })
    await ended
    return record
  }

  async turn(sessionId: string, turn: number, { after }: TurnStreamOptions = {}): Promise<EventStream | undefined> {
    const { residents, sessions, followers, logs } = this.#parts
    const resident = residents.owned(sessionId) ?? (await this.#copyWithAllOf(sessionId, turn, after))
    if (resident !== undefined) {
      const record = resident.turns[turn - 1]
      if (record === undefined) throw new TurnNotFoundError(sessionId, turn)
      assertCursor(resident.log, after)
      await logs.fill(sessionId, resident.log, after ?? record.firstSeq - 1)
      return streamPart(resident, record, after)
    }
    const row = await sessions.readable(sessionId)
    const record = await sessions.record(sessionId, turn)
    const log = await this.#logWith(row, record)
    if (!record.isOver) await followers.follow(sessionId, log, { turns: [record] })
    assertCursor(log, after)
    const scope = followers.turn(sessionId, turn) ?? record
    await logs.fill(sessionId, log, after ?? (scope.firstSeq || log.lastSeq + 1) - 1)
    return streamPart({ id: sessionId, log }, scope, after)
  }

  async session(sessionId: string, { after }: SessionStreamOptions = {}): Promise<EventStream | undefined> {
    const { engine, residents, sessions, followers, logs } = this.#parts
    const resident = residents.owned(sessionId)
    if (resident !== undefined) {
      assertCursor(resident.log, after)
      const from = after ?? (resident.activeRecord?.firstSeq ?? resident.log.lastSeq + 1) - 1
      await logs.fill(sessionId, resident.log, from)
      followers.expect(sessionId, resident.log as MemoryEventLog)
      if (engine.closing && !resident.isOver) throw new ShuttingDownError()
      return streamAll(readableOf(resident), after)
    }
    const row = await sessions.readable(sessionId)
    const active = await sessions.activeRecord(row)
    const activeRecord = active === undefined || active.firstSeq === 0 ? undefined : active
    const log = await followers.open(row)
    await followers.follow(sessionId, log)
    assertCursor(log, after)
    if (engine.closing && !row.isArchived) throw new ShuttingDownError()
    await logs.fill(sessionId, log, after ?? (activeRecord?.firstSeq ?? log.lastSeq + 1) - 1)
    const { id, messageCount, turnCount, isActive, isArchived } = row
    const isOver = isArchived && !isActive
    if (isOver) log.seal()
    return streamAll({ id, log, activeRecord, messageCount, turnCount, isActive, isOver }, after)
  }

  async interaction(
    sessionId: string,
    interactionId: string,
    { after }: TurnStreamOptions = {},
  ): Promise<EventStream | undefined> {
    const { engine, residents, sessions, followers, logs, store } = this.#parts
    const resident = residents.owned(sessionId)
    if (resident !== undefined) {
      const scope = resident.inbox?.find(interactionId)
      if (scope === undefined) throw new InteractionNotFoundError(sessionId, interactionId)
      assertCursor(resident.log, after)
      await logs.fill(sessionId, resident.log, after ?? scope.firstSeq - 1)
      if (!scope.isOver) followers.expect(sessionId, resident.log as MemoryEventLog, { interactions: [scope] })
      return streamPart(resident, scope, after)
    }
    const row = await sessions.readable(sessionId)
    const found = await this.#scope(row, interactionId)
    // What becomes of one that waits is known in memory first.
    if (!found.isOver && store.cluster === undefined) {
      return residents.with(sessionId, () => engine.streamInteraction(sessionId, interactionId, { after }))
    }
    const log = await this.#logWith(row, found)
    if (!found.isOver) await followers.follow(sessionId, log, { interactions: [found] })
    assertCursor(log, after)
    const scope = followers.interaction(sessionId, interactionId) ?? found
    await logs.fill(sessionId, log, after ?? (scope.firstSeq || log.lastSeq + 1) - 1)
    return streamPart({ id: sessionId, log }, scope, after)
  }

  /**
   * The copy in memory of a session, where it has all of a turn that is over. Whoever goes on with the session, nothing
   * of that turn changes any more; what came later may be missing, so a cursor beyond it is for the store to judge.
   */
  async #copyWithAllOf(sessionId: string, turn: number, after = 0): Promise<SessionTask | undefined> {
    const { residents, sessions } = this.#parts
    const isHere = (session: SessionTask | undefined): session is SessionTask =>
      session?.turns[turn - 1]?.isOver === true && after <= session.log.lastSeq
    const session = residents.get(sessionId)
    if (!isHere(session)) return undefined
    await sessions.settled(sessionId)
    // It may have been lost before that was kept.
    return residents.get(sessionId) === session && isHere(session) ? session : undefined
  }

  /** The session's log, with all of a part that is over: what was read of it after the row may be ahead of the row. */
  async #logWith(row: SessionRow, { isOver, lastSeq }: { isOver: boolean; lastSeq: number }): Promise<MemoryEventLog> {
    const { followers, sessions } = this.#parts
    return followers.open(isOver && lastSeq > row.lastSeq ? await sessions.readable(row.id) : row)
  }

  async #scope({ id }: SessionRow, interactionId: string): Promise<Interaction> {
    const { followers, residents, store } = this.#parts
    const kept = (await store.interactions(id)).find((one) => one.id === interactionId)
    if (kept === undefined) throw new InteractionNotFoundError(id, interactionId)
    // Who has it in memory changes it there.
    const known = followers.interaction(id, interactionId) ?? residents.get(id)?.inbox?.find(interactionId)
    if (known === undefined || known.isOver) return Interaction.restored(kept.state)
    return known
  }
}
