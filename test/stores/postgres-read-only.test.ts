import { expect, test } from 'vitest'
import { createIdle, expectProblem } from '../helpers/contract.ts'
import { until } from '../helpers/http.ts'
import { sharedPostgres } from '../helpers/postgres.ts'
import { ownServer } from '../helpers/suite.ts'

test('connections to a database that takes reads alone are dropped, so that the server finds the one that takes writes', async () => {
  const server = await sharedPostgres()
  const url = await server.newDatabase()
  const name = new URL(url).pathname.slice(1)
  const { api } = await ownServer({ STORE_URL: url })
  const id = await createIdle(api, { agent: 'echo' })
  const become = (mode: 'on' | 'off') =>
    server.as('postgres', (sql) => sql.unsafe(`alter database ${name} set default_transaction_read_only = ${mode}`))
  await become('on')
  await server.as('postgres', (sql) =>
    sql.unsafe(`select pg_terminate_backend(pid) from pg_stat_activity where datname = '${name}'`),
  )
  const connections = async () => {
    const rows = await server.as('postgres', (sql) =>
      sql.unsafe(`select sessions::int from pg_stat_database where datname = '${name}'`),
    )
    return Number(rows[0]?.sessions)
  }
  const before = await connections()
  await until('connections that take reads alone are dropped again and again', async () => {
    return (await connections()) >= before + 3
  })
  await until('the server knows', async () => (await api.get('/ready')).status === 503)
  expectProblem(await api.post(`/sessions/${id}/turns`, { prompt: 'x' }), 503, 'STORE_UNAVAILABLE')
  // Connections keep the mode in which they began.
  await become('off')
  await until('the server is ready', async () => (await api.get('/ready')).status === 200)
  expect((await api.post(`/sessions/${id}/turns`, { prompt: 'x' })).status).toBe(200)
})
