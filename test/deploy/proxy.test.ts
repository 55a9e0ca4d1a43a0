import http from 'node:http'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { settings } from '../../src/config.ts'
import { type Answer, client, exchange, type Send, send, until } from '../helpers/http.ts'
import { has } from '../helpers/programs.ts'
import { type OpenStream, openStream, textOf, types } from '../helpers/sse.ts'
import { killLeftovers, type Served, serve } from '../process/child.ts'
import { RemoteSession } from '../process/session.ts'
import { fakeNode } from './fake-node.ts'
import { Nginx } from './nginx.ts'

const BODY_LIMIT = settings.properties.BODY_LIMIT.default as number
const KEY = 'for-the-test'

afterAll(killLeftovers)

describe.runIf(has('nginx'))('through the proxy', () => {
  let node: Served
  let lockedNode: Served
  let proxy: Nginx
  let lockedProxy: Nginx

  beforeAll(async () => {
    ;[node, lockedNode] = await Promise.all([
      serve({ STREAM_HEARTBEAT_MS: '200' }),
      serve({ API_KEYS: JSON.stringify([{ key: KEY }]) }),
    ])
    // So short that a stream is cut which says nothing.
    proxy = await Nginx.start([node.port], { 'proxy_read_timeout 30s;': 'proxy_read_timeout 1s;' })
    lockedProxy = await Nginx.start([lockedNode.port])
  })
  afterAll(async () => {
    await Promise.all([proxy?.stop(), lockedProxy?.stop()])
  })

  /** A session, as it is seen through the proxy and past it. */
  async function newSession() {
    const session = await RemoteSession.create(proxy.url)
    return { session, direct: new RemoteSession(session.url.replace(proxy.url, node.url)) }
  }

  async function stream(url: string, options: OpenStream = {}) {
    const opened = await openStream(url, options)
    onTestFinished(() => opened.leave())
    return opened
  }

  describe('a stream', () => {
    test.each([
      ['of its own path', 'turns/stream', {}],
      ['that Accept asks for', 'turns', { accept: 'text/event-stream' }],
    ])('%s shows each event while the turn still runs, uncompressed and to a clean end', async (_, path, headers) => {
      const { session, direct } = await newSession()
      const json = { prompt: 'say One two.\nhang' }
      const gzip = { 'accept-encoding': 'gzip' }
      const seen = await stream(`${session.url}/${path}`, { json, headers: { ...headers, ...gzip } })
      await seen.upTo(({ json }) => json.delta === ' two.')
      expect((await client(() => direct.url).get('/turns/1')).body).toMatchObject({ status: 'running' })
      expect(seen.headers).toMatchObject({ 'content-type': 'text/event-stream', 'x-accel-buffering': 'no' })
      expect(seen.headers).not.toHaveProperty('content-encoding')
      await client(() => session.url).post('/interrupt')
      expect(types(await seen.all()).at(-1)).toBe('run_interrupted')
      expect(seen.end).toBe('clean')
      const past = await stream(`${direct.url}/turns/1/events?after=0`)
      expect((await past.all()).map(({ block }) => block)).toEqual(seen.frames.map(({ block }) => block))
    })

    test('that says nothing but heartbeats stays open for longer than the proxy waits', async () => {
      const { session } = await newSession()
      const quiet = await stream(`${session.url}/events`)
      await quiet.sees('heartbeats for two seconds', ({ comments }) => comments.length >= 10)
      expect(quiet.end).toBeUndefined()
    })

    test('that does not even say that is cut, and does not look as if it were over', async () => {
      const silent = await fakeNode((response) => void response.writeHead(200).write('retry: 1000\n'))
      const other = await Nginx.start([silent.port], { 'proxy_read_timeout 30s;': 'proxy_read_timeout 300ms;' })
      onTestFinished(() => other.stop())
      expect(await (await stream(`${other.url}/sessions/x/events`)).ended()).toBe('destroyed')
    })

    test('that was cut goes on after Last-Event-ID, while the turn runs and after it', async () => {
      const { session, direct } = await newSession()
      const prompt = 'deltas 500 100\nhang'
      const first = await stream(`${session.url}/turns/stream`, { json: { prompt }, cutAfterBytes: 20_000 })
      expect(await first.ended()).toBe('left')
      const seen = [...first.frames]
      const cursor = () => ({ 'last-event-id': String(seen.at(-1)?.id) })
      const second = await stream(`${session.url}/turns/1/events`, { headers: cursor() })
      await second.upTo(({ json }) => json.seq === 400)
      second.leave()
      seen.push(...second.frames)
      await client(() => session.url).post('/interrupt')
      const third = await stream(`${session.url}/turns/1/events`, { headers: cursor() })
      seen.push(...(await third.all()))
      expect(third.end).toBe('clean')
      const past = await stream(`${direct.url}/turns/1/events?after=0`)
      expect(seen.map(({ block }) => block)).toEqual((await past.all()).map(({ block }) => block))
      expect(textOf(seen)).toBe('x'.repeat(50_000))
      const over = await stream(`${session.url}/turns/1/events`, { headers: cursor() })
      expect(over.status).toBe(204)
    })

    test('whose client leaves ends the turn where the client asked for that, and else does not', async () => {
      const asked = await newSession()
      const other = await newSession()
      const json = { prompt: 'say so far\nhang' }
      for (const [{ session }, query] of [
        [asked, '?on_disconnect=interrupt'],
        [other, ''],
      ] as const) {
        const opened = await stream(`${session.url}/turns/stream${query}`, { json })
        await opened.upTo('text_delta')
        opened.leave()
      }
      const statusOf = async ({ direct }: typeof asked) =>
        (await client(() => direct.url).get<{ status: string }>('/turns/1')).body.status
      await until('the turn is interrupted', async () => (await statusOf(asked)) === 'interrupted')
      expect(await statusOf(other)).toBe('running')
    })
  })

  describe('a body', () => {
    const json = '{"agent":"scripted","initial_turn":"deferred"}'
    const headers = { 'content-type': 'application/json' }

    test('as large as BODY_LIMIT passes; a larger one is the problem that the node would make of it', async () => {
      const ask = (bytes: number) => send(`${proxy.url}/sessions`, 'POST', { headers, bytes: json.padEnd(bytes) })
      expect((await ask(BODY_LIMIT)).status).toBe(201)
      // Said, and never sent: the node refuses before it reads.
      const request = `POST /sessions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json`
      const past = await exchange(node.port, `${request}\r\nContent-Length: ${BODY_LIMIT + 1}\r\n\r\n`)
      expect(past).toMatchObject({ status: 413, body: { code: 'PAYLOAD_TOO_LARGE' } })
      for (const bytes of [BODY_LIMIT + 1, 4 * BODY_LIMIT]) {
        const through = await ask(bytes)
        expect(sameWords(through)).toEqual(sameWords(past))
        expect(through.headers['content-type']).toBe(past.headers['content-type'])
      }
    })

    test('that does not say how long it is counts in the same way', async () => {
      for (const [bytes, status] of [
        [BODY_LIMIT, 201],
        [BODY_LIMIT + 1, 413],
      ] as const) {
        const head = 'Host: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked'
        const body = `${bytes.toString(16)}\r\n${json.padEnd(bytes)}\r\n0\r\n\r\n`
        expect((await exchange(proxy.port, `POST /sessions HTTP/1.1\r\n${head}\r\n\r\n${body}`)).status).toBe(status)
      }
    })

    test('that a node refuses unread is answered with that, however many there are at a time', async () => {
      const bytes = json.padEnd(BODY_LIMIT)
      const ask = () => send(`${lockedProxy.url}/sessions`, 'POST', { headers, bytes })
      const answers = await Promise.all(Array.from({ length: 50 }, ask))
      expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([401]))
    })
  })

  describe('an answer', () => {
    const ask = (url: string, path: string, options: Send = {}) => send(url + path, 'GET', options)

    test.each([
      ['without a key', '/sessions', {}, 401],
      ['with a wrong one', '/sessions', { authorization: 'Bearer another' }, 401],
      ['to what is not there', '/sessions/none', { authorization: `Bearer ${KEY}` }, 400],
      ['to what is', '/sessions', { authorization: `Bearer ${KEY}` }, 200],
      ['to a long path', `/sessions/${'x'.repeat(9_000)}`, { authorization: `Bearer ${KEY}` }, 414],
      ['to another host name', '/health', { host: 'evil.example' }, 403],
    ])('%s is that of the node, with its headers', async (_, path, headers, status) => {
      const options = { headers: { 'x-request-id': 'my-own', ...headers } }
      const through = await ask(lockedProxy.url, path, options)
      const past = await ask(lockedNode.url, path, options)
      expect(through.status).toBe(status)
      expect(sameWords(through)).toEqual(sameWords(past))
      expect(endToEnd(through)).toEqual(endToEnd(past))
      expect(through.headers['x-request-id']).toBe('my-own')
      expect(through.headers['www-authenticate']).toBe(status === 401 ? 'Bearer' : undefined)
    })

    test('to headers that are too large is that of the node', async () => {
      const options = { headers: { 'x-much': 'x'.repeat(20_000) } }
      const through = await ask(lockedProxy.url, '/sessions', options)
      expect(sameWords(through)).toEqual(sameWords(await ask(lockedNode.url, '/sessions', options)))
      expect(through.status).toBe(431)
    })

    test('to a request that says a header twice is that of the node', async () => {
      const twice = 'Last-Event-ID: 1\r\nLast-Event-ID: 2'
      const answer = await exchange(proxy.port, `GET /sessions HTTP/1.1\r\nHost: localhost\r\n${twice}\r\n\r\n`)
      expect(answer).toMatchObject({ status: 400, body: { code: 'INVALID_PARAMS' } })
    })
  })

  test('a node is told who asks, on connections that are used again', async () => {
    const echo = await fakeNode((response) => void response.end('{}'))
    const other = await Nginx.start([echo.port])
    onTestFinished(() => other.stop())
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
    onTestFinished(() => agent.destroy())
    const own = { 'idempotency-key': 'k', 'last-event-id': '7', 'x-request-id': 'my-own', prefer: 'wait=5' }
    const headers = { host: 'agents.example:8443', 'x-forwarded-for': '192.0.2.7', ...own }
    const many = 10
    for (let i = 0; i < many; i++) await send(`${other.url}/sessions?x=%2F`, 'POST', { json: {}, headers, agent })
    expect(echo.requests).toEqual(Array.from({ length: many }, () => 'POST /sessions?x=%2F'))
    expect(echo.headers.at(-1)).toMatchObject({
      ...own,
      host: 'agents.example',
      'x-forwarded-for': '192.0.2.7, 127.0.0.1',
      'x-forwarded-host': 'agents.example:8443',
      'x-forwarded-proto': 'http',
    })
    expect(echo.headers.at(-1)).not.toHaveProperty('connection')
    expect(echo.connections).toBe(1)
  })
})

/** Status and body of an answer, without the id that is another each time. */
function sameWords({ status, body }: Answer<unknown>) {
  return { status, body: { ...(body as object), request_id: undefined } }
}

/** Headers without those of the connection. */
function endToEnd({ headers }: Answer) {
  const { connection, 'keep-alive': _, 'transfer-encoding': __, server, date, ...rest } = headers
  return rest
}
