import { describe, expect, test } from 'vitest'
import {
  createIdle,
  expectInvalid,
  expectProblem,
  expectProblemDocument,
  NOBODY,
  type RunResult,
  readSession,
  type SessionList,
} from '../helpers/contract.ts'
import { exchange, send } from '../helpers/http.ts'
import { useServer } from '../helpers/suite.ts'

const server = useServer()
const { api } = server

async function sessionCount(): Promise<number> {
  return (await api.get<SessionList>('/sessions?limit=0')).body.total
}

/** Sends JSON text as it stands, for what JSON.stringify cannot say. */
function postText(path: string, text: string) {
  return send<RunResult>(server.url + path, 'POST', { bytes: text, headers: { 'content-type': 'application/json' } })
}

describe('createSession refuses', () => {
  test.each<[string, unknown]>([
    ['prompt', {}],
    ['prompt', { prompt: '' }],
    ['prompt', { prompt: ' ' }],
    ['prompt', { prompt: '\n\t \r\n' }],
    ['prompt', { prompt: '\u00a0\u2003\u3000' }],
    ['prompt', { initial_turn: 'run' }],
    ['prompt', { prompt: 1 }],
    ['prompt', { prompt: null }],
    ['prompt', { prompt: true }],
    ['prompt', { prompt: ['x'] }],
    ['prompt', { prompt: { text: 'x' } }],
    ['agent', { prompt: 'x', agent: 7 }],
    ['model', { prompt: 'x', model: 7 }],
    ['system_prompt', { prompt: 'x', system_prompt: 7 }],
    ['max_tokens', { prompt: 'x', max_tokens: '100' }],
    ['max_tokens', { prompt: 'x', max_tokens: 1.5 }],
    ['max_tokens', { prompt: 'x', max_tokens: -1 }],
    ['host_mode', { prompt: 'x', host_mode: 'false' }],
    ['host_mode', { prompt: 'x', host_mode: 0 }],
    ['skill_references', { prompt: 'x', skill_references: 'a' }],
    ['skill_references', { prompt: 'x', skill_references: [1] }],
    ['labels', { prompt: 'x', labels: 'a=b' }],
    ['labels', { prompt: 'x', labels: ['a'] }],
    ['labels', { prompt: 'x', labels: { a: 1 } }],
    ['labels', { prompt: 'x', labels: { a: null } }],
    ['initial_turn', { prompt: 'x', initial_turn: 'later' }],
    ['initial_turn', { prompt: 'x', initial_turn: true }],
    ['provider_params', { prompt: 'x', provider_params: 'fast' }],
    ['provider_params', { prompt: 'x', provider_params: [] }],
    ['structured_output_retries', { prompt: 'x', structured_output_retries: '2' }],
    ['structured_output_retries', { prompt: 'x', structured_output_retries: 11 }],
    ['budget_limits', { prompt: 'x', budget_limits: 5 }],
    ['skill_references', { prompt: 'x', skill_references: [''] }],
    ['preload_skills', { prompt: 'x', preload_skills: Array(33).fill('a') }],
    ['output_schema', { prompt: 'x', output_schema: [] }],
    ['hooks_override', { prompt: 'x', hooks_override: { enable: [] } }],
    ['comms_name', { prompt: 'x', comms_name: '' }],
    ['comms_name', { prompt: 'x', comms_name: ' ' }],
    ['comms_name', { prompt: 'x', comms_name: 'a\nb' }],
    ['comms_name', { prompt: 'x', comms_name: 'x'.repeat(129) }],
    ['comms_name', { prompt: 'x', host_mode: true }],
    ['peer_meta', { prompt: 'x', peer_meta: { labels: { a: 1 } } }],
    ['promt', { prompt: 'x', promt: 'y' }],
    ['Prompt', { prompt: 'x', Prompt: 'y' }],
    ['session_id', { prompt: 'x', session_id: NOBODY }],
    ['on_busy', { prompt: 'x', on_busy: 'reject' }],
  ])('a wrong %s in %j, and names it [R93]', async (path, body) => {
    const before = await sessionCount()
    expectInvalid(await api.post('/sessions', body), path)
    expectInvalid(await api.post('/sessions/stream', body), path)
    expect(await sessionCount()).toBe(before)
  })
})

describe('startTurn refuses', () => {
  test.each<[string, unknown]>([
    ['prompt', {}],
    ['prompt', { prompt: '' }],
    ['prompt', { prompt: ' \n' }],
    ['prompt', { prompt: 0 }],
    ['prompt', { on_busy: 'enqueue' }],
    ['on_busy', { prompt: 'x', on_busy: 'wait' }],
    ['on_busy', { prompt: 'x', on_busy: true }],
    ['on_busy', { prompt: 'x', on_busy: 'REJECT' }],
    ['host_mode', { prompt: 'x', host_mode: 'no' }],
    ['host_mode', { prompt: 'x', host_mode: true }],
    ['skill_references', { prompt: 'x', skill_references: {} }],
    ['model', { prompt: 'x', model: 'm' }],
    ['agent', { prompt: 'x', agent: 'echo' }],
    ['system_prompt', { prompt: 'x', system_prompt: 's' }],
    ['labels', { prompt: 'x', labels: {} }],
    ['initial_turn', { prompt: 'x', initial_turn: 'run' }],
    ['session_id', { prompt: 'x', session_id: NOBODY }],
  ])('a wrong %s in %j, and names it [R93]', async (path, body) => {
    const id = await createIdle(api)
    expectInvalid(await api.post(`/sessions/${id}/turns`, body), path)
    expectInvalid(await api.post(`/sessions/${id}/turns/stream`, body), path)
    expect((await readSession(api, id)).state).toMatchObject({ turn: 0, is_active: false })
  })
})

describe('U+0000', () => {
  test.each<[string, unknown]>([
    ['the prompt', { prompt: 'a\u0000b' }],
    ['the system prompt', { prompt: 'x', system_prompt: '\u0000' }],
    ['a label', { prompt: 'x', labels: { a: 'b\u0000' } }],
    ['the name of a label', { prompt: 'x', labels: { 'a\u0000': 'b' } }],
    ['the name of the agent', { prompt: 'x', agent: 'echo\u0000' }],
    ['a provider parameter, however deep', { prompt: 'x', provider_params: { a: [{ b: ['\u0000'] }] } }],
  ])('in %s is 400', async (_, body) => {
    const before = await sessionCount()
    expectInvalid(await api.post('/sessions', body))
    expect(await sessionCount()).toBe(before)
  })

  test('as text of six characters is no U+0000', async () => {
    const answer = await api.post<RunResult>('/sessions', { prompt: '\\u0000' })
    expect(answer.body.text).toBe('\\u0000')
  })
})

describe('names that JavaScript objects have of themselves', () => {
  test.each([
    '{"prompt":"x","__proto__":{"agent":"scripted"}}',
    '{"prompt":"x","\\u005f_proto__":{"agent":"scripted"}}',
    '{"__proto__":{"prompt":"x"}}',
    '{"prompt":"x","constructor":{"prototype":{"agent":"scripted"}}}',
    '{"prompt":"x","toString":"y"}',
    '{"prompt":"x","hasOwnProperty":1}',
  ])('%s is 400 like any member that is not known', async (text) => {
    expectInvalid(await postText('/sessions', text))
    const id = await createIdle(api)
    expectInvalid(await postText(`/sessions/${id}/turns`, text))
  })

  test.each([
    '{"prompt":"x","labels":{"__proto__":"a"}}',
    '{"prompt":"x","labels":{"__proto__":{"polluted":"yes"}}}',
    '{"prompt":"x","labels":{"constructor":"c"}}',
    '{"prompt":"x","provider_params":{"__proto__":{"delay_ms":1}}}',
    '{"prompt":"x","provider_params":{"constructor":{"prototype":{"polluted":"yes"}}}}',
  ])('%s does no harm to others', async (text) => {
    const answer = await postText('/sessions', text)
    expect([201, 400]).toContain(answer.status)
    if (answer.status === 400) expectInvalid(answer)
    const id = await createIdle(api)
    expect((await readSession(api, id)).state.labels).toEqual({})
    expect(({} as Record<string, unknown>).polluted).toBeUndefined()
  })
})

describe('large and deep documents', () => {
  const deep = (depth: number, open: string, close: string) => open.repeat(depth) + close.repeat(depth)

  test.each<[string, string]>([
    ['20,000 lists where a prompt should be', `{"prompt":${deep(20_000, '[', ']')}}`],
    ['20,000 objects where a prompt should be', `{"prompt":${deep(20_000, '{"a":', '}').replace('}', '1}')}}`],
    ['20,000 lists instead of an object', deep(20_000, '[', ']')],
    ['500,000 lists that never close', '['.repeat(500_000)],
    ['20,000 unknown members', `{${Array.from({ length: 20_000 }, (_, n) => `"k${n}":${n}`).join()}}`],
  ])('%s are 400', async (_, text) => {
    expectInvalid(await postText('/sessions', text))
  })

  test('20,000 levels inside a free object are no error of the server', async () => {
    const answer = await postText('/sessions', `{"prompt":"x","provider_params":{"a":${deep(20_000, '[', ']')}}}`)
    expect(answer.status).toBeLessThan(500)
    if (answer.status >= 400) expectProblemDocument(answer)
    expect((await api.get('/health')).status).toBe(200)
  })

  test('a problem stays small when a request has thousands of faults', async () => {
    const answer = await postText('/sessions', `{${Array.from({ length: 5000 }, (_, n) => `"k${n}":${n}`).join()}}`)
    expectInvalid(answer)
    expect(answer.text.length).toBeLessThan(100_000)
  })
})

describe('a number that is too large for one', () => {
  const infinite = [
    '1e309',
    '-1E+309',
    `1${'0'.repeat(250)}e99`,
    `-9${'9'.repeat(209)}e99`,
    `1${'0'.repeat(300)}.5e9`,
    `0.001e${'0'.repeat(20)}312`,
    '9'.repeat(310),
  ]
  const finite = ['1e308', `1${'0'.repeat(209)}e98`, `0.${'0'.repeat(300)}1e400`, `1${'0'.repeat(250)}e-99`]

  test.each<[string, string, (number: string) => string]>([
    ['POST', '/sessions', (n) => `{"prompt":"x","agent":"echo","provider_params":{"deep":[{"n":${n}}]}}`],
    ['POST', '/sessions', (n) => `{"prompt":"x","output_schema":{"maximum":${n}}}`],
    ['POST', 'interactions', (n) => `{"body":[${n}]}`],
    ['POST', 'comms', (n) => `{"kind":"peer_request","to":"x","intent":"y","params":{"n":${n}}}`],
    [
      'POST',
      '/sessions/import',
      (n) =>
        `{"version":1,"id":"0199d3c0-0000-7000-8000-000000000000","created_at":"2026-01-01T00:00:00Z","updated_at":"2026-01-01T00:00:00Z","metadata":{"session_metadata":{"provider_params":{"n":${n}}}},"messages":[],"usage":{"input_tokens":0,"output_tokens":0,"total_tokens":0}}`,
    ],
  ])('is 400 anywhere in a body: %s %s', async (method, path, body) => {
    const id = await createIdle(api)
    const url = path.startsWith('/') ? path : `/sessions/${id}/${path}`
    const sent = (number: string) =>
      api.send(method, url, { bytes: body(number), headers: { 'content-type': 'application/json' } })
    for (const number of infinite) {
      const answer = await sent(number)
      expectInvalid(answer)
      expect(answer.text, number).toContain('is too large a number')
    }
    for (const number of finite) expect((await sent(number)).text, number).not.toContain('is too large a number')
  })
})

describe('parameters', () => {
  test('that repeat where one is meant are 400', async () => {
    const id = await createIdle(api)
    expectInvalid(await api.get('/sessions?limit=1&limit=2'), 'limit')
    expectInvalid(await api.get('/sessions?active=true&active=false'), 'active')
    expectInvalid(await api.get(`/sessions/${id}/turns?offset=0&offset=1`), 'offset')
    expectInvalid(await api.get(`/sessions/${id}/events?after=0&after=0`), 'after')
  })

  test('an id is read as UUID in every route', async () => {
    for (const path of ['', '/turns', '/turns/1', '/turns/1/events', '/events', '/messages', '/export']) {
      expectInvalid(await api.get(`/sessions/no-uuid${path}`))
    }
    expectInvalid(await api.delete('/sessions/no-uuid'))
    expectInvalid(await api.post('/sessions/no-uuid/turns', { prompt: 'x' }))
    expectInvalid(await api.post('/sessions/no-uuid/turns/stream', { prompt: 'x' }))
    expectInvalid(await api.post('/sessions/no-uuid/interrupt'))
    expectInvalid(await api.post('/sessions/no-uuid/fork', {}))
  })

  test('a blank line and a quote in an id are only a wrong id', async () => {
    for (const id of ['%0d%0aSet-Cookie:%20a=b', '%22', "'%20OR%201=1", '..%2f..%2fetc%2fpasswd', '%F0%9F%A6%A6']) {
      const answer = await exchange(server.port, `GET /sessions/${id} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n`)
      expectInvalid(answer)
      expect(answer.headers).not.toHaveProperty('set-cookie')
    }
  })
})

describe('options that are turned off here are 501, never ignored', () => {
  test.each<[string, Record<string, unknown>]>([
    ['skill_references', { skill_references: ['a/b'] }],
    ['preload_skills', { preload_skills: ['a/b'] }],
    ['output_schema', { output_schema: { type: 'object' } }],
    ['output_schema, the default beside it', { output_schema: { type: 'object' }, structured_output_retries: 2 }],
    ['structured_output_retries', { structured_output_retries: 3 }],
    ['budget_limits', { budget_limits: { max_tokens: 10 } }],
    ['hooks_override', { hooks_override: { disable: ['a'] } }],
    ['model', { agent: 'echo', model: 'some-model' }],
    ['provider', { agent: 'echo', provider: 'openai' }],
    ['agent llm', { agent: 'llm' }],
  ])('%s on createSession [R99]', async (_, options) => {
    const before = await sessionCount()
    expectProblem(await api.post('/sessions', { prompt: 'x', ...options }), 501, 'CAPABILITY_UNAVAILABLE')
    expectProblem(await api.post('/sessions/stream', { prompt: 'x', ...options }), 501, 'CAPABILITY_UNAVAILABLE')
    expect(await sessionCount()).toBe(before)
  })

  test('but what is the default anyway asks for nothing', async () => {
    const standard = { host_mode: false, skill_references: [], structured_output_retries: 2 }
    const answer = await api.post<RunResult>('/sessions', { prompt: 'x', ...standard })
    expect([answer.status, answer.body.text]).toEqual([201, 'x'])
  })

  test.each<[string, Record<string, unknown>]>([['skill_references', { skill_references: ['a/b'] }]])(
    '%s on startTurn',
    async (_, options) => {
      const id = await createIdle(api)
      const body = { prompt: 'x', ...options }
      expectProblem(await api.post(`/sessions/${id}/turns`, body), 501, 'CAPABILITY_UNAVAILABLE')
      expectProblem(await api.post(`/sessions/${id}/turns/stream`, body), 501, 'CAPABILITY_UNAVAILABLE')
      expect((await readSession(api, id)).state.turn).toBe(0)
    },
  )

  test('but the defaults of such options may be spelled out', async () => {
    const answer = await api.post<RunResult>('/sessions', { prompt: 'x', host_mode: false, initial_turn: 'run' })
    expect(answer.status, answer.text).toBe(201)
    const next = await api.post<RunResult>(`/sessions/${answer.body.session_id}/turns`, {
      prompt: 'y',
      host_mode: false,
      on_busy: 'reject',
    })
    expect(next.status, next.text).toBe(200)
  })
})
