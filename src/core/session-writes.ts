import type { InteractionRow, KeyRow, SessionRow, SessionWrite, SpentRow } from './durable-store.ts'
import type { Interaction } from './interaction.ts'
import type { Chunk } from './memory-event-log.ts'
import { rowOf, spentTurnOf, turnRowOf } from './session-rows.ts'
import type { SessionTask } from './session-task.ts'
import type { TurnRecord } from './turn-record.ts'
import { usageKeysOf } from './usage-counts.ts'

/** What of one session waits for a commit. */
export interface Pending {
  isNew: boolean
  chunks: Chunk[]
  /** Make the chunks visible. */
  shows: (() => void)[]
  interactions: Set<Interaction>
  keys: KeyRow[]
}

/** How much of a session is kept already. */
export interface Kept {
  /** As it was last written, where that is known. */
  readonly row?: SessionRow | undefined
  readonly messages: number
  /** Turns before this one are over and kept. */
  readonly turns: number
  /** Later ones that are so too: a turn that came first in line is over before those that it passed. */
  readonly over: ReadonlySet<TurnRecord>
  /** Of the others, how far they were. */
  readonly open: ReadonlyMap<TurnRecord, string>
}

/** Of the columns that ever change, those that do not while a turn talks. */
const STEADY = [
  'isActive',
  'isArchived',
  'updatedAt',
  'usage',
  'ranMs',
  'toolCalls',
  'messageCount',
  'turnCount',
  'lastText',
] as const

export const NOTHING_KEPT: Kept = { messages: 0, turns: 0, over: new Set(), open: new Map() }

/** What is kept of a session that the store has as it is now, where `before` was kept already. */
export function keptOf({ messages, turns }: SessionTask, before: Kept = NOTHING_KEPT): Kept {
  let kept = before.turns
  while (turns[kept]?.isOver === true) kept++
  const rest = turns.slice(kept)
  const over = new Set(rest.filter(({ isOver }) => isOver))
  const open = new Map(rest.filter(({ isOver }) => !isOver).map((record) => [record, progressOf(record)]))
  return { messages: messages.length, turns: kept, over, open }
}

/** What changes of a turn before it is over. What it says is in its events. */
function progressOf({ status, firstSeq, runs }: TurnRecord): string {
  return `${status} ${firstSeq} ${runs}`
}

function isChanged(record: TurnRecord, { over, open }: Kept): boolean {
  return record.isOver ? !over.has(record) : open.get(record) !== progressOf(record)
}

/** What has to be written for the store to have the session as it is now. */
export function writeOf(
  session: SessionTask,
  { isNew, chunks, interactions, keys }: Pending,
  kept: Kept,
  given: Pick<SessionWrite, 'epoch' | 'retain'>,
): SessionWrite {
  const changed = session.turns.slice(kept.turns).filter((record) => isChanged(record, kept))
  const row = rowOf(session)
  return {
    ...given,
    isNew,
    row,
    hasOnlyGrown: !isNew && kept.row !== undefined && hasOnlyGrown(kept.row, row),
    turns: changed.map(turnRowOf),
    spent: changed.filter(({ isOver }) => isOver).map((record) => spentRowOf(session, record)),
    messages: { from: kept.messages, added: session.messages.slice(kept.messages) },
    chunks,
    interactions: [...interactions].map((one): InteractionRow => ({ id: one.id, state: one.toState() })),
    keys,
  }
}

function hasOnlyGrown(before: SessionRow, now: SessionRow): boolean {
  return STEADY.every((column) => before[column] === now[column])
}

function spentRowOf({ metadata }: SessionTask, record: TurnRecord): SpentRow {
  return { turn: record.turn, keys: usageKeysOf(metadata), ...spentTurnOf(record) }
}

/** What could not be written goes before what has come since. */
export function putBefore(unwritten: ReadonlyMap<string, Pending>, since: Map<string, Pending>): Map<string, Pending> {
  const all = new Map(unwritten)
  for (const [id, later] of since) {
    const earlier = all.get(id)
    if (earlier === undefined) all.set(id, later)
    else append(earlier, later)
  }
  return all
}

function append(earlier: Pending, later: Pending): void {
  earlier.isNew ||= later.isNew
  earlier.chunks.push(...later.chunks)
  earlier.shows.push(...later.shows)
  earlier.keys.push(...later.keys)
  for (const interaction of later.interactions) earlier.interactions.add(interaction)
}

export function bytesOf(pending: Pending | undefined): number {
  return pending?.chunks.reduce((sum, { bytes }) => sum + bytes.length, 0) ?? 0
}
