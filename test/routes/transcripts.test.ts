import { describe, expect, test } from 'vitest'
import {
  createIdle,
  type ExportedSession,
  expectInvalid,
  expectProblem,
  type MessageList,
  NO_USAGE,
  NOBODY,
  type RunResult,
  readMessages,
  readSession,
  type SessionList,
  type SessionView,
  said,
  TIME,
  type TurnList,
  UUID_V7,
  usage,
} from '../helpers/contract.ts'
import { gatedAgent } from '../helpers/gate.ts'
import { ownServer, useServer } from '../helpers/suite.ts'

const gate = gatedAgent()
const server = useServer({}, { gates: [gate] })
const { api } = server

const TOOL_SCRIPT = 'say Let me see.\ntool add {"a":20,"b":22}\nsay It is 42.'

async function exported(id: string): Promise<ExportedSession> {
  const answer = await api.get<ExportedSession>(`/sessions/${id}/export`)
  expect(answer.status, answer.text).toBe(200)
  return answer.body
}

/** An id that is new to the server: UUID v7 texts are accepted from outside. */
let fresh = 0
function freshId(): string {
  fresh++
  return `0199d3c0-0000-7000-8000-${String(fresh).padStart(12, '0')}`
}

function session(parts: Partial<ExportedSession> = {}): ExportedSession {
  return {
    version: 1,
    id: freshId(),
    messages: said('hello', 'hi'),
    created_at: '2026-01-02T03:04:05.678Z',
    updated_at: '2026-01-02T03:04:06.789Z',
    metadata: {},
    usage: usage(1, 1),
    ...parts,
  }
}

describe('the transcript', () => {
  test('lists committed messages oldest first and pages like every list [R98]', async () => {
    const id = await createIdle(api, { agent: 'echo', system_prompt: 'Be kind.' })
    for (const prompt of ['a', 'b']) await api.post(`/sessions/${id}/turns`, { prompt })
    const messages = [{ role: 'system', content: 'Be kind.' }, ...said('a', 'a'), ...said('b', 'b')]
    const page = async (query: string) => (await api.get<MessageList>(`/sessions/${id}/messages${query}`)).body
    expect(await page('')).toEqual({ messages, total: 5, limit: 100, offset: 0 })
    expect(await page('?limit=2&offset=1')).toEqual({ messages: messages.slice(1, 3), total: 5, limit: 2, offset: 1 })
    expect(await page('?offset=5')).toEqual({ messages: [], total: 5, limit: 100, offset: 5 })
    expect(await page('?limit=0')).toEqual({ messages: [], total: 5, limit: 0, offset: 0 })
    expectInvalid(await api.get(`/sessions/${id}/messages?limit=1001`), 'limit')
    expectInvalid(await api.get(`/sessions/${id}/messages?offset=-1`), 'offset')
  })

  test('of a session that has run nothing is empty', async () => {
    const id = await createIdle(api)
    expect((await api.get<MessageList>(`/sessions/${id}/messages`)).body).toEqual({
      messages: [],
      total: 0,
      limit: 100,
      offset: 0,
    })
  })

  test('has a tool round as assistant with tool use, tool results, assistant', async () => {
    const { body } = await api.post<RunResult>('/sessions', { agent: 'scripted', prompt: TOOL_SCRIPT })
    const messages = await readMessages(api, body.session_id)
    const id = messages[1]?.blocks?.[1]?.data.id
    expect(messages).toEqual([
      { role: 'user', content: TOOL_SCRIPT },
      {
        role: 'block_assistant',
        blocks: [
          { block_type: 'text', data: { text: 'Let me see.' } },
          { block_type: 'tool_use', data: { id: expect.stringMatching(/\S/), name: 'add', args: { a: 20, b: 22 } } },
        ],
        stop_reason: 'tool_use',
      },
      { role: 'tool_results', results: [{ tool_use_id: id, content: '42', is_error: false }] },
      {
        role: 'block_assistant',
        blocks: [{ block_type: 'text', data: { text: 'It is 42.' } }],
        stop_reason: 'end_turn',
      },
    ])
    expect((await readSession(api, body.session_id)).state).toMatchObject({
      message_count: 4,
      last_assistant_text: 'It is 42.',
    })
  })

  test('shows nothing of a turn that still runs, in messages and export alike', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const first = api.post(`/sessions/${id}/turns`, { prompt: 'm1' })
    const run1 = await gate.run('m1')
    await run1.say('done')
    run1.finish()
    await first
    const second = api.post(`/sessions/${id}/turns`, { prompt: 'm2' })
    const run2 = await gate.run('m2')
    await run2.say('not yet')
    expect(await readMessages(api, id)).toEqual(said('m1', 'done'))
    expect((await exported(id)).messages).toEqual(said('m1', 'done'))
    run2.finish()
    await second
    expect(await readMessages(api, id)).toEqual([...said('m1', 'done'), ...said('m2', 'not yet')])
  })

  test('of an unknown session is 404', async () => {
    expectProblem(await api.get(`/sessions/${NOBODY}/messages`), 404, 'SESSION_NOT_FOUND')
    expectProblem(await api.get(`/sessions/${NOBODY}/export`), 404, 'SESSION_NOT_FOUND')
    expectProblem(await api.post(`/sessions/${NOBODY}/fork`, {}), 404, 'SESSION_NOT_FOUND')
  })
})

describe('exporting a session', () => {
  test('gives the whole session as last committed', async () => {
    const { body } = await api.post<RunResult>('/sessions', { agent: 'echo', prompt: 'one two' })
    const id = body.session_id
    const { state } = await readSession(api, id)
    expect(await exported(id)).toEqual({
      version: 1,
      id,
      messages: said('one two', 'one two'),
      created_at: state.created_at,
      updated_at: expect.stringMatching(TIME),
      metadata: expect.any(Object),
      usage: usage(2, 2),
    })
  })

  test('of a session that has run nothing is good too', async () => {
    const id = await createIdle(api)
    expect(await exported(id)).toMatchObject({ version: 1, id, messages: [], usage: NO_USAGE })
  })

  test('changes nothing: the session goes on', async () => {
    const { body } = await api.post<RunResult>('/sessions', { prompt: 'a' })
    expect(await exported(body.session_id)).toEqual(await exported(body.session_id))
    expect((await api.post<RunResult>(`/sessions/${body.session_id}/turns`, { prompt: 'b' })).body.turn).toBe(2)
  })
})

describe('importing a session', () => {
  test('on another server keeps id, transcript, labels, agent and usage, and runs nothing', async () => {
    const other = await ownServer()
    const labels = { from: 'here', 'to/where': 'there' }
    const created = await api.post<RunResult>('/sessions', { agent: 'scripted', prompt: TOOL_SCRIPT, labels })
    const id = created.body.session_id
    const original = await exported(id)

    const answer = await other.api.post<SessionView>('/sessions/import', original)
    expect(answer.status).toBe(201)
    expect(answer.body.state).toMatchObject({
      session_id: id,
      message_count: 4,
      is_active: false,
      labels,
      agent: 'scripted',
      last_assistant_text: 'It is 42.',
    })
    expect(answer.body.billing).toEqual({
      total_tokens: original.usage.total_tokens,
      usage: original.usage,
    })
    expect((await other.api.get<SessionView>(`/sessions/${id}`)).body).toEqual(answer.body)
    expect(await readMessages(other.api, id)).toEqual(original.messages)
    const again = (await other.api.get<ExportedSession>(`/sessions/${id}/export`)).body
    expect({ ...again, updated_at: '' }).toEqual({ ...original, updated_at: '' })

    const next = await other.api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'say on we go' })
    expect(next.status).toBe(200)
    expect(next.body.text).toBe('on we go')
    expect(next.body.session_usage.total_tokens).toBe(original.usage.total_tokens + next.body.usage.total_tokens)
    expect((await readMessages(other.api, id)).slice(4)).toEqual(said('say on we go', 'on we go'))
    const list = await other.api.get<SessionList>('/sessions?label=from=here')
    expect(list.body.sessions.map((summary) => summary.session_id)).toEqual([id])
  })

  test('of a live id is 409 and harms nothing; once archived the id is free', async () => {
    const { body } = await api.post<RunResult>('/sessions', { agent: 'echo', prompt: 'mine' })
    const id = body.session_id
    const original = await exported(id)
    const problem = expectProblem(
      await api.post('/sessions/import', { ...original, messages: said('forged', 'forged') }),
      409,
      'SESSION_EXISTS',
    )
    expect(problem.session_id).toBe(id)
    expect(await readMessages(api, id)).toEqual(said('mine', 'mine'))
    await api.delete(`/sessions/${id}`)
    const answer = await api.post<SessionView>('/sessions/import', original)
    expect(answer.status).toBe(201)
    expect(answer.body.state).toMatchObject({ session_id: id, message_count: 2, is_active: false })
    expect((await api.get<SessionView>(`/sessions/${id}`)).body.state.is_active).toBe(false)
    expect(await readMessages(api, id)).toEqual(said('mine', 'mine'))
  })

  test('of a session that has run nothing works', async () => {
    const answer = await api.post<SessionView>('/sessions/import', session({ messages: [], usage: NO_USAGE }))
    expect(answer.status).toBe(201)
    expect(answer.body.state).toMatchObject({ message_count: 0, is_active: false })
    expect(answer.body.state).not.toHaveProperty('last_assistant_text')
  })

  test('keeps what belongs to a provider untouched', async () => {
    const original = session({
      messages: [
        { role: 'system', content: 'S' },
        { role: 'user', content: 'q' },
        {
          role: 'block_assistant',
          blocks: [
            {
              block_type: 'reasoning',
              data: { text: 'hm', meta: { provider: 'anthropic', signature: 'c2ln\u2028' } },
            },
            { block_type: 'text', data: { text: 'a', meta: { provider: 'open_ai', id: 'x', encrypted_content: 'y' } } },
            {
              block_type: 'tool_use',
              data: { id: 't1', name: 'n', args: { deep: [1, { two: null }], n: 1.5e300, s: '' } },
            },
          ],
          stop_reason: 'tool_use',
        },
        { role: 'tool_results', results: [{ tool_use_id: 't1', content: '{"x":1}', is_error: true }] },
        { role: 'block_assistant', blocks: [{ block_type: 'text', data: { text: 'end' } }], stop_reason: 'max_tokens' },
      ],
    })
    const answer = await api.post<SessionView>('/sessions/import', original)
    expect(answer.status, answer.text).toBe(201)
    expect(await readMessages(api, original.id)).toEqual(original.messages)
    expect((await exported(original.id)).messages).toEqual(original.messages)
  })

  test.each<[string, unknown]>([
    ['nothing', {}],
    ['a list', []],
    ['another version', session({ version: 2 })],
    ['an id that is no UUID', session({ id: 'mine' })],
    ['a message without a role', session({ messages: [{ content: 'x' } as never] })],
    ['a message with an unknown role', session({ messages: [{ role: 'pope', content: 'x' }] })],
    ['a user message that is no text', session({ messages: [{ role: 'user', content: 5 as never }] })],
    [
      'an unknown block',
      session({
        messages: [{ role: 'block_assistant', blocks: [{ block_type: 'ad', data: {} }], stop_reason: 'end_turn' }],
      }),
    ],
    ['messages that are no list', session({ messages: 'all' as never })],
    ['a member that it does not have', { ...session(), extra: true }],
    ['usage below zero', session({ usage: { input_tokens: -1, output_tokens: 0, total_tokens: -1 } })],
    ['a time that is none', session({ created_at: 'yesterday' })],
    ['U+0000 in a message', session({ messages: [{ role: 'user', content: 'a\u0000b' }] })],
  ])('of %s is 400 and leaves nothing', async (_, body) => {
    const before = (await api.get<SessionList>('/sessions?limit=0')).body.total
    expectInvalid(await api.post('/sessions/import', body))
    expect((await api.get<SessionList>('/sessions?limit=0')).body.total).toBe(before)
  })
})

describe('forking a session', () => {
  async function threeTurns() {
    const { body } = await api.post<RunResult>('/sessions', { agent: 'echo', prompt: 'a', labels: { kind: 'parent' } })
    for (const prompt of ['b', 'c']) await api.post(`/sessions/${body.session_id}/turns`, { prompt })
    return body.session_id
  }

  test('without a turn copies the whole transcript into a new idle session', async () => {
    const id = await threeTurns()
    const answer = await api.post<SessionView>(`/sessions/${id}/fork`, {})
    expect(answer.status).toBe(201)
    const { state } = answer.body
    expect(state.session_id).toMatch(UUID_V7)
    expect(state.session_id).not.toBe(id)
    expect(state).toMatchObject({ message_count: 6, is_active: false, agent: 'echo', last_assistant_text: 'c' })
    expect(await readMessages(api, state.session_id)).toEqual(await readMessages(api, id))
    expect(await readSession(api, state.session_id)).toEqual(answer.body)
  })

  test('at a turn copies the transcript up to and with that turn', async () => {
    const id = await threeTurns()
    for (const [turn, count] of [
      [1, 2],
      [2, 4],
      [3, 6],
    ] as const) {
      const { status, body } = await api.post<SessionView>(`/sessions/${id}/fork`, { turn })
      expect(status).toBe(201)
      expect(await readMessages(api, body.state.session_id)).toEqual((await readMessages(api, id)).slice(0, count))
    }
  })

  test('keeps the system prompt and whole tool rounds [R78]', async () => {
    const created = await api.post<RunResult>('/sessions', {
      agent: 'scripted',
      system_prompt: 'Count.',
      prompt: TOOL_SCRIPT,
    })
    const id = created.body.session_id
    await api.post(`/sessions/${id}/turns`, { prompt: 'say more' })
    const { body } = await api.post<SessionView>(`/sessions/${id}/fork`, { turn: 1 })
    const messages = await readMessages(api, body.state.session_id)
    expect(messages.map((message) => message.role)).toEqual([
      'system',
      'user',
      'block_assistant',
      'tool_results',
      'block_assistant',
    ])
    expect(messages).toEqual((await readMessages(api, id)).slice(0, 5))
  })

  test('makes two sessions that go their own ways', async () => {
    const id = await threeTurns()
    const { body } = await api.post<SessionView>(`/sessions/${id}/fork`, { turn: 1 })
    const child = body.state.session_id
    const next = await api.post<RunResult>(`/sessions/${child}/turns`, { prompt: 'child' })
    expect(next.status).toBe(200)
    expect(await readMessages(api, child)).toEqual([...said('a', 'a'), ...said('child', 'child')])
    expect(await readMessages(api, id)).toHaveLength(6)
    await api.delete(`/sessions/${id}`)
    expect(await readMessages(api, child)).toHaveLength(4)
    expect((await api.post<RunResult>(`/sessions/${child}/turns`, { prompt: 'orphan' })).status).toBe(200)
  })

  test('while a turn runs takes what was committed before it', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const first = api.post(`/sessions/${id}/turns`, { prompt: 'k1' })
    const run1 = await gate.run('k1')
    await run1.say('kept')
    run1.finish()
    await first
    const second = api.post(`/sessions/${id}/turns`, { prompt: 'k2' })
    const run2 = await gate.run('k2')
    await run2.say('open')
    const { status, body } = await api.post<SessionView>(`/sessions/${id}/fork`, {})
    expect(status).toBe(201)
    expect(body.state.is_active).toBe(false)
    expect(await readMessages(api, body.state.session_id)).toEqual(said('k1', 'kept'))
    run2.finish()
    await second
  })

  test('at a turn that the session has not had is 404', async () => {
    const id = await threeTurns()
    expectProblem(await api.post(`/sessions/${id}/fork`, { turn: 4 }), 404, 'TURN_NOT_FOUND')
    expectInvalid(await api.post(`/sessions/${id}/fork`, { turn: '1' }), 'turn')
    expectInvalid(await api.post(`/sessions/${id}/fork`, { turn: -1 }), 'turn')
    expectInvalid(await api.post(`/sessions/${id}/fork`, { turn: 1, at: 2 }), 'at')
    expect((await api.get<TurnList>(`/sessions/${id}/turns`)).body.total).toBe(3)
  })
})
