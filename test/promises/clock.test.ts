import { once } from 'node:events'
import net from 'node:net'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Client, client, until } from '../helpers/http.ts'
import { openStream, types } from '../helpers/sse.ts'
import { killLeftovers, type Served, serve } from '../process/child.ts'
import { RemoteSession } from '../process/session.ts'

const CLOCK = new URL('../process/shifted-clock.mjs', import.meta.url)
const HOUR_MS = 3_600_000

afterAll(killLeftovers)

const startClocked = (env: Record<string, string>) => serve(env, { preload: CLOCK, ipc: true })

/** Sets the wall clock of the process; resolves when it is set. */
async function setClock({ child }: Served, to: number | 'stop'): Promise<void> {
  const set = once(child, 'message')
  child.send(to)
  await set
}

interface Line {
  outcome: string
  duration_ms: number
}

/** What is wrong with turns that were running while the clock was set. */
function clockFaults(lines: readonly Line[]): string[] {
  return lines.flatMap(({ outcome, duration_ms }) => {
    const faults: string[] = []
    if (outcome !== 'completed') faults.push(`a turn ${outcome}`)
    if (duration_ms < 0 || duration_ms >= 600_000) faults.push(`a turn of ${duration_ms} ms`)
    return faults
  })
}

const turnLines = (server: Served) => server.logs.filter(({ outcome }) => outcome !== undefined) as unknown as Line[]

describe.each([
  ['forward by an hour', HOUR_MS],
  ['back by an hour', -HOUR_MS],
])('a wall clock that is set %s in the middle of a turn', (_, shift) => {
  let server: Served
  let api: Client
  let status: number
  let text: string
  let pings: number
  let ends: (string | undefined)[]

  beforeAll(async () => {
    server = await startClocked({ STREAM_HEARTBEAT_MS: '60', STREAM_STALL_MS: '2000', DRAIN_MS: '3000' })
    api = client(() => server.url)
    const session = await RemoteSession.create(server.url)
    const follower = await session.follow()
    const stream = await session.run('tool sleep {"ms":700}\nsay still here')
    const waiting = await RemoteSession.create(server.url)
    const { answer } = await waiting.wait('wait 700\nsay me too')
    await setClock(server, shift)
    const before = follower.comments.length
    await follower.sees('three more pings', ({ comments }) => comments.length >= before + 3)
    pings = follower.comments.length - before
    const frames = await stream.all()
    const result = await answer
    status = result.status
    text = (result.body as { text: string }).text
    await client(() => session.url).delete('')
    ends = [types(frames).at(-1), types(await follower.all()).at(-1)]
  })

  test('does not end the turn: its stream and its caller get the result', () => {
    expect({ status, text, ends }).toEqual({ status: 200, text: 'me too', ends: ['run_completed', 'done'] })
  })

  test('does not silence a quiet stream', () => {
    expect(pings).toBeGreaterThanOrEqual(3)
  })

  test('does not forget an idempotency key, nor an archived session', async () => {
    const create = () =>
      api.post<{ session_id: string }>('/sessions', { prompt: 'one' }, { 'idempotency-key': `key ${shift}` })
    const first = await create()
    await setClock(server, 0)
    const again = await create()
    expect(again.body.session_id).toBe(first.body.session_id)
    await api.delete(`/sessions/${first.body.session_id}`)
    await setClock(server, shift)
    const stream = await openStream(`${server.url}/sessions/${first.body.session_id}/turns/1/events`)
    expect(types(await stream.all()).at(-1)).toBe('run_completed')
  })

  test('does not make a turn longer or shorter than it was', () => {
    expect(clockFaults(turnLines(server))).toEqual([])
  })

  test('does not keep the process from draining and ending with 0', async () => {
    const session = await RemoteSession.create(server.url)
    const stream = await session.run('wait 300\nsay last words')
    server.child.kill('SIGTERM')
    await until('the server drains', async () => (await api.get('/ready')).status === 503)
    await setClock(server, 0)
    expect(types(await stream.all()).at(-1)).toBe('run_completed')
    expect(await server.exited).toBe(0)
  })
})

test('a wall clock that stands still does not hold back the end of a server whose reader does not read', async () => {
  const server = await startClocked({ DRAIN_MS: '0', RETAIN_BYTES: '268435456' })
  const session = await RemoteSession.create(server.url)
  const socket = net.connect(server.port, '127.0.0.1')
  socket.on('error', () => {})
  socket.pause()
  await new Promise((resolve) => socket.once('connect', resolve))
  socket.write(`GET ${new URL(session.url).pathname}/events?after=0 HTTP/1.1\r\nHost: localhost\r\n\r\n`)
  const api = client(() => server.url)
  await until('the reader is there', async () => {
    return /^suricate_stream_readers 1$/m.test((await api.get('/metrics')).text)
  })
  await client(() => session.url).post('/turns', { prompt: 'deltas 100 60000' })
  await setClock(server, 'stop')
  server.child.kill('SIGTERM')
  expect(await server.exited).toBe(0)
  socket.destroy()
})

test('the checker notices a turn that a jump ended, and one whose length it changed', () => {
  expect(
    clockFaults([
      { outcome: 'completed', duration_ms: 12 },
      { outcome: 'interrupted', duration_ms: 0 },
      { outcome: 'completed', duration_ms: HOUR_MS + 5 },
      { outcome: 'completed', duration_ms: 5 - HOUR_MS },
    ]),
  ).toEqual(['a turn interrupted', 'a turn of 3600005 ms', 'a turn of -3599995 ms'])
})
