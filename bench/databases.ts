import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Database from 'libsql'
import postgres from 'postgres'
import { TestPostgres } from '../test/helpers/postgres.ts'

/** Sessions go in by SQL, so many at a time. */
const FILL_STEP = 10_000

/** Where durable contestants keep their sessions: a file or a database of its own for each server. */
export class Databases {
  readonly #folder = mkdtempSync(join(tmpdir(), 'suricate-bench-stores-'))
  #postgres: Promise<TestPostgres> | undefined
  #files = 0

  /** For `sqlite:` and `postgres:` a place that nobody has used; any other URL is what it is. */
  async place(url: string): Promise<string> {
    if (url === 'sqlite:') return `sqlite:${join(this.#folder, `${++this.#files}.db`)}`
    if (url !== 'postgres:') return url
    this.#postgres ??= TestPostgres.start()
    return (await this.#postgres).newDatabase()
  }

  /** Puts idle sessions there, behind the back of whoever serves them. */
  async fill(url: string, count: number): Promise<void> {
    const columns = `(id, is_active, created_at, updated_at, metadata, usage, ran_ms, tool_calls, message_count, turn_count,
      last_seq`
    const rest = `1, 1, '{"agent":"bench"}', '{"input_tokens":0,"output_tokens":0,"total_tokens":0}', 0, 0, 0, 0, 0`
    if (url.startsWith('sqlite:')) {
      const db = new Database(url.slice('sqlite:'.length))
      for (let from = 0; from < count; from += FILL_STEP) {
        db.exec(`insert into session ${columns}, is_archived)
          with recursive n(i) as (select ${from} union all select i + 1 from n where i < ${from + FILL_STEP - 1})
          select 'stored-' || i, 0, ${rest}, 0 from n`)
      }
      db.close()
      return
    }
    const sql = postgres(url, { max: 1, onnotice: () => {} })
    await sql.unsafe(`insert into session ${columns})
      select 'stored-' || i, false, ${rest} from generate_series(1, ${count}) as i`)
    await sql.unsafe('analyze session')
    await sql.end()
  }

  async remove(): Promise<void> {
    await (await this.#postgres)?.remove()
    rmSync(this.#folder, { recursive: true, force: true })
  }
}
