import { disconnect, inTime, openWriter, type Sql } from './connections.ts'
import { migrations } from './migrations.ts'
import type { Target } from './target.ts'
import { writerFunctions } from './writer-functions.ts'

/** "Suricate" in ASCII. */
const LOCK = BigInt(`0x${Buffer.from('Suricate').toString('hex')}`).toString()

interface OpenWriter {
  signal?: AbortSignal
  create?: boolean
}

/** The one connection that writes, with the functions that it calls. */
export class Writer {
  readonly #sql: Sql
  /** Rejects when the connection is lost: what was under way on it may never be answered. */
  readonly #lost: Promise<never>
  #isLost = false

  private constructor(target: Target) {
    let lose = (_: Error) => {}
    this.#lost = new Promise((_, reject) => {
      lose = reject
    })
    this.#lost.catch(() => {})
    this.#sql = openWriter(target, () => {
      this.#isLost = true
      lose(new Error('The connection was lost'))
    })
  }

  /**
   * Connects and brings the schema up to date. Rejects when `signal` aborts, and without `create` where there is no schema.
   */
  static async open(target: Target, { signal, create = true }: OpenWriter = {}): Promise<Writer> {
    const writer = new Writer(target)
    const close = () => void writer.close()
    signal?.addEventListener('abort', close)
    try {
      if (!create) await writer.#assertUsed()
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

  async #assertUsed(): Promise<void> {
    const [found] = await this.#run("select to_regclass('migration') as name")
    if (found?.name === null) throw new SchemaError(`${this.#place} has no tables of Suricate`)
  }

  /** One server at a time; the others find it done. */
  async #migrate(): Promise<void> {
    await this.#run(`select pg_advisory_lock(${LOCK})`)
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
    await this.#run(`select pg_advisory_unlock(${LOCK})`)
  }

  async #run(sql: string): Promise<Record<string, unknown>[]> {
    // The driver connects anew by itself, and then this is not the connection that has the functions.
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
