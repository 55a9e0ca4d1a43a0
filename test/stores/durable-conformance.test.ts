import Database from 'libsql'
import { expect, test } from 'vitest'
import { storeKinds } from '../../src/stores/index.ts'
import { durableStoreConformance } from '../conformance/durable-store.ts'
import { durableStores } from '../durable/stores.ts'
import { sharedPostgres } from '../helpers/postgres.ts'

const run: Record<string, (url: string, sql: string) => Promise<void>> = {
  sqlite: async (url, statements) => {
    const db = new Database(url.slice('sqlite:'.length))
    db.exec(statements)
    db.close()
  },
  postgres: async (url, statements) => {
    await (await sharedPostgres()).as(new URL(url).pathname.slice(1), (sql) => sql.unsafe(statements))
  },
}

for (const [name, newUrl] of Object.entries(durableStores)) {
  durableStoreConformance(name, { newUrl, run: run[name] ?? (() => Promise.reject()) })
}

test('every durable store there is is asked', () => {
  const durable = Object.keys(storeKinds).filter((scheme) => storeKinds[scheme]?.durable !== undefined)
  expect(durable).toEqual([...Object.keys(durableStores), 'postgresql'])
})
