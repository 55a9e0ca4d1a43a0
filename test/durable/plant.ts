import Database from 'libsql'
import postgres from 'postgres'
import { onTestFinished } from 'vitest'

const TIMES = ['insert', 'update']

/**
 * Has the database itself refuse to write rows of a `table` that meet a condition on `new`, until the end of the test at
 * the latest. Resolves with what lets it take them again.
 */
export async function plant(storeUrl: string, table: string, condition: string): Promise<() => Promise<void>> {
  const [sow, weed] = storeUrl.startsWith('sqlite:') ? inSqlite(table, condition) : inPostgres(table, condition)
  await execute(storeUrl, sow)
  let weeded: Promise<void> | undefined
  const end = () => (weeded ??= execute(storeUrl, weed))
  onTestFinished(end)
  return end
}

function inSqlite(table: string, condition: string): [string, string] {
  const sow = TIMES.map(
    (time) => `create trigger planted_${time} before ${time} on ${table} when ${condition}
      begin select raise(abort, 'planted'); end;`,
  )
  return [sow.join(''), TIMES.map((time) => `drop trigger planted_${time};`).join('')]
}

function inPostgres(table: string, condition: string): [string, string] {
  return [
    `create function planted() returns trigger language plpgsql as $$ begin raise exception 'planted'; end $$;
    create trigger planted before insert or update on ${table} for each row when (${condition})
      execute function planted()`,
    `drop trigger planted on ${table}; drop function planted`,
  ]
}

async function execute(storeUrl: string, sql: string): Promise<void> {
  if (storeUrl.startsWith('sqlite:')) {
    const db = new Database(storeUrl.slice('sqlite:'.length))
    db.exec(`pragma busy_timeout = 5000; ${sql}`)
    db.close()
    return
  }
  const db = postgres(storeUrl, { max: 1, onnotice: () => {} })
  await db.unsafe(sql)
  await db.end()
}
