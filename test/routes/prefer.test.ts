import { describe, expect, test } from 'vitest'
import {
  createIdle,
  expectInvalid,
  type RunResult,
  readTurn,
  type SessionList,
  TIME,
  type Turn,
} from '../helpers/contract.ts'
import { gatedAgent } from '../helpers/gate.ts'
import { until } from '../helpers/http.ts'
import { useServer } from '../helpers/suite.ts'

const gate = gatedAgent()
const server = useServer({}, { gates: [gate] })
const { api } = server

/** Lets the turn end and waits until it has. */
async function finish(prompt: string, text: string) {
  const run = await gate.run(prompt)
  await run.say(text)
  run.finish()
  await until('the turn is over', async () => (await readTurn(api, run.sessionId, run.turn)).status === 'completed')
  return run
}

describe('Prefer: respond-async', () => {
  test('on startTurn answers 202 at once with the running turn and where it is', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const answer = await api.post<Turn>(`/sessions/${id}/turns`, { prompt: 'a1' }, { prefer: 'respond-async' })
    expect(answer.status).toBe(202)
    expect(answer.headers['preference-applied']).toBe('respond-async')
    expect(answer.headers.location).toBe(`/sessions/${id}/turns/1`)
    expect(answer.body).toEqual({
      session_id: id,
      turn: 1,
      status: 'running',
      prompt: 'a1',
      created_at: expect.stringMatching(TIME),
      started_at: expect.stringMatching(TIME),
    })
    await finish('a1', 'later')
    const turn = await api.get<Turn>(String(answer.headers.location))
    expect(turn.body).toMatchObject({ status: 'completed', result: { text: 'later', turn: 1 } })
  })

  test('on createSession answers 202 with turn 1 of the new session', async () => {
    const answer = await api.post<Turn>(
      '/sessions',
      { agent: 'gated', prompt: 'a2', labels: { made: 'async' } },
      { prefer: 'respond-async' },
    )
    expect(answer.status).toBe(202)
    expect(answer.headers['preference-applied']).toBe('respond-async')
    const { session_id } = answer.body
    expect(answer.headers.location).toBe(`/sessions/${session_id}/turns/1`)
    expect(answer.body).toMatchObject({ turn: 1, status: 'running', prompt: 'a2' })
    const list = await api.get<SessionList>('/sessions?label=made=async')
    expect(list.body.sessions.map((session) => session.session_id)).toEqual([session_id])
    await finish('a2', 'x')
    expect((await readTurn(api, session_id, 1)).result?.text).toBe('x')
  })

  test('lets the turn be followed from its first event', async () => {
    const answer = await api.post<Turn>('/sessions', { agent: 'gated', prompt: 'a3' }, { prefer: 'respond-async' })
    const stream = await server.stream(`${answer.headers.location}/events`)
    expect((await stream.next())?.json).toMatchObject({ type: 'run_started', seq: 1, turn: 1, prompt: 'a3' })
    await finish('a3', 'x')
    expect((await stream.all()).at(-1)?.event).toBe('run_completed')
  })

  test('of a turn that fails later is still 202, and the turn shows the failure', async () => {
    const id = await createIdle(api, { agent: 'scripted' })
    const answer = await api.post<Turn>(
      `/sessions/${id}/turns`,
      { prompt: 'wait 20\nfail too bad' },
      { prefer: 'respond-async' },
    )
    expect(answer.status).toBe(202)
    await until('the turn has failed', async () => (await readTurn(api, id, 1)).status === 'failed')
    expect((await readTurn(api, id, 1)).error).toMatchObject({ code: 'AGENT_ERROR', status: 500 })
  })

  test('a body that is wrong is refused at once all the same', async () => {
    expectInvalid(await api.post('/sessions', { prompt: '' }, { prefer: 'respond-async' }), 'prompt')
    const id = await createIdle(api)
    expectInvalid(await api.post(`/sessions/${id}/turns`, { prompt: 1 }, { prefer: 'respond-async' }), 'prompt')
  })
})

describe('Prefer: wait=N', () => {
  test('gives the result when the turn is over in time', async () => {
    const created = await api.post<RunResult>('/sessions', { prompt: 'quick' }, { prefer: 'wait=20' })
    expect(created.status).toBe(201)
    expect(created.body).toMatchObject({ turn: 1, text: 'quick', stop_reason: 'end_turn' })
    expect(created.headers['preference-applied']).toBe('wait=20')
    const id = created.body.session_id
    const started = await api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'again' }, { prefer: 'wait=20' })
    expect(started.status).toBe(200)
    expect(started.body).toMatchObject({ turn: 2, text: 'again' })
  })

  test('gives the error when the turn fails in time', async () => {
    const id = await createIdle(api, { agent: 'scripted' })
    const answer = await api.post(`/sessions/${id}/turns`, { prompt: 'fail soon' }, { prefer: 'wait=20' })
    expect(answer.status).toBe(500)
    expect(answer.body).toMatchObject({ code: 'AGENT_ERROR' })
  })

  test('answers the 202 when the turn takes longer', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const answer = await api.post<Turn>(`/sessions/${id}/turns`, { prompt: 'w1' }, { prefer: 'wait=1' })
    expect(answer.status).toBe(202)
    expect(answer.headers.location).toBe(`/sessions/${id}/turns/1`)
    expect(answer.headers['preference-applied']).toBe('respond-async, wait=1')
    expect(answer.body).toMatchObject({ session_id: id, turn: 1, status: 'running', prompt: 'w1' })
    await finish('w1', 'x')
    expect((await readTurn(api, id, 1)).result?.text).toBe('x')
  })

  test('together with respond-async answers the 202 of a turn that takes longer', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const answer = await api.post<Turn>(`/sessions/${id}/turns`, { prompt: 'w2' }, { prefer: 'respond-async, wait=1' })
    expect(answer.status).toBe(202)
    expect(answer.headers['preference-applied']).toBe('respond-async, wait=1')
    expect(answer.body).toMatchObject({ turn: 1, status: 'running' })
    await finish('w2', 'x')
  })

  test('together with respond-async says of a turn that is over in time that it waited, and no more', async () => {
    const answer = await api.post<RunResult>('/sessions', { prompt: 'quick' }, { prefer: 'respond-async, wait=20' })
    expect(answer.status).toBe(201)
    expect(answer.headers['preference-applied']).toBe('wait=20')
  })
})

describe('Prefer with what the server does not know', () => {
  test.each(['return=minimal', 'handling=lenient', 'x-unknown; a=b', ''])('%j is ignored', async (prefer) => {
    const answer = await api.post<RunResult>('/sessions', { prompt: 'hi' }, { prefer })
    expect(answer.status).toBe(201)
    expect(answer.body.text).toBe('hi')
    expect(answer.headers).not.toHaveProperty('preference-applied')
  })

  test('without the header nothing is said to have been applied', async () => {
    const answer = await api.post<RunResult>('/sessions', { prompt: 'hi' })
    expect(answer.headers).not.toHaveProperty('preference-applied')
  })

  test.each(['return=minimal, respond-async', 'Respond-Async', 'respond-async;x=y', 'a=b, respond-async, c'])(
    'respond-async is found in %j',
    async (prefer) => {
      const id = await createIdle(api, { agent: 'gated' })
      const call = api.post<Turn>(`/sessions/${id}/turns`, { prompt: prefer }, { prefer })
      const run = await gate.run(prefer)
      // A server that waits for the result gets it, so that what it answers is seen instead of a test that hangs.
      run.finish()
      expect({ prefer, status: (await call).status }).toEqual({ prefer, status: 202 })
    },
  )
})
