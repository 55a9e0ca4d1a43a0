import { describe, expect, test } from 'vitest'
import {
  createIdle,
  expectInvalid,
  expectProblem,
  NO_USAGE,
  NOBODY,
  type RunResult,
  readMessages,
  readSession,
  readTurn,
  type SessionList,
  type SessionSummary,
  said,
  TIME,
  type TurnList,
  UUID_V7,
  usage,
} from '../helpers/contract.ts'
import { gatedAgent } from '../helpers/gate.ts'
import { until } from '../helpers/http.ts'
import { useServer } from '../helpers/suite.ts'

const gate = gatedAgent()
const server = useServer({}, { gates: [gate] })
const { api } = server

/** A label that no other test uses, so that a list shows the sessions of this test alone. */
let marks = 0
function mark(): string {
  marks++
  return `m${marks}`
}

async function listed(query: string): Promise<SessionList> {
  const answer = await api.get<SessionList>(`/sessions?${query}`)
  expect(answer.status, answer.text).toBe(200)
  return answer.body
}

const ids = (list: SessionList) => list.sessions.map((session) => session.session_id)

describe('creating a session', () => {
  test('runs the first turn and answers 201 with its whole result', async () => {
    const answer = await api.post<RunResult>('/sessions', { agent: 'echo', prompt: 'hello brave world' })
    expect(answer.status).toBe(201)
    expect(answer.headers['content-type']).toMatch(/^application\/json(; ?charset=utf-8)?$/)
    expect(answer.body).toEqual({
      session_id: expect.stringMatching(UUID_V7),
      turn: 1,
      text: 'hello brave world',
      stop_reason: 'end_turn',
      turns: 1,
      tool_calls: 0,
      usage: usage(3, 3),
      session_usage: usage(3, 3),
    })
  })

  test('without an agent is served by echo when no model is configured', async () => {
    const answer = await api.post<RunResult>('/sessions', { prompt: 'no key, no network' })
    expect(answer.status).toBe(201)
    expect(answer.body.text).toBe('no key, no network')
    expect((await readSession(api, answer.body.session_id)).state.agent).toBe('echo')
  })

  test('gives every session an id of its own, later ones sorting after earlier ones', async () => {
    const created: string[] = []
    for (let i = 0; i < 5; i++) created.push(await createIdle(api))
    expect(new Set(created).size).toBe(5)
    expect([...created].sort()).toEqual(created)
  })

  test('with a deferred first turn has run nothing: no text, no turns, no messages, idle', async () => {
    const answer = await api.post<RunResult>('/sessions', { initial_turn: 'deferred' })
    expect(answer.status).toBe(201)
    const { session_id } = answer.body
    expect(answer.body).toMatchObject({
      session_id: expect.stringMatching(UUID_V7),
      text: '',
      turns: 0,
      tool_calls: 0,
      usage: NO_USAGE,
      session_usage: NO_USAGE,
    })
    const { state, billing } = await readSession(api, session_id)
    expect(state).toMatchObject({ session_id, turn: 0, message_count: 0, is_active: false })
    expect(state).not.toHaveProperty('last_assistant_text')
    expect(billing).toEqual({ total_tokens: 0, usage: NO_USAGE })
    const turns = await api.get<TurnList>(`/sessions/${session_id}/turns`)
    expect(turns.body).toEqual({ turns: [], total: 0, limit: 100, offset: 0 })
  })

  test('a deferred session runs its first turn as turn 1', async () => {
    const id = await createIdle(api)
    const answer = await api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'now' })
    expect(answer.status).toBe(200)
    expect(answer.body).toMatchObject({ session_id: id, turn: 1, text: 'now' })
  })

  test('"run" is the default of initial_turn', async () => {
    const answer = await api.post<RunResult>('/sessions', { prompt: 'go', initial_turn: 'run' })
    expect(answer.status).toBe(201)
    expect(answer.body).toMatchObject({ turn: 1, text: 'go' })
  })

  test('a system prompt stands first in the transcript and is counted as a message', async () => {
    const { body } = await api.post<RunResult>('/sessions', { prompt: 'hi', system_prompt: 'Be brief.' })
    expect(await readMessages(api, body.session_id)).toEqual([
      { role: 'system', content: 'Be brief.' },
      ...said('hi', 'hi'),
    ])
    expect((await readSession(api, body.session_id)).state.message_count).toBe(3)
  })

  test('a first turn that fails leaves the session there, idle and usable, and the error says so', async () => {
    const label = mark()
    const answer = await api.post('/sessions', { agent: 'scripted', prompt: 'fail out of luck', labels: { label } })
    const problem = expectProblem(answer, 500, 'AGENT_ERROR')
    expect(problem).toMatchObject({ turn: 1, session_created: true, session_id: expect.stringMatching(UUID_V7) })
    expect(problem.detail).toContain('out of luck')
    const id = String(problem.session_id)
    expect(ids(await listed(`label=label%3D${label}`))).toEqual([id])
    expect((await readSession(api, id)).state).toMatchObject({ turn: 1, is_active: false })
    const next = await api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'say better' })
    expect(next.status).toBe(200)
    expect(next.body).toMatchObject({ turn: 2, text: 'better' })
  })

  test('with an agent that nobody has is refused and leaves no session behind', async () => {
    const label = mark()
    const answer = await api.post('/sessions', { agent: 'no-such-agent', prompt: 'x', labels: { label } })
    expectInvalid(answer)
    expect((await listed(`label=label%3D${label}`)).total).toBe(0)
  })

  test('a client that goes away before the answer does not stop the first turn', async () => {
    const label = mark()
    const socket = await server.socket()
    const body = JSON.stringify({ agent: 'gated', prompt: `leave ${label}`, labels: { label } })
    socket.write(
      `POST /sessions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
    )
    const run = await gate.run(`leave ${label}`)
    socket.destroy()
    await run.say('still here')
    run.finish()
    const id = run.sessionId
    await until('the turn is over', async () => (await readTurn(api, id, 1)).status === 'completed')
    expect((await readTurn(api, id, 1)).result).toMatchObject({ text: 'still here', stop_reason: 'end_turn' })
  })
})

describe('reading a session', () => {
  test('shows state and billing of an idle session as whole values', async () => {
    const labels = { team: 'red', purpose: 'test' }
    const { body } = await api.post<RunResult>('/sessions', { agent: 'echo', prompt: 'one two', labels })
    const view = await readSession(api, body.session_id)
    expect(view).toEqual({
      state: {
        session_id: body.session_id,
        created_at: expect.stringMatching(TIME),
        updated_at: expect.stringMatching(TIME),
        message_count: 2,
        is_active: false,
        labels,
        agent: 'echo',
        turn: 1,
        last_assistant_text: 'one two',
      },
      billing: { total_tokens: 4, usage: usage(2, 2) },
    })
    expect(Date.parse(view.state.updated_at)).toBeGreaterThanOrEqual(Date.parse(view.state.created_at))
  })

  test('answers while a turn runs: active, with the transcript as it was before that turn', async () => {
    const { body } = await api.post<RunResult>('/sessions', { agent: 'echo', prompt: 'before' })
    expect((await readSession(api, body.session_id)).state.is_active).toBe(false)
    const id = await createIdle(api, { agent: 'gated' })
    const first = api.post(`/sessions/${id}/turns`, { prompt: 'r1' })
    const run = await gate.run('r1')
    await run.say('half')
    expect((await readSession(api, id)).state).toMatchObject({ is_active: true, turn: 1 })
    expect(await readMessages(api, id)).toEqual([])
    run.finish()
    expect((await first).status).toBe(200)
    expect((await readSession(api, id)).state).toMatchObject({
      is_active: false,
      turn: 1,
      message_count: 2,
      last_assistant_text: 'half',
    })
  })

  test('right after a turn was answered its counters are in the view and in the list', async () => {
    const label = mark()
    const { body } = await api.post<RunResult>('/sessions', { prompt: 'a', labels: { label } })
    for (let turn = 2; turn <= 6; turn++) {
      const answer = await api.post<RunResult>(`/sessions/${body.session_id}/turns`, { prompt: 'b c' })
      expect(answer.status).toBe(200)
      const total = answer.body.session_usage.total_tokens
      const view = await readSession(api, body.session_id)
      expect(view.state).toMatchObject({ turn, message_count: 2 * turn, is_active: false })
      expect(view.billing).toEqual({ total_tokens: total, usage: answer.body.session_usage })
      const [summary] = (await listed(`label=label%3D${label}`)).sessions
      expect(summary).toMatchObject({ message_count: 2 * turn, total_tokens: total, is_active: false })
    }
  })

  test('an id that nobody has is 404, one that is no UUID is 400', async () => {
    const problem = expectProblem(await api.get(`/sessions/${NOBODY}`), 404, 'SESSION_NOT_FOUND')
    expect(problem.session_id).toBe(NOBODY)
    expectProblem(await api.get('/sessions/3f0c8e0e-9f3c-4c39-8d7b-5a4f1b1f0a11'), 404, 'SESSION_NOT_FOUND')
    expectInvalid(await api.get('/sessions/not-a-uuid'))
    expectInvalid(await api.get('/sessions/42'))
  })
})

describe('listing sessions', () => {
  test('shows a session as the summary of what reading it shows', async () => {
    const label = mark()
    const { body } = await api.post<RunResult>('/sessions', { prompt: 'x y z', labels: { label } })
    const list = await listed(`label=label%3D${label}`)
    const view = await readSession(api, body.session_id)
    const { created_at, updated_at } = view.state
    const summary: SessionSummary = {
      session_id: body.session_id,
      created_at,
      updated_at,
      message_count: 2,
      total_tokens: 6,
      is_active: false,
      labels: { label },
    }
    expect(list).toEqual({ sessions: [summary], total: 1, limit: 100, offset: 0 })
  })

  test('a session without labels has {}', async () => {
    const id = await createIdle(api)
    expect((await readSession(api, id)).state.labels).toEqual({})
    const { sessions } = await listed('limit=1000')
    expect(sessions.find((session) => session.session_id === id)?.labels).toEqual({})
  })

  test('is in the order of creation, and stays so when one is archived', async () => {
    const label = mark()
    const [a, b, c, d] = [
      await createIdle(api, { labels: { label } }),
      await createIdle(api, { labels: { label } }),
      await createIdle(api, { labels: { label } }),
      await createIdle(api, { labels: { label } }),
    ]
    expect(ids(await listed(`label=label%3D${label}`))).toEqual([a, b, c, d])
    expect((await api.delete(`/sessions/${a}`)).status).toBe(200)
    expect(ids(await listed(`label=label%3D${label}`))).toEqual([b, c, d])
    const e = await createIdle(api, { labels: { label } })
    expect((await api.delete(`/sessions/${c}`)).status).toBe(200)
    expect(ids(await listed(`label=label%3D${label}`))).toEqual([b, d, e])
  })

  test('limit and offset cut a page, the offset first; total counts all that match', async () => {
    const label = mark()
    const all: string[] = []
    for (let i = 0; i < 5; i++) all.push(await createIdle(api, { labels: { label } }))
    const page = async (query: string) => {
      const { sessions, ...rest } = await listed(`label=label%3D${label}&${query}`)
      return { ids: sessions.map((session) => session.session_id), ...rest }
    }
    expect(await page('limit=2')).toEqual({ ids: all.slice(0, 2), total: 5, limit: 2, offset: 0 })
    expect(await page('limit=2&offset=3')).toEqual({ ids: all.slice(3), total: 5, limit: 2, offset: 3 })
    expect(await page('offset=4')).toEqual({ ids: all.slice(4), total: 5, limit: 100, offset: 4 })
    expect(await page('offset=5')).toEqual({ ids: [], total: 5, limit: 100, offset: 5 })
    expect(await page('offset=1000000')).toEqual({ ids: [], total: 5, limit: 100, offset: 1_000_000 })
    expect(await page('limit=0')).toEqual({ ids: [], total: 5, limit: 0, offset: 0 })
    expect(await page('limit=1000')).toEqual({ ids: all, total: 5, limit: 1000, offset: 0 })
  })

  test.each([
    'limit=1001',
    'limit=-1',
    'limit=1.5',
    'limit=ten',
    'limit=',
    'offset=-1',
    'offset=x',
    'offset=0.5',
    'active=maybe',
    'active=1',
    'label=novalue',
  ])('?%s is refused and names the parameter', async (query) => {
    expectInvalid(await api.get(`/sessions?${query}`), query.slice(0, query.indexOf('=')))
  })

  test('several labels must all match', async () => {
    const label = mark()
    const red = await createIdle(api, { labels: { label, colour: 'red', size: 'big' } })
    const blue = await createIdle(api, { labels: { label, colour: 'blue', size: 'big' } })
    expect(ids(await listed(`label=label%3D${label}&label=size%3Dbig`))).toEqual([red, blue])
    expect(ids(await listed(`label=label=${label}&label=colour=blue`))).toEqual([blue])
    expect(ids(await listed(`label=colour=blue&label=label=${label}&label=size=big`))).toEqual([blue])
    expect(ids(await listed(`label=label=${label}&label=colour=red&label=colour=blue`))).toEqual([])
    expect(ids(await listed(`label=label=${label}&label=colour=re`))).toEqual([])
  })

  test('names of object members are ordinary labels', async () => {
    const label = mark()
    const id = await createIdle(api, { labels: { label, toString: 'x', valueOf: 'y' } })
    expect((await readSession(api, id)).state.labels).toEqual({ label, toString: 'x', valueOf: 'y' })
    expect(ids(await listed(`label=label=${label}&label=toString=x`))).toEqual([id])
    expect(ids(await listed(`label=label=${label}&label=hasOwnProperty=x`))).toEqual([])
  })

  test('active=true shows sessions with a turn in flight, active=false the others', async () => {
    const label = mark()
    const idle = await createIdle(api, { labels: { label } })
    const busy = await createIdle(api, { agent: 'gated', labels: { label } })
    const turn = api.post(`/sessions/${busy}/turns`, { prompt: `active ${label}` })
    const run = await gate.run(`active ${label}`)
    expect(ids(await listed(`label=label=${label}&active=true`))).toEqual([busy])
    expect(ids(await listed(`label=label=${label}&active=false`))).toEqual([idle])
    expect((await listed(`label=label=${label}`)).sessions.map((session) => session.is_active)).toEqual([false, true])
    run.finish()
    expect((await turn).status).toBe(200)
    expect(ids(await listed(`label=label=${label}&active=true`))).toEqual([])
    expect(ids(await listed(`label=label=${label}&active=false`))).toEqual([idle, busy])
  })

  test('a session is listed while its first turn still runs', async () => {
    const label = mark()
    const created = api.post<RunResult>('/sessions', { agent: 'gated', prompt: label, labels: { label } })
    const run = await gate.run(label)
    const { sessions } = await listed(`label=label=${label}`)
    expect(sessions).toMatchObject([{ session_id: run.sessionId, is_active: true, labels: { label } }])
    run.finish()
    expect((await created).body.session_id).toBe(run.sessionId)
  })
})

describe('archiving a session', () => {
  test('answers with its id and takes it out of the list', async () => {
    const label = mark()
    const id = await createIdle(api, { labels: { label } })
    const answer = await api.delete(`/sessions/${id}`)
    expect(answer.status).toBe(200)
    expect(answer.body).toEqual({ session_id: id, archived: true })
    expect(await listed(`label=label=${label}`)).toMatchObject({ sessions: [], total: 0 })
  })

  test('afterwards a turn, an interrupt and a second archive are 404', async () => {
    const { body } = await api.post<RunResult>('/sessions', { prompt: 'x' })
    const id = body.session_id
    await api.delete(`/sessions/${id}`)
    for (const answer of [
      await api.post(`/sessions/${id}/turns`, { prompt: 'x' }),
      await api.post(`/sessions/${id}/turns/stream`, { prompt: 'x' }),
      await api.post(`/sessions/${id}/turns`, { prompt: 'x', on_busy: 'enqueue' }),
      await api.post(`/sessions/${id}/interrupt`),
      await api.delete(`/sessions/${id}`),
      await api.delete(`/sessions/${id}?mode=cancel`),
    ]) {
      expect(expectProblem(answer, 404, 'SESSION_NOT_FOUND').session_id).toBe(id)
    }
  })

  test('its last view stays readable and is not active, its transcript is gone', async () => {
    const { body } = await api.post<RunResult>('/sessions', { prompt: 'keep me' })
    const id = body.session_id
    await api.delete(`/sessions/${id}`)
    expect((await readSession(api, id)).state).toMatchObject({
      session_id: id,
      turn: 1,
      message_count: 2,
      is_active: false,
      last_assistant_text: 'keep me',
    })
    expectProblem(await api.get(`/sessions/${id}/messages`), 501, 'SESSION_PERSISTENCE_DISABLED')
  })

  test('works for a client that names a media type without sending a body', async () => {
    const id = await createIdle(api)
    const answer = await api.delete(`/sessions/${id}`, { 'content-type': 'application/json' })
    expect(answer.status).toBe(200)
    expect(answer.body).toEqual({ session_id: id, archived: true })
  })

  test('an unknown session is 404, an unknown mode 400', async () => {
    expectProblem(await api.delete(`/sessions/${NOBODY}`), 404, 'SESSION_NOT_FOUND')
    const id = await createIdle(api)
    expectInvalid(await api.delete(`/sessions/${id}?mode=violent`), 'mode')
    expect((await readSession(api, id)).state.is_active).toBe(false)
    expect((await api.delete(`/sessions/${id}`)).status).toBe(200)
  })

  test('lets a running turn finish, and its caller gets its result', async () => {
    const label = mark()
    const id = await createIdle(api, { agent: 'gated', labels: { label } })
    const turn = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: label })
    const run = await gate.run(label)
    await run.say('one')
    const archived = await api.delete(`/sessions/${id}`)
    expect(archived.body).toEqual({ session_id: id, archived: true })
    expect(run.signal.aborted).toBe(false)
    expect((await listed(`label=label=${label}`)).total).toBe(0)
    expectProblem(await api.post(`/sessions/${id}/turns`, { prompt: 'late' }), 404, 'SESSION_NOT_FOUND')
    expectProblem(await api.delete(`/sessions/${id}`), 404, 'SESSION_NOT_FOUND')
    await run.say(' two')
    run.finish()
    const answer = await turn
    expect(answer.status).toBe(200)
    expect(answer.body).toMatchObject({ session_id: id, turn: 1, text: 'one two', stop_reason: 'end_turn' })
  })

  test('during the first turn lets createSession answer with the result', async () => {
    const label = mark()
    const created = api.post<RunResult>('/sessions', { agent: 'gated', prompt: label })
    const run = await gate.run(label)
    expect((await api.delete(`/sessions/${run.sessionId}`)).status).toBe(200)
    await run.say('done')
    run.finish()
    const answer = await created
    expect(answer.status).toBe(201)
    expect(answer.body).toMatchObject({ session_id: run.sessionId, turn: 1, text: 'done', stop_reason: 'end_turn' })
  })

  test('?mode=cancel interrupts a running turn, whose caller gets 200 with the text so far', async () => {
    const label = mark()
    const id = await createIdle(api, { agent: 'gated' })
    const turn = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: label })
    const run = await gate.run(label)
    await run.say('so far')
    const archived = await api.delete(`/sessions/${id}?mode=cancel`)
    expect(archived.status).toBe(200)
    expect(archived.body).toEqual({ session_id: id, archived: true })
    const answer = await turn
    expect(answer.status).toBe(200)
    expect(answer.body).toMatchObject({ turn: 1, text: 'so far', stop_reason: 'cancelled' })
    expect(run.signal.aborted).toBe(true)
  })

  test('?mode=cancel of an idle session is an ordinary archive', async () => {
    const id = await createIdle(api)
    expect((await api.delete(`/sessions/${id}?mode=cancel`)).body).toEqual({ session_id: id, archived: true })
    expectProblem(await api.delete(`/sessions/${id}`), 404, 'SESSION_NOT_FOUND')
  })

  test('a turn that waits behind the running one is cancelled, never started, and its caller is answered', async () => {
    const label = mark()
    const id = await createIdle(api, { agent: 'gated' })
    const first = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: `${label} first` })
    const run = await gate.run(`${label} first`)
    const second = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: `${label} second`, on_busy: 'enqueue' })
    await until('the second turn is queued', async () => {
      const turns = await api.get<TurnList>(`/sessions/${id}/turns`)
      return turns.body.total === 2
    })
    expect((await api.delete(`/sessions/${id}`)).status).toBe(200)
    run.finish()
    expect((await first).body).toMatchObject({ turn: 1, stop_reason: 'end_turn' })
    const answer = await second
    expect(answer.status).toBe(200)
    expect(answer.body).toMatchObject({ turn: 2, text: '', stop_reason: 'cancelled' })
    expect(gate.begun).not.toContain(`${label} second`)
  })

  test('disposes the agent when the turn is over, not before', async () => {
    const label = mark()
    const id = await createIdle(api, { agent: 'gated' })
    const turn = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: label })
    const run = await gate.run(label)
    const before = gate.disposed
    expect((await api.delete(`/sessions/${id}`)).status).toBe(200)
    expect(gate.disposed).toBe(before)
    run.finish()
    expect((await turn).status).toBe(200)
    await until('the agent is disposed', () => gate.disposed === before + 1)
  })
})
