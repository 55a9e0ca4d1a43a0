import { afterAll, describe, expect, onTestFinished, test } from 'vitest'
import { client, send, until } from '../helpers/http.ts'
import { has } from '../helpers/programs.ts'
import { openStream, types } from '../helpers/sse.ts'
import { killLeftovers, serve } from '../process/child.ts'
import { RemoteSession, turnedAway } from '../process/session.ts'
import { fakeNode, refuse } from './fake-node.ts'
import { freePort, Nginx } from './nginx.ts'

afterAll(killLeftovers)

/** More than there are nodes, so that each has its turn. */
const ROUNDS = 12

const UNAVAILABLE = {
  status: 503,
  headers: { 'content-type': 'application/problem+json; charset=utf-8', 'retry-after': '1' },
  body: { code: 'STORE_UNAVAILABLE', detail: expect.stringMatching(/^No node answered/) },
}

/** A node was reached. */
const UNKNOWN = {
  status: 503,
  headers: { 'content-type': 'application/problem+json; charset=utf-8' },
  body: { code: 'OUTCOME_UNKNOWN' },
}

async function proxyTo(...ports: number[]) {
  const proxy = await Nginx.start(ports)
  onTestFinished(() => proxy.stop())
  return { ...client(() => proxy.url), url: proxy.url }
}

describe.runIf(has('nginx'))('behind the proxy', () => {
  test('a node that is gone is passed over, for every request', async () => {
    const node = await serve()
    const api = await proxyTo(await freePort(), node.port, await freePort())
    for (let i = 0; i < ROUNDS; i++) {
      expect((await api.post('/sessions', { prompt: 'hello' })).status).toBe(201)
      expect((await api.get('/health')).status).toBe(200)
    }
    expect((await client(() => node.url).get('/sessions')).body).toMatchObject({ total: ROUNDS })
  })

  test('a POST that was sent to a node is never sent to another; what may be repeated is', async () => {
    const breaks = await fakeNode((response) => response.destroy())
    const works = await fakeNode((response) => response.end('{}'))
    const api = await proxyTo(breaks.port, works.port)
    const answers = [await api.post('/sessions', {}), await api.post('/sessions', {})]
    expect(answers.sort((a, b) => b.status - a.status)).toMatchObject([UNKNOWN, { status: 200 }])
    for (const { headers } of answers) expect(headers).not.toHaveProperty('retry-after')
    expect([breaks.requests, works.requests]).toEqual([['POST /sessions'], ['POST /sessions']])
    for (const path of ['/a', '/b']) expect((await api.get(path)).status).toBe(200)
    expect(works.requests).toEqual(['POST /sessions', 'GET /a', 'GET /b'])
    expect(breaks.requests.length).toBe(2)
  })

  test('a node that drains refuses new work in its own words, and another does what may be repeated', async () => {
    const [node, other] = await Promise.all([serve({ DRAIN_MS: '20000' }), serve()])
    const api = await proxyTo(node.port, other.port)
    const busy = await RemoteSession.create(node.url)
    const stream = await busy.run('say so far\nhang')
    node.child.kill('SIGTERM')
    await until('the node drains', async () => (await client(() => node.url).get('/ready')).status === 503)
    const answers = []
    for (let i = 0; i < ROUNDS; i++) answers.push(await api.post('/sessions', { prompt: 'hello' }))
    for (let i = 0; i < ROUNDS; i++) expect((await api.get('/ready')).status).toBe(200)
    const refused = answers.filter(({ status }) => status !== 201)
    expect(refused.length).toBe(ROUNDS / 2)
    for (const answer of refused) {
      const headers = { 'retry-after': expect.stringMatching(/^\d+$/) }
      expect(answer).toMatchObject({ status: 503, headers, body: { code: 'SHUTTING_DOWN' } })
    }
    const { body } = await client(() => other.url).get('/sessions')
    expect(body).toMatchObject({ total: ROUNDS - refused.length })
    await client(() => busy.url).post('/interrupt')
    expect(types(await stream.all()).at(-1)).toBe('run_interrupted')
    expect(await node.exited).toBe(0)
  })

  test('a reader that a draining node turns away comes back: its stream breaks, and does not end', async () => {
    const node = await serve({ DRAIN_MS: '20000' })
    const { url } = await proxyTo(node.port)
    const busy = await RemoteSession.create(url)
    const stream = await busy.run('hang')
    node.child.kill('SIGTERM')
    await until('the node drains', async () => (await client(() => node.url).get('/ready')).status === 503)
    const refusal = await turnedAway(`${busy.url}/events`)
    expect(refusal).toEqual({ status: 200, text: expect.stringMatching(/^retry: \d+\n$/), complete: false })
    await client(() => busy.url).post('/interrupt')
    expect(types(await stream.all()).at(-1)).toBe('run_interrupted')
    expect(stream.end).toBe('clean')
  })

  test('a node that is killed breaks its streams, which do not look as if they had ended', async () => {
    const node = await serve()
    const { url } = await proxyTo(node.port)
    const session = await RemoteSession.create(url)
    const streams = [await session.run('say so far\nhang'), await session.follow()]
    const { answer } = await (await RemoteSession.create(url)).wait('hang')
    node.child.kill('SIGKILL')
    for (const stream of streams) expect(await stream.ended()).toBe('destroyed')
    expect(await answer).toMatchObject(UNKNOWN)
  })

  test('with no node at all requests are refused with a problem, and readers of streams are made to come back', async () => {
    const api = await proxyTo(await freePort(), await freePort(), await freePort())
    for (let i = 0; i < ROUNDS; i++) {
      expect(await api.get('/sessions')).toMatchObject(UNAVAILABLE)
      expect(await api.post('/sessions/stream', { prompt: 'hello' })).toMatchObject(UNAVAILABLE)
      await expect(openStream(`${api.url}/sessions/x/events`)).rejects.toThrow('socket hang up')
    }
  })

  test('when all nodes refuse, their words come through until they are given a rest', async () => {
    const nodes = [await fakeNode(refuse), await fakeNode(refuse), await fakeNode(refuse)]
    const { url } = await proxyTo(...nodes.map(({ port }) => port))
    const first = await send(`${url}/sessions`, 'GET')
    expect(first).toMatchObject({ status: 503, headers: { 'retry-after': '7' } })
    expect(nodes.map(({ requests }) => requests.length)).toEqual([1, 1, 1])
    for (let i = 0; i < ROUNDS; i++) {
      const { status, headers, body } = await send(`${url}/sessions`, 'GET')
      expect({ status, body }).toMatchObject({ status: 503, body: { code: 'STORE_UNAVAILABLE' } })
      expect(headers['retry-after']).toMatch(/^[17]$/)
    }
    const asked = nodes.reduce((sum, { requests }) => sum + requests.length, 0)
    expect(asked).toBeLessThan(3 * ROUNDS)
  })
})
