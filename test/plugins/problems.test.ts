import { describe, expect, test } from 'vitest'
import type { SessionAgentBuilder } from '../../src/core/agent.ts'
import {
  ApprovalNotFoundError,
  BudgetExhaustedError,
  HookDeniedError,
  OutcomeUnknownError,
  ProviderError,
  SkillNotFoundError,
  SkillResolutionError,
  StoreUnavailableError,
  TurnLostError,
} from '../../src/core/errors.ts'
import { problemStatus, toProblem } from '../../src/plugins/problems.ts'
import { createIdle, expectProblem, NOBODY, type Problem } from '../helpers/contract.ts'
import { gatedAgent } from '../helpers/gate.ts'
import { type Answer, exchange, send } from '../helpers/http.ts'
import { ownServer, useServer } from '../helpers/suite.ts'

const SECRET = 'secret-of-the-inside-71c3'

/** Fails in every way that nobody expects. */
const broken: SessionAgentBuilder = {
  name: 'broken',
  accepts: ['provider_params'],
  buildAgent: ({ provider_params }) => {
    if (provider_params?.build === true) throw new TypeError(SECRET)
    return {
      async *run() {
        throw Object.assign(new Error(SECRET), { code: 'INVALID_PARAMS', statusCode: 400, status: 418 })
      },
    }
  },
}

/** An agent that fails in the way that its prompt names. */
const failing: SessionAgentBuilder = {
  name: 'failing',
  buildAgent: () => ({
    async *run({ prompt }) {
      throw failures[prompt as keyof typeof failures]
    },
  }),
}
const failures = {
  APPROVAL_NOT_FOUND: new ApprovalNotFoundError(NOBODY, 1, 'call'),
  SKILL_NOT_FOUND: new SkillNotFoundError('nothing', '/preload_skills/0'),
  SKILL_RESOLUTION_FAILED: new SkillResolutionError('The skill is too large'),
  HOOK_DENIED: new HookDeniedError('The hook says no'),
  BUDGET_EXHAUSTED: new BudgetExhaustedError('The session has used its tokens'),
  PROVIDER_ERROR: new ProviderError('The model is not there'),
  TURN_LOST: new TurnLostError(NOBODY, 1),
  STORE_UNAVAILABLE: new StoreUnavailableError(),
  OUTCOME_UNKNOWN: new OutcomeUnknownError(),
}

const gate = gatedAgent()
const server = useServer({ BODY_LIMIT: 2_048 }, { gates: [gate], agents: [broken, failing] })
const { api } = server

/** What the contract has, as far as this server can have it. */
const CONTRACT = {
  INVALID_PARAMS: 400,
  UNAUTHORIZED: 401,
  FORBIDDEN: 403,
  HOOK_DENIED: 403,
  SESSION_NOT_FOUND: 404,
  TURN_NOT_FOUND: 404,
  INTERACTION_NOT_FOUND: 404,
  APPROVAL_NOT_FOUND: 404,
  PEER_NOT_FOUND: 404,
  SKILL_NOT_FOUND: 404,
  ROUTE_NOT_FOUND: 404,
  METHOD_NOT_ALLOWED: 405,
  REQUEST_TIMEOUT: 408,
  SESSION_BUSY: 409,
  SESSION_NOT_RUNNING: 409,
  SESSION_EXISTS: 409,
  INBOX_CLOSED: 410,
  PAYLOAD_TOO_LARGE: 413,
  URI_TOO_LONG: 414,
  UNSUPPORTED_MEDIA_TYPE: 415,
  IDEMPOTENCY_KEY_REUSED: 422,
  SKILL_RESOLUTION_FAILED: 422,
  BUDGET_EXHAUSTED: 429,
  RATE_LIMITED: 429,
  HEADERS_TOO_LARGE: 431,
  AGENT_ERROR: 500,
  INTERNAL_ERROR: 500,
  TURN_LOST: 500,
  CAPABILITY_UNAVAILABLE: 501,
  SESSION_PERSISTENCE_DISABLED: 501,
  PROVIDER_ERROR: 502,
  SESSION_CAPACITY_REACHED: 503,
  INBOX_FULL: 503,
  SHUTTING_DOWN: 503,
  STORE_UNAVAILABLE: 503,
  OUTCOME_UNKNOWN: 503,
} as const
type Code = keyof typeof CONTRACT

async function busy(): Promise<string> {
  const id = await createIdle(api, { agent: 'gated' })
  await api.post(`/sessions/${id}/turns`, { prompt: id }, { prefer: 'respond-async' })
  await gate.run(id)
  return id
}

const raw = (bytes: string) => exchange(server.port, bytes)
const json = { 'content-type': 'application/json' }

const failWith = (code: keyof typeof failures) => () => api.post('/sessions', { agent: 'failing', prompt: code })

/** How each problem is come by over the wire. */
const ways: Record<Code, () => Promise<Answer>> = {
  INTERACTION_NOT_FOUND: async () => api.get(`/sessions/${await createIdle(api)}/interactions/${NOBODY}/events`),
  APPROVAL_NOT_FOUND: failWith('APPROVAL_NOT_FOUND'),
  PEER_NOT_FOUND: async () => {
    const id = await createIdle(api, { comms_name: 'alone' })
    return api.post(`/sessions/${id}/comms`, { kind: 'peer_message', to: 'alone', body: 'x' })
  },
  SKILL_NOT_FOUND: failWith('SKILL_NOT_FOUND'),
  SKILL_RESOLUTION_FAILED: failWith('SKILL_RESOLUTION_FAILED'),
  HOOK_DENIED: failWith('HOOK_DENIED'),
  BUDGET_EXHAUSTED: failWith('BUDGET_EXHAUSTED'),
  PROVIDER_ERROR: failWith('PROVIDER_ERROR'),
  TURN_LOST: failWith('TURN_LOST'),
  STORE_UNAVAILABLE: failWith('STORE_UNAVAILABLE'),
  OUTCOME_UNKNOWN: failWith('OUTCOME_UNKNOWN'),
  INBOX_CLOSED: async () => {
    const id = await createIdle(api)
    await api.delete(`/sessions/${id}`)
    return api.post(`/sessions/${id}/interactions`, { body: 'x' })
  },
  INBOX_FULL: async () => {
    const id = await createIdle(api)
    const inject = () => api.post(`/sessions/${id}/interactions`, { body: 'x' })
    for (let i = 0; i < 64; i++) await Promise.all(Array.from({ length: 16 }, inject))
    return inject()
  },
  INVALID_PARAMS: () => api.post('/sessions', { prompt: '' }),
  UNAUTHORIZED: async () => (await ownServer({ API_KEYS: '[{"key":"k"}]' })).api.get('/sessions'),
  FORBIDDEN: () => api.get('/sessions', { host: 'evil.example' }),
  SESSION_NOT_FOUND: () => api.get(`/sessions/${NOBODY}`),
  TURN_NOT_FOUND: async () => api.get(`/sessions/${await createIdle(api)}/turns/7`),
  ROUTE_NOT_FOUND: () => api.get('/nothing'),
  METHOD_NOT_ALLOWED: () => api.send('PUT', '/sessions'),
  REQUEST_TIMEOUT: async () => {
    const hurried = await ownServer({ HEADERS_TIMEOUT_MS: 100, REQUEST_TIMEOUT_MS: 100 })
    const socket = await hurried.socket()
    socket.write('GET /health HTTP/1.1\r\nHost: localhost\r\n')
    return socket.response()
  },
  SESSION_BUSY: async () => api.post(`/sessions/${await busy()}/turns`, { prompt: 'x' }),
  SESSION_NOT_RUNNING: async () => api.post(`/sessions/${await createIdle(api)}/interrupt`),
  SESSION_EXISTS: async () => {
    const exported = await api.get(`/sessions/${await createIdle(api)}/export`)
    return api.post('/sessions/import', exported.body)
  },
  PAYLOAD_TOO_LARGE: () => api.post('/sessions', { prompt: 'x'.repeat(4_096) }),
  URI_TOO_LONG: () => api.get(`/sessions?label=${'x'.repeat(9_000)}`),
  UNSUPPORTED_MEDIA_TYPE: () =>
    api.send('POST', '/sessions', { headers: { 'content-type': 'text/plain' }, bytes: 'x' }),
  IDEMPOTENCY_KEY_REUSED: async () => {
    const headers = { 'idempotency-key': 'the same' }
    await api.post('/sessions', { prompt: 'one' }, headers)
    return api.post('/sessions', { prompt: 'two' }, headers)
  },
  RATE_LIMITED: async () => {
    const small = await ownServer({ MAX_STREAMS: 1 })
    const id = await createIdle(small.api)
    await small.stream(`/sessions/${id}/events`)
    return small.api.post(`/sessions/${id}/turns/stream`, { prompt: 'x' })
  },
  HEADERS_TOO_LARGE: () => raw(`GET /health HTTP/1.1\r\nHost: localhost\r\nX: ${'x'.repeat(20_000)}\r\n\r\n`),
  AGENT_ERROR: () => api.post('/sessions', { agent: 'scripted', prompt: 'fail on purpose' }),
  INTERNAL_ERROR: () => api.post('/sessions', { agent: 'broken', prompt: 'x' }),
  CAPABILITY_UNAVAILABLE: () => api.get('/skills'),
  SESSION_PERSISTENCE_DISABLED: async () => {
    const id = await createIdle(api)
    await api.delete(`/sessions/${id}`)
    return api.get(`/sessions/${id}/messages`)
  },
  SESSION_CAPACITY_REACHED: async () => {
    const small = await ownServer({ MAX_SESSIONS: 1 })
    await createIdle(small.api)
    return small.api.post('/sessions', { prompt: 'x' })
  },
  SHUTTING_DOWN: async () => {
    const closing = await ownServer({ DRAIN_MS: 5_000 })
    const stream = await closing.stream('/sessions/stream', { json: { agent: 'scripted', prompt: 'hang' } })
    const started = await stream.upTo('run_started')
    const closed = closing.close()
    const answer = await closing.api.get('/ready')
    await closing.api.post(`/sessions/${started.json.session_id}/interrupt`)
    await closed
    return answer
  },
}

test('the codes and their statuses are those of the contract, and no others', () => {
  expect(problemStatus).toEqual(CONTRACT)
})

test('the OpenAPI document names the same codes', async () => {
  const { body } = await api.get<{
    components: { schemas: { ProblemCode: { enum: string[] } } }
  }>('/openapi.json')
  expect(body.components.schemas.ProblemCode.enum.toSorted()).toEqual(Object.keys(CONTRACT).toSorted())
})

describe('over the wire', () => {
  test.each(Object.entries(CONTRACT) as [Code, number][])(
    '%s is %i, with its type and its title [R91 R92]',
    async (code, status) => {
      const problem = expectProblem(await ways[code](), status, code)
      const known = new Set(Object.keys(problem))
      for (const name of known) {
        expect(['type', 'title', 'status', 'detail', 'code', 'request_id'].concat(EXTENSIONS)).toContain(name)
      }
    },
  )

  const EXTENSIONS = ['session_id', 'turn', 'errors', 'session_created', 'resumable', 'active_turn', 'links']

  test.each<[Code, RegExp]>([
    ['UNAUTHORIZED', /^Bearer/],
    ['METHOD_NOT_ALLOWED', /^GET, HEAD, POST$/],
    ['SESSION_BUSY', /^\/sessions\/[0-9a-f-]{36}\/turns\/1$/],
    ['RATE_LIMITED', /^[1-9]\d?$/],
    ['SESSION_CAPACITY_REACHED', /^[1-9]\d?$/],
    ['INBOX_FULL', /^[1-9]\d?$/],
    ['SHUTTING_DOWN', /^[1-9]\d?$/],
  ])('%s has the header that says how to go on', async (code, value) => {
    const names: Partial<Record<Code, string>> = {
      UNAUTHORIZED: 'www-authenticate',
      METHOD_NOT_ALLOWED: 'allow',
      SESSION_BUSY: 'location',
    }
    const { headers } = await ways[code]()
    expect(headers[names[code] ?? 'retry-after']).toMatch(value)
  })

  test('SESSION_BUSY tells all that is needed to attach to the turn', async () => {
    const answer = await ways.SESSION_BUSY()
    const { session_id, active_turn, links } = expectProblem(answer, 409, 'SESSION_BUSY')
    expect(active_turn).toEqual({
      turn: 1,
      status: 'running',
      started_at: expect.stringMatching(/^\d{4}-\d\d-\d\dT.*Z$/),
      last_seq: expect.any(Number),
    })
    const turn = `/sessions/${session_id}/turns/1`
    expect(links).toEqual({ turn, events: `${turn}/events`, interrupt: `/sessions/${session_id}/interrupt` })
    expect((await api.get(turn)).status).toBe(200)
    expect((await api.post(String(links?.interrupt), {})).status).toBe(200)
  })

  test('validation says which member is wrong, and what would be right', async () => {
    const wrong: [object, string][] = [
      [{ prompt: 5 }, '/prompt'],
      [{}, '/prompt'],
      [{ prompt: 'x', promt: 'y' }, '/promt'],
      [{ prompt: 'x', labels: { a: 1 } }, '/labels/a'],
      [{ prompt: 'x', initial_turn: 'later' }, '/initial_turn'],
      [{ prompt: 'x', agent: 'nobody' }, '/agent'],
    ]
    for (const [body, path] of wrong) {
      const { errors, detail } = expectProblem(await api.post('/sessions', body), 400, 'INVALID_PARAMS')
      expect(errors?.map((error) => error.path)).toEqual([path])
      expect(detail).toContain(path)
      expect(errors?.[0]?.message).toMatch(/\S/)
    }
  })

  test('a first turn that fails says that its session stays, and it does', async () => {
    const { session_id, turn, session_created } = expectProblem(await ways.AGENT_ERROR(), 500, 'AGENT_ERROR')
    expect({ turn, session_created }).toEqual({ turn: 1, session_created: true })
    const next = await api.post(`/sessions/${session_id}/turns`, { prompt: 'say well' })
    expect(next).toMatchObject({ status: 200, body: { text: 'well' } })
  })

  test('a stream that cannot begin is a problem with its status, whatever the client accepts', async () => {
    for (const accept of ['text/event-stream', '*/*', 'application/json', 'text/html']) {
      expectProblem(await api.get(`/sessions/${NOBODY}/events`, { accept }), 404, 'SESSION_NOT_FOUND')
      expectProblem(await api.post('/sessions/stream', { prompt: '' }, { accept }), 400, 'INVALID_PARAMS')
    }
  })

  test('the answer to a HEAD has the status and the type of the problem, and no body', async () => {
    const { status, headers, text } = await api.send('HEAD', `/sessions/${NOBODY}`)
    expect({ status, text }).toEqual({ status: 404, text: '' })
    expect(headers['content-type']).toMatch(/^application\/problem\+json/)
  })

  test('the same path with another method is 405 and lists what there is', async () => {
    const allowed: [string, string, string][] = [
      ['DELETE', '/sessions', 'GET, HEAD, POST'],
      ['POST', `/sessions/${NOBODY}`, 'DELETE, GET, HEAD'],
      ['GET', '/sessions/stream', 'DELETE, GET, HEAD, POST'],
      ['PATCH', `/sessions/${NOBODY}/turns`, 'GET, HEAD, POST'],
      ['GET', `/sessions/${NOBODY}/interrupt`, 'POST'],
      ['POST', '/health', 'GET, HEAD'],
    ]
    for (const [method, path, allow] of allowed) {
      const answer = await api.send(method, path, { headers: method === 'POST' ? json : {} })
      // A path that could also be an id is taken for one.
      if (method === 'GET' && path === '/sessions/stream') {
        expectProblem(answer, 400, 'INVALID_PARAMS')
        continue
      }
      expectProblem(answer, 405, 'METHOD_NOT_ALLOWED')
      expect({ path, allow: answer.headers.allow }).toEqual({ path, allow })
    }
  })
})

describe('an error that nobody expected tells nothing of itself', () => {
  async function expectSilence(answer: Answer): Promise<void> {
    const problem = expectProblem(answer, 500, 'INTERNAL_ERROR')
    expect(answer.text).not.toContain(SECRET)
    expect(problem.detail).toBe('An unexpected error occurred')
  }

  test('when an agent throws it in a turn: to the caller, to streams, to whoever reads the turn', async () => {
    const created = await api.post<Problem>('/sessions', { agent: 'broken', prompt: 'x' })
    await expectSilence(created)
    const id = created.body.session_id
    await expectSilence(await api.post(`/sessions/${id}/turns`, { prompt: 'x' }))
    const stream = await server.stream(`/sessions/${id}/turns/stream`, { json: { prompt: 'x' } })
    const last = (await stream.all()).at(-1)
    expect(last?.json).toMatchObject({ type: 'run_failed', code: 'INTERNAL_ERROR' })
    expect(stream.text).not.toContain(SECRET)
    for (const path of ['', '/turns', '/turns/1', '/messages', '/export']) {
      expect((await api.get(`/sessions/${id}${path}`)).text).not.toContain(SECRET)
    }
  })

  test('when an agent cannot be built, and no session is left behind', async () => {
    const before = (await api.get<{ total: number }>('/sessions')).body.total
    await expectSilence(await api.post('/sessions', { agent: 'broken', prompt: 'x', provider_params: { build: true } }))
    expect((await api.get<{ total: number }>('/sessions')).body.total).toBe(before)
  })

  test('whatever it is that was thrown', () => {
    const thrown = [
      new Error(SECRET),
      Object.assign(new Error(SECRET), { code: 'INTERNAL_ERROR' }),
      Object.assign(new Error(SECRET), { code: 'ENOENT', path: '/etc/passwd' }),
      Object.assign(new Error(SECRET), { statusCode: 500 }),
      Object.assign(new Error(SECRET), { statusCode: 200 }),
      new RangeError(SECRET, { cause: new Error(SECRET) }),
      new AggregateError([new Error(SECRET)], SECRET),
    ]
    for (const error of thrown) {
      expect(JSON.stringify(toProblem(error))).not.toContain(SECRET)
      expect(toProblem(error)).toMatchObject({ status: 500, code: 'INTERNAL_ERROR' })
    }
  })
})

describe('the id of a request', () => {
  const REQUEST_ID = 'x-request-id'

  test('is the one that the caller gave, on every kind of answer, and in the body of a problem', async () => {
    const headers = { [REQUEST_ID]: 'given-1' }
    const answers = [
      await api.get('/health', headers),
      await api.get('/nothing', headers),
      await api.get('/sessions/%zz', headers),
      await api.get(`/sessions/${'x'.repeat(300)}`, headers),
      await api.post('/sessions', { prompt: 'x' }, headers),
      await api.post('/sessions', { prompt: '' }, headers),
      await api.get('/health', { ...headers, host: 'evil.example' }),
      await api.send('HEAD', '/health', { headers }),
      await api.get('/playground', headers),
      await api.get('/openapi.json', headers),
      await api.get('/metrics', headers),
    ]
    for (const { headers: sent, body, status } of answers) {
      expect(sent[REQUEST_ID]).toBe('given-1')
      if (status >= 400) expect((body as Problem).request_id).toBe('given-1')
    }
    const stream = await server.stream('/sessions/stream', { json: { prompt: 'x' }, headers })
    expect(stream.headers[REQUEST_ID]).toBe('given-1')
  })

  test('is a new one each time where none was given', async () => {
    const ids = await Promise.all(
      Array.from({ length: 20 }, async () => (await api.get('/health')).headers[REQUEST_ID]),
    )
    expect(new Set(ids).size).toBe(20)
    for (const id of ids) expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/)
  })

  test.each([
    ['is empty', ''],
    ['has a space', 'a b'],
    ['is too long', 'x'.repeat(129)],
    ['is not ASCII', '\xe4'],
    ['has a tab', 'a\tb'],
  ])('is a new one where the one that was given %s', async (_, given) => {
    const { headers } = await api.get('/health', { [REQUEST_ID]: given })
    expect(headers[REQUEST_ID]).toMatch(/^[0-9a-f-]{36}$/)
  })

  test('is a new one where two were given', async () => {
    const { headers } = await api.send('GET', '/health', { headers: { [REQUEST_ID]: ['one', 'two'] } })
    expect(headers[REQUEST_ID]).toMatch(/^[0-9a-f-]{36}$/)
  })
})

test('every answer says that its type is what it says', async () => {
  for (const path of ['/health', '/nothing', '/openapi.json', '/playground', '/docs', '/metrics']) {
    expect((await send(server.url + path, 'GET')).headers['x-content-type-options']).toBe('nosniff')
  }
})
