import { describe, expect, test } from 'vitest'
import { createIdle, expectProblem, NOBODY, type RunResult, readMessages } from '../helpers/contract.ts'
import { type Answer, exchange } from '../helpers/http.ts'
import { ownServer, useServer } from '../helpers/suite.ts'

const KEY = 'k-test-123456789012'
const OLD = 'whsec-old-1'
const NEW = 'whsec-new-22'
const server = useServer({ API_KEYS: `[{"key":"${KEY}"}]`, WEBHOOK_SECRETS: `${OLD}, ${NEW}` })
const { api } = server
const withKey = { authorization: `Bearer ${KEY}` }

const ROUTES = ['interactions', 'interactions/stream']

async function idleSession(): Promise<string> {
  const answer = await api.post<RunResult>('/sessions', { agent: 'echo', initial_turn: 'deferred' }, withKey)
  return answer.body.session_id
}

function expectSecretWanted(answer: Answer): void {
  expectProblem(answer, 401, 'UNAUTHORIZED')
  expect(answer.headers['www-authenticate']).toBe('X-Webhook-Secret')
  for (const secret of [KEY, OLD, NEW]) expect(answer.text).not.toContain(secret)
}

describe.each(ROUTES)('where WEBHOOK_SECRETS is set, …/%s', (route) => {
  test.each<[string, Record<string, string>]>([
    ['no secret', {}],
    ['an empty one', { 'x-webhook-secret': '' }],
    ['another', { 'x-webhook-secret': 'whsec' }],
    ['the beginning of one', { 'x-webhook-secret': OLD.slice(0, -1) }],
    ['more than one', { 'x-webhook-secret': `${OLD}x` }],
    ['one in capitals', { 'x-webhook-secret': OLD.toUpperCase() }],
    ['all of them', { 'x-webhook-secret': `${OLD}, ${NEW}` }],
    ['the setting itself', { 'x-webhook-secret': `${OLD},${NEW}` }],
    ['a key of the server', { 'x-webhook-secret': KEY }],
    ['a key of the server in its own place', withKey],
    ['a secret as a key', { authorization: `Bearer ${OLD}` }],
  ])('is 401 with %s, whether or not there is such a session [R94]', async (_, headers) => {
    const id = await idleSession()
    for (const session of [id, NOBODY, 'no-id']) {
      expectSecretWanted(await api.post(`/sessions/${session}/${route}`, { body: 'x' }, headers))
      expectSecretWanted(await api.post(`/sessions/${session}/${route}`, { wrong: 1 }, headers))
    }
    await api.post(`/sessions/${id}/turns`, { prompt: 'nothing came in' }, withKey)
    const transcript = await api.get<{ total: number }>(`/sessions/${id}/messages`, withKey)
    expect(transcript.body.total).toBe(2)
  })

  test('is 401 before the body was sent [R94]', async () => {
    const head = [`POST /sessions/${NOBODY}/${route} HTTP/1.1`, 'Host: 127.0.0.1', 'Content-Type: application/json']
    for (const secret of ['', 'X-Webhook-Secret: wrong\r\n']) {
      expectSecretWanted(await exchange(server.port, `${head.join('\r\n')}\r\nContent-Length: 500\r\n${secret}\r\n`))
    }
  })

  test.each([OLD, NEW])('is open to whoever has the secret %s, and no key is needed [R94]', async (secret) => {
    const id = await idleSession()
    const stream = await server.stream(`/sessions/${id}/${route}`, {
      json: { body: secret.length },
      headers: { 'x-webhook-secret': secret, accept: 'text/event-stream' },
    })
    expect(stream.status).toBe(200)
    await api.post(`/sessions/${id}/turns`, { prompt: 'look' }, withKey)
    expect((await stream.all()).at(-1)?.event).toBe('interaction_complete')
    expect(stream.end).toBe('clean')
    const accepted = await api.post(`/sessions/${id}/interactions`, { body: 'x' }, { 'x-webhook-secret': secret })
    expect(accepted.status).toBe(202)
    // Any further credentials change nothing.
    const both = { 'x-webhook-secret': secret, authorization: 'Bearer wrong' }
    expect((await api.post(`/sessions/${id}/interactions`, { body: 'x' }, both)).status).toBe(202)
    expectProblem(
      await api.post(`/sessions/${NOBODY}/${route}`, { body: 'x' }, { 'x-webhook-secret': secret }),
      404,
      'SESSION_NOT_FOUND',
    )
  })
})

describe('a webhook secret', () => {
  test.each([
    ['GET', '/sessions'],
    ['POST', '/sessions'],
    ['GET', `/sessions/${NOBODY}`],
    ['DELETE', `/sessions/${NOBODY}`],
    ['POST', `/sessions/${NOBODY}/turns`],
    ['POST', `/sessions/${NOBODY}/interrupt`],
    ['POST', `/sessions/${NOBODY}/comms`],
    ['GET', `/sessions/${NOBODY}/peers`],
    ['GET', `/sessions/${NOBODY}/events`],
    ['GET', `/sessions/${NOBODY}/messages`],
    ['GET', `/sessions/${NOBODY}/interactions/${NOBODY}/events`],
    ['HEAD', `/sessions/${NOBODY}/interactions/${NOBODY}/events`],
    ['GET', `/sessions/${NOBODY}/interactions`],
    ['GET', '/usage'],
  ])('does not open %s %s', async (method, path) => {
    const json = method === 'POST' ? { json: { prompt: 'x' } } : {}
    const answer = await api.send(method, path, { ...json, headers: { 'x-webhook-secret': OLD } })
    // A path without this method needs no key to be refused, as long as it is not served.
    expect([401, 405]).toContain(answer.status)
    if (answer.status === 401) expect(answer.headers['www-authenticate']).toMatch(/^Bearer\b/)
  })

  test('is wanted where nothing else is: without API_KEYS the other routes stay open', async () => {
    const own = await ownServer({ WEBHOOK_SECRETS: NEW })
    const id = await createIdle(own.api)
    for (const route of ROUTES) expectSecretWanted(await own.api.post(`/sessions/${id}/${route}`, { body: 'x' }))
    const headers = { 'x-webhook-secret': NEW }
    expect((await own.api.post(`/sessions/${id}/interactions`, { body: 'x' }, headers)).status).toBe(202)
    await own.api.post(`/sessions/${id}/turns`, { prompt: 'p' })
    expect((await readMessages(own.api, id))[1]).toEqual({ role: 'user', content: '[EVENT via webhook] x' })
  })

  test('is not wanted where none is set, and one that comes anyway opens nothing [R94]', async () => {
    const open = await ownServer()
    const id = await createIdle(open.api)
    expect((await open.api.post(`/sessions/${id}/interactions`, { body: 'x' })).status).toBe(202)
    const locked = await ownServer({ API_KEYS: `[{"key":"${KEY}"}]` })
    const path = `/sessions/${NOBODY}/interactions`
    for (const secret of ['', 'x', 'undefined']) {
      expectProblem(await locked.api.post(path, { body: 'x' }, { 'x-webhook-secret': secret }), 401, 'UNAUTHORIZED')
    }
    expectProblem(await locked.api.post(path, { body: 'x' }, withKey), 404, 'SESSION_NOT_FOUND')
  })
})
