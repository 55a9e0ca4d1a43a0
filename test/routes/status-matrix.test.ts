import { describe, expect, test } from 'vitest'
import {
  createIdle,
  type ExportedSession,
  expectProblemDocument,
  NOBODY,
  type Problem,
  type RunResult,
} from '../helpers/contract.ts'
import { gatedAgent } from '../helpers/gate.ts'
import { type Answer, type Client, exchange } from '../helpers/http.ts'
import { ownServer, useServer } from '../helpers/suite.ts'

/**
 * The table of codes in section 3 of the contract, each with a request that provokes it.
 *
 * Not here, for nothing outside can provoke them on this server: INBOX_CLOSED and INBOX_FULL (no
 * inbox), SKILL_* (no skills), BUDGET_EXHAUSTED and PROVIDER_ERROR (no model), STORE_UNAVAILABLE and OUTCOME_UNKNOWN
 * (memory is always there).
 * REQUEST_TIMEOUT is in timeouts.test.ts, SHUTTING_DOWN in closing.test.ts, because they take a while.
 */

const gate = gatedAgent()
const server = useServer({ BODY_LIMIT: 4096 }, { gates: [gate] })
const { api } = server

async function whileRunning(request: (id: string) => Promise<Answer>): Promise<Answer> {
  const id = await createIdle(api, { agent: 'gated' })
  const prompt = `running ${id}`
  const turn = api.post(`/sessions/${id}/turns`, { prompt })
  const run = await gate.run(prompt)
  const answer = await request(id)
  run.finish()
  await turn
  return answer
}

const typed = (type: string) => ({ bytes: '{"prompt":"x"}', headers: { 'content-type': type } })

const MATRIX: [code: string, status: number, request: string, provoke: () => Promise<Answer>][] = [
  ['INVALID_PARAMS', 400, 'a blank prompt', () => api.post('/sessions', { prompt: ' ' })],
  ['INVALID_PARAMS', 400, 'an unknown field', () => api.post('/sessions', { prompt: 'x', y: 1 })],
  ['INVALID_PARAMS', 400, 'a wrong query', () => api.get('/sessions?limit=x')],
  ['INVALID_PARAMS', 400, 'a wrong path', () => api.get('/sessions/x')],
  ['INVALID_PARAMS', 400, 'a wrong header', () => api.get(`/sessions/${NOBODY}/events`, { 'last-event-id': 'x' })],
  [
    'INVALID_PARAMS',
    400,
    'malformed JSON',
    () => api.send('POST', '/sessions', { bytes: '{', headers: { 'content-type': 'application/json' } }),
  ],
  ['INVALID_PARAMS', 400, 'U+0000 in a string', () => api.post('/sessions', { prompt: '\u0000' })],
  [
    'INVALID_PARAMS',
    400,
    'two Host headers',
    () => exchange(server.port, 'GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n'),
  ],
  [
    'UNAUTHORIZED',
    401,
    'no credentials',
    async () => (await ownServer({ API_KEYS: '[{"key":"k-test-123456789012"}]' })).api.get('/sessions'),
  ],
  [
    'FORBIDDEN',
    403,
    'a foreign host name',
    () => exchange(server.port, 'GET /sessions HTTP/1.1\r\nHost: evil.example\r\n\r\n'),
  ],
  ['SESSION_NOT_FOUND', 404, 'an unknown session', () => api.get(`/sessions/${NOBODY}`)],
  ['TURN_NOT_FOUND', 404, 'an unknown turn', async () => api.get(`/sessions/${await createIdle(api)}/turns/1`)],
  ['ROUTE_NOT_FOUND', 404, 'an unknown route', () => api.get('/nowhere')],
  ['METHOD_NOT_ALLOWED', 405, 'a method that a route has not', () => api.send('PUT', '/sessions')],
  [
    'SESSION_BUSY',
    409,
    'a turn beside a running one',
    () => whileRunning((id) => api.post(`/sessions/${id}/turns`, { prompt: 'x' })),
  ],
  [
    'SESSION_NOT_RUNNING',
    409,
    'an interrupt of an idle session',
    async () => api.post(`/sessions/${await createIdle(api)}/interrupt`),
  ],
  [
    'SESSION_NOT_RUNNING',
    409,
    'an interrupt of another turn',
    () => whileRunning((id) => api.post(`/sessions/${id}/interrupt`, { turn: 2 })),
  ],
  [
    'SESSION_EXISTS',
    409,
    'an import of a live session',
    async () => {
      const id = await createIdle(api)
      return api.post('/sessions/import', (await api.get<ExportedSession>(`/sessions/${id}/export`)).body)
    },
  ],
  ['PAYLOAD_TOO_LARGE', 413, 'a body over BODY_LIMIT', () => api.post('/sessions', { prompt: 'x'.repeat(5000) })],
  [
    'URI_TOO_LONG',
    414,
    'an address of 20,000 characters',
    () => exchange(server.port, `GET /${'x'.repeat(20_000)} HTTP/1.1\r\nHost: a\r\n\r\n`),
  ],
  ['UNSUPPORTED_MEDIA_TYPE', 415, 'text/plain', () => api.send('POST', '/sessions', typed('text/plain'))],
  [
    'UNSUPPORTED_MEDIA_TYPE',
    415,
    'another charset',
    () => api.send('POST', '/sessions', typed('application/json; charset=latin1')),
  ],
  [
    'IDEMPOTENCY_KEY_REUSED',
    422,
    'a key with another body',
    async () => {
      await api.post('/sessions', { prompt: 'one' }, { 'idempotency-key': 'matrix' })
      return api.post('/sessions', { prompt: 'two' }, { 'idempotency-key': 'matrix' })
    },
  ],
  [
    'HEADERS_TOO_LARGE',
    431,
    'headers of 20,000 characters',
    () => exchange(server.port, `GET / HTTP/1.1\r\nHost: a\r\nX: ${'x'.repeat(20_000)}\r\n\r\n`),
  ],
  [
    'AGENT_ERROR',
    500,
    'an agent that says that it failed',
    () => api.post('/sessions', { agent: 'scripted', prompt: 'fail x' }),
  ],
  ['INTERNAL_ERROR', 500, 'an agent that breaks', () => api.post('/sessions', { agent: 'scripted', prompt: 'throw' })],
  [
    'CAPABILITY_UNAVAILABLE',
    501,
    'an option that is turned off',
    () => api.post('/sessions', { prompt: 'x', output_schema: { type: 'object' } }),
  ],
  [
    'SESSION_CAPACITY_REACHED',
    503,
    'one session too many',
    async () => {
      const full = await ownServer({ MAX_SESSIONS: 1 })
      await createIdle(full.api)
      return full.api.post('/sessions', { prompt: 'x' })
    },
  ],
]

describe('every code has its status', () => {
  test.each(MATRIX)('%s is %i for %s', async (code, status, _, provoke) => {
    const answer = await provoke()
    expect({ status: answer.status, code: (answer.body as Problem | undefined)?.code, text: answer.text }).toEqual({
      status,
      code,
      text: answer.text,
    })
    expectProblemDocument(answer)
    expect(answer.headers['set-cookie']).toBeUndefined()
    expect(answer.headers.server).toBeUndefined()
    expect(answer.headers['x-powered-by']).toBeUndefined()
    if (status === 503) expect(answer.headers['retry-after']).toMatch(/^\d+$/)
    if (status === 401) expect(answer.headers['www-authenticate']).toMatch(/^Bearer\b/)
    if (status === 405) expect(answer.headers.allow).toMatch(/^[A-Z]+(, *[A-Z]+)*$/)
    if (status === 400) expect(answer.headers).not.toHaveProperty('retry-after')
  })

  test('all of them have been tried, and the server is well', async () => {
    expect((await api.post<RunResult>('/sessions', { prompt: 'well' })).body.text).toBe('well')
  })
})

const SUCCESSES: [operation: string, status: number, call: (client: Client, id: string) => Promise<Answer>][] = [
  ['createSession', 201, (client) => client.post('/sessions', { prompt: 'x' })],
  ['createSessionStream', 200, (client) => client.post('/sessions/stream', { prompt: 'x' })],
  ['listSessions', 200, (client) => client.get('/sessions')],
  ['readSession', 200, (client, id) => client.get(`/sessions/${id}`)],
  ['startTurn', 200, (client, id) => client.post(`/sessions/${id}/turns`, { prompt: 'x' })],
  [
    'startTurn with respond-async',
    202,
    (client, id) => client.post(`/sessions/${id}/turns`, { prompt: 'x' }, { prefer: 'respond-async' }),
  ],
  ['startTurnStream', 200, (client, id) => client.post(`/sessions/${id}/turns/stream`, { prompt: 'x' })],
  ['listTurns', 200, (client, id) => client.get(`/sessions/${id}/turns`)],
  ['readTurn', 200, (client, id) => client.get(`/sessions/${id}/turns/1`)],
  ['streamTurnEvents', 200, (client, id) => client.get(`/sessions/${id}/turns/1/events`)],
  ['listMessages', 200, (client, id) => client.get(`/sessions/${id}/messages`)],
  ['exportSession', 200, (client, id) => client.get(`/sessions/${id}/export`)],
  ['forkSession', 201, (client, id) => client.post(`/sessions/${id}/fork`, {})],
  ['archiveSession', 200, (client, id) => client.delete(`/sessions/${id}`)],
  ['listAgents', 200, (client) => client.get('/agents')],
  ['readCapabilities', 200, (client) => client.get('/capabilities')],
  ['health', 200, (client) => client.get('/health')],
  ['ready', 200, (client) => client.get('/ready')],
  ['metrics', 200, (client) => client.get('/metrics')],
  ['openapi.json', 200, (client) => client.get('/openapi.json')],
  ['openapi.yaml', 200, (client) => client.get('/openapi.yaml')],
  ['openapi-3.2.json', 200, (client) => client.get('/openapi-3.2.json')],
  ['docs', 200, (client) => client.get('/docs')],
  ['the root', 302, (client) => client.get('/')],
]

describe('every operation has its success', () => {
  test.each(SUCCESSES)('%s answers %i', async (_, status, call) => {
    const created = await api.post<RunResult>('/sessions', { prompt: 'first' })
    const answer = await call(api, created.body.session_id)
    expect({ status: answer.status, text: answer.text }).toEqual({ status, text: answer.text })
  })
})
