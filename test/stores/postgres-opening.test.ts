import { chownSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { openDurableStore } from '../../src/stores/index.ts'
import { until } from '../helpers/http.ts'
import { PASSWORD, sharedPostgres, type TestPostgres } from '../helpers/postgres.ts'
import { startServer } from '../helpers/server.ts'
import { CERTIFICATE, KEY } from './certificate.ts'

let server: TestPostgres
let base: string
const folder = mkdtempSync(join(tmpdir(), 'suricate-tls-'))
const ROOT = join(folder, 'root.pem')

beforeAll(async () => {
  writeFileSync(ROOT, CERTIFICATE)
  server = await sharedPostgres()
  base = await server.newDatabase()
})

afterAll(() => rmSync(folder, { recursive: true }))

let roles = 0
const newRole = () => `guest_${process.pid}_${Date.now()}_${++roles}`

/** The database's URL with one part of it changed. */
function changed(change: (url: URL) => void): string {
  const url = new URL(base)
  change(url)
  return url.href
}

async function reasonOf(url: string): Promise<string> {
  const opening = openDurableStore(url)
  opening.then((store) => store?.close()).catch(() => {})
  const error = await opening.then(
    () => undefined,
    (reason: Error) => reason,
  )
  return error?.message ?? 'opened'
}

async function setTls(value: 'on' | 'off'): Promise<void> {
  await server.as('postgres', async (sql) => {
    await sql.unsafe(`alter system set ssl = ${value}`)
    await sql.unsafe('select pg_reload_conf()')
  })
}

/** Opens a store and asks what its connections are like. */
async function openedWith(query: string, url = base) {
  const store = await openDurableStore(`${url}?${query}`)
  onTestFinished(() => store?.close())
  return server.as(new URL(url).pathname.slice(1), (sql) =>
    sql.unsafe(
      `select application_name, ssl from pg_stat_activity join pg_stat_ssl using (pid)
      where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'`,
    ),
  )
}

describe('a database that cannot be opened is told of with the cause and without the password', () => {
  const failures: [string, () => string | Promise<string>, RegExp][] = [
    ['a wrong password', () => changed((url) => (url.password = 'other-secret')), /password authentication failed/],
    [
      'an unknown user',
      () => changed((url) => (url.username = 'nobody')),
      /as user nobody: password authentication failed/,
    ],
    ['an unknown database', () => changed((url) => (url.pathname = '/none')), /"none" does not exist; create it first/],
    ['a closed port', () => changed((url) => (url.port = '1')), /127\.0\.0\.1:1 .*ECONNREFUSED.*nothing listens there/],
    [
      'a schema that is not there',
      () => `${base}?schema=none`,
      /no schema has been selected.*create the schema of the search_path first/,
    ],
    [
      'a schema in which the user may create nothing',
      async () => {
        const role = newRole()
        await server.as('postgres', (sql) => sql.unsafe(`create role ${role} login password '${PASSWORD}'`))
        return changed((url) => (url.username = role))
      },
      /permission denied for schema public; the user needs CREATE/,
    ],
    ['a server without TLS', () => `${base}?sslmode=require`, /the server may have no TLS: then set sslmode=disable/],
  ]

  test.each(failures)('%s', async (_, url, reason) => {
    const given = await url()
    const said = await reasonOf(given)
    expect(said).toMatch(reason)
    expect(said).toMatch(/^Database \w+ at 127\.0\.0\.1:\d+ cannot be opened as user \w+: /)
    expect(said).not.toContain(new URL(given).password)
  })

  test('a host that accepts and says nothing, within connect_timeout', async () => {
    const silent = createServer().listen(0, '127.0.0.1')
    onTestFinished(() => void silent.close())
    await new Promise((resolve) => silent.once('listening', resolve))
    const { port } = silent.address() as { port: number }
    const began = performance.now()
    const said = await reasonOf(changed((url) => (url.port = String(port))).concat('?connect_timeout=1'))
    expect(said).toMatch(/did not answer within connect_timeout/)
    expect(performance.now() - began).toBeLessThan(4_500)
  })

  test('tables of another user, which are only found out of when they are written to', async () => {
    const url = new URL(await server.newDatabase())
    const role = newRole()
    await openedWith('', url.href)
    await server.as(url.pathname.slice(1), (sql) =>
      sql.unsafe(`create role ${role} login password '${PASSWORD}'; grant create on schema public to ${role};
        grant select on all tables in schema public to ${role}`),
    )
    url.username = role
    await expect(startServer({ STORE_URL: url.href })).rejects.toThrow(/^STORE_URL: .*permission denied for table/)
  })

  test('the server stops its start with that sentence', async () => {
    const url = changed((parts) => (parts.password = 'other-secret'))
    await expect(startServer({ STORE_URL: url })).rejects.toThrow(
      /^STORE_URL: Database .*password authentication failed/,
    )
  })
})

test.each([
  ['foo=1', /the parameter foo, which is none of sslmode, /],
  ['pgbouncer=true', /the parameter pgbouncer/],
  ['sslmode=maybe', /sslmode one of disable, prefer, require, no-verify, verify-ca, verify-full, got "maybe"/],
  ['sslmode=allow', /sslmode/],
  ['sslmode=', /sslmode without a value/],
  ['sslmode=verify-ca&sslrootcert=/none.pem', /sslrootcert=\/none\.pem, which cannot be read: ENOENT/],
  ['sslmode=require&sslrootcert=system', /sslrootcert=system, which needs sslmode=verify-full/],
  ['channel_binding=require', /channel_binding=require, which is not supported/],
  ['channel_binding=perhaps', /channel_binding/],
  ['connect_timeout=soon', /connect_timeout a whole number/],
  ['schema=a&search_path=b', /both schema and search_path/],
  ['target_session_attrs=standby', /target_session_attrs/],
  ['port=0', /port/],
])('a URL with %s is refused, and the sentence names the parameter', async (query, reason) => {
  const said = await reasonOf(`${base}?${query}`)
  expect(said).toMatch(reason)
  expect(said).toMatch(/^STORE_URL /)
  expect(said).not.toContain(PASSWORD)
})

test.each(['pa@qq', 'pa/qq', 'pa#qq', 'pa?qq', '12/qq', '12#qq', '12?qq=1', 'pa%qq', '12/a@qq'])(
  'a password that is not encoded, as %s, is not repeated',
  async (password) => {
    const said = await reasonOf(`postgres://user:${password}@127.0.0.1:1/database`)
    expect(said).not.toContain('qq')
    if (password !== 'pa@qq') expect(said).toMatch(/^STORE_URL must be like .*%xx/)
  },
)

test('application_name, search_path, schema, options and channel_binding are heeded', async () => {
  await server.as(new URL(base).pathname.slice(1), (sql) =>
    sql.unsafe('create schema "My one"; create schema two; create schema three'),
  )
  expect(await openedWith('schema=My%20one&application_name=my%20app&channel_binding=prefer')).toEqual(
    expect.arrayContaining([{ application_name: 'my app', ssl: false }]),
  )
  await openedWith('search_path=two,public')
  await openedWith('options=-c%20search_path%3Dthree')
  const found = await server.as(new URL(base).pathname.slice(1), (sql) =>
    sql.unsafe(`select schemaname from pg_tables where tablename = 'migration' order by 1`),
  )
  expect(found.map(({ schemaname }) => schemaname)).toEqual(['My one', 'three', 'two'])
})

test('several hosts, and host, port, user, password and dbname as parameters', async () => {
  const { port, pathname, password } = new URL(base)
  const rest = `port=${port}&user=postgres&password=${password}&dbname=${pathname.slice(1)}`
  expect(await reasonOf(`postgres://?host=127.0.0.1&${rest}`)).toBe('opened')
  expect(await reasonOf(`postgresql://postgres:${password}@127.0.0.1:1,127.0.0.1:${port}${pathname}`)).toBe('opened')
  expect(await reasonOf(`${base}?target_session_attrs=read-write`)).toBe('opened')
  expect(await reasonOf(`postgres:///x?host=/none&user=u`)).toMatch(/x at \/none\/\.s\.PGSQL\.5432 .*ENOENT/)
})

describe('over TLS', () => {
  /** The same place by its name, which its certificate has, and by its address, which it has not. */
  const byName = () => changed((url) => (url.hostname = 'localhost'))

  beforeAll(async () => {
    await server.as('postgres', async (sql) => {
      const [row] = await sql.unsafe('show data_directory')
      const data = String(row?.data_directory)
      const { uid, gid } = statSync(data)
      for (const [name, text] of [
        ['server.crt', CERTIFICATE],
        ['server.key', KEY],
      ] as const) {
        writeFileSync(join(data, name), text, { mode: 0o600 })
        chownSync(join(data, name), uid, gid)
      }
    })
    await setTls('on')
    await until('TLS is on', async () => (await reasonOf(`${base}?sslmode=require`)) === 'opened')
  })

  // Other tests may have the same server.
  afterAll(() => setTls('off'))

  test.each([
    ['sslmode=disable', false],
    ['channel_binding=disable', false],
    ['sslmode=prefer', true],
    ['sslmode=require', true],
    ['ssl=true', true],
    ['sslmode=require&sslnegotiation=postgres', true],
    [`sslmode=no-verify&sslrootcert=${ROOT}`, true],
    [`sslmode=require&sslrootcert=${ROOT}`, true],
    [`sslmode=verify-ca&sslrootcert=${ROOT}`, true],
  ])('%s opens, encrypted: %s', async (query, ssl) => {
    const database = await server.newDatabase()
    const [connection] = await openedWith(query, database)
    expect(connection).toEqual({ application_name: 'suricate', ssl })
  })

  test('verify-full holds the name against the certificate', async () => {
    expect(await reasonOf(`${byName()}?sslmode=verify-full&sslrootcert=${ROOT}`)).toBe('opened')
    expect(await reasonOf(`${base}?sslmode=verify-full&sslrootcert=${ROOT}`)).toMatch(/127\.0\.0\.1/)
  })

  test.each(['verify-ca', 'verify-full'])('%s refuses a certificate that nobody vouches for', async (mode) => {
    expect(await reasonOf(`${byName()}?sslmode=${mode}`)).toMatch(/self-signed certificate; set sslrootcert/)
  })
})
