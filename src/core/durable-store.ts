import type { Cluster } from './cluster.ts'
import type { ErrorData, SessionErrorCode } from './errors.ts'
import type { InteractionState } from './interaction.ts'
import type { Chunk } from './memory-event-log.ts'
import type { Page, RunResult, SessionQuery, TurnStatus } from './session-service.ts'
import type { Message, SessionMetadata } from './transcript.ts'
import type { Spent, Usage, UsageKeys } from './usage.ts'
import type { MinuteRange, SpentTurn, UsageCounts } from './usage-counts.ts'

/**
 * Where sessions outlive the process: what the author of a durable store implements. It keeps rows and decides nothing;
 * who may write when is the engine's business.
 *
 * Every method rejects with a `StoreUnavailableError` when the store cannot be used now: it is tried again. With a
 * `StoreRefusedError` it rejects what the store will never take, however often it is asked; any other error counts as one.
 * Times are milliseconds since the epoch.
 */
export interface DurableStore {
  /** Where several servers may use the store at a time. */
  readonly cluster?: Cluster
  /**
   * Writes all of it, for good, or nothing. Resolves with the sessions that it left out: those that another server has
   * taken over, and new ones whose id or name another has.
   */
  commit(writes: readonly SessionWrite[]): Promise<readonly string[]>
  session(id: string): Promise<SessionRow | undefined>
  /** The highest `seq` that was ever given under an id, whatever became of the session; 0 where there was none. */
  highestSeq(id: string): Promise<number>
  /** Sessions that are not archived, in the order in which they were made. */
  sessions(query: SessionQuery): Promise<{ rows: SessionRow[]; total: number }>
  /**
   * Sessions, archived ones too, in the order in which they were made. `after` is 0 at first, then what `last` of the page
   * before was.
   */
  allSessions(after: number, limit: number): Promise<{ rows: SessionRow[]; last: number }>
  /** The one session of that name among its peers that is not archived. */
  named(name: string): Promise<SessionRow | undefined>
  /** All of them that have one, in the order in which they were made. */
  allNamed(): Promise<SessionRow[]>
  turns(id: string, page: Page): Promise<TurnRow[]>
  messages(id: string, page: Page): Promise<Message[]>
  /** Events after `after` and before `before`, newest first, at most about `maxBytes` of them. */
  chunks(id: string, range: { after: number; before: number; maxBytes: number }): Promise<Chunk[]>
  interactions(id: string): Promise<InteractionRow[]>
  key(entryKey: string): Promise<KeyRow | undefined>
  /** Sessions that were running when the process that ran them ended, or that no server has which is there. */
  orphans(): Promise<SessionRow[]>
  /** What turns came to that ended in these minutes, whatever became of their sessions. */
  usage(range: MinuteRange): Promise<UsageCounts>
  /** Forgets what nobody can ask for any more, a slice at a time. Resolves with whether there is more. */
  sweep(before: SweepLimits): Promise<boolean>
  close(): Promise<void>
}

/** A session without its transcript, turns and events. */
export interface SessionRow {
  readonly id: string
  /** A turn is admitted or running. */
  readonly isActive: boolean
  readonly isArchived: boolean
  readonly createdAt: number
  readonly updatedAt: number
  readonly metadata: SessionMetadata & { agent: string }
  readonly usage: Usage
  /** Milliseconds that its turns ran. */
  readonly ranMs: number
  readonly toolCalls: number
  readonly messageCount: number
  readonly turnCount: number
  /** `seq` of the newest event that is kept. */
  readonly lastSeq: number
  /** The newest text of the agent. */
  readonly lastText: string | undefined
}

export interface TurnRow {
  readonly turn: number
  readonly status: TurnStatus
  readonly prompt: string
  readonly skillReferences: readonly string[] | undefined
  readonly isHost: boolean
  readonly createdAt: number
  readonly startedAt: number | undefined
  readonly endedAt: number | undefined
  readonly durationMs: number
  readonly firstSeq: number
  readonly lastSeq: number
  readonly messageEnd: number
  readonly runs: number
  /** What these runs spent; missing in rows that an older version has written. */
  readonly spent?: Spent | undefined
  readonly result: RunResult | undefined
  readonly error: { code: SessionErrorCode; message: string; data: ErrorData } | undefined
}

/**
 * What a turn came to that is over. It is counted once for its session, turn and end, also when its commit is repeated, and
 * outlasts its session.
 */
export interface SpentRow extends SpentTurn {
  readonly turn: number
  /** The same where their JSON text is. */
  readonly keys: UsageKeys
}

/** Something that came into a session's inbox. */
export interface InteractionRow {
  readonly id: string
  /** What came, and what became of it. */
  readonly state: InteractionState
}

/** What an idempotency key started. */
export interface KeyRow {
  readonly entryKey: string
  readonly fingerprint: string
  readonly sessionId: string
  /** The turn or the interaction. */
  readonly handle: Record<string, unknown>
  readonly createdAt: number
}

/** What changed of one session since the last commit. */
export interface SessionWrite {
  /** The session is new; what was kept under its id before is gone. */
  readonly isNew: boolean
  /** The one in which the writer took the session over; 1 for a new one. Only counts where several servers write. */
  readonly epoch: number
  /** How much of its events is kept. */
  readonly retain: { readonly events: number; readonly bytes: number }
  readonly row: SessionRow
  /** Of the row nothing has changed since it was last written but `lastSeq`: a turn talks. */
  readonly hasOnlyGrown: boolean
  /** New ones, and what they are now. */
  readonly turns: readonly TurnRow[]
  /** Turns that are over now and were not before. */
  readonly spent: readonly SpentRow[]
  /** What follows the messages that are there, of which there are `from`. */
  readonly messages: { readonly from: number; readonly added: readonly Message[] }
  readonly chunks: readonly Chunk[]
  readonly interactions: readonly InteractionRow[]
  readonly keys: readonly KeyRow[]
}

export interface SweepLimits {
  /** Sessions that were archived before are forgotten. */
  readonly archived: number
  /** So are idempotency keys that are older. */
  readonly keys: number
  /** Of turns that were committed before, only sums are kept: they would be counted anew if they were committed again. */
  readonly spent: number
  /** What turns came to that ended on days before this one is forgotten. */
  readonly usage: number
}
