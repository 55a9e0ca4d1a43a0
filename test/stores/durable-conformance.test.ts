import Database from 'libsql'
import { expect, test } from 'vitest'
import { storeKinds } from '../../src/stores/index.ts'
import { durableStoreConformance } from '../conformance/durable-store.ts'
import { durableStores } from '../durable/stores.ts'
import { sharedPostgres } from '../helpers/postgres.ts'

const MIGRATION = "insert into migration values ('9999-newer', '')"

const makeNewer: Record<string, (url: string) => Promise<void>> = {
  sqlite: async (url) => {
    const db = new Database(url.slice('sqlite:'.length))
    db.exec(MIGRATION)
    db.close()
  },
  postgres: async (url) => {
    await (await sharedPostgres()).as(new URL(url).pathname.slice(1), (sql) => sql.unsafe(MIGRATION))
  },
}

for (const [name, newUrl] of Object.entries(durableStores)) {
  durableStoreConformance(name, { newUrl, makeNewer: makeNewer[name] ?? (() => Promise.reject()) })
}

test('every durable store there is is asked', () => {
  const durable = Object.keys(storeKinds).filter((scheme) => storeKinds[scheme]?.durable !== undefined)
  expect(durable).toEqual([...Object.keys(durableStores), 'postgresql'])
})
