import http from 'node:http'
import net from 'node:net'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { SessionAgentBuilder } from '../../src/core/agent.ts'
import { createIdle } from '../helpers/contract.ts'
import { client, send, until } from '../helpers/http.ts'
import { startServer, type TestServer } from '../helpers/server.ts'
import { openStream } from '../helpers/sse.ts'
import { ownReader, streamFaults } from './followers.ts'
import { between, pooled, SEED, scale, seeded } from './support.ts'
import { WatchedStore } from './watched-store.ts'

const store = new WatchedStore('watched')

/** More than the buffers of a connection take, so that a reader who does not read is in the way for certain. */
const FLOOD_EVENTS = scale(1_300, 6_000)
const EVENT_BYTES = 8_000

/** Says far more than fits into a connection's buffers, in a short answer; looks around at every step. */
function flood(look: () => void): SessionAgentBuilder {
  return {
    name: 'flood',
    buildAgent: () => ({
      async *run() {
        for (let i = 0; i < FLOOD_EVENTS; i++) {
          yield { type: 'text_delta', delta: `${i} ${'x'.repeat(EVENT_BYTES)}` }
          if (i % 10 === 0) await new Promise((resolve) => setImmediate(resolve))
          look()
        }
        yield { type: 'text_complete', content: 'long' }
        return { text: 'long' }
      },
    }),
  }
}

/** A reader that asks for a stream and never reads a byte of it. */
function stuckReader(port: number, path: string): Promise<net.Socket> {
  const socket = net.connect({ port, host: '127.0.0.1' })
  socket.on('error', () => {})
  socket.pause()
  return new Promise((resolve) => {
    socket.once('connect', () => socket.write(`GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`, () => resolve(socket)))
  })
}

/** What readers left behind; nothing, if they are all gone. */
async function leftovers({ url, app }: TestServer): Promise<string[]> {
  const faults: string[] = []
  if (app.streams.open !== 0) faults.push(`${app.streams.open} streams open`)
  if (store.watchers !== 0) faults.push(`${store.watchers} listeners of logs`)
  const { text } = await send(`${url}/metrics`, 'GET')
  const gauge = /^suricate_stream_readers (\d+)$/m.exec(text)?.[1]
  if (gauge !== '0') faults.push(`the gauge says ${gauge}`)
  return faults
}

/** Resources of this process that a reader could have left behind. */
function resources(): Record<string, number> {
  const counts: Record<string, number> = { TCPSocketWrap: 0, Timeout: 0 }
  for (const kind of process.getActiveResourcesInfo()) if (kind in counts) counts[kind] = (counts[kind] ?? 0) + 1
  return counts
}

interface Flooded {
  faults: string[]
  /** Most bytes that the server held back for one connection. */
  mostHeld: number
}

/** A turn that says much, before readers who do not read and readers who do. */
async function floodReaders(server: TestServer, stuckCount: number): Promise<Flooded> {
  const api = client(() => server.url)
  const id = await createIdle(api, { agent: 'flood' })
  const stuck = await Promise.all(
    Array.from({ length: stuckCount }, () => stuckReader(server.port, `/sessions/${id}/events?after=0`)),
  )
  await until('the stuck readers are there', () => app(server).streams.open >= stuckCount)
  const readers = Array.from({ length: 3 }, () => ownReader(`${server.url}/sessions/${id}/events?after=0`))
  const answer = await api.post<{ text: string }>(`/sessions/${id}/turns`, { prompt: 'go' })
  await api.delete(`/sessions/${id}`)
  const seen = await Promise.all(readers)
  const { seen: all } = await ownReader(`${server.url}/sessions/${id}/events?after=0`)
  const truth = all.filter((event) => event.id !== '')
  const faults = seen.flatMap((reader) => streamFaults(reader, truth))
  if (answer.status !== 200 || answer.body.text !== 'long') faults.push(`the turn answered ${answer.status}`)
  if (truth.length !== FLOOD_EVENTS + 5) faults.push(`${truth.length} events`)
  for (const socket of stuck) socketsToLeave.push(socket)
  return { faults, mostHeld: held.most }
}

const app = (server: TestServer) => server.app
const socketsToLeave: net.Socket[] = []
const held = { most: 0 }

async function start(settings: Record<string, number>): Promise<TestServer> {
  const connections = new Set<net.Socket>()
  held.most = 0
  const agent = flood(() => {
    for (const socket of connections) held.most = Math.max(held.most, socket.writableLength)
  })
  const server = await startServer(
    { STORE_URL: 'watched:', RETAIN_BYTES: 268_435_456, ...settings },
    { agents: [agent] },
  )
  server.app.server.on('connection', (socket: net.Socket) => {
    connections.add(socket)
    socket.once('close', () => connections.delete(socket))
  })
  return server
}

afterAll(() => {
  for (const socket of socketsToLeave) socket.destroy()
})

describe('readers who never read', () => {
  const STUCK = scale(15, 200)
  let server: TestServer
  let before: Record<string, number>
  let flooded: Flooded

  beforeAll(async () => {
    server = await start({ STREAM_STALL_MS: 1_500, STREAM_HEARTBEAT_MS: 200 })
    await send(`${server.url}/health`, 'GET')
    before = resources()
    flooded = await floodReaders(server, STUCK)
  }, 120_000)
  afterAll(() => server.close())

  test('slow neither the turn nor the readers who read: those get every event', () => {
    expect(flooded.faults).toEqual([])
  })

  test('cost the server no more than a page of the log each', () => {
    expect(flooded.mostHeld).toBeGreaterThan(0)
    expect(flooded.mostHeld).toBeLessThan(1_048_576)
  })

  test('are cut off one and all, and leave no stream, no listener, no socket and no timer behind', async () => {
    await until('all readers are gone', async () => (await leftovers(server)).length === 0)
    for (const socket of socketsToLeave.splice(0)) socket.destroy()
    await until(`the resources are again ${JSON.stringify(before)}`, () => {
      const now = resources()
      return Number(now.TCPSocketWrap) <= Number(before.TCPSocketWrap) && Number(now.Timeout) <= Number(before.Timeout)
    })
    expect(await leftovers(server)).toEqual([])
  })
})

test('the checker notices readers who are not cut off', async () => {
  const server = await start({ STREAM_STALL_MS: 86_400_000 })
  const { faults } = await floodReaders(server, 2)
  expect(faults).toEqual([])
  expect(await leftovers(server)).toEqual(['2 streams open', '2 listeners of logs', 'the gauge says 2'])
  for (const socket of socketsToLeave.splice(0)) socket.destroy()
  await until('they left', async () => (await leftovers(server)).length === 0)
  await server.close()
}, 60_000)

test('a reader that takes a little at a time is not cut off, however long one event takes it', async () => {
  // Longer than the two ends' kernels may keep each other waiting, shorter than the last event takes.
  const server = await start({ STREAM_STALL_MS: 1_000 })
  const api = client(() => server.url)
  const id = await createIdle(api, { agent: 'scripted' })
  await api.post(`/sessions/${id}/turns`, { prompt: 'deltas 80 60000' })
  const socket = await stuckReader(server.port, `/sessions/${id}/turns/1/events`)
  let ended = false
  socket.once('end', () => {
    ended = true
  })
  socket.once('close', () => {
    ended = true
  })
  let tail = Buffer.alloc(0)
  // The last event alone is larger than all buffers between the two ends, and takes longer than a socket may stand still.
  while (!ended) {
    const taken: Buffer | null = socket.read(65_536) ?? socket.read()
    if (taken !== null) tail = Buffer.concat([tail, taken]).subarray(-64)
    if (tail.includes('\r\n0\r\n\r\n')) break
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  expect(tail.toString()).toMatch(/\n\n\r\n0\r\n\r\n$/)
  socket.destroy()
  await until('it is gone', async () => (await leftovers(server)).length === 0)
  await server.close()
})

describe('readers who come and go', () => {
  const READERS = scale(2_000, 10_000)
  let server: TestServer
  beforeAll(async () => {
    server = await start({})
  })
  afterAll(() => server.close())

  test(`${READERS} of them, in every way there is to leave, leave nothing behind (SEED=${SEED})`, async () => {
    const api = client(() => server.url)
    const live = await createIdle(api)
    const over = await createIdle(api)
    await api.post(`/sessions/${over}/turns`, { prompt: 'one two three' })
    const before = resources()
    await pooled(READERS, 50, async (index) => {
      const random = seeded(SEED + index)
      const kind = between(random, 0, 5)
      const [events, replay] = [`/sessions/${live}/events`, `/sessions/${over}/turns/1/events`]
      if (kind === 0) {
        // Is gone before there is an answer.
        const socket = await stuckReader(server.port, events)
        socket.destroy()
      } else if (kind === 1) {
        const socket = await stuckReader(server.port, events)
        socket.resetAndDestroy()
      } else if (kind === 2) {
        const stream = await openStream(server.url + events)
        await stream.upTo('session_loaded')
        stream.leave()
      } else if (kind === 3) {
        const stream = await openStream(server.url + replay)
        expect((await stream.all()).at(-1)?.event).toBe('run_completed')
      } else if (kind === 4) {
        const stream = await openStream(server.url + replay, { cutAfterBytes: between(random, 1, 400) })
        stream.leave()
      } else {
        await send(server.url + events, 'HEAD')
      }
    })
    await until('all readers are gone', async () => (await leftovers(server)).length === 0)
    await until(`the resources are again ${JSON.stringify(before)}`, () => {
      return Number(resources().TCPSocketWrap) <= Number(before.TCPSocketWrap)
    })
    // Whoever comes now is served as ever.
    await api.delete(`/sessions/${over}`)
    const { seen } = await ownReader(`${server.url}/sessions/${over}/events?after=0`)
    expect(seen.map(({ event }) => event).slice(-2)).toEqual(['run_completed', 'done'])
  }, 120_000)

  test('hundreds of them on one connection leave no listeners on it', async () => {
    const api = client(() => server.url)
    const id = await createIdle(api)
    await api.post(`/sessions/${id}/turns`, { prompt: 'one two three' })
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
    let connection: net.Socket | undefined
    server.app.server.once('connection', (socket) => {
      connection = socket
    })
    const path = `${server.url}/sessions/${id}/turns/1/events`
    const listeners = () =>
      Object.fromEntries((connection?.eventNames() ?? []).map((name) => [name, connection?.listenerCount(name)]))
    await send(path, 'GET', { agent })
    const before = listeners()
    for (let i = 0; i < 300; i++) expect((await send(path, 'GET', { agent })).status).toBe(200)
    expect(listeners()).toEqual(before)
    expect(Object.keys(before).length).toBeGreaterThan(2)
    agent.destroy()
  })
})
