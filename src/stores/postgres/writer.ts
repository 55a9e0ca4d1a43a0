import { setTimeout as sleep } from 'node:timers/promises'
import { disconnect, inTime, openWriter, type Sql } from './connections.ts'
import { migrations } from './migrations.ts'
import { writerFunctions } from './writer-functions.ts'

/** "Suricate" in ASCII. */
const LOCK = BigInt(`0x${Buffer.from('Suricate').toString('hex')}`).toString()
/** The connection of a server that was killed may linger for so long. */
const LOCK_PATIENCE_MS = 5_000
const LOCK_EVERY_MS = 200

/**
 * The one connection that writes. It holds the database's lock, and the functions that write are there for it alone: who
 * has lost the lock cannot write.
 */
export class Writer {
  readonly #sql: Sql
  /** Rejects when the connection is lost: what was under way on it may never be answered. */
  readonly #lost: Promise<never>
  #isLost = false

  private constructor(url: string) {
    let lose = (_: Error) => {}
    this.#lost = new Promise((_, reject) => {
      lose = reject
    })
    this.#lost.catch(() => {})
    this.#sql = openWriter(url, () => {
      this.#isLost = true
      lose(new Error('The connection was lost'))
    })
  }

  /**
   * Connects, takes the lock and brings the schema up to date. Rejects when another server keeps the lock, and when
   * `signal` aborts.
   */
  static async open(url: string, signal?: AbortSignal, patienceMs = 0): Promise<Writer> {
    const writer = new Writer(url)
    const close = () => void writer.close()
    signal?.addEventListener('abort', close)
    try {
      await writer.#lock(performance.now() + patienceMs)
      await writer.#migrate()
      await writer.#run(writerFunctions)
      return writer
    } catch (error) {
      await writer.close()
      throw error
    } finally {
      signal?.removeEventListener('abort', close)
    }
  }

  /** For a server that starts. */
  static openPatiently(url: string): Promise<Writer> {
    return Writer.open(url, undefined, LOCK_PATIENCE_MS)
  }

  get isLost(): boolean {
    return this.#isLost
  }

  async call(sql: string, values: unknown[]): Promise<Record<string, unknown>[]> {
    return Promise.race([inTime(this.#sql.unsafe(sql, values as never[], { prepare: true })), this.#lost])
  }

  async close(): Promise<void> {
    const wasLost = this.#isLost
    this.#isLost = true
    await disconnect(this.#sql, wasLost ? 0 : undefined)
  }

  async #lock(until: number): Promise<void> {
    for (;;) {
      const [row] = await this.#run(`select pg_try_advisory_lock(${LOCK}) as is_ours`)
      if (row?.is_ours === true) return
      if (performance.now() >= until) throw new InUseError(this.#place)
      await sleep(LOCK_EVERY_MS)
    }
  }

  async #migrate(): Promise<void> {
    await this.#run('create table if not exists migration (name text primary key, applied_at text not null)')
    const applied = (await this.#run('select name from migration order by name')).map(({ name }) => String(name))
    const newer = applied.find((name) => !migrations.some((known) => known.name === name))
    if (newer !== undefined) {
      throw new SchemaError(
        `${this.#place} was made by a newer version of Suricate (${newer}); run that one, or begin with another database`,
      )
    }
    for (const { name, sql } of migrations) {
      if (applied.includes(name)) continue
      // Statements that are sent together are one transaction.
      await this.#run(`${sql}; insert into migration values ('${name}', '${new Date().toISOString()}')`)
    }
  }

  async #run(sql: string): Promise<Record<string, unknown>[]> {
    // The driver connects anew by itself, and then this is not the connection that has the lock.
    if (this.#isLost) throw new Error('The connection was lost')
    return Promise.race([inTime(this.#sql.unsafe(sql)), this.#lost])
  }

  /** Without the user and the password. */
  get #place(): string {
    const { host, database } = this.#sql.options
    return `Database ${database} at ${host.join(', ')}`
  }
}

/** Says so to whoever starts a server: it would not help to try again. */
export class SchemaError extends Error {}

export class InUseError extends Error {
  constructor(place: string) {
    super(`${place} is in use by another server`)
  }
}
