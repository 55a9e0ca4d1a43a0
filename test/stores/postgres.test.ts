import { randomUUID } from 'node:crypto'
import net, { type AddressInfo, type Socket } from 'node:net'
import { inspect } from 'node:util'
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest'
import { loadConfig } from '../../src/config.ts'
import type { DurableStore, SessionWrite } from '../../src/core/durable-store.ts'
import { openDurableStore, openStore } from '../../src/stores/index.ts'
import { until } from '../helpers/http.ts'
import { PASSWORD, TestPostgres } from '../helpers/postgres.ts'
import { SWEEP_NOTHING, sessionWrite } from '../helpers/rows.ts'

let server: TestPostgres
/** What happens outside of any call; there must be none of it. */
const stray: unknown[] = []
const note = (error: unknown) => stray.push(error)

beforeAll(async () => {
  process.on('unhandledRejection', note).on('uncaughtExceptionMonitor', note)
  server = await TestPostgres.start()
})

afterAll(async () => {
  await server.remove()
  process.off('unhandledRejection', note).off('uncaughtExceptionMonitor', note)
  expect(stray).toEqual([])
})

async function open(url: string): Promise<DurableStore> {
  const store = (await openDurableStore(url)) as DurableStore
  onTestFinished(() => store.close())
  return store
}

function writeOf(id: string): SessionWrite {
  return sessionWrite({ id }, { retain: { events: 100, bytes: 1_000 } })
}

const unavailable = { code: 'STORE_UNAVAILABLE' }
const outcome = (answer: Promise<unknown>) =>
  answer.then(
    () => undefined,
    (error: unknown) => error,
  )
const succeeds = async (answer: Promise<unknown>) => (await outcome(answer)) === undefined
const total = async (store: DurableStore) => (await store.sessions({ limit: 0, offset: 0 })).total

/** Something between a store and the database that can stop passing anything on. */
async function between(url: string): Promise<{ url: string; freeze(): void; cut(): void }> {
  const sockets = new Set<Socket>()
  let isFrozen = false
  const proxy = net.createServer((socket) => {
    const onward = net.connect(Number(new URL(url).port), '127.0.0.1')
    for (const [one, other] of [
      [socket, onward],
      [onward, socket],
    ] as const) {
      sockets.add(one)
      if (!isFrozen) one.pipe(other)
      one.on('error', () => other.destroy()).on('close', () => other.destroy())
    }
  })
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve))
  const cut = () => {
    for (const socket of sockets) socket.destroy()
    sockets.clear()
  }
  onTestFinished(() => {
    cut()
    proxy.close()
  })
  const through = new URL(url)
  through.port = String((proxy.address() as AddressInfo).port)
  return {
    url: through.href,
    freeze: () => {
      isFrozen = true
      for (const socket of sockets) socket.unpipe().pause()
    },
    cut,
  }
}

test('a database that goes away and comes back', async () => {
  const store = await open(await server.newDatabase())
  const first = randomUUID()
  await store.commit([writeOf(first)])
  await server.stop()
  const second = [writeOf(randomUUID())]
  for (let i = 0; i < 3; i++) {
    await expect(store.commit(second)).rejects.toMatchObject(unavailable)
    await expect(store.session(first)).rejects.toMatchObject(unavailable)
    await expect(store.sweep(SWEEP_NOTHING)).rejects.toMatchObject(unavailable)
  }
  await server.start()
  await until('commits work again', () => succeeds(store.commit(second)))
  await until('reads work again', () => succeeds(store.session(first)))
  expect(await total(store)).toBe(2)
})

test('a database that goes away while it is used', async () => {
  const store = await open(await server.newDatabase())
  let isDone = false
  let done = 0
  const failures = new Set<unknown>()
  const working = (async () => {
    while (!isDone) {
      const write = [writeOf(randomUUID())]
      const answers = await Promise.all([outcome(store.commit(write)), outcome(store.session('x'))])
      for (const error of answers) if (error !== undefined) failures.add((error as { code?: string }).code)
      if (answers[0] === undefined) done++
      else await until('the same is written', () => succeeds(store.commit(write)).then((is) => is && ++done > 0))
    }
  })()
  for (let i = 0; i < 3; i++) {
    const before = done
    await until('something is written', () => done > before + 5)
    await server.stop()
    await server.start()
  }
  isDone = true
  await working
  expect([...failures]).toEqual(['STORE_UNAVAILABLE'])
  await until('reads work again', () => succeeds(store.session('x')))
  expect(await total(store)).toBe(done)
})

test('a connection that is cut is made again, by a server that starts as well', async () => {
  const url = await server.newDatabase()
  const path = await between(url)
  const store = await open(path.url)
  await store.commit([writeOf(randomUUID())])
  path.cut()
  await until('commits work again', () => succeeds(store.commit([writeOf(randomUUID())])))
  await until('reads work again', () => succeeds(store.session('x')))
  const other = await open(url)
  expect(await total(other)).toBe(2)
})

test('a network that passes nothing on is noticed, and does not keep a store from closing', async () => {
  const path = await between(await server.newDatabase())
  const store = await open(path.url)
  await store.commit([writeOf(randomUUID())])
  await store.session('x')
  path.freeze()
  const began = performance.now()
  const answers = await Promise.all([outcome(store.commit([writeOf(randomUUID())])), outcome(store.session('x'))])
  expect(answers).toMatchObject([unavailable, unavailable])
  expect(performance.now() - began).toBeLessThan(20_000)
  const last = outcome(store.commit([writeOf(randomUUID())]))
  const closing = performance.now()
  await store.close()
  expect(performance.now() - closing).toBeLessThan(5_000)
  expect(await last).toMatchObject(unavailable)
}, 60_000)

test('nobody is told the password, whatever goes wrong', async () => {
  const url = await server.newDatabase()
  const place = new URL(url)
  const wrong = (change: (url: URL) => void) => {
    const copy = new URL(url)
    change(copy)
    return copy.href
  }
  const store = await open(url)
  const closed = await open(await server.newDatabase())
  await closed.close()
  const failures = [
    openDurableStore(wrong((one) => (one.username = 'nobody'))),
    openDurableStore(wrong((one) => (one.pathname = '/none'))),
    openDurableStore(wrong((one) => (one.port = '1'))),
    openDurableStore(url.replace(`:${place.port}`, ':99999999')),
    openDurableStore(`${url}?target_session_attrs=odd`),
    store.commit([writeOf('\u0000')]),
    closed.commit([writeOf('x')]),
    closed.session('x'),
    (async () => openStore(url, { events: 1, bytes: 1 }))(),
    openDurableStore(url.replace('postgres:', 'postgress:')),
    (async () => loadConfig({ env: { STORE_URL: url.replace('postgres:', 'postgress:') } }))(),
  ]
  for (const error of await Promise.all(failures.map(outcome))) {
    expect(error).toBeInstanceOf(Error)
    expect(inspect(error, { depth: 20 })).not.toContain(PASSWORD)
    for (let one = error; one instanceof Error; one = one.cause) {
      expect(one.message).not.toContain(`postgres:${PASSWORD.slice(0, 8)}`)
      expect(one.message).not.toContain(PASSWORD)
    }
  }
}, 60_000)
