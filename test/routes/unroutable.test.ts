import { Writable } from 'node:stream'
import { pino } from 'pino'
import { describe, expect, onTestFinished, test } from 'vitest'
import { createIdle, expectInvalid, expectProblem, type SessionList } from '../helpers/contract.ts'
import { RawSocket } from '../helpers/http.ts'
import { startServer } from '../helpers/server.ts'
import { useServer } from '../helpers/suite.ts'

const ORIGIN = 'https://app.example'
const server = useServer({ CORS_ORIGINS: ORIGIN })
const { api } = server

async function exchange(bytes: string) {
  const socket = await server.socket()
  socket.write(bytes)
  return socket.response()
}

describe('what the router refuses', () => {
  test.each([
    ['GET', '/sessions/%', 400],
    ['GET', '/%zz', 400],
    ['POST', '/sessions/%c3%28/turns', 400],
    ['DELETE', '/sessions/%ff', 400],
    ['GET', '/sessions?label=%', 400],
    ['GET', `/sessions/${'a'.repeat(129)}`, 414],
    ['GET', `/sessions/${'a'.repeat(9_000)}`, 414],
    ['POST', `/sessions/${'a'.repeat(129)}/turns`, 414],
  ])('%s %.40s has CORS headers, a request id and the headers of all answers', async (method, path, status) => {
    const answer = await exchange(
      `${method} ${path} HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: ${ORIGIN}\r\nX-Request-Id: mine\r\n\r\n`,
    )
    expectProblem(answer, status, status === 400 ? 'INVALID_PARAMS' : 'URI_TOO_LONG')
    expect(answer.headers).toMatchObject({
      'access-control-allow-origin': ORIGIN,
      'x-request-id': 'mine',
      'x-content-type-options': 'nosniff',
    })
  })

  test.each([
    ['DESCRIBE /sessions RTSP/1.0', 405],
    ['PLAY /nope RTSP/1.0', 404],
    ['GET_PARAMETER rtsp://127.0.0.1/sessions RTSP/1.0', 404],
    ['TEARDOWN * RTSP/1.0', 404],
    ['PROPFIND /sessions HTTP/1.1', 405],
    ['SOURCE /sessions HTTP/1.1', 405],
    ['M-SEARCH /nope HTTP/1.1', 404],
  ])('%s is a problem document with all headers', async (line, status) => {
    const answer = await exchange(`${line}\r\nHost: 127.0.0.1\r\nOrigin: ${ORIGIN}\r\n\r\n`)
    const problem = expectProblem(answer, status, status === 404 ? 'ROUTE_NOT_FOUND' : 'METHOD_NOT_ALLOWED')
    expect(answer.headers['access-control-allow-origin']).toBe(ORIGIN)
    if (status !== 405) return
    expect(answer.headers.allow).toMatch(/GET.*POST/)
    expect(problem.detail).toContain(line.split(' ')[0])
  })

  test('has one line in the log, which says what was asked, and nothing else has', async () => {
    const lines: Record<string, unknown>[] = []
    const sink = new Writable({
      write(chunk, _, done) {
        lines.push(JSON.parse(String(chunk)))
        done()
      },
    })
    const logged = await startServer({ LOG_LEVEL: 'trace' }, { logger: pino({ level: 'trace' }, sink) })
    onTestFinished(() => logged.close())
    lines.length = 0
    for (const line of ['DESCRIBE /sessions?key=secret RTSP/1.0', 'GET /sessions/%?key=secret HTTP/1.1']) {
      const socket = await RawSocket.connect(logged.port)
      socket.write(`${line}\r\nHost: 127.0.0.1\r\n\r\n`)
      await socket.response()
      socket.destroy()
    }
    expect(lines.map(({ msg, method, path, status }) => [msg, method, path, status])).toEqual([
      ['request', 'DESCRIBE', '/sessions', 405],
      ['request', 'GET', '/sessions/%', 400],
    ])
  })
})

test('a path with an empty part leads nowhere, whatever the method', async () => {
  const before = (await api.get<SessionList>('/sessions')).body.total
  const id = await createIdle(api)
  for (const path of [
    '/sessions/',
    `/sessions/${id}/turns/`,
    '/sessions//turns',
    '/sessions//events',
    `/sessions/${id}/`,
  ]) {
    for (const method of ['GET', 'HEAD', 'POST', 'DELETE']) {
      const answer = await api.send(method, path, method === 'POST' ? { json: { prompt: 'x' } } : {})
      if (answer.status === 405) continue
      expect([method, path, answer.status]).toEqual([method, path, 404])
      if (method !== 'HEAD') expectProblem(answer, 404, 'ROUTE_NOT_FOUND')
    }
  }
  for (const method of ['GET', 'POST']) {
    expectProblem(await api.send(method, '/sessions/', { json: { prompt: 'x' } }), 404, 'ROUTE_NOT_FOUND')
  }
  expect((await api.get<SessionList>('/sessions')).body.total).toBe(before + 1)
})

test('a label whose key has a = in it, is empty or too long is refused where it comes in', async () => {
  const bad = ['a=b', '=', '', 'x'.repeat(129)]
  for (const key of bad) {
    expectInvalid(await api.post('/sessions', { prompt: 'x', labels: { fine: '1', [key]: '2' } }), `/labels/${key}`)
  }
  const id = await createIdle(api, { labels: { 'a b~c/d': 'x=y' } })
  const { body } = await api.get<object>(`/sessions/${id}/export`)
  const imported = { ...body, id: id.replace(/.$/, (last) => (last === '0' ? '1' : '0')) }
  for (const key of bad) {
    const session = { ...imported, metadata: { session_metadata: { labels: { [key]: '2' } } } }
    expectInvalid(await api.post('/sessions/import', session), `/labels/${key}`)
  }
  expect((await api.post('/sessions/import', imported)).status).toBe(201)
  const found = await api.get<SessionList>(`/sessions?label=${encodeURIComponent('a b~c/d=x=y')}`)
  expect(found.body.total).toBe(2)
})

test.each(['localhost.', 'LOCALHOST.:8080', 'localhost:1', '127.0.0.1.'])('the host %s is loopback', async (host) => {
  expect((await api.get('/health', { host })).status).toBe(200)
})

test.each(['localhost..', 'localhost.example.', '.localhost', 'example.'])('the host %s is not', async (host) => {
  expectProblem(await api.get('/health', { host }), 403, 'FORBIDDEN')
})
