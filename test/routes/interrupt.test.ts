import { describe, expect, test } from 'vitest'
import {
  createIdle,
  expectInvalid,
  expectProblem,
  NOBODY,
  type RunResult,
  readMessages,
  readSession,
  readTurn,
  type TurnList,
  usage,
} from '../helpers/contract.ts'
import { gatedAgent } from '../helpers/gate.ts'
import { textOf } from '../helpers/sse.ts'
import { useServer } from '../helpers/suite.ts'

const gate = gatedAgent()
const deaf = gatedAgent('deaf-gate', { deaf: true })
const server = useServer({}, { gates: [gate, deaf] })
const { api } = server

/** Starts a turn of a scripted session and waits until `delta` has been said. */
async function hanging(script: string, delta: string) {
  const id = await createIdle(api, { agent: 'scripted' })
  const stream = await server.stream(`/sessions/${id}/events`)
  const turn = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: script })
  await stream.upTo((frame) => frame.json.delta === delta)
  return { id, turn }
}

describe('interrupting a running turn', () => {
  test('is answered at once, and the waiting caller gets 200 with the text so far', async () => {
    const { id, turn } = await hanging('say hello there\nhang', ' there')
    const answer = await api.post(`/sessions/${id}/interrupt`)
    expect(answer.status).toBe(200)
    expect(answer.body).toEqual({ session_id: id, turn: 1, interrupted: true })
    const result = await turn
    expect(result.status).toBe(200)
    expect(result.body).toMatchObject({
      session_id: id,
      turn: 1,
      text: 'hello there',
      stop_reason: 'cancelled',
      turns: 1,
      tool_calls: 0,
    })
    expect(await readTurn(api, id, 1)).toMatchObject({ status: 'interrupted', result: result.body })
    expect(await readTurn(api, id, 1)).not.toHaveProperty('error')
    expect((await readSession(api, id)).state.is_active).toBe(false)
  })

  test('in the first turn of createSession answers 201 with the partial result', async () => {
    const created = api.post<RunResult>('/sessions', { agent: 'gated', prompt: 'first ever' })
    const run = await gate.run('first ever')
    await run.say('beginning')
    const answer = await api.post(`/sessions/${run.sessionId}/interrupt`)
    expect(answer.body).toEqual({ session_id: run.sessionId, turn: 1, interrupted: true })
    const result = await created
    expect([200, 201]).toContain(result.status)
    expect(result.body).toMatchObject({ turn: 1, text: 'beginning', stop_reason: 'cancelled' })
  })

  test('ends its stream with run_interrupted, which carries the partial result, and cleanly', async () => {
    const id = await createIdle(api, { agent: 'scripted' })
    const stream = await server.stream(`/sessions/${id}/turns/stream`, { json: { prompt: 'say up to here\nhang' } })
    await stream.upTo((frame) => frame.json.delta === ' here')
    await api.post(`/sessions/${id}/interrupt`)
    const frames = await stream.all()
    expect(stream.end).toBe('clean')
    const last = frames.at(-1)
    expect(last).toMatchObject({
      event: 'run_interrupted',
      json: { session_id: id, turn: 1, result: { text: 'up to here', stop_reason: 'cancelled' } },
    })
    expect(last?.json.result).toEqual((await readTurn(api, id, 1)).result)
    expect(frames.filter((frame) => /^run_(completed|failed|interrupted)$/.test(frame.event))).toHaveLength(1)
  })

  test('with the number of the running turn works, with an empty object too', async () => {
    for (const body of [{ turn: 1 }, {}]) {
      const { id, turn } = await hanging('say x\nhang', 'x')
      const answer = await api.post(`/sessions/${id}/interrupt`, body)
      expect(answer.body).toEqual({ session_id: id, turn: 1, interrupted: true })
      expect((await turn).body.stop_reason).toBe('cancelled')
    }
  })

  test('works without a body although a client says that it sends JSON', async () => {
    const { id, turn } = await hanging('say x\nhang', 'x')
    const answer = await api.send('POST', `/sessions/${id}/interrupt`, {
      headers: { 'content-type': 'application/json', 'content-length': '0' },
    })
    expect(answer.body).toEqual({ session_id: id, turn: 1, interrupted: true })
    expect((await turn).body.stop_reason).toBe('cancelled')
  })

  test('with the number of another turn is 409 and leaves the running turn alone', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const first = api.post(`/sessions/${id}/turns`, { prompt: 'w1' })
    ;(await gate.run('w1')).finish()
    await first
    const second = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'w2' })
    const run = await gate.run('w2')
    for (const turn of [1, 3, 99]) {
      expectProblem(await api.post(`/sessions/${id}/interrupt`, { turn }), 409, 'SESSION_NOT_RUNNING')
    }
    expect(run.signal.aborted).toBe(false)
    await run.say('untouched')
    run.finish()
    expect((await second).body).toMatchObject({ text: 'untouched', stop_reason: 'end_turn' })
  })

  test('twice is answered well both times and cancels once', async () => {
    const id = await createIdle(api, { agent: 'deaf-gate' })
    const turn = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'twice' })
    const run = await deaf.run('twice')
    await run.say('once')
    const answers = await Promise.all([
      api.post(`/sessions/${id}/interrupt`, { turn: 1 }),
      api.post(`/sessions/${id}/interrupt`, { turn: 1 }),
    ])
    expect(answers.map(({ status, body }) => ({ status, body }))).toEqual([
      { status: 200, body: { session_id: id, turn: 1, interrupted: true } },
      { status: 200, body: { session_id: id, turn: 1, interrupted: true } },
    ])
    run.finish()
    expect((await turn).body).toMatchObject({ text: 'once', stop_reason: 'cancelled' })
    const events = await server.stream(`/sessions/${id}/turns/1/events`)
    const ends = (await events.all()).filter((frame) => frame.event === 'run_interrupted')
    expect(ends).toHaveLength(1)
  })

  test('wins over a success that comes later', async () => {
    const id = await createIdle(api, { agent: 'deaf-gate' })
    const turn = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'too late' })
    const run = await deaf.run('too late')
    await run.say('partly')
    expect((await api.post(`/sessions/${id}/interrupt`)).status).toBe(200)
    run.finish({ text: 'a success that nobody waits for' })
    const result = await turn
    expect(result.status).toBe(200)
    expect(result.body).toMatchObject({ text: 'partly', stop_reason: 'cancelled' })
    expect((await readTurn(api, id, 1)).status).toBe('interrupted')
  })

  test('ends the turn of an agent that does not listen, and the session serves the next turn', async () => {
    const { id, turn } = await hanging('say not listening\ndeaf', ' listening')
    expect((await api.post(`/sessions/${id}/interrupt`)).status).toBe(200)
    expect((await turn).body).toMatchObject({ text: 'not listening', stop_reason: 'cancelled' })
    const next = await api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'say listening again' })
    expect(next.status).toBe(200)
    expect(next.body).toMatchObject({ turn: 2, text: 'listening again', stop_reason: 'end_turn' })
  })

  test('what an abandoned agent says later is not heard in the next turn', async () => {
    const id = await createIdle(api, { agent: 'deaf-gate' })
    const first = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'ghost' })
    const ghost = await deaf.run('ghost')
    await ghost.say('boo')
    expect((await api.post(`/sessions/${id}/interrupt`)).status).toBe(200)
    expect((await first).body.stop_reason).toBe('cancelled')
    const second = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'living' })
    const living = await deaf.run('living')
    ghost.say('I am still here').catch(() => undefined)
    await living.say('alive')
    living.finish()
    expect((await second).body).toMatchObject({ turn: 2, text: 'alive', stop_reason: 'end_turn' })
    ghost.finish()
    const stream = await server.stream(`/sessions/${id}/events?after=0`)
    await stream.upTo('run_completed')
    expect(textOf(stream.frames)).toBe('booalive')
  })

  test('does not reach the next turn', async () => {
    const { id, turn } = await hanging('say one\nhang', 'one')
    await api.post(`/sessions/${id}/interrupt`)
    await turn
    for (let n = 2; n <= 5; n++) {
      const next = await api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'say fine' })
      expect(next.body).toMatchObject({ turn: n, text: 'fine', stop_reason: 'end_turn' })
    }
  })

  test('during a tool leaves a transcript in which every tool use has a result', async () => {
    const id = await createIdle(api, { agent: 'scripted' })
    const stream = await server.stream(`/sessions/${id}/events`)
    const turn = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'tool sleep {"ms":600000}\nsay never' })
    await stream.upTo('tool_execution_started')
    expect((await api.post(`/sessions/${id}/interrupt`)).status).toBe(200)
    expect((await turn).body).toMatchObject({ stop_reason: 'cancelled', text: '' })
    const next = await api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'say on we go' })
    expect(next.body).toMatchObject({ turn: 2, text: 'on we go', stop_reason: 'end_turn' })
    const messages = await readMessages(api, id)
    const asked = messages.flatMap((message) =>
      (message.blocks ?? []).filter((block) => block.block_type === 'tool_use').map((block) => block.data.id),
    )
    const answered = messages.flatMap((message) => (message.results ?? []).map((result) => result.tool_use_id))
    expect(answered).toEqual(asked)
    expect(messages.filter((message) => message.role === 'user').map((message) => message.content)).toEqual([
      'tool sleep {"ms":600000}\nsay never',
      'say on we go',
    ])
  })

  test('keeps the usage of the turns before', async () => {
    const first = await api.post<RunResult>('/sessions', { agent: 'scripted', prompt: 'say a\nusage 10 20' })
    const id = first.body.session_id
    expect(first.body.usage).toEqual(usage(10, 20))
    const stream = await server.stream(`/sessions/${id}/events`)
    const turn = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'hang' })
    await stream.upTo('turn_started')
    await api.post(`/sessions/${id}/interrupt`)
    const { session_usage } = (await turn).body
    expect(session_usage.total_tokens).toBeGreaterThanOrEqual(30)
    expect((await readSession(api, id)).billing.usage).toEqual(session_usage)
  })
})

describe('interrupting when there is nothing to interrupt', () => {
  test('an idle session is 409, whether it has run a turn or not', async () => {
    const fresh = await createIdle(api)
    const problem = expectProblem(await api.post(`/sessions/${fresh}/interrupt`), 409, 'SESSION_NOT_RUNNING')
    expect(problem.session_id).toBe(fresh)
    const { body } = await api.post<RunResult>('/sessions', { prompt: 'x' })
    expectProblem(await api.post(`/sessions/${body.session_id}/interrupt`), 409, 'SESSION_NOT_RUNNING')
    expectProblem(await api.post(`/sessions/${body.session_id}/interrupt`, { turn: 1 }), 409, 'SESSION_NOT_RUNNING')
  })

  test('an unknown session is 404', async () => {
    expectProblem(await api.post(`/sessions/${NOBODY}/interrupt`), 404, 'SESSION_NOT_FOUND')
  })

  test('an interrupt of an idle session does not hit the turn that comes next', async () => {
    const id = await createIdle(api)
    await api.post(`/sessions/${id}/interrupt`)
    const answer = await api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'safe' })
    expect(answer.body).toMatchObject({ text: 'safe', stop_reason: 'end_turn' })
  })

  test('a body that does not fit is 400 and interrupts nothing', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const turn = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'fit' })
    const run = await gate.run('fit')
    expectInvalid(await api.post(`/sessions/${id}/interrupt`, { turn: '1' }), 'turn')
    expectInvalid(await api.post(`/sessions/${id}/interrupt`, { turn: 1.5 }), 'turn')
    expectInvalid(await api.post(`/sessions/${id}/interrupt`, { turns: 1 }), 'turns')
    expectInvalid(await api.post(`/sessions/${id}/interrupt`, []))
    expect(run.signal.aborted).toBe(false)
    run.finish()
    expect((await turn).body.stop_reason).toBe('end_turn')
  })
})

describe('interrupting right after a turn was asked for', () => {
  test('every turn ends exactly once, as what its caller was told', async () => {
    const id = await createIdle(api, { agent: 'scripted' })
    for (let n = 1; n <= 25; n++) {
      const turn = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: `deltas ${n * 40}` })
      const interrupt = await api.post(`/sessions/${id}/interrupt`)
      const result = await turn
      expect(result.status).toBe(200)
      expect([200, 409]).toContain(interrupt.status)
      expect(['end_turn', 'cancelled']).toContain(result.body.stop_reason)
      const cancelled = result.body.stop_reason === 'cancelled'
      if (interrupt.status === 200) expect(cancelled, 'an accepted interrupt wins').toBe(true)
      expect((await readTurn(api, id, n)).status).toBe(cancelled ? 'interrupted' : 'completed')
    }
    const { body } = await api.get<TurnList>(`/sessions/${id}/turns`)
    const stream = await server.stream(`/sessions/${id}/events?after=0`)
    await stream.upTo((frame) => frame.json.turn === 25 && /^run_(completed|interrupted)$/.test(frame.event))
    const ends = stream.frames.filter((frame) => /^run_(completed|failed|interrupted)$/.test(frame.event))
    expect(ends.map((frame) => [frame.json.turn, frame.event])).toEqual(
      body.turns.map(({ turn, status }) => [turn, status === 'completed' ? 'run_completed' : 'run_interrupted']),
    )
  })
})
