import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, describe, expect, onTestFinished, test } from 'vitest'
import { client, until } from '../helpers/http.ts'
import { newDatabase } from '../helpers/postgres.ts'
import { has } from '../helpers/programs.ts'
import { type Frame, openStream, textOf } from '../helpers/sse.ts'
import { killLeftovers, serve } from '../process/child.ts'
import { RemoteSession } from '../process/session.ts'
import { Nginx } from './nginx.ts'

const SESSIONS = 12

afterAll(killLeftovers)

async function threeNodes() {
  const env = { STORE_URL: await newDatabase(), DRAIN_MS: '20000' }
  const nodes = await Promise.all([serve(env), serve(env), serve(env)])
  const proxy = await Nginx.start(nodes.map(({ port }) => port))
  onTestFinished(async () => {
    for (const { child } of nodes) child.kill('SIGKILL')
    await Promise.all([proxy.stop(), ...nodes.map(({ exited }) => exited)])
  })
  const sessions = await Promise.all(Array.from({ length: SESSIONS }, () => RemoteSession.create(proxy.url)))
  return { nodes, proxy, sessions, api: client(() => proxy.url) }
}

/** All of a turn, for a reader who comes back with its cursor as often as it is cut off. */
async function follow({ url }: RemoteSession): Promise<Frame[]> {
  const seen: Frame[] = []
  for (;;) {
    const stream = await openStream(`${url}/turns/1/events?after=${seen.at(-1)?.id ?? 0}`).catch(() => undefined)
    if (stream?.status === 200) seen.push(...(await stream.all()))
    if (stream?.end === 'clean') return seen
    await sleep(20)
  }
}

describe.runIf(has('nginx'))('of three nodes over one database, behind the proxy,', () => {
  test('each serves every session, and everybody sees the same events', async () => {
    const { nodes, proxy, sessions } = await threeNodes()
    const prompt = 'say One two three.\ntool add {"a": 2, "b": 40}\nsay Done.'
    for (const session of sessions) {
      const stream = await session.run(prompt)
      const blocks = (await stream.all()).map(({ block }) => block)
      expect(stream.end).toBe('clean')
      for (const { url } of nodes) {
        const past = await openStream(`${session.url.replace(proxy.url, url)}/turns/1/events?after=0`)
        expect((await past.all()).map(({ block }) => block)).toEqual(blocks)
      }
    }
  })

  test('one that is stopped lets its turns finish, and whoever heeds Retry-After gets through, once', async () => {
    const { nodes, sessions, api } = await threeNodes()
    const [node, other] = nodes
    const busy = await RemoteSession.create(node.url)
    await busy.run('hang')
    const streams = await Promise.all(sessions.map((session) => session.run('say so far\nwait 1000\nsay  and done')))
    node.child.kill('SIGTERM')
    await until('the node drains', async () => (await client(() => node.url).get('/ready')).status === 503)
    const codes = new Set<unknown>()
    for (let i = 0; i < SESSIONS; i++) {
      const headers = { 'idempotency-key': `key-${i}` }
      await until('a session is made', async () => {
        const { status, body } = await api.post<{ code?: string }>('/sessions', { prompt: 'hello' }, headers)
        if (status !== 201) codes.add(body.code)
        return status === 201
      })
    }
    expect([...codes]).toEqual(['SHUTTING_DOWN'])
    expect((await api.get('/sessions')).body).toMatchObject({ total: 2 * SESSIONS + 1 })
    for (const stream of streams) {
      expect(textOf(await stream.all())).toBe('so far and done')
      expect(stream.end).toBe('clean')
    }
    await client(() => busy.url.replace(node.url, other.url)).post('/interrupt')
    expect(await node.exited).toBe(0)
  })

  test('one that is killed loses its turns, which end as lost; the others go on, and no reader misses anything', async () => {
    const { nodes, sessions } = await threeNodes()
    const streams = await Promise.all(sessions.map((session) => session.run('say so far\nwait 3000\nsay  and done')))
    nodes[0].child.kill('SIGKILL')
    const ends = (await Promise.all(sessions.map(follow))).map((frames) => {
      expect(frames.map(({ id }) => Number(id))).toEqual(frames.map((_, i) => i + 1))
      const { event, json } = frames.at(-1) as Frame
      return event === 'run_failed' ? json.code : textOf(frames)
    })
    for (const stream of streams) stream.leave()
    expect(new Set(ends)).toEqual(new Set(['TURN_LOST', 'so far and done']))
    for (const { url } of sessions) {
      const again = await client(() => url).post('/turns', { prompt: 'say again' })
      expect(again).toMatchObject({ status: 200, body: { text: 'again' } })
    }
  })
})
