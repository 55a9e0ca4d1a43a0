import type { DurableStore, SessionRow, TurnRow } from './durable-store.ts'
import {
  OutcomeUnknownError,
  PersistenceDisabledError,
  SessionNotFoundError,
  StoreUnavailableError,
  TurnNotFoundError,
} from './errors.ts'
import type { Followers } from './followers.ts'
import type { Journal } from './journal.ts'
import { PAGE_BYTES } from './page.ts'
import { recordOf } from './session-rows.ts'
import type { Page, SessionQuery, SessionSummary, SessionView, TurnView } from './session-service.ts'
import { exportOf, listedBytesOf, summaryOf, viewOf } from './session-views.ts'
import type { ExportedSession, Message } from './transcript.ts'
import type { TurnRecord } from './turn-record.ts'
import type { UsageQuery, UsageReport } from './usage.ts'
import { minutesOf, reportOf } from './usage-counts.ts'

/** A turn that runs is sought among so many at a time, from the last. */
const TURNS_PER_LOOK = 16

/** What a store has of its sessions, wherever they run: what has happened here is waited for. */
export class StoredSessions {
  readonly #store: DurableStore
  readonly #journal: Journal
  readonly #followers: Followers

  constructor(store: DurableStore, journal: Journal, followers: Followers) {
    this.#store = store
    this.#journal = journal
    this.#followers = followers
  }

  /** Resolves once all that has happened in the session so far is persisted, for a caller that only reads. */
  async settled(sessionId: string): Promise<void> {
    try {
      await this.#journal.settled(sessionId)
    } catch (error) {
      throw error instanceof OutcomeUnknownError ? new StoreUnavailableError(error) : error
    }
  }

  async row(sessionId: string): Promise<SessionRow | undefined> {
    await this.settled(sessionId)
    return this.#store.session(sessionId)
  }

  async readable(sessionId: string): Promise<SessionRow> {
    const row = await this.row(sessionId)
    if (row === undefined) throw new SessionNotFoundError(sessionId)
    return row
  }

  async live(sessionId: string): Promise<SessionRow> {
    const row = await this.readable(sessionId)
    if (row.isArchived) throw new SessionNotFoundError(sessionId)
    return row
  }

  /** One that is live, or archived with its last turn still running. */
  async unfinished(sessionId: string): Promise<SessionRow> {
    const row = await this.readable(sessionId)
    if (row.isArchived && !row.isActive) throw new SessionNotFoundError(sessionId)
    return row
  }

  /** The turn's record, and the same for everybody who follows it. */
  async record(sessionId: string, turn: number): Promise<TurnRecord> {
    const row = await this.#turnRow(sessionId, turn)
    return this.#followers.turn(sessionId, turn) ?? recordOf(sessionId, row)
  }

  /** The turn that runs, for the store, or the first that waits. Who follows a turn may not know yet that it is over. */
  async activeRecord({ id, turnCount, isActive }: SessionRow): Promise<TurnRecord | undefined> {
    if (!isActive) return undefined
    let open: TurnRow | undefined
    // Later turns may be over before it: those that passed it in line, and those that never came to run.
    for (let end = turnCount; end > 0 && open?.status !== 'running'; end -= TURNS_PER_LOOK) {
      const offset = Math.max(0, end - TURNS_PER_LOOK)
      const turns = await this.#store.turns(id, { offset, limit: end - offset })
      const waiting = turns.find(({ status }) => status === 'queued')
      open = turns.find(({ status }) => status === 'running') ?? waiting ?? open
    }
    return open === undefined ? undefined : recordOf(id, open)
  }

  async read(sessionId: string): Promise<SessionView> {
    return viewOf(await this.readable(sessionId))
  }

  async list(query: SessionQuery): Promise<{ sessions: SessionSummary[]; total: number }> {
    await this.#journal.flush()
    const { rows, total } = await this.#store.sessions(query)
    return { sessions: rows.map(summaryOf), total }
  }

  async turns(sessionId: string, page: Page): Promise<{ turns: TurnView[]; total: number }> {
    const { turnCount } = await this.readable(sessionId)
    return { turns: await this.#listed(sessionId, page), total: turnCount }
  }

  async turn(sessionId: string, turn: number): Promise<TurnView> {
    await this.readable(sessionId)
    return recordOf(sessionId, await this.#turnRow(sessionId, turn))
  }

  async messages(sessionId: string, page: Page): Promise<{ messages: Message[]; total: number }> {
    const { messageCount } = await this.#withHistory(sessionId)
    return { messages: await this.#store.messages(sessionId, page), total: messageCount }
  }

  async export(sessionId: string): Promise<ExportedSession> {
    const row = await this.#withHistory(sessionId)
    return exportOf(row, await this.#store.messages(sessionId, { offset: 0, limit: row.messageCount }))
  }

  async usage(query: UsageQuery): Promise<UsageReport> {
    await this.#journal.flush()
    return reportOf(query, await this.#store.usage(minutesOf(query)))
  }

  /** Rows may be much larger than what a list says of them: they are read a few at a time, until there is a page. */
  async #listed(sessionId: string, { limit, offset, maxBytes = Number.POSITIVE_INFINITY }: Page): Promise<TurnView[]> {
    const turns: TurnView[] = []
    let bytes = 0
    while (turns.length < limit) {
      const page = { limit: limit - turns.length, offset: offset + turns.length, maxBytes: PAGE_BYTES }
      const rows = await this.#store.turns(sessionId, page)
      for (const row of rows) {
        const record = recordOf(sessionId, row)
        bytes += listedBytesOf(record)
        if (turns.length > 0 && bytes > maxBytes) return turns
        turns.push(record)
      }
      if (rows.length === 0) return turns
    }
    return turns
  }

  async #turnRow(sessionId: string, turn: number): Promise<TurnRow> {
    const [row] = turn < 1 ? [] : await this.#store.turns(sessionId, { offset: turn - 1, limit: 1 })
    if (row === undefined) throw new TurnNotFoundError(sessionId, turn)
    return row
  }

  async #withHistory(sessionId: string): Promise<SessionRow> {
    const row = await this.readable(sessionId)
    if (row.isArchived) throw new PersistenceDisabledError(sessionId)
    return row
  }
}
