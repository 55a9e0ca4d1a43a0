import { describe, expect, test } from 'vitest'
import { expectInvalid, expectProblem, NOBODY, type RunResult, type SessionList } from '../helpers/contract.ts'
import { exchange } from '../helpers/http.ts'
import { textOf } from '../helpers/sse.ts'
import { useServer } from '../helpers/suite.ts'

const KEY = 'k-test-123456789012'
const server = useServer({ API_KEYS: `[{"key":"${KEY}"}]`, BODY_LIMIT: 1024 })
const { api } = server
const good = { authorization: `Bearer ${KEY}` }

function expectUnauthorized(answer: Parameters<typeof expectProblem>[0]) {
  expectProblem(answer, 401, 'UNAUTHORIZED')
  expect(answer.headers['www-authenticate']).toMatch(/^Bearer\b/)
  expect(answer.text).not.toContain(KEY)
}

describe('without credentials', () => {
  test.each([
    ['GET', '/sessions'],
    ['POST', '/sessions'],
    ['POST', '/sessions/stream'],
    ['POST', '/sessions/import'],
    ['GET', `/sessions/${NOBODY}`],
    ['DELETE', `/sessions/${NOBODY}`],
    ['GET', `/sessions/${NOBODY}/turns`],
    ['POST', `/sessions/${NOBODY}/turns`],
    ['POST', `/sessions/${NOBODY}/turns/stream`],
    ['GET', `/sessions/${NOBODY}/turns/1`],
    ['GET', `/sessions/${NOBODY}/turns/1/events`],
    ['POST', `/sessions/${NOBODY}/interrupt`],
    ['GET', `/sessions/${NOBODY}/events`],
    ['GET', `/sessions/${NOBODY}/messages`],
    ['GET', `/sessions/${NOBODY}/export`],
    ['POST', `/sessions/${NOBODY}/fork`],
    ['POST', `/sessions/${NOBODY}/interactions`],
    ['POST', `/sessions/${NOBODY}/interactions/stream`],
    ['GET', `/sessions/${NOBODY}/peers`],
    ['POST', `/sessions/${NOBODY}/comms`],
    ['GET', '/agents'],
    ['GET', '/skills'],
    ['GET', '/capabilities'],
    ['GET', '/metrics'],
  ])('%s %s is 401 and says which scheme [R95]', async (method, path) => {
    expectUnauthorized(await api.send(method, path, method === 'POST' ? { json: { prompt: 'x' } } : {}))
  })

  test('/health and /ready are open [R95]', async () => {
    expect((await api.get('/health')).status).toBe(200)
    expect((await api.get('/ready')).status).toBe(200)
  })

  test('nothing is told about ids, parameters and bodies: 401 comes first', async () => {
    expectUnauthorized(await api.get('/sessions/not-a-uuid'))
    expectUnauthorized(await api.get('/sessions?limit=x'))
    expectUnauthorized(await api.post('/sessions', { promt: 1 }))
    expectUnauthorized(
      await api.send('POST', '/sessions', { bytes: '{', headers: { 'content-type': 'application/json' } }),
    )
    expectUnauthorized(await api.send('POST', '/sessions', { bytes: 'x', headers: { 'content-type': 'text/plain' } }))
    expectUnauthorized(await api.send('POST', '/sessions', { json: { prompt: 'x'.repeat(2000) } }))
  })

  test('the answer comes before the body has been sent', async () => {
    const head = ['POST /sessions HTTP/1.1', 'Host: 127.0.0.1', 'Content-Type: application/json', 'Content-Length: 500']
    expectUnauthorized(await exchange(server.port, `${head.join('\r\n')}\r\n\r\n`))
  })
})

describe('with wrong credentials', () => {
  test.each([
    'Bearer wrong',
    'Bearer',
    'Bearer ',
    `Bearer ${KEY}x`,
    `Bearer ${KEY.slice(0, -1)}`,
    `Bearer x${KEY}`,
    `Bearer ${KEY.toUpperCase()}`,
    `Bearer ${KEY} ${KEY}`,
    `Bearer ${KEY},`,
    `Bearer "${KEY}"`,
    KEY,
    `Basic ${Buffer.from(`user:${KEY}`).toString('base64')}`,
    `Basic ${Buffer.from(KEY).toString('base64')}`,
    `Token ${KEY}`,
    `Digest ${KEY}`,
    `Bearer${KEY}`,
  ])('%s is 401', async (authorization) => {
    expectUnauthorized(await api.get('/sessions', { authorization }))
    expectUnauthorized(await api.post('/sessions', { prompt: 'x' }, { authorization }))
  })

  test('a key in the URL, a cookie, a body or another header is none', async () => {
    for (const name of ['key', 'api_key', 'access_token', 'token', 'authorization']) {
      expectUnauthorized(await api.get(`/sessions?${name}=${KEY}`))
      expectUnauthorized(await api.get(`/sessions/${NOBODY}/events?${name}=${KEY}`))
    }
    expectUnauthorized(await api.get('/sessions', { cookie: `authorization=${KEY}; token=${KEY}` }))
    expectUnauthorized(await api.get('/sessions', { 'x-api-key': KEY, 'proxy-authorization': `Bearer ${KEY}` }))
  })

  test('a stream is refused with a problem document', async () => {
    for (const path of [`/sessions/${NOBODY}/events`, `/sessions/${NOBODY}/turns/1/events`]) {
      expectUnauthorized(await api.get(path, { accept: 'text/event-stream', authorization: 'Bearer wrong' }))
    }
  })
})

describe('with the key', () => {
  test('everything works, streams too', async () => {
    const created = await api.post<RunResult>('/sessions', { prompt: 'let me in' }, good)
    expect(created.status).toBe(201)
    const id = created.body.session_id
    const stream = await server.stream(`/sessions/${id}/turns/stream`, { json: { prompt: 'and again' }, headers: good })
    expect(textOf(await stream.all())).toBe('and again')
    const replay = await server.stream(`/sessions/${id}/turns/1/events`, { headers: good })
    expect(textOf(await replay.all())).toBe('let me in')
    expect((await api.get<SessionList>('/sessions', good)).body.total).toBe(1)
    expect((await api.get('/metrics', good)).status).toBe(200)
    expect((await api.delete(`/sessions/${id}`, good)).status).toBe(200)
  })

  test('other errors are what they are', async () => {
    expectProblem(await api.get(`/sessions/${NOBODY}`, good), 404, 'SESSION_NOT_FOUND')
    expectProblem(await api.get('/nope', good), 404, 'ROUTE_NOT_FOUND')
    expectInvalid(await api.post('/sessions', {}, good), 'prompt')
  })

  test('two Authorization headers are 400, even if both are good', async () => {
    const lines = [
      'GET /sessions HTTP/1.1',
      'Host: 127.0.0.1',
      `Authorization: Bearer ${KEY}`,
      `Authorization: Bearer ${KEY}`,
    ]
    expectInvalid(await exchange(server.port, `${lines.join('\r\n')}\r\n\r\n`))
  })

  test('no refused request made a session', async () => {
    expect((await api.get<SessionList>('/sessions', good)).body.total).toBe(0)
  })
})
