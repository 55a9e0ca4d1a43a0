import type { Cluster, News, Position } from './cluster.ts'
import type { DurableStore, SessionRow } from './durable-store.ts'
import type { Interaction } from './interaction.ts'
import type { Journal } from './journal.ts'
import type { Chunk, MemoryEventLog } from './memory-event-log.ts'
import type { Ownership } from './ownership.ts'
import { refreshed, turnRowOf } from './session-rows.ts'
import type { TurnRecord } from './turn-record.ts'

/** A session that is read here and may be written elsewhere. */
interface Followed {
  readonly log: MemoryEventLog
  /** What readers and waiters hold that may not be over. */
  readonly turns: Map<number, TurnRecord>
  readonly interactions: Map<string, Interaction>
  /** Something here may be older than the log. */
  isStale: boolean
  /** Nobody waited for it when it was last looked at. */
  isLeft: boolean
}

interface Held {
  readonly turns: readonly TurnRecord[]
  readonly interactions: readonly Interaction[]
}

/** In a frame of its own, since text has its quotes escaped: a turn or an interaction begins or ends. */
const MARKS = ['"type":"run_', '"type":"interaction_']

/**
 * Logs that are read on this server while another one writes them: notices say where something is new, and it is read for
 * all of them at once. Whoever waits for the end of a turn here is told of it.
 */
export class Followers {
  readonly #cluster: Cluster | undefined
  readonly #store: DurableStore
  readonly #journal: Journal
  readonly #ownership: Ownership
  readonly #followed = new Map<string, Followed>()
  readonly #lost = new Map<string, Held>()
  #wanted = new Set<string>()
  #running: Promise<void> | undefined

  constructor(store: DurableStore, journal: Journal, ownership: Ownership) {
    this.#store = store
    this.#journal = journal
    this.#cluster = store.cluster
    this.#ownership = ownership
  }

  /** What is held of a turn or of an interaction already, so that there is one of each. */
  turn(sessionId: string, turn: number): TurnRecord | undefined {
    const held = this.#followed.get(sessionId)?.turns.get(turn)
    return held ?? this.#lost.get(sessionId)?.turns.find((record) => record.turn === turn)
  }

  interaction(sessionId: string, interactionId: string): Interaction | undefined {
    const held = this.#followed.get(sessionId)?.interactions.get(interactionId)
    return held ?? this.#lost.get(sessionId)?.interactions.find(({ id }) => id === interactionId)
  }

  /** The log of a session, with all that its row has. */
  async open({ id, lastSeq }: SessionRow): Promise<MemoryEventLog> {
    const known = this.#journal.findLog(id)
    if (known !== undefined && known.lastSeq < lastSeq) await this.follow(id, known)
    return this.#journal.openLog(id, lastSeq)
  }

  /** Turns that were this server's, and are waited for here: the store will know what becomes of them. */
  takeOver(sessionId: string, turns: readonly TurnRecord[], interactions: readonly Interaction[]): void {
    const { turns: more = [], interactions: others = [] } = this.#lost.get(sessionId) ?? {}
    this.#lost.set(sessionId, { turns: [...more, ...turns], interactions: [...others, ...interactions] })
  }

  /** The session is this server's again. */
  giveBack(sessionId: string): void {
    this.#lost.delete(sessionId)
  }

  /** Keeps what is held up to date, as long as somebody watches the log. Resolves once it is. */
  async follow(sessionId: string, log: MemoryEventLog, held: Partial<Held> = {}): Promise<void> {
    this.expect(sessionId, log, held)
    await this.pull([sessionId])
  }

  /** The same for a log that is written here, and may be written elsewhere later. */
  expect(sessionId: string, log: MemoryEventLog, { turns = [], interactions = [] }: Partial<Held> = {}): void {
    if (this.#cluster === undefined) return
    let followed = this.#followed.get(sessionId)
    if (followed?.log !== log) {
      const { turns: heldTurns = new Map(), interactions: held = new Map() } = followed ?? {}
      followed = { log, turns: heldTurns, interactions: held, isStale: true, isLeft: false }
      this.#followed.set(sessionId, followed)
    }
    for (const record of turns) {
      const held = followed.turns.get(record.turn)
      if (held === undefined) followed.turns.set(record.turn, record)
      else if (held !== record) void this.#endWith(record, held)
    }
    for (const interaction of interactions) {
      if (!followed.interactions.has(interaction.id)) followed.interactions.set(interaction.id, interaction)
    }
    followed.isStale = true
    followed.isLeft = false
  }

  /** Reads what is new. Resolves once that is done, or has failed: it is tried again. */
  async pull(sessionIds: Iterable<string>): Promise<void> {
    for (const id of sessionIds) if (this.#followed.has(id)) this.#wanted.add(id)
    // What was asked for while it runs is in the next one.
    if (this.#running !== undefined) await this.#running
    if (this.#wanted.size === 0) return
    this.#running ??= this.#pull().finally(() => {
      this.#running = undefined
    })
    await this.#running
  }

  /** Reads what is new wherever somebody waits, and forgets the rest. */
  async pullAll(): Promise<void> {
    for (const [id, { log, turns, interactions }] of this.#followed) {
      if (!log.isLost) continue
      this.#followed.delete(id)
      this.takeOver(id, [...turns.values()], [...interactions.values()])
    }
    for (const [id, held] of this.#lost) {
      const row = await this.#store.session(id)
      this.#lost.delete(id)
      if (row !== undefined) await this.follow(id, await this.open(row), held)
    }
    for (const [id, followed] of this.#followed) {
      const { log, turns, isLeft } = followed
      const isNeeded = log.isWatched || [...turns.values()].some(({ isAwaited }) => isAwaited)
      if (!isNeeded && isLeft) this.#followed.delete(id)
      else followed.isLeft = !isNeeded
    }
    await this.pull(this.#followed.keys())
  }

  async #pull(): Promise<void> {
    while (this.#wanted.size > 0 && (await this.#pullOnce()));
  }

  /** False when the store cannot be reached: what is wanted is wanted still. */
  async #pullOnce(): Promise<boolean> {
    const wanted = this.#wanted
    this.#wanted = new Set()
    const positions: Position[] = []
    for (const id of wanted) {
      const followed = this.#followed.get(id)
      if (followed !== undefined && this.#isElsewhere(id, followed)) positions.push({ id, after: followed.log.lastSeq })
    }
    if (positions.length === 0) return true
    try {
      for (const one of await (this.#cluster as Cluster).news(positions)) await this.#take(one)
      return true
    } catch {
      // The next look comes within a second.
      for (const { id } of positions) this.#wanted.add(id)
      return false
    }
  }

  /** What is written here is in the log before it is in the store. */
  #isElsewhere(id: string, { log }: Followed): boolean {
    return !log.isAhead && !log.isLost && !(this.#ownership.has(id) && !this.#ownership.isClaiming(id))
  }

  async #take({ row, chunks }: News): Promise<void> {
    const followed = this.#followed.get(row.id)
    if (followed === undefined) return
    const { log, turns } = followed
    if (followed.isStale || chunks.some(isMarked)) {
      followed.isStale = false
      await this.#refresh(row.id, followed)
    }
    if (!this.#isElsewhere(row.id, followed)) return
    for (const chunk of chunks) log.ingest(chunk)
    for (const [turn, record] of turns) {
      if (!record.isOver) continue
      turns.delete(turn)
      record.announceEnd()
    }
    if (log.lastSeq < row.lastSeq && chunks.length > 0) this.#wanted.add(row.id)
    else if (row.isArchived && !row.isActive) log.seal()
  }

  /** There is one record of a turn to follow; who waits for another one is told as well. */
  async #endWith(record: TurnRecord, held: TurnRecord): Promise<void> {
    await held.ended()
    refreshed(record, turnRowOf(held))
    record.announceEnd()
  }

  /** Before the events are there that say so: a reader stops at the end of its turn. */
  async #refresh(id: string, followed: Followed): Promise<void> {
    const { turns, interactions } = followed
    // What was read is old where the session has come here meanwhile.
    const isCurrent = () => {
      followed.isStale ||= !this.#isElsewhere(id, followed)
      return !followed.isStale
    }
    for (const [turn, record] of turns) {
      const [row] = await this.#store.turns(id, { offset: turn - 1, limit: 1 })
      if (!isCurrent()) return
      if (row !== undefined) refreshed(record, row)
    }
    if (interactions.size === 0) return
    const states = await this.#store.interactions(id)
    if (!isCurrent()) return
    for (const { id: interactionId, state } of states) {
      const interaction = interactions.get(interactionId)
      interaction?.refresh(state)
      if (interaction?.isOver) interactions.delete(interactionId)
    }
  }
}

function isMarked({ bytes }: Chunk): boolean {
  return MARKS.some((mark) => bytes.includes(mark))
}
