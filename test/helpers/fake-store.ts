import type { Claim, Cluster, Command, News, Notice, Position, Reply } from '../../src/core/cluster.ts'
import type {
  DurableStore,
  InteractionRow,
  KeyRow,
  SessionRow,
  SessionWrite,
  SweepLimits,
  TurnRow,
} from '../../src/core/durable-store.ts'
import { StoreUnavailableError } from '../../src/core/errors.ts'
import { encodeEvent } from '../../src/core/event-frame.ts'
import type { NewEvent } from '../../src/core/events.ts'
import type { InteractionState } from '../../src/core/interaction.ts'
import type { Chunk } from '../../src/core/memory-event-log.ts'
import type { Page } from '../../src/core/session-service.ts'
import type { Message } from '../../src/core/transcript.ts'
import { NO_USAGE } from '../../src/core/usage.ts'
import type { UsageCounts } from '../../src/core/usage-counts.ts'

/** The server under test. */
const HERE = 'here'

/** Events as they are kept, from `first` on. */
export function chunkOf(first: number, events: readonly NewEvent[], turn = 1): Chunk {
  const frames = events.map((event, i) => encodeEvent(event, first + i, turn))
  return { first, last: first + events.length - 1, turn, bytes: Buffer.from(frames.join('')) }
}

/** So many letters, one event each. */
export function deltas(text: string): NewEvent[] {
  return [...text].map((delta) => ({ type: 'text_delta', delta }))
}

export function rowFor(id: string, more: Partial<SessionRow> = {}): SessionRow {
  return {
    id,
    isActive: false,
    isArchived: false,
    createdAt: 1,
    updatedAt: 1,
    metadata: { agent: 'parrot' },
    usage: NO_USAGE,
    ranMs: 0,
    toolCalls: 0,
    messageCount: 0,
    turnCount: 0,
    lastSeq: 0,
    lastText: undefined,
    ...more,
  }
}

export function turnFor(turn: number, more: Partial<TurnRow> = {}): TurnRow {
  return {
    turn,
    status: 'running',
    prompt: 'hello',
    skillReferences: undefined,
    isHost: false,
    createdAt: 1,
    startedAt: 1,
    endedAt: undefined,
    durationMs: 0,
    firstSeq: 1,
    lastSeq: 0,
    messageEnd: 0,
    runs: 0,
    result: undefined,
    error: undefined,
    ...more,
  }
}

/** An interaction that waits. */
export const stateFor = (more: Partial<InteractionState> = {}): InteractionState => ({
  id: 'i',
  kind: 'event',
  source: 'webhook',
  isSubscribed: true,
  isDismissal: false,
  text: 'x',
  turn: 0,
  firstSeq: 0,
  lastSeq: 0,
  ...more,
})

interface Stored {
  row: SessionRow
  turns: Map<number, TurnRow>
  messages: Message[]
  chunks: Chunk[]
  interactions: Map<string, InteractionRow>
}

/** A store in memory that fails, waits and refuses at the test's word. */
export class FakeStore implements DurableStore {
  readonly cluster?: FakeCluster
  readonly kept = new Map<string, Stored>()
  readonly commits: (readonly SessionWrite[])[] = []
  readonly swept: SweepLimits[] = []
  readonly keys: KeyRow[] = []
  /** What `sweep` answers, one after another. */
  more: boolean[] = []
  /** Sessions that are left out of commits. */
  refused = new Set<string>()
  isAway = false
  /** Called with each commit before anything is kept; the answer waits for it. */
  committing: (writes: readonly SessionWrite[]) => void | Promise<void> = () => {}
  /** The same, once it is kept. */
  committed: () => void | Promise<void> = () => {}

  constructor(cluster?: FakeCluster) {
    if (cluster === undefined) return
    this.cluster = cluster
    cluster.store = this
  }

  /** A session that is there, whoever wrote it. */
  put(row: SessionRow, turns: readonly TurnRow[] = []): void {
    const known = this.kept.get(row.id) ?? { turns: new Map(), messages: [], chunks: [], interactions: new Map() }
    for (const turn of turns) known.turns.set(turn.turn, turn)
    this.kept.set(row.id, { ...known, row })
  }

  async highestSeq(id: string): Promise<number> {
    return this.kept.get(id)?.row.lastSeq ?? 0
  }

  /** What another server writes. */
  say(id: string, events: readonly NewEvent[], more: Partial<SessionRow> = {}): void {
    const { row } = this.#of(id)
    const chunk = chunkOf(row.lastSeq + 1, events)
    this.put({ ...row, lastSeq: chunk.last, ...more })
    this.#of(id).chunks.push(chunk)
  }

  async commit(writes: readonly SessionWrite[]): Promise<readonly string[]> {
    this.commits.push(writes)
    await this.committing(writes)
    this.check()
    for (const write of writes) if (!this.refused.has(write.row.id)) this.#write(write)
    await this.committed()
    return writes.map(({ row }) => row.id).filter((id) => this.refused.has(id))
  }

  async session(id: string): Promise<SessionRow | undefined> {
    this.check()
    return this.kept.get(id)?.row
  }

  async sessions(): Promise<{ rows: SessionRow[]; total: number }> {
    return { rows: this.#rows(), total: this.kept.size }
  }

  async allSessions(): Promise<{ rows: SessionRow[]; last: number }> {
    return { rows: this.#rows(), last: this.kept.size }
  }

  async named(name: string): Promise<SessionRow | undefined> {
    return this.#rows().find(({ metadata }) => metadata.comms_name === name)
  }

  async allNamed(): Promise<SessionRow[]> {
    return this.#rows().filter(({ metadata }) => metadata.comms_name !== undefined)
  }

  async turns(id: string, { offset, limit }: Page): Promise<TurnRow[]> {
    this.check()
    const turns = [...(this.kept.get(id)?.turns.values() ?? [])].sort((a, b) => a.turn - b.turn)
    return turns.slice(offset, offset + limit)
  }

  async messages(id: string): Promise<Message[]> {
    return [...this.#of(id).messages]
  }

  async chunks(id: string, { after, before }: { after: number; before: number }): Promise<Chunk[]> {
    return this.#of(id)
      .chunks.filter(({ first, last }) => last > after && first < before)
      .reverse()
  }

  async interactions(id: string): Promise<InteractionRow[]> {
    return [...(this.kept.get(id)?.interactions.values() ?? [])]
  }

  async key(entryKey: string): Promise<KeyRow | undefined> {
    return this.keys.find((key) => key.entryKey === entryKey)
  }

  async orphans(): Promise<SessionRow[]> {
    this.check()
    return this.#rows().filter(({ id, isActive }) => isActive && this.cluster?.ownerOf(id) === undefined)
  }

  async usage(): Promise<UsageCounts> {
    return { sums: [], oldest: undefined, completeFrom: 0, isWhole: true }
  }

  async sweep(before: SweepLimits): Promise<boolean> {
    this.swept.push(before)
    this.check()
    return this.more.shift() ?? false
  }

  async close(): Promise<void> {}

  check(): void {
    if (this.isAway) throw new StoreUnavailableError()
  }

  #rows(): SessionRow[] {
    return [...this.kept.values()].map(({ row }) => row)
  }

  #of(id: string): Stored {
    const stored = this.kept.get(id)
    if (stored === undefined) throw new Error(`There is no ${id}`)
    return stored
  }

  #write({ row, turns, messages, chunks, interactions, keys, epoch }: SessionWrite): void {
    this.put(row, turns)
    const stored = this.#of(row.id)
    stored.messages.splice(messages.from, messages.added.length, ...messages.added)
    stored.chunks.push(...chunks.filter(({ first }) => stored.chunks.every(({ last }) => last < first)))
    for (const one of interactions) stored.interactions.set(one.id, one)
    this.keys.push(...keys)
    this.cluster?.wrote(row.id, epoch, row.isActive)
  }
}

/** What one of several servers sees of the others, which the test plays. */
export class FakeCluster implements Cluster {
  store: FakeStore | undefined
  /** How many others there are. */
  others = 0
  readonly owners = new Map<string, string>()
  readonly epochs = new Map<string, number>()
  /** So many chunks come at a time. */
  atATime = Number.MAX_SAFE_INTEGER
  /** What was asked for in `news`. */
  readonly asked: (readonly Position[])[] = []
  readonly released: string[] = []
  commandsWaiting: (Command & { number: number })[] = []
  readonly answers = new Map<number, string>()
  hear: (notice: Notice) => void = () => {}
  isThere = false
  /** Called with each beat; the answer waits for it. */
  beating: () => void | Promise<void> = () => {}

  ownerOf(id: string): string | undefined {
    return this.owners.get(id)
  }

  /** A commit gives back what it leaves idle. */
  wrote(id: string, epoch: number, isActive: boolean): void {
    this.epochs.set(id, epoch)
    if (isActive) this.owners.set(id, HERE)
    else this.owners.delete(id)
  }

  async join(hear: (notice: Notice) => void): Promise<void> {
    this.hear = hear
    this.isThere = true
  }

  async beat(): Promise<number> {
    await this.beating()
    this.store?.check()
    return this.others
  }

  async leave(): Promise<void> {
    this.isThere = false
  }

  async claim(sessionIds: readonly string[]): Promise<Claim[]> {
    this.store?.check()
    return sessionIds.filter((id) => this.store?.kept.has(id)).map((id) => this.#claim(id))
  }

  async release(sessionId: string): Promise<void> {
    this.released.push(sessionId)
    this.owners.delete(sessionId)
  }

  async owned(): Promise<string[]> {
    this.store?.check()
    return [...this.owners].filter(([, owner]) => owner === HERE).map(([id]) => id)
  }

  async news(positions: readonly Position[]): Promise<News[]> {
    this.asked.push(positions)
    this.store?.check()
    return positions.flatMap(({ id, after }) => {
      const stored = this.store?.kept.get(id)
      if (stored === undefined) return []
      const chunks = stored.chunks.filter(({ last }) => last > after).slice(0, this.atATime)
      return [{ row: stored.row, chunks }]
    })
  }

  async ask(): Promise<number> {
    return 1
  }

  async replies(): Promise<Reply[]> {
    return []
  }

  async withdraw(): Promise<boolean> {
    return true
  }

  async commands(): Promise<(Command & { number: number })[]> {
    this.store?.check()
    return this.commandsWaiting.splice(0)
  }

  async reply(number: number, reply: string): Promise<void> {
    this.answers.set(number, reply)
  }

  async reserve(): Promise<'reserved'> {
    return 'reserved'
  }

  async unreserve(): Promise<void> {}

  async takeSlot(): Promise<number | undefined> {
    return undefined
  }

  async freeSlot(): Promise<void> {}

  #claim(id: string): Claim {
    const owner = this.owners.get(id)
    const before = this.epochs.get(id) ?? 1
    if (owner !== undefined && owner !== HERE) return { id, before, epoch: undefined, owner }
    this.owners.set(id, HERE)
    this.epochs.set(id, before + 1)
    return { id, before, epoch: before + 1, owner }
  }
}
