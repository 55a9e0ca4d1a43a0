import type Database from 'libsql'
import { type Row, rollback, storeError } from './database-file.ts'

/** A database, and the statements that were prepared in it. */
export class Statements {
  readonly #db: Database.Database
  readonly #prepared = new Map<string, Database.Statement>()

  constructor(db: Database.Database) {
    this.#db = db
  }

  /** How many rows it has changed. */
  run(sql: string, ...values: unknown[]): number {
    return this.#statement(sql).run(...values).changes
  }

  get(sql: string, ...values: unknown[]): Row | undefined {
    return this.#statement(sql).get(...values) as Row | undefined
  }

  all(sql: string, ...values: unknown[]): Row[] {
    return this.#statement(sql).all(...values) as Row[]
  }

  /** Throws a `StoreUnavailableError` or a `StoreRefusedError`. */
  guarded<T>(act: () => T): T {
    try {
      return act()
    } catch (error) {
      // The driver would run one that failed again, with the values that it had.
      this.#prepared.clear()
      throw storeError(this.#db, error)
    }
  }

  /** The same for what writes: all of it, or nothing. */
  transaction<T>(act: () => T): T {
    return this.guarded(() => {
      this.#db.exec('begin immediate')
      try {
        const result = act()
        this.#db.exec('commit')
        return result
      } catch (error) {
        rollback(this.#db)
        throw error
      }
    })
  }

  close(): void {
    this.#prepared.clear()
    this.#db.close()
  }

  #statement(sql: string): Database.Statement {
    let statement = this.#prepared.get(sql)
    if (statement === undefined) {
      statement = this.#db.prepare(sql)
      this.#prepared.set(sql, statement)
    }
    return statement
  }
}
