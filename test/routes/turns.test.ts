import { describe, expect, test } from 'vitest'
import {
  createIdle,
  expectInvalid,
  expectProblem,
  expectProblemDocument,
  NOBODY,
  type RunResult,
  readMessages,
  readSession,
  readTurn,
  said,
  TIME,
  type Turn,
  type TurnList,
  usage,
} from '../helpers/contract.ts'
import { gatedAgent } from '../helpers/gate.ts'
import { until } from '../helpers/http.ts'
import { useServer } from '../helpers/suite.ts'

const gate = gatedAgent()
const server = useServer({ MAX_QUEUED_TURNS: 2 }, { gates: [gate] })
const { api } = server

async function turnsOf(id: string, query = ''): Promise<TurnList> {
  const answer = await api.get<TurnList>(`/sessions/${id}/turns${query}`)
  expect(answer.status, answer.text).toBe(200)
  return answer.body
}

/** Resolves when the session has so many turns, running or queued. */
function admitted(id: string, count: number) {
  return until(`the session has ${count} turns`, async () => (await turnsOf(id)).total === count)
}

describe('starting a turn', () => {
  test('runs the agent and answers with the result of this turn and the usage of all', async () => {
    const { body } = await api.post<RunResult>('/sessions', { agent: 'echo', prompt: 'one' })
    const id = body.session_id
    const second = await api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'two words' })
    expect(second.status).toBe(200)
    expect(second.headers['content-type']).toMatch(/^application\/json(; ?charset=utf-8)?$/)
    expect(second.body).toEqual({
      session_id: id,
      turn: 2,
      text: 'two words',
      stop_reason: 'end_turn',
      turns: 1,
      tool_calls: 0,
      usage: usage(2, 2),
      session_usage: usage(3, 3),
    })
    const third = await api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'and three more' })
    expect(third.body).toMatchObject({ turn: 3, usage: usage(3, 3), session_usage: usage(6, 6) })
  })

  test('is admitted again and again as soon as the turn before was answered', async () => {
    const id = await createIdle(api)
    for (let turn = 1; turn <= 30; turn++) {
      const answer = await api.post<RunResult>(`/sessions/${id}/turns`, { prompt: `t${turn}` })
      expect({ status: answer.status, turn: answer.body.turn }).toEqual({ status: 200, turn })
    }
  })

  test('keeps what was said in the transcript of the session', async () => {
    const id = await createIdle(api)
    await api.post(`/sessions/${id}/turns`, { prompt: 'first' })
    await api.post(`/sessions/${id}/turns`, { prompt: 'second' })
    expect(await readMessages(api, id)).toEqual([...said('first', 'first'), ...said('second', 'second')])
  })

  test('every on_busy runs at once on an idle session', async () => {
    const id = await createIdle(api)
    for (const on_busy of ['reject', 'enqueue', 'interrupt']) {
      const answer = await api.post<RunResult>(`/sessions/${id}/turns`, { prompt: on_busy, on_busy })
      expect(answer.status).toBe(200)
      expect(answer.body).toMatchObject({ text: on_busy, stop_reason: 'end_turn' })
    }
  })

  test('a turn that fails answers 500 with session and turn, and the session goes on', async () => {
    const { body } = await api.post<RunResult>('/sessions', { agent: 'scripted', prompt: 'say fine' })
    const id = body.session_id
    const answer = await api.post(`/sessions/${id}/turns`, { prompt: 'say half\nfail the disk is full' })
    const problem = expectProblem(answer, 500, 'AGENT_ERROR')
    expect(problem).toMatchObject({ session_id: id, turn: 2 })
    expect(problem).not.toHaveProperty('session_created')
    expect(problem.detail).toContain('the disk is full')
    expect((await readSession(api, id)).state.is_active).toBe(false)
    const next = await api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'say again' })
    expect(next.body).toMatchObject({ turn: 3, text: 'again' })
  })

  test('a prompt of an unknown session is 404, before and after a good body', async () => {
    expectProblem(await api.post(`/sessions/${NOBODY}/turns`, { prompt: 'x' }), 404, 'SESSION_NOT_FOUND')
    expectProblem(await api.post(`/sessions/${NOBODY}/turns/stream`, { prompt: 'x' }), 404, 'SESSION_NOT_FOUND')
  })
})

describe('reading turns', () => {
  test('a completed turn shows its prompt, its times and the result that its caller got', async () => {
    const { body } = await api.post<RunResult>('/sessions', { prompt: 'look at me' })
    const turn = await readTurn(api, body.session_id, 1)
    expect(turn).toEqual({
      session_id: body.session_id,
      turn: 1,
      status: 'completed',
      prompt: 'look at me',
      created_at: expect.stringMatching(TIME),
      started_at: expect.stringMatching(TIME),
      ended_at: expect.stringMatching(TIME),
      result: body,
    })
    const times = [turn.created_at, turn.started_at ?? '', turn.ended_at ?? '']
    expect([...times].sort()).toEqual(times)
  })

  test('a failed turn shows the problem that its caller got, and no result', async () => {
    const answer = await api.post('/sessions', { agent: 'scripted', prompt: 'fail as asked' })
    const problem = expectProblem(answer, 500, 'AGENT_ERROR')
    const turn = await readTurn(api, String(problem.session_id), 1)
    expect(turn).toMatchObject({ turn: 1, status: 'failed', prompt: 'fail as asked', ended_at: expect.any(String) })
    expect(turn.error).toMatchObject({ code: 'AGENT_ERROR', status: 500, type: 'urn:suricate:problem:agent-error' })
    expect(turn.error?.detail).toContain('as asked')
    expect(turn).not.toHaveProperty('result')
  })

  test('a running turn has begun and has neither end nor result', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const call = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'running' })
    const run = await gate.run('running')
    expect(await readTurn(api, id, 1)).toEqual({
      session_id: id,
      turn: 1,
      status: 'running',
      prompt: 'running',
      created_at: expect.stringMatching(TIME),
      started_at: expect.stringMatching(TIME),
    })
    run.finish()
    await call
    expect((await readTurn(api, id, 1)).status).toBe('completed')
  })

  test('the list is oldest first and pages like every list', async () => {
    const id = await createIdle(api)
    for (const prompt of ['a', 'b', 'c', 'd']) await api.post(`/sessions/${id}/turns`, { prompt })
    const whole = await turnsOf(id)
    expect(whole).toMatchObject({ total: 4, limit: 100, offset: 0 })
    expect(whole.turns.map(({ turn, prompt }) => [turn, prompt])).toEqual([
      [1, 'a'],
      [2, 'b'],
      [3, 'c'],
      [4, 'd'],
    ])
    for (const turn of whole.turns) expect(turn).toEqual(await readTurn(api, id, turn.turn))
    const page = await turnsOf(id, '?limit=2&offset=1')
    expect(page).toEqual({ turns: whole.turns.slice(1, 3), total: 4, limit: 2, offset: 1 })
    expect(await turnsOf(id, '?offset=4')).toEqual({ turns: [], total: 4, limit: 100, offset: 4 })
    expect(await turnsOf(id, '?limit=0')).toEqual({ turns: [], total: 4, limit: 0, offset: 0 })
    expectInvalid(await api.get(`/sessions/${id}/turns?limit=1001`), 'limit')
    expectInvalid(await api.get(`/sessions/${id}/turns?offset=-1`), 'offset')
  })

  test('a turn that the session has not had is TURN_NOT_FOUND, a turn that is no number is INVALID_PARAMS', async () => {
    const { body } = await api.post<RunResult>('/sessions', { prompt: 'x' })
    const id = body.session_id
    const problem = expectProblem(await api.get(`/sessions/${id}/turns/2`), 404, 'TURN_NOT_FOUND')
    expect(problem).toMatchObject({ session_id: id, turn: 2 })
    expectProblem(await api.get(`/sessions/${id}/turns/2/events`), 404, 'TURN_NOT_FOUND')
    expectProblem(await api.get(`/sessions/${id}/turns/999999999`), 404, 'TURN_NOT_FOUND')
    expectProblem(await api.get(`/sessions/${NOBODY}/turns/1`), 404, 'SESSION_NOT_FOUND')
    expectProblem(await api.get(`/sessions/${NOBODY}/turns`), 404, 'SESSION_NOT_FOUND')
    for (const turn of ['first', '1.5', '-1', '1x', '%31x']) {
      expectInvalid(await api.get(`/sessions/${id}/turns/${turn}`))
    }
  })
})

describe('on_busy: enqueue', () => {
  test('turns run in the order in which they were admitted, each with its own number and result', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const first = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'q1' })
    const run1 = await gate.run('q1')
    const second = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'q2', on_busy: 'enqueue' })
    await admitted(id, 2)
    const third = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'q3', on_busy: 'enqueue' })
    await admitted(id, 3)

    expect((await turnsOf(id)).turns.map(({ turn, status, prompt }) => [turn, status, prompt])).toEqual([
      [1, 'running', 'q1'],
      [2, 'queued', 'q2'],
      [3, 'queued', 'q3'],
    ])
    expect(await readTurn(api, id, 2)).toEqual({
      session_id: id,
      turn: 2,
      status: 'queued',
      prompt: 'q2',
      created_at: expect.stringMatching(TIME),
    })
    expect(gate.begun).not.toContain('q2')

    await run1.say('r1')
    run1.finish()
    const run2 = await gate.run('q2')
    expect(gate.begun).not.toContain('q3')
    await run2.say('r2')
    run2.finish()
    const run3 = await gate.run('q3')
    await run3.say('r3')
    run3.finish()

    const answers = await Promise.all([first, second, third])
    expect(answers.map(({ status, body }) => [status, body.turn, body.text, body.stop_reason])).toEqual([
      [200, 1, 'r1', 'end_turn'],
      [200, 2, 'r2', 'end_turn'],
      [200, 3, 'r3', 'end_turn'],
    ])
    expect(await readMessages(api, id)).toEqual([...said('q1', 'r1'), ...said('q2', 'r2'), ...said('q3', 'r3')])
  })

  test('events of queued turns follow each other in the log and never mix', async () => {
    const id = await createIdle(api, { agent: 'scripted' })
    const hang = api.post(`/sessions/${id}/turns`, { prompt: 'say a\nhang' })
    await until('turn 1 runs', async () => (await turnsOf(id)).turns[0]?.status === 'running')
    const queued = api.post(`/sessions/${id}/turns`, { prompt: 'deltas 5', on_busy: 'enqueue' })
    await admitted(id, 2)
    await api.post(`/sessions/${id}/interrupt`, { turn: 1 })
    await Promise.all([hang, queued])
    const stream = await server.stream(`/sessions/${id}/events?after=0`)
    await stream.upTo('run_interrupted')
    await stream.upTo('run_completed')
    const numbered = stream.frames.filter((frame) => frame.id !== undefined)
    expect(numbered.map((frame) => frame.json.turn)).toEqual([
      ...numbered.map((frame) => frame.json.turn).filter((turn) => turn === 1),
      ...numbered.map((frame) => frame.json.turn).filter((turn) => turn === 2),
    ])
    expect(numbered.map((frame) => frame.json.seq)).toEqual(numbered.map((_, index) => index + 1))
  })

  test('a turn that is enqueued with respond-async can be followed before it starts', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const first = api.post(`/sessions/${id}/turns`, { prompt: 'f1' })
    const run1 = await gate.run('f1')
    const accepted = await api.post<Turn>(
      `/sessions/${id}/turns`,
      { prompt: 'f2', on_busy: 'enqueue' },
      { prefer: 'respond-async' },
    )
    expect(accepted.status).toBe(202)
    expect(accepted.headers.location).toBe(`/sessions/${id}/turns/2`)
    expect(accepted.body).toMatchObject({ session_id: id, turn: 2, prompt: 'f2' })
    const stream = await server.stream(`/sessions/${id}/turns/2/events`)
    expect(stream.status).toBe(200)
    run1.finish()
    await first
    const run2 = await gate.run('f2')
    await run2.say('followed')
    run2.finish()
    const frames = await stream.all()
    expect(stream.end).toBe('clean')
    expect(frames[0]).toMatchObject({ event: 'run_started', json: { turn: 2, prompt: 'f2' } })
    expect(frames.at(-1)).toMatchObject({ event: 'run_completed', json: { turn: 2 } })
  })

  test('a turn that is enqueued as a stream begins with its own first event', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const first = api.post(`/sessions/${id}/turns`, { prompt: 's1' })
    const run1 = await gate.run('s1')
    const opening = server.stream(`/sessions/${id}/turns/stream`, { json: { prompt: 's2', on_busy: 'enqueue' } })
    await admitted(id, 2)
    await run1.say('not yours')
    run1.finish()
    await first
    const run2 = await gate.run('s2')
    await run2.say('yours')
    run2.finish()
    const stream = await opening
    const frames = await stream.all()
    expect(stream.headers.location).toBe(`/sessions/${id}/turns/2`)
    expect(new Set(frames.map((frame) => frame.json.turn))).toEqual(new Set([2]))
    expect(frames[0]?.event).toBe('run_started')
    expect(frames.at(-1)?.event).toBe('run_completed')
  })

  test('more turns than MAX_QUEUED_TURNS are refused and never run', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const first = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'm1' })
    const run1 = await gate.run('m1')
    const second = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'm2', on_busy: 'enqueue' })
    await admitted(id, 2)
    const third = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'm3', on_busy: 'enqueue' })
    await admitted(id, 3)
    const refused = await api.post(`/sessions/${id}/turns`, { prompt: 'm4', on_busy: 'enqueue' })
    expectProblemDocument(refused)
    expect([409, 429, 503]).toContain(refused.status)
    expect((await turnsOf(id)).total).toBe(3)
    run1.finish()
    for (const prompt of ['m2', 'm3']) (await gate.run(prompt)).finish()
    expect((await Promise.all([first, second, third])).map((answer) => answer.status)).toEqual([200, 200, 200])
    const next = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'm5', on_busy: 'enqueue' })
    const run5 = await gate.run('m5')
    run5.finish()
    expect((await next).body.turn).toBe(4)
    expect(gate.begun).not.toContain('m4')
  })

  test('a queued turn goes on when the one before it fails or is interrupted', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const first = api.post(`/sessions/${id}/turns`, { prompt: 'g1' })
    const run1 = await gate.run('g1')
    const second = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'g2', on_busy: 'enqueue' })
    await admitted(id, 2)
    const third = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'g3', on_busy: 'enqueue' })
    await admitted(id, 3)
    run1.fail(new Error('broken on purpose'))
    expectProblem(await first, 500, 'INTERNAL_ERROR')
    await gate.run('g2')
    expect((await api.post(`/sessions/${id}/interrupt`)).body).toEqual({ session_id: id, turn: 2, interrupted: true })
    expect((await second).body.stop_reason).toBe('cancelled')
    const run3 = await gate.run('g3')
    run3.finish()
    expect((await third).body).toMatchObject({ turn: 3, stop_reason: 'end_turn' })
  })
})

describe('on_busy: interrupt', () => {
  test('interrupts the running turn, whose caller gets its partial result, and runs the new one', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const first = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'i1' })
    const run1 = await gate.run('i1')
    await run1.say('partial')
    const second = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'i2', on_busy: 'interrupt' })
    const run2 = await gate.run('i2')
    expect(run1.signal.aborted).toBe(true)
    expect(run2.signal.aborted).toBe(false)
    await run2.say('whole')
    run2.finish()
    expect((await first).body).toMatchObject({ turn: 1, text: 'partial', stop_reason: 'cancelled' })
    expect((await second).body).toMatchObject({ turn: 2, text: 'whole', stop_reason: 'end_turn' })
    expect((await turnsOf(id)).turns.map((turn) => turn.status)).toEqual(['interrupted', 'completed'])
  })
})
