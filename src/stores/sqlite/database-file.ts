import Database from 'libsql'
import { type SessionError, StoreRefusedError, StoreUnavailableError } from '../../core/errors.ts'
import { migrations } from './migrations.ts'

export interface Row {
  [column: string]: unknown
}

/** The file, which is made if need be. */
export function opened(path: string): Database.Database {
  try {
    return new Database(path)
  } catch (cause) {
    throw new Error(`${path} cannot be opened; its folder has to be there, and to be writable`, { cause })
  }
}

/** A lock of its own: that of the file itself is only given back when every statement was collected as garbage. */
export function locked(path: string): Database.Database {
  const lock = opened(`${path}-lock`)
  try {
    lock.exec('begin exclusive')
    return lock
  } catch (cause) {
    lock.close()
    throw new Error(`${path} is in use by another process`, { cause })
  }
}

/** Throws for a file that is no database, or no store of ours where it may not be a new one. */
export function assertOurs(db: Database.Database, path: string, mayBeNew: boolean): void {
  const isOurs = () => db.prepare("select name from sqlite_master where name = 'migration'").get() !== undefined
  let found: boolean
  try {
    found = isOurs()
  } catch (cause) {
    throw new TypeError(`${path} is no database of Suricate`, { cause })
  }
  if (!found && !mayBeNew) throw new TypeError(`${path} is no database of Suricate`)
}

/** Brings the file up to date. Throws for one that a newer version has made. */
export function migrate(db: Database.Database, path: string): void {
  db.exec('create table if not exists migration (name text primary key, applied_at text not null) strict')
  const applied = (db.prepare('select name from migration order by name').all() as Row[]).map(({ name }) =>
    String(name),
  )
  const known = migrations.map(({ name }) => name)
  const newer = applied.find((name) => !known.includes(name))
  if (newer !== undefined) {
    db.close()
    throw new Error(
      `${path} was made by a newer version of Suricate (${newer}); run that one, or begin with another file`,
    )
  }
  for (const { name, sql } of migrations) {
    if (applied.includes(name)) continue
    db.exec('begin immediate')
    try {
      db.exec(sql)
      db.prepare('insert into migration values (?, ?)').run(name, new Date().toISOString())
      db.exec('commit')
    } catch (error) {
      rollback(db)
      throw error
    }
  }
}

/** After some errors, such as a full disk, SQLite has rolled back by itself. What went wrong is the error before. */
export function rollback(db: Database.Database): void {
  if (db.inTransaction) db.exec('rollback')
}

/** Result codes of SQLite (https://sqlite.org/rescode.html) that say nothing about the values of the statement. */
const UNAVAILABLE = new Set([
  ...[2, 3, 4, 5, 6, 7, 8, 9], // INTERNAL, PERM, ABORT, BUSY, LOCKED, NOMEM, READONLY, INTERRUPT
  ...[10, 11, 13, 14, 15, 17], // IOERR, CORRUPT, FULL, CANTOPEN, PROTOCOL, SCHEMA
  ...[21, 22, 23, 26], // MISUSE, NOLFS, AUTH, NOTADB
])

/** Whether the file cannot be used, or SQLite, or its driver, refuses this one statement. */
export function storeError(db: Database.Database, error: unknown): SessionError {
  const { rawCode } = error as { rawCode?: number }
  // The low byte is the primary code.
  const isUnavailable = !db.open || (rawCode !== undefined && UNAVAILABLE.has(rawCode & 0xff))
  return isUnavailable ? new StoreUnavailableError(error) : new StoreRefusedError(error)
}
