import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { client } from '../helpers/http.ts'
import { openStream } from '../helpers/sse.ts'
import { killLeftovers, type Served, serve } from './child.ts'

afterAll(killLeftovers)

/** Each stands at one place that a log must not repeat. */
const CANARIES = {
  key: 'canary-key-5b1c',
  wrongKey: 'canary-wrong-key-77aa',
  prompt: 'canary-prompt-91fe',
  systemPrompt: 'canary-system-2c2c',
  answer: 'canary-answer-0d4e',
  label: 'canary-label-31bb',
  query: 'canary-query-88c0',
  header: 'canary-header-19ef',
  cookie: 'canary-cookie-6a6a',
  idempotencyKey: 'canary-idempotency-4f4f',
  badBody: 'canary-bad-body-c3c3',
} as const
/** What the agent tells the caller of the turn that fails. */
const FAILURE = 'the-reason-d00d'

describe('the log of a server at level info', () => {
  let server: Served
  let turns: { session_id: string; outcome: string }[]

  beforeAll(async () => {
    server = await serve({ API_KEYS: JSON.stringify([{ key: CANARIES.key, name: 'tester' }]) })
    const api = client(() => server.url)
    const headers = (id: string) => ({
      authorization: `Bearer ${CANARIES.key}`,
      'x-request-id': id,
      'x-canary': CANARIES.header,
      cookie: `c=${CANARIES.cookie}`,
    })
    const create = async (id: string, body: object) => {
      const answer = await api.post<{ session_id: string }>('/sessions', body, headers(id))
      return answer.body.session_id
    }
    const said = await create('created', {
      agent: 'scripted',
      prompt: `say ${CANARIES.answer} ${CANARIES.prompt}`,
      system_prompt: CANARIES.systemPrompt,
      labels: { a: CANARIES.label },
    })
    const failed = await create('failed', { agent: 'scripted', prompt: `fail ${FAILURE}` })
    const thrown = await create('thrown', { agent: 'scripted', prompt: 'throw' })
    const hung = await create('deferred', { agent: 'scripted', initial_turn: 'deferred' })
    const stream = await openStream(`${server.url}/sessions/${hung}/turns/stream`, {
      json: { prompt: `say ${CANARIES.answer}\nhang` },
      headers: { ...headers('streamed'), 'idempotency-key': CANARIES.idempotencyKey },
    })
    await stream.upTo('text_delta')
    await api.post(`/sessions/${hung}/interrupt`, {}, headers('interrupted'))
    await stream.all()
    const left = await openStream(`${server.url}/sessions/${hung}/events?after=0`, { headers: headers('left') })
    await left.upTo('run_interrupted')
    left.leave()
    await api.get(`/sessions?label=a%3D${CANARIES.query}`, headers('listed'))
    await api.get('/sessions', { authorization: `Bearer ${CANARIES.wrongKey}`, 'x-request-id': 'unauthorized' })
    await api.get(`/nothing?q=${CANARIES.query}`, headers('nothing'))
    await api.send('POST', '/sessions', {
      headers: { ...headers('malformed'), 'content-type': 'application/json' },
      bytes: `{"prompt": "${CANARIES.badBody}`,
    })
    await api.post('/sessions', { prompt: 5, other: CANARIES.badBody }, headers('invalid'))
    await api.get('/health')
    turns = [
      { session_id: said, outcome: 'completed' },
      { session_id: failed, outcome: 'failed' },
      { session_id: thrown, outcome: 'failed' },
      { session_id: hung, outcome: 'interrupted' },
    ]
    server.child.kill('SIGTERM')
    await server.exited
  })

  const requests = () => server.logs.filter((line) => typeof line.method === 'string')

  test('is one JSON object a line, each with time, level and message', () => {
    expect(server.lines.length).toBeGreaterThan(15)
    for (const line of server.logs) {
      expect(line).toMatchObject({
        level: expect.stringMatching(/^(info|warn|error|fatal)$/),
        time: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
        msg: expect.stringMatching(/\S/),
      })
    }
  })

  test.each([
    ['created', { method: 'POST', path: '/sessions', status: 201 }],
    ['failed', { method: 'POST', path: '/sessions', status: 500 }],
    ['thrown', { method: 'POST', path: '/sessions', status: 500 }],
    ['deferred', { method: 'POST', path: '/sessions', status: 201 }],
    ['streamed', { method: 'POST', status: 200, stream: 'complete' }],
    ['interrupted', { method: 'POST', status: 200 }],
    ['left', { method: 'GET', status: 200, stream: 'cut' }],
    ['listed', { method: 'GET', path: '/sessions', status: 200 }],
    ['nothing', { method: 'GET', path: '/nothing', status: 404 }],
    ['malformed', { method: 'POST', path: '/sessions', status: 400 }],
    ['invalid', { method: 'POST', path: '/sessions', status: 400 }],
  ])('has exactly one line for the request "%s", with its status and who asked', (request_id, fields) => {
    expect(requests().filter((line) => line.request_id === request_id)).toEqual([
      expect.objectContaining({ ...fields, request_id, key: 'tester' }),
    ])
  })

  test('has a line for a request without a key, without a name', () => {
    const [line, ...more] = requests().filter(({ request_id }) => request_id === 'unauthorized')
    expect(more).toEqual([])
    expect(line).toMatchObject({ status: 401 })
    expect(line).not.toHaveProperty('key')
  })

  test('says of every request how long it took, and gives it an id where the caller gave none', () => {
    for (const line of requests()) {
      expect(line).toMatchObject({ request_id: expect.stringMatching(/\S/), duration_ms: expect.any(Number) })
    }
    expect(requests().find(({ path }) => path === '/health')?.request_id).toMatch(/^[0-9a-f-]{36}$/)
  })

  test('has exactly one line for each turn, with its session, number, outcome and duration', () => {
    const ended = server.logs.filter(({ outcome }) => outcome !== undefined)
    expect(ended.map(({ session_id, turn, outcome }) => ({ session_id, turn, outcome }))).toEqual(
      turns.map((turn) => ({ ...turn, turn: 1 })),
    )
    for (const { duration_ms } of ended) expect(duration_ms).toBeGreaterThanOrEqual(0)
  })

  test('tells all of an error that nobody expected, and where it happened', () => {
    const faults = server.logs.filter(({ level }) => level === 'error')
    expect(faults[0]).toMatchObject({ session_id: turns[2]?.session_id, turn: 1 })
    expect(JSON.stringify(faults[0])).toContain('a string, which is no Error')
    expect(faults.filter(({ request_id }) => request_id !== undefined)).toEqual([
      expect.objectContaining({ request_id: 'thrown' }),
    ])
  })

  test('says why a turn failed, in the line of that turn alone', () => {
    const told = server.logs.filter((line) => JSON.stringify(line).includes(FAILURE))
    expect(told).toEqual([expect.objectContaining({ ...turns[1], code: 'AGENT_ERROR', error: FAILURE })])
  })

  test.each(Object.entries(CANARIES))('never repeats the %s', (_, canary) => {
    expect(server.lines.filter((line) => line.includes(canary))).toEqual([])
  })
})
