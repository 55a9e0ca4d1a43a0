import { createServer } from 'node:net'
import { afterAll, describe, expect, test } from 'vitest'
import { client, RawSocket, until } from '../helpers/http.ts'
import { types } from '../helpers/sse.ts'
import { scale } from '../promises/support.ts'
import { killLeftovers, type Served, serve } from './child.ts'
import { RemoteSession, turnedAway } from './session.ts'

afterAll(killLeftovers)

const TERMINAL = /^run_(completed|failed|interrupted)$/

const apiOf = ({ url }: Served) => client(() => url)

/** Resolves once the process has taken its signal: it says so itself. */
function draining(server: Served) {
  return until('the server drains', async () => (await apiOf(server).get('/ready')).status === 503)
}

describe.each(['SIGTERM', 'SIGINT'] as const)('%s', (signal) => {
  test('with nothing to do ends the process with 0, whatever connections clients keep open', async () => {
    const server = await serve({ DRAIN_MS: '20000' })
    const kept = await RawSocket.connect(server.port)
    kept.write('GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n')
    expect((await kept.response()).status).toBe(200)
    const silent = await RawSocket.connect(server.port)
    server.child.kill(signal)
    expect(await server.exited).toBe(0)
    await Promise.all([kept.closed(), silent.closed()])
  })

  test('lets running turns finish for DRAIN_MS and interrupts the rest; streams and waiting callers are told, then exit 0', async () => {
    const server = await serve({ DRAIN_MS: '900' })
    const sessions = await Promise.all(Array.from({ length: 5 }, () => RemoteSession.create(server.url)))
    const [a, b, c, d, e] = sessions as [RemoteSession, RemoteSession, RemoteSession, RemoteSession, RemoteSession]
    const finishes = 'wait 300\nsay done after all'
    const hangs = 'say so far\nhang'
    const streams = [await a.run(finishes), await b.run(hangs), await c.run('say so far\ndeaf')]
    const callers = [await d.wait(finishes), await e.wait(hangs)]
    server.child.kill(signal)
    const ends = await Promise.all(streams.map(async (stream) => types(await stream.all()).at(-1)))
    expect(ends).toEqual(['run_completed', 'run_interrupted', 'run_interrupted'])
    expect(streams.map(({ end }) => end)).toEqual(['clean', 'clean', 'clean'])
    expect(await Promise.all(callers.map(({ answer }) => answer))).toMatchObject([
      { status: 200, body: { text: 'done after all', stop_reason: 'end_turn' } },
      { status: 200, body: { text: 'so far', stop_reason: 'cancelled' } },
    ])
    expect(await server.exited).toBe(0)
  })
})

test('ten turns that run at SIGTERM have exactly one terminal event each, whether they finish in time or not', async () => {
  for (let round = 0; round < scale(1, 20); round++) {
    const server = await serve({ DRAIN_MS: '400' })
    const streams = await Promise.all(
      Array.from({ length: 10 }, async (_, i) =>
        (await RemoteSession.create(server.url)).run(i % 2 === 0 ? 'say started\nhang' : 'wait 30\nsay started'),
      ),
    )
    server.child.kill('SIGTERM')
    for (const [i, stream] of streams.entries()) {
      const seen = types(await stream.all())
      expect(seen.filter((type) => TERMINAL.test(type))).toEqual([i % 2 === 0 ? 'run_interrupted' : 'run_completed'])
      expect(seen.at(-1)).toMatch(TERMINAL)
      expect(stream.end).toBe('clean')
    }
    expect(await server.exited).toBe(0)
  }
}, 120_000)

describe('while the server drains', () => {
  test('it is alive but not ready, and refuses new work with a problem that says when to come back', async () => {
    const server = await serve({ DRAIN_MS: '20000' })
    const api = apiOf(server)
    const busy = await RemoteSession.create(server.url)
    const idle = new URL((await RemoteSession.create(server.url)).url).pathname
    const exported = await api.get<{ id: string }>(`${idle}/export`)
    const stream = await busy.run('hang')
    server.child.kill('SIGTERM')
    await draining(server)
    const refusals = [
      await api.get('/ready'),
      await api.post('/sessions', { prompt: 'hello' }),
      await api.post('/sessions', { initial_turn: 'deferred' }),
      await api.post('/sessions/stream', { prompt: 'hello' }),
      await api.post(`${idle}/turns`, { prompt: 'hello' }),
      await api.post(`${idle}/turns/stream`, { prompt: 'hello' }),
      await api.post(`${idle}/fork`, {}),
      await api.post('/sessions/import', { ...exported.body, id: '0199d3c0-0000-7000-8000-000000000000' }),
    ]
    for (const { status, headers, body } of refusals) {
      expect({ status, type: headers['content-type'], body }).toMatchObject({
        status: 503,
        type: expect.stringMatching(/^application\/problem\+json/),
        body: { status: 503, code: 'SHUTTING_DOWN', type: 'urn:suricate:problem:shutting-down' },
      })
      expect(headers['retry-after']).toMatch(/^[1-9]\d?$/)
    }
    expect((await api.get('/health')).status).toBe(200)
    expect((await api.get(idle)).status).toBe(200)
    const interrupted = await client(() => busy.url).post('/interrupt', {})
    expect(interrupted.status).toBe(200)
    expect(types(await stream.all()).at(-1)).toBe('run_interrupted')
    expect(await server.exited).toBe(0)
  })

  test('a reader of a session is turned away so that it comes back; one that is there already sees the end', async () => {
    const server = await serve({ DRAIN_MS: '20000' })
    const busy = await RemoteSession.create(server.url)
    const idle = await RemoteSession.create(server.url)
    const followers = [await busy.follow(), await idle.follow()]
    const stream = await busy.run('hang')
    server.child.kill('SIGTERM')
    await draining(server)
    for (const session of [busy, idle]) {
      const refusal = await turnedAway(`${session.url}/events`)
      expect(refusal).toEqual({ status: 200, text: expect.stringMatching(/^retry: \d+\n$/), complete: false })
      const wait = Number(/\d+/.exec(refusal.text)?.[0])
      expect(wait).toBeGreaterThanOrEqual(1_000)
      expect(wait).toBeLessThanOrEqual(3_000)
    }
    await client(() => busy.url).post('/interrupt', {})
    expect(types(await stream.all()).at(-1)).toBe('run_interrupted')
    for (const follower of followers) {
      expect(types(await follower.all()).at(-1)).toBe('done')
      expect(follower.end).toBe('clean')
    }
    expect(types(followers[0]?.frames ?? []).filter((type) => TERMINAL.test(type))).toEqual(['run_interrupted'])
    expect(await server.exited).toBe(0)
  })
})

test.each([
  ['SIGTERM', 'SIGINT'],
  ['SIGTERM', 'SIGTERM'],
] as const)('%s and then %s ends the process at once, and cuts what it was streaming', async (first, second) => {
  const server = await serve({ DRAIN_MS: '60000' })
  const stream = await (await RemoteSession.create(server.url)).run('hang')
  server.child.kill(first)
  await draining(server)
  server.child.kill(second)
  expect(await stream.ended()).toBe('destroyed')
  expect(await server.exited).not.toBe(0)
})

test('kill -9 in the middle of a turn cuts its stream, and the port can be listened on again', async () => {
  const server = await serve()
  const stream = await (await RemoteSession.create(server.url)).run('hang')
  server.child.kill('SIGKILL')
  expect(await stream.ended()).toBe('destroyed')
  expect(await server.exited).toBeNull()
  const next = createServer()
  await new Promise<void>((resolve, reject) => {
    next.once('error', reject)
    next.listen(server.port, '127.0.0.1', resolve)
  })
  next.close()
})
