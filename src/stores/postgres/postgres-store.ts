import type {
  DurableStore,
  InteractionRow,
  KeyRow,
  SessionRow,
  SessionWrite,
  SweepLimits,
  TurnRow,
} from '../../core/durable-store.ts'
import type { Chunk } from '../../core/memory-event-log.ts'
import type { Page, SessionQuery } from '../../core/session-service.ts'
import type { Message } from '../../core/transcript.ts'
import type { MinuteRange, UsageCounts } from '../../core/usage-counts.ts'
import { dayOf } from '../usage-sums.ts'
import { disconnect, inTime, NoAnswerError, openReaders, type Sql } from './connections.ts'
import { openingError } from './opening.ts'
import { PostgresCluster } from './postgres-cluster.ts'
import { toChunk, toKey, toSession } from './rows.ts'
import { isReadOnly, storeError } from './store-error.ts'
import { type Target, targetOf } from './target.ts'
import { usageOf } from './usage.ts'
import { Writer } from './writer.ts'
import { commitArguments, commitCall, digestOf } from './writer-functions.ts'

/** So many sessions, or keys, are forgotten in one go. */
const SLICE = 100

type Row = Record<string, unknown>

/**
 * Sessions in a PostgreSQL database, for as many servers as join its cluster. A commit is one call, so it is there or not;
 * one whose answer was lost can be made again.
 */
export class PostgresStore implements DurableStore {
  readonly cluster: PostgresCluster
  readonly #target: Target
  #readers: Sql
  #writer: Promise<Writer>
  readonly #closing = new AbortController()

  private constructor(target: Target, readers: Sql, writer: Writer) {
    this.#target = target
    this.#readers = readers
    this.#writer = Promise.resolve(writer)
    this.cluster = new PostgresCluster(target, (sql, values) => this.#write(sql, values))
  }

  /** Rejects for a URL that is wrong and a database that a newer version has made or that cannot be used, and says why. */
  static async open(url: string, create = true): Promise<PostgresStore> {
    const target = targetOf(url)
    const readers = openReaders(target)
    try {
      return new PostgresStore(target, readers, await Writer.open(target, { create }))
    } catch (error) {
      await disconnect(readers)
      throw openingError(readers, error)
    }
  }

  async commit(writes: readonly SessionWrite[]): Promise<readonly string[]> {
    const { id, isJoined, isHeard } = this.cluster
    const [row] = await this.#write(commitCall, commitArguments(writes, isJoined ? id : undefined, isHeard))
    return row?.refused as string[]
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

  async highestSeq(id: string): Promise<number> {
    const sql = 'select last_seq from session where id = $1 union all select last_seq from tombstone where id = $1'
    return Math.max(0, ...(await this.#read(sql, [id])).map(({ last_seq }) => Number(last_seq)))
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

  turns(id: string, page: Page): Promise<TurnRow[]> {
    return this.#page(
      'select turn as n, data from turn where session = $1 and turn > $2 order by turn limit $3',
      id,
      page,
    )
  }

  messages(id: string, page: Page): Promise<Message[]> {
    return this.#page('select n, data from message where session = $1 and n >= $2 order by n limit $3', id, page)
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
    return rows.map(toChunk)
  }

  async interactions(id: string): Promise<InteractionRow[]> {
    const sql = 'select data from interaction where session = $1 order by n'
    return (await this.#parsed<InteractionRow['state']>(sql, [id])).map((state) => ({ id: state.id, state }))
  }

  async key(entryKey: string): Promise<KeyRow | undefined> {
    const [row] = await this.#read('select * from key where entry = $1', [digestOf(entryKey)])
    return row === undefined ? undefined : toKey(entryKey, row)
  }

  orphans(): Promise<SessionRow[]> {
    return this.#sessions(`(is_active and owner is null) or (owner is not null and not exists (
      select from node where node.id = session.owner and node.lease_until > clock_timestamp()
    ))`)
  }

  usage(range: MinuteRange): Promise<UsageCounts> {
    return usageOf((sql, values) => this.#read(sql, values), range)
  }

  async sweep({ archived, keys, spent, usage }: SweepLimits): Promise<boolean> {
    const sql = 'select pg_temp.sweep_sessions($1, $2, $3, $4, $5) as is_more'
    const [row] = await this.#write(sql, [archived, keys, spent, dayOf(usage), SLICE])
    return row?.is_more === true
  }

  async close(): Promise<void> {
    this.#closing.abort()
    const writer = this.#writer.then(
      (open) => open.close(),
      () => {},
    )
    await Promise.all([disconnect(this.#readers), this.cluster.close(), writer])
  }

  async #write(sql: string, values: unknown[]): Promise<Row[]> {
    let writer: Writer | undefined
    try {
      writer = await this.#openWriter()
      return await writer.call(sql, values)
    } catch (error) {
      if (error instanceof NoAnswerError || isReadOnly(error)) void writer?.close()
      if (isReadOnly(error)) this.#replaceReaders(this.#readers)
      throw storeError(error)
    }
  }

  /** The writer, or another one in place of one that was lost. */
  async #openWriter(): Promise<Writer> {
    const current = this.#writer
    const writer = await current.catch(() => undefined)
    if (writer !== undefined && !writer.isLost) return writer
    if (this.#closing.signal.aborted) throw new Error('The store is closed')
    if (this.#writer === current) this.#writer = this.#reopened(writer)
    return this.#writer
  }

  async #reopened(lost: Writer | undefined): Promise<Writer> {
    await lost?.close()
    return Writer.open(this.#target, { signal: this.#closing.signal })
  }

  #sessions(where: string, values: unknown[] = [], page = ''): Promise<SessionRow[]> {
    return this.#read(`select * from session where ${where} order by ordinal ${page}`, values).then((rows) =>
      rows.map(toSession),
    )
  }

  /** As many of the rows as fit, one at least; sizes are known without reading what is long. */
  #page<T>(sql: string, id: string, { limit, offset, maxBytes }: Page): Promise<T[]> {
    if (maxBytes === undefined) return this.#parsed(sql, [id, offset, limit])
    const sized = `select n, data, octet_length(data) as size, sum(octet_length(data)) over (order by n) as total from (${sql}) page`
    const fitting = `select data from (${sized}) sized where total <= $4 or total = size order by n`
    return this.#parsed(fitting, [id, offset, limit, maxBytes])
  }

  async #parsed<T>(sql: string, values: unknown[]): Promise<T[]> {
    return (await this.#read(sql, values)).map(({ data }) => JSON.parse(String(data)) as T)
  }

  async #read(sql: string, values: unknown[] = []): Promise<Row[]> {
    const readers = this.#readers
    try {
      return await inTime(readers.unsafe(sql, values as never[], { prepare: true }))
    } catch (error) {
      // The others may be as dead as this one, and would take as long to show it.
      if (error instanceof NoAnswerError) this.#replaceReaders(readers)
      throw storeError(error)
    }
  }

  #replaceReaders(readers: Sql): void {
    if (this.#readers !== readers || this.#closing.signal.aborted) return
    this.#readers = openReaders(this.#target)
    void disconnect(readers)
  }
}
