import { randomUUID } from 'node:crypto'
import type { Claim, Cluster, Command, News, Notice, Position, Reply } from '../../core/cluster.ts'
import { LEASE_MS } from '../../core/cluster.ts'
import type { KeyRow } from '../../core/durable-store.ts'
import { disconnect, inTime, NoAnswerError, openControl, type Sql } from './connections.ts'
import { toChunk, toKey, toSession } from './rows.ts'
import { isReadOnly, storeError } from './store-error.ts'
import type { Target } from './target.ts'
import { CHANNEL, digestOf } from './writer-functions.ts'

type Row = Record<string, unknown>
type Write = (sql: string, values: unknown[]) => Promise<Row[]>

const LIVE = `lease_until > clock_timestamp()`
const PROLONGED = `clock_timestamp() + interval '${LEASE_MS} milliseconds'`
/** Less than a lease: who cannot be reached is not there. */
const ANSWER_MS = 2_000
/** Of one session, so much at a time. */
const NEWS_CHUNKS = 256

/**
 * Several servers over one database. Notices name sessions and servers, nothing else; whoever reads one looks into the
 * tables. Claims go over the connection that commits, so that they come after what was written before.
 */
export class PostgresCluster implements Cluster {
  readonly id = randomUUID()
  /** Somebody hears what is announced. */
  isHeard = false
  readonly #target: Target
  readonly #write: Write
  #control: Sql
  #hear: ((notice: Notice) => void) | undefined
  #isClosed = false

  constructor(target: Target, write: Write) {
    this.#target = target
    this.#write = write
    this.#control = openControl(target)
  }

  async join(hear: (notice: Notice) => void): Promise<void> {
    await this.beat()
    this.#hear = hear
    await this.#listen(this.#control)
  }

  async beat(): Promise<number> {
    const rows = await this.#run(
      `with mine as (
        insert into node values ($1::uuid, ${PROLONGED})
        on conflict (id) do update set lease_until = excluded.lease_until
      )
      select count(*) as others from node where id <> $1::uuid and ${LIVE}`,
      [this.id],
    )
    const others = Number(rows[0]?.others)
    this.isHeard = others > 0
    return others
  }

  async leave(): Promise<void> {
    await this.#run(
      `with gone as (delete from node where id = $1::uuid),
        free as (update session set owner = null where owner = $1::uuid)
      select pg_notify('${CHANNEL}', 'l ' || $1::uuid)`,
      [this.id],
    )
  }

  get isJoined(): boolean {
    return this.#hear !== undefined
  }

  async close(): Promise<void> {
    this.#isClosed = true
    await disconnect(this.#control)
  }

  async claim(sessionIds: readonly string[]): Promise<Claim[]> {
    const rows = await this.#write('select * from pg_temp.claim_sessions($1, $2)', [sessionIds, this.id])
    return rows.map(({ id, before, epoch, owner }) => ({
      id: String(id),
      before: Number(before),
      epoch: epoch === null ? undefined : Number(epoch),
      owner: owner === null ? undefined : String(owner),
    }))
  }

  async release(sessionId: string, epoch: number): Promise<void> {
    const values = [sessionId, epoch, this.id]
    await this.#run('update session set owner = null where id = $1 and epoch = $2 and owner = $3', values)
  }

  async owned(): Promise<string[]> {
    const rows = await this.#run('select id from session where owner = $1', [this.id])
    return rows.map(({ id }) => String(id))
  }

  async news(positions: readonly Position[]): Promise<News[]> {
    const rows = await this.#run(
      `select s.*, c.first, c.last, c.turn, c.frames
      from unnest($1::text[], $2::bigint[]) as w (id, after) join session s on s.id = w.id
      left join lateral (
        select first, last, turn, frames from chunk
        where session = s.id and first > w.after order by first limit ${NEWS_CHUNKS}
      ) as c on true
      order by s.ordinal, c.first`,
      [positions.map(({ id }) => id), positions.map(({ after }) => after)],
    )
    const news = new Map<unknown, { row: News['row']; chunks: News['chunks'][number][] }>()
    for (const row of rows) {
      const one = news.get(row.id) ?? { row: toSession(row), chunks: [] }
      news.set(row.id, one)
      if (row.first !== null) one.chunks.push(toChunk(row))
    }
    return [...news.values()]
  }

  async ask(owner: string, { sessionId, operation, args }: Command): Promise<number> {
    const rows = await this.#run(
      `with asked as (insert into command (owner, session, operation, args) values ($1::uuid, $2, $3, $4) returning n)
      select n, pg_notify('${CHANNEL}', 'c ' || $1::uuid) from asked`,
      [owner, sessionId, operation, args],
    )
    return Number(rows[0]?.n)
  }

  async replies(numbers: readonly number[]): Promise<Reply[]> {
    const rows = await this.#run(
      `with answered as (delete from command where n = any ($1::bigint[]) and reply is not null returning n, reply)
      select n, reply from answered
      union all
      select n, null from command c where n = any ($1::bigint[]) and reply is null
        and not exists (select from node where id = c.owner and ${LIVE})`,
      [numbers],
    )
    return rows.map(({ n, reply }) => ({ number: Number(n), reply: reply === null ? undefined : String(reply) }))
  }

  async withdraw(number: number): Promise<boolean> {
    return (await this.#run('delete from command where n = $1 and not is_taken returning n', [number])).length > 0
  }

  async commands(): Promise<(Command & { number: number })[]> {
    const rows = await this.#run(
      `with taken as (
        update command set is_taken = true where owner = $1 and not is_taken returning n, session, operation, args
      )
      select * from taken order by n`,
      [this.id],
    )
    return rows.map(({ n, session, operation, args }) => ({
      number: Number(n),
      sessionId: String(session),
      operation: String(operation),
      args: String(args),
    }))
  }

  async reply(number: number, reply: string): Promise<void> {
    await this.#run(
      `with answered as (update command set reply = $2 where n = $1 returning n)
      select pg_notify('${CHANNEL}', 'r ' || n) from answered`,
      [number, reply],
    )
  }

  async reserve(entryKey: string, fingerprint: string): Promise<'reserved' | 'taken' | KeyRow> {
    const entry = digestOf(entryKey)
    const kept = JSON.stringify(fingerprint)
    const held = await this.#run(
      `insert into reservation values ($1, $2, $3)
      on conflict (entry) do update set owner = excluded.owner, fingerprint = excluded.fingerprint
        where not exists (select from node where id = reservation.owner and ${LIVE})
      returning entry`,
      [entry, kept, this.id],
    )
    // Read after the key is ours: whoever had it before has written what came of it.
    const [row] = await this.#run('select * from key where entry = $1', [entry])
    if (row !== undefined) {
      if (held.length > 0) await this.unreserve(entryKey)
      return toKey(entryKey, row)
    }
    return held.length > 0 ? 'reserved' : 'taken'
  }

  async unreserve(entryKey: string): Promise<void> {
    await this.#run('delete from reservation where entry = $1 and owner = $2', [digestOf(entryKey), this.id])
  }

  async takeSlot(max: number): Promise<number | undefined> {
    const take = () =>
      this.#run(
        `update slot set owner = $1 where i = (
          select i from slot where i < $2 and (
            owner is null or not exists (select from node where id = slot.owner and ${LIVE})
          ) order by i limit 1 for update skip locked
        ) returning i`,
        [this.id, max],
      )
    let rows = await take()
    if (rows.length === 0) {
      const made = await this.#run(
        'insert into slot (i) select generate_series(0, $1::bigint - 1) on conflict do nothing returning i',
        [max],
      )
      if (made.length > 0) rows = await take()
    }
    return rows[0] === undefined ? undefined : Number(rows[0].i)
  }

  async freeSlot(slot: number): Promise<void> {
    await this.#run('update slot set owner = null where i = $1 and owner = $2', [slot, this.id])
  }

  #noticeOf(payload: string): Notice | undefined {
    const [kind, about, ...sessionIds] = payload.split(' ')
    if (kind === 'e') return about === this.id ? undefined : { kind: 'events', sessionIds }
    if (kind === 'c') return about === this.id ? { kind: 'command' } : undefined
    if (kind === 'r') return { kind: 'reply' }
    return kind === 'l' && about !== this.id ? { kind: 'left' } : undefined
  }

  async #listen(control: Sql): Promise<void> {
    const hear = (notice: Notice | undefined) => {
      if (notice !== undefined) this.#hear?.(notice)
    }
    try {
      // Connects again by itself, and says so: meanwhile something may have been missed.
      await inTime(
        control.listen(
          CHANNEL,
          (payload) => hear(this.#noticeOf(payload)),
          () => hear({ kind: 'gap' }),
        ),
      )
    } catch (error) {
      throw storeError(error)
    }
  }

  async #run(sql: string, values: unknown[]): Promise<Row[]> {
    const control = this.#control
    try {
      return await inTime(control.unsafe(sql, values as never[], { prepare: true }), ANSWER_MS)
    } catch (error) {
      if (error instanceof NoAnswerError || isReadOnly(error)) this.#replace(control)
      throw storeError(error)
    }
  }

  /** Where one connection is dead the others may be, and would take as long to show it. */
  #replace(control: Sql): void {
    if (this.#control !== control || this.#isClosed) return
    this.#control = openControl(this.#target)
    if (this.#hear !== undefined) void this.#listen(this.#control).catch(() => {})
    void disconnect(control, 0)
  }
}
