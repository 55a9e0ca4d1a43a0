import type {
  DurableStore,
  InteractionRow,
  KeyRow,
  SessionRow,
  SessionWrite,
  TurnRow,
} from '../../core/durable-store.ts'
import { StoreUnavailableError } from '../../core/errors.ts'
import type { Chunk } from '../../core/memory-event-log.ts'
import type { Page, SessionQuery } from '../../core/session-service.ts'
import type { Message } from '../../core/transcript.ts'
import { disconnect, inTime, NoAnswerError, openReaders, type Sql } from './connections.ts'
import { InUseError, SchemaError, Writer } from './writer.ts'
import { commitArguments, commitCall, digestOf } from './writer-functions.ts'

/** So many sessions, or keys, are forgotten in one go. */
const SLICE = 100

type Row = Record<string, unknown>

/**
 * Sessions in a PostgreSQL database, for one server at a time: it holds a lock there, which the database takes back when
 * its connection ends, however that is. A commit is one call, so it is there or not; one whose answer was lost can be made
 * again.
 */
export class PostgresStore implements DurableStore {
  readonly #url: string
  #readers: Sql
  #writer: Promise<Writer>
  readonly #closing = new AbortController()

  private constructor(url: string, readers: Sql, writer: Writer) {
    this.#url = url
    this.#readers = readers
    this.#writer = Promise.resolve(writer)
  }

  /** Rejects for a database that another server uses, or that a newer version has made. */
  static async open(url: string): Promise<PostgresStore> {
    const readers = openReaders(url)
    try {
      return new PostgresStore(url, readers, await Writer.openPatiently(url))
    } catch (error) {
      await disconnect(readers)
      throw error instanceof InUseError || error instanceof SchemaError ? error : new StoreUnavailableError(error)
    }
  }

  async commit(writes: readonly SessionWrite[]): Promise<void> {
    await this.#write(commitCall, commitArguments(writes))
  }

  async session(id: string): Promise<SessionRow | undefined> {
    return (await this.#sessions('id = $1', [id]))[0]
  }

  async sessions({ limit, offset, labels = [], active }: SessionQuery): Promise<{ rows: SessionRow[]; total: number }> {
    const values: unknown[] = []
    const bound = (value: unknown) => `$${values.push(value)}`
    const filters = labels.map(
      (label) =>
        `exists (select from label l where l.digest = ${bound(digestOf(label))} and l.ordinal = session.ordinal)`,
    )
    if (active !== undefined) filters.push(active ? 'is_active' : 'not is_active')
    const where = ['archived_at is null', ...filters].join(' and ')
    const total =
      filters.length === 0
        ? this.#read('select listed as total from session_count')
        : this.#read(`select count(*) as total from session where ${where}`, values)
    const [rows, [counted]] = await Promise.all([
      limit === 0 ? [] : this.#sessions(where, values, `limit ${Number(limit)} offset ${Number(offset)}`),
      total,
    ])
    return { rows, total: Number(counted?.total) }
  }

  async allSessions(after: number, limit: number): Promise<{ rows: SessionRow[]; last: number }> {
    const sql = 'select * from session where ordinal > $1 order by ordinal limit $2'
    const rows = await this.#read(sql, [after, limit])
    return { rows: rows.map(toSession), last: Number(rows.at(-1)?.ordinal ?? after) }
  }

  async named(name: string): Promise<SessionRow | undefined> {
    return (await this.#sessions('name = $1 and archived_at is null', [JSON.stringify(name)]))[0]
  }

  allNamed(): Promise<SessionRow[]> {
    return this.#sessions('name is not null and archived_at is null')
  }

  turns(id: string, { limit, offset }: Page): Promise<TurnRow[]> {
    return this.#parsed('select data from turn where session = $1 and turn > $2 order by turn limit $3', [
      id,
      offset,
      limit,
    ])
  }

  messages(id: string, { limit, offset }: Page): Promise<Message[]> {
    return this.#parsed('select data from message where session = $1 and n >= $2 order by n limit $3', [
      id,
      offset,
      limit,
    ])
  }

  async chunks(
    id: string,
    { after, before, maxBytes }: { after: number; before: number; maxBytes: number },
  ): Promise<Chunk[]> {
    // Step by step along the index, so that no more is read than is asked for.
    const rows = await this.#read(
      `with recursive walk as (
        (select first, last, size as bytes from chunk where session = $1 and first < $2 order by first desc limit 1)
        union all
        select older.first, older.last, walk.bytes + older.size from walk, lateral (
          select first, last, size from chunk where session = $1 and first < walk.first order by first desc limit 1
        ) older
        where walk.bytes < $4 and older.last > $3
      )
      select first, chunk.last, turn, frames from walk join chunk using (first)
      where session = $1 and chunk.last > $3 order by first desc`,
      [id, before, after, maxBytes],
    )
    return rows.map(({ first, last, turn, frames }) => ({
      first: Number(first),
      last: Number(last),
      turn: Number(turn),
      bytes: frames as Buffer,
    }))
  }

  async interactions(id: string): Promise<InteractionRow[]> {
    const sql = 'select data from interaction where session = $1 order by n'
    return (await this.#parsed<InteractionRow['state']>(sql, [id])).map((state) => ({ id: state.id, state }))
  }

  async key(entryKey: string): Promise<KeyRow | undefined> {
    const [row] = await this.#read('select * from key where entry = $1', [digestOf(entryKey)])
    if (row === undefined) return undefined
    return {
      entryKey,
      fingerprint: JSON.parse(String(row.fingerprint)),
      sessionId: String(row.session),
      handle: JSON.parse(String(row.handle)),
      createdAt: Number(row.created_at),
    }
  }

  orphans(): Promise<SessionRow[]> {
    return this.#sessions('is_active')
  }

  async sweep({ archived, keys }: { archived: number; keys: number }): Promise<boolean> {
    const [row] = await this.#write('select pg_temp.sweep_sessions($1, $2, $3) as is_more', [archived, keys, SLICE])
    return row?.is_more === true
  }

  async close(): Promise<void> {
    this.#closing.abort()
    const writer = this.#writer.then(
      (open) => open.close(),
      () => {},
    )
    await Promise.all([disconnect(this.#readers), writer])
  }

  async #write(sql: string, values: unknown[]): Promise<Row[]> {
    let writer: Writer | undefined
    try {
      writer = await this.#lockedWriter()
      return await writer.call(sql, values)
    } catch (error) {
      if (error instanceof NoAnswerError) void writer?.close()
      throw new StoreUnavailableError(error)
    }
  }

  /** The writer, or another one in place of one that was lost. */
  async #lockedWriter(): Promise<Writer> {
    const current = this.#writer
    const writer = await current.catch(() => undefined)
    if (writer !== undefined && !writer.isLost) return writer
    if (this.#closing.signal.aborted) throw new Error('The store is closed')
    if (this.#writer === current) this.#writer = this.#reopened(writer)
    return this.#writer
  }

  async #reopened(lost: Writer | undefined): Promise<Writer> {
    await lost?.close()
    return Writer.open(this.#url, this.#closing.signal)
  }

  #sessions(where: string, values: unknown[] = [], page = ''): Promise<SessionRow[]> {
    return this.#read(`select * from session where ${where} order by ordinal ${page}`, values).then((rows) =>
      rows.map(toSession),
    )
  }

  async #parsed<T>(sql: string, values: unknown[]): Promise<T[]> {
    return (await this.#read(sql, values)).map(({ data }) => JSON.parse(String(data)) as T)
  }

  async #read(sql: string, values: unknown[] = []): Promise<Row[]> {
    const readers = this.#readers
    try {
      return await inTime(readers.unsafe(sql, values as never[], { prepare: true }))
    } catch (error) {
      if (error instanceof NoAnswerError && this.#readers === readers && !this.#closing.signal.aborted) {
        // The others may be as dead as this one, and would take as long to show it.
        this.#readers = openReaders(this.#url)
        void disconnect(readers)
      }
      throw new StoreUnavailableError(error)
    }
  }
}

function toSession(row: Row): SessionRow {
  return {
    id: String(row.id),
    isActive: row.is_active === true,
    isArchived: row.archived_at !== null,
    createdAt: Number(row.created_at),
    updatedAt: Number(row.updated_at),
    metadata: JSON.parse(String(row.metadata)),
    usage: JSON.parse(String(row.usage)),
    ranMs: Number(row.ran_ms),
    toolCalls: Number(row.tool_calls),
    messageCount: Number(row.message_count),
    turnCount: Number(row.turn_count),
    lastSeq: Number(row.last_seq),
    lastText: row.last_text === null ? undefined : JSON.parse(String(row.last_text)),
  }
}
