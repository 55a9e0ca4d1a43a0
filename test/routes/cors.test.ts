import { describe, expect, test } from 'vitest'
import { expectProblem, NOBODY, type RunResult } from '../helpers/contract.ts'
import type { Answer } from '../helpers/http.ts'
import { useServer } from '../helpers/suite.ts'

const ORIGIN = 'https://app.example'
const closed = useServer()
const open = useServer({ CORS_ORIGINS: ORIGIN, API_KEYS: '[{"key":"k-test-123456789012"}]' })
const key = { authorization: 'Bearer k-test-123456789012' }

const list = (value: unknown) => String(value).toLowerCase().split(/, */)

function preflight(origin: string, method: string, headers: string) {
  return {
    headers: { origin, 'access-control-request-method': method, 'access-control-request-headers': headers },
  }
}

function expectShared(answer: Pick<Answer, 'headers'>) {
  expect(answer.headers['access-control-allow-origin']).toBe(ORIGIN)
  expect(list(answer.headers['access-control-expose-headers'])).toEqual(
    expect.arrayContaining(['location', 'retry-after', 'preference-applied']),
  )
}

function corsHeaders(answer: Pick<Answer, 'headers'>) {
  return Object.keys(answer.headers).filter((name) => name.startsWith('access-control-'))
}

describe('CORS is off', () => {
  test('unless CORS_ORIGINS lists origins: no answer has a CORS header', async () => {
    const { body } = await closed.api.post<RunResult>('/sessions', { prompt: 'x' }, { origin: ORIGIN })
    const stream = await closed.stream(`/sessions/${body.session_id}/turns/1/events`, { headers: { origin: ORIGIN } })
    for (const answer of [
      await closed.api.get('/sessions', { origin: ORIGIN }),
      await closed.api.get('/nope', { origin: ORIGIN }),
      await closed.api.send('OPTIONS', '/sessions', preflight(ORIGIN, 'POST', 'content-type')),
      stream,
    ]) {
      expect(corsHeaders(answer)).toEqual([])
    }
  })
})

describe('with CORS_ORIGINS', () => {
  test('a preflight of a listed origin allows the headers that clients send, without credentials', async () => {
    const wanted = 'authorization, content-type, idempotency-key, last-event-id, prefer'
    for (const [path, method] of [
      ['/sessions', 'POST'],
      ['/sessions/stream', 'POST'],
      [`/sessions/${NOBODY}`, 'DELETE'],
      [`/sessions/${NOBODY}/turns/stream`, 'POST'],
      [`/sessions/${NOBODY}/events`, 'GET'],
    ] as const) {
      const answer = await open.api.send('OPTIONS', path, preflight(ORIGIN, method, wanted))
      expect([200, 204]).toContain(answer.status)
      expect(answer.headers['access-control-allow-origin']).toBe(ORIGIN)
      expect(list(answer.headers['access-control-allow-headers'])).toEqual(expect.arrayContaining(list(wanted)))
      expect(list(answer.headers['access-control-allow-methods'])).toContain(method.toLowerCase())
    }
  })

  test('answers to a listed origin are shared with it and expose the headers of the contract', async () => {
    const headers = { origin: ORIGIN, ...key }
    const created = await open.api.post<RunResult>('/sessions', { prompt: 'x' }, headers)
    expect(created.status).toBe(201)
    expectShared(created)
    expectShared(await open.api.get('/sessions', headers))
    expectShared(await open.api.get('/health', headers))
    const id = created.body.session_id
    const posted = await open.stream(`/sessions/${id}/turns/stream`, { json: { prompt: 'y' }, headers })
    expectShared(posted)
    expect((await posted.all()).at(-1)?.event).toBe('run_completed')
    expectShared(await open.stream(`/sessions/${id}/turns/1/events`, { headers }))
    expectShared(await open.stream(`/sessions/${id}/events`, { headers }))
  })

  test('problem documents are shared too, so that a page can read why', async () => {
    const headers = { origin: ORIGIN }
    const unauthorized = await open.api.get('/sessions', headers)
    expectProblem(unauthorized, 401, 'UNAUTHORIZED')
    expectShared(unauthorized)
    const missing = await open.api.get(`/sessions/${NOBODY}`, { ...headers, ...key })
    expectProblem(missing, 404, 'SESSION_NOT_FOUND')
    expectShared(missing)
    const invalid = await open.api.post('/sessions', {}, { ...headers, ...key })
    expectProblem(invalid, 400, 'INVALID_PARAMS')
    expectShared(invalid)
  })

  test('an address that is none stays ROUTE_NOT_FOUND, for every method', async () => {
    for (const method of ['GET', 'POST', 'DELETE']) {
      const answer = await open.api.send(method, '/nope', { headers: { origin: ORIGIN, ...key } })
      expectProblem(answer, 404, 'ROUTE_NOT_FOUND')
      expectShared(answer)
    }
  })

  test('answers that depend on Origin and Accept say so to caches', async () => {
    const headers = { origin: ORIGIN, ...key }
    expect(list((await open.api.get('/sessions', headers)).headers.vary)).toContain('origin')
    const created = await open.api.post<RunResult>('/sessions', { prompt: 'x' }, headers)
    expect(list(created.headers.vary)).toEqual(expect.arrayContaining(['origin', 'accept']))
    const stream = await open.stream('/sessions/stream', { json: { prompt: 'x' }, headers })
    expect(list(stream.headers.vary)).toContain('origin')
  })

  test.each([
    'https://evil.example',
    'http://app.example',
    'https://app.example:8443',
    'https://app.example.evil.example',
    'https://sub.app.example',
    'null',
  ])('%s is not allowed', async (origin) => {
    const simple = await open.api.get('/sessions', { origin, ...key })
    expect(simple.headers['access-control-allow-origin']).toBeUndefined()
    const asked = await open.api.send('OPTIONS', '/sessions', preflight(origin, 'POST', 'authorization'))
    expect(asked.headers['access-control-allow-origin']).toBeUndefined()
    const stream = await open.stream('/sessions/stream', { json: { prompt: 'x' }, headers: { origin, ...key } })
    expect(stream.headers['access-control-allow-origin']).toBeUndefined()
  })

  test('never is any origin allowed, nor credentials of a browser', async () => {
    for (const headers of [key, { ...key, origin: ORIGIN }]) {
      const answer = await open.api.get('/sessions', headers)
      expect(answer.headers['access-control-allow-origin']).not.toBe('*')
      expect(answer.headers['access-control-allow-credentials']).toBeUndefined()
    }
  })
})
