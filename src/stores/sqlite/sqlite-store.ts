import type Database from 'libsql'
import type {
  DurableStore,
  InteractionRow,
  KeyRow,
  SessionRow,
  SessionWrite,
  SweepLimits,
  TurnRow,
} from '../../core/durable-store.ts'
import { StoreUnavailableError } from '../../core/errors.ts'
import type { Chunk } from '../../core/memory-event-log.ts'
import { countWithin } from '../../core/page.ts'
import type { Page, SessionQuery } from '../../core/session-service.ts'
import type { Message } from '../../core/transcript.ts'
import type { MinuteRange, UsageCounts } from '../../core/usage-counts.ts'
import { assertOurs, locked, migrate, opened, type Row } from './database-file.ts'
import { assertFile } from './location.ts'
import { countsOf, encoded, toChunk, toSession } from './rows.ts'
import { Statements } from './statements.ts'
import { countTurns, tidyUsage, usageOf } from './usage.ts'
import { WriteAheadLog } from './write-ahead-log.ts'

/** So many sessions, or keys, are forgotten in one go. */
const SLICE = 100
/** Of what is read until there are enough bytes. */
const CHUNKS_AT_ONCE = 16
/** Interactions that are over and can still be read, for each session. */
const INTERACTIONS_KEPT = 1_024

/**
 * Sessions in one file, for one process: SQLite with a write-ahead log that is synced after every commit. Whoever opens it
 * holds the lock beside it, which the system takes back when the process ends, however that is.
 */
export class SqliteStore implements DurableStore {
  readonly #db: Statements
  readonly #lock: Database.Database
  readonly #log: WriteAheadLog

  private constructor(path: string, db: Database.Database, lock: Database.Database) {
    this.#db = new Statements(db)
    this.#lock = lock
    this.#log = new WriteAheadLog(path)
  }

  /**
   * Opens the file, makes it if `create` says so, and brings it up to date. Rejects for one that a newer version has made.
   */
  static async open(path: string, create = true): Promise<SqliteStore> {
    assertFile(path, create)
    const lock = locked(path)
    try {
      const db = opened(path)
      assertOurs(db, path, create)
      db.exec('pragma journal_mode = wal; pragma synchronous = normal; pragma temp_store = memory')
      migrate(db, path)
      return new SqliteStore(path, db, lock)
    } catch (error) {
      lock.close()
      throw error
    }
  }

  async commit(writes: readonly SessionWrite[]): Promise<readonly string[]> {
    const refused = this.#db.transaction(() => writes.filter((write) => !this.#write(write)).map(({ row }) => row.id))
    await this.#log.sync().catch((error) => {
      throw new StoreUnavailableError(error)
    })
    return refused
  }

  async session(id: string): Promise<SessionRow | undefined> {
    return this.#sessionBy('select * from session where id = ?', id)
  }

  async sessions({ limit, offset, labels = [], active }: SessionQuery): Promise<{ rows: SessionRow[]; total: number }> {
    return this.#db.guarded(() => {
      const filters = labels.map(
        () => 'exists (select 1 from label l where l.key = ? and l.value = ? and l.ordinal = s.ordinal)',
      )
      const values: unknown[] = labels.flat().map((text) => JSON.stringify(text))
      if (active !== undefined) {
        filters.push('s.is_active = ?')
        values.push(active ? 1 : 0)
      }
      const where = ['s.is_archived = 0', ...filters].join(' and ')
      const total =
        filters.length === 0
          ? this.#db.get('select listed as total from session_count')
          : this.#db.get(`select count(*) as total from session s where ${where}`, ...values)
      const rows =
        limit === 0
          ? []
          : this.#db.all(
              `select * from session s where ${where} order by ordinal limit ? offset ?`,
              ...values,
              limit,
              offset,
            )
      return { rows: rows.map(toSession), total: Number(total?.total) }
    })
  }

  async highestSeq(id: string): Promise<number> {
    return this.#db.guarded(() => {
      const sql = 'select last_seq from session where id = ?1 union all select last_seq from tombstone where id = ?1'
      return Math.max(0, ...this.#db.all(sql, id).map(({ last_seq }) => Number(last_seq)))
    })
  }

  async allSessions(after: number, limit: number): Promise<{ rows: SessionRow[]; last: number }> {
    return this.#db.guarded(() => {
      const rows = this.#db.all('select * from session where ordinal > ? order by ordinal limit ?', after, limit)
      return { rows: rows.map(toSession), last: Number(rows.at(-1)?.ordinal ?? after) }
    })
  }

  async named(name: string): Promise<SessionRow | undefined> {
    return this.#named(name)
  }

  async allNamed(): Promise<SessionRow[]> {
    const sql = 'select * from session where name is not null and is_archived = 0 order by ordinal'
    return this.#db.guarded(() => this.#db.all(sql).map(toSession))
  }

  async turns(id: string, page: Page): Promise<TurnRow[]> {
    return this.#page<TurnRow>('from turn where session = ? and turn > ? order by turn limit ?', id, page)
  }

  async messages(id: string, page: Page): Promise<Message[]> {
    return this.#page<Message>('from message where session = ? and n >= ? order by n limit ?', id, page)
  }

  async chunks(
    id: string,
    { after, before, maxBytes }: { after: number; before: number; maxBytes: number },
  ): Promise<Chunk[]> {
    return this.#db.guarded(() => {
      // So many at a time: the driver reads a hundred of what it is asked for, and leaves open what is not read to its end.
      const sql = `select first, last, turn, frames from chunk where session = ? and first < ? and last > ?
        order by first desc limit ${CHUNKS_AT_ONCE}`
      const chunks: Chunk[] = []
      let bytes = 0
      for (let from = before; bytes < maxBytes; from = (chunks.at(-1) as Chunk).first) {
        const found = this.#db.all(sql, id, from, after).map(toChunk)
        for (const chunk of found) {
          if (bytes >= maxBytes) break
          chunks.push(chunk)
          bytes += chunk.bytes.length
        }
        if (found.length < CHUNKS_AT_ONCE) break
      }
      return chunks
    })
  }

  async interactions(id: string): Promise<InteractionRow[]> {
    const sql = 'select data from interaction where session = ? order by n'
    return (await this.#parsed<InteractionRow['state']>(sql, id)).map((state) => ({ id: state.id, state }))
  }

  async key(entryKey: string): Promise<KeyRow | undefined> {
    return this.#db.guarded(() => {
      const row = this.#db.get('select * from key where entry = ?', entryKey)
      if (row === undefined) return undefined
      return {
        entryKey,
        fingerprint: String(row.fingerprint),
        sessionId: String(row.session),
        handle: JSON.parse(String(row.handle)),
        createdAt: Number(row.created_at),
      }
    })
  }

  async orphans(): Promise<SessionRow[]> {
    return this.#db.guarded(() =>
      this.#db.all('select * from session where is_active = 1 order by ordinal').map(toSession),
    )
  }

  async usage(range: MinuteRange): Promise<UsageCounts> {
    return this.#db.guarded(() => usageOf(this.#db, range))
  }

  async sweep(before: SweepLimits): Promise<boolean> {
    return this.#db.transaction(() => {
      const gone = this.#db.all(
        'select id from session where is_archived = 1 and is_active = 0 and updated_at < ? limit ?',
        before.archived,
        SLICE,
      )
      const old = this.#db.all('select entry from key where created_at < ? limit ?', before.keys, SLICE)
      for (const { id } of gone) this.#remove(String(id))
      for (const { entry } of old) this.#db.run('delete from key where entry = ?', entry)
      return tidyUsage(this.#db, before) || gone.length === SLICE || old.length === SLICE
    })
  }

  async close(): Promise<void> {
    await this.#log.close()
    this.#db.close()
    this.#lock.exec('rollback')
    this.#lock.close()
  }

  /** False for a new session whose name another has. */
  #write(write: SessionWrite): boolean {
    const { isNew, row, turns, spent, messages, chunks, interactions, keys } = write
    const { id, metadata, isArchived } = row
    const { comms_name: name } = metadata
    if (isNew && !isArchived && name !== undefined && (this.#named(name)?.id ?? id) !== id) return false
    if (isNew) this.#remove(id)
    if (isNew) this.#insert(row, chunks[0]?.first ?? row.lastSeq + 1)
    this.#update(write, this.#addChunks(id, chunks))
    for (const turn of turns) {
      this.#db.run(
        'insert into turn values (?, ?, ?) on conflict (session, turn) do update set data = excluded.data',
        id,
        turn.turn,
        JSON.stringify(turn),
      )
    }
    countTurns(this.#db, id, spent)
    for (const [i, message] of messages.added.entries()) {
      this.#db.run(
        'insert into message values (?, ?, ?) on conflict (session, n) do update set data = excluded.data',
        id,
        messages.from + i,
        JSON.stringify(message),
      )
    }
    for (const { id: interaction, state } of interactions) {
      this.#db.run(
        'insert into interaction (session, id, data) values (?, ?, ?) on conflict (id) do update set data = excluded.data',
        id,
        interaction,
        JSON.stringify(state),
      )
    }
    if (interactions.length > 0) this.#trimInteractions(id)
    for (const { entryKey, fingerprint, handle, createdAt } of keys) {
      const value = JSON.stringify(handle)
      this.#db.run('insert or replace into key values (?, ?, ?, ?, ?)', entryKey, fingerprint, id, value, createdAt)
    }
    if (row.isArchived) this.#db.run('delete from key where session = ?', id)
    return true
  }

  #insert(row: SessionRow, firstSeq: number): void {
    const { ordinal } = this.#db.get(
      `insert into session (id, is_active, is_archived, created_at, updated_at, name, metadata, usage, ran_ms, tool_calls,
        message_count, turn_count, last_seq, last_text, first_seq)
        values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) returning ordinal`,
      row.id,
      row.isActive ? 1 : 0,
      row.isArchived ? 1 : 0,
      row.createdAt,
      row.updatedAt,
      encoded(row.metadata.comms_name),
      JSON.stringify(row.metadata),
      ...countsOf(row),
      firstSeq,
    ) as Row
    for (const [key, value] of Object.entries(row.metadata.labels ?? {})) {
      this.#db.run('insert into label values (?, ?, ?)', encoded(key), encoded(value), ordinal)
    }
  }

  #update({ row, hasOnlyGrown, retain }: SessionWrite, addedBytes: number): void {
    const kept = hasOnlyGrown
      ? this.#db.get(
          `update session set last_seq = ?, retained_bytes = retained_bytes + ? where id = ?
            returning retained_bytes, first_seq`,
          row.lastSeq,
          addedBytes,
          row.id,
        )
      : this.#db.get(
          `update session set is_active = ?, is_archived = ?, updated_at = ?, usage = ?, ran_ms = ?, tool_calls = ?,
            message_count = ?, turn_count = ?, last_seq = ?, last_text = ?, retained_bytes = retained_bytes + ?
            where id = ? returning retained_bytes, first_seq`,
          row.isActive ? 1 : 0,
          row.isArchived ? 1 : 0,
          row.updatedAt,
          ...countsOf(row),
          addedBytes,
          row.id,
        )
    if (kept !== undefined && addedBytes > 0) {
      this.#trim(row, retain, { bytes: Number(kept.retained_bytes), first: Number(kept.first_seq) })
    }
  }

  /** Of a commit that is repeated, chunks may be here, or have gone again. Returns the bytes that were not counted yet. */
  #addChunks(id: string, chunks: readonly Chunk[]): number {
    let size = 0
    for (const { first, last, turn, bytes } of chunks) {
      const sql = `insert into chunk select ?1, ?2, ?3, ?4, ?5
        where ?3 >= (select first_seq from session where id = ?1) on conflict (session, first) do nothing`
      if (this.#db.run(sql, id, first, last, turn, bytes) > 0) size += bytes.length
    }
    return size
  }

  /** Whole chunks go, the oldest first; what is left may be a little less than is allowed. */
  #trim(
    { id, lastSeq }: SessionRow,
    { events, bytes }: SessionWrite['retain'],
    kept: { bytes: number; first: number },
  ): void {
    let { bytes: left, first } = kept
    if (left <= bytes && lastSeq - first + 1 <= events) return
    // One by one: the driver would read a hundred at once, and there is seldom more than one to go.
    const oldest =
      'select last, length(frames) as size from chunk where session = ? and first >= ? order by first limit 1'
    for (let i = 0; i < SLICE && (left > bytes || lastSeq - first + 1 > events); i++) {
      const chunk = this.#db.get(oldest, id, first)
      // The newest is never more than was allowed for a moment.
      if (chunk === undefined || chunk.last === lastSeq) break
      left -= Number(chunk.size)
      first = Number(chunk.last) + 1
    }
    this.#db.run('delete from chunk where session = ? and first < ?', id, first)
    this.#db.run('update session set retained_bytes = ?, first_seq = ? where id = ?', left, first, id)
  }

  #trimInteractions(id: string): void {
    this.#db.run(
      `delete from interaction where session = ?1 and json_extract(data, '$.terminal') is not null and n <= (
        select n from interaction where session = ?1 order by n desc limit 1 offset ?2)`,
      id,
      INTERACTIONS_KEPT,
    )
  }

  #remove(id: string): void {
    const row = this.#db.get('select ordinal from session where id = ?', id)
    if (row === undefined) return
    this.#db.run(
      `insert into tombstone select id, last_seq from session where id = ? and last_seq > 0
        on conflict (id) do update set last_seq = max(last_seq, excluded.last_seq)`,
      id,
    )
    this.#db.run('delete from label where ordinal = ?', row.ordinal)
    for (const table of ['turn', 'message', 'chunk', 'interaction', 'key']) {
      this.#db.run(`delete from ${table} where session = ?`, id)
    }
    this.#db.run('delete from session where ordinal = ?', row.ordinal)
  }

  #named(name: string): SessionRow | undefined {
    return this.#sessionBy('select * from session where name = ? and is_archived = 0', JSON.stringify(name))
  }

  #sessionBy(sql: string, value: string): SessionRow | undefined {
    return this.#db.guarded(() => {
      const row = this.#db.get(sql, value)
      return row === undefined ? undefined : toSession(row)
    })
  }

  /** Where bytes count, sizes are read first: they stand beside what is long, which is then left alone. */
  #page<T>(from: string, id: string, { limit, offset, maxBytes }: Page): T[] {
    return this.#db.guarded(() => {
      let fitting = limit
      if (maxBytes !== undefined) {
        const sizes = this.#db.all(`select octet_length(data) as size ${from}`, id, offset, limit)
        fitting = countWithin(
          sizes.map(({ size }) => Number(size)),
          maxBytes,
        )
      }
      return this.#parsed<T>(`select data ${from}`, id, offset, fitting)
    })
  }

  #parsed<T>(sql: string, ...values: unknown[]): T[] {
    return this.#db.guarded(() => this.#db.all(sql, ...values).map(({ data }) => JSON.parse(String(data)) as T))
  }
}
