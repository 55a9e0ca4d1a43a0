import { describe, expect, test } from 'vitest'
import {
  createIdle,
  type ExportedSession,
  expectInvalid,
  expectProblem,
  expectProblemDocument,
  type RunResult,
  readSession,
  type SessionList,
} from '../helpers/contract.ts'
import { gatedAgent } from '../helpers/gate.ts'
import { type Answer, type Client, until } from '../helpers/http.ts'
import { ownServer } from '../helpers/suite.ts'

function expectFull(answer: Answer, live: number, max: number) {
  const problem = expectProblem(answer, 503, 'SESSION_CAPACITY_REACHED')
  expect(problem.detail).toMatch(new RegExp(`\\b${live}\\b.*\\b${max}\\b|\\b${max}\\b.*\\b${live}\\b`))
  expectRetryAfter(answer)
}

function expectRetryAfter(answer: Answer) {
  expect(answer.headers['retry-after']).toMatch(/^\d+$/)
  expect(Number(answer.headers['retry-after'])).toBeGreaterThanOrEqual(1)
  expect(Number(answer.headers['retry-after'])).toBeLessThanOrEqual(60)
}

const idle = { initial_turn: 'deferred' }

async function total(api: Client): Promise<number> {
  return (await api.get<SessionList>('/sessions?limit=0')).body.total
}

/** Waits until a session can be created again, and says its id. */
function roomAgain(api: Client): Promise<string> {
  return until('a session can be created again', async () => {
    const answer = await api.post<RunResult>('/sessions', idle)
    return answer.status === 201 ? answer.body.session_id : undefined
  })
}

describe('MAX_SESSIONS=2', () => {
  test('the third session is 503 with Retry-After, live and max; archiving makes room', async () => {
    const { api } = await ownServer({ MAX_SESSIONS: 2 })
    const first = await createIdle(api)
    await createIdle(api)
    expectFull(await api.post('/sessions', idle), 2, 2)
    expectFull(await api.post('/sessions', { prompt: 'x' }), 2, 2)
    expectFull(await api.post('/sessions/stream', { prompt: 'x' }), 2, 2)
    expectFull(await api.post('/sessions', { prompt: 'x' }, { prefer: 'respond-async' }), 2, 2)
    expect(await total(api)).toBe(2)
    await api.delete(`/sessions/${first}`)
    await roomAgain(api)
    expect(await total(api)).toBe(2)
    expectFull(await api.post('/sessions', idle), 2, 2)
  })

  test('a full server still serves the sessions that it has', async () => {
    const { api } = await ownServer({ MAX_SESSIONS: 2 })
    const id = await createIdle(api)
    await createIdle(api)
    expectFull(await api.post('/sessions', idle), 2, 2)
    expect((await api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'fine' })).body.text).toBe('fine')
    expect((await readSession(api, id)).state.turn).toBe(1)
  })

  test('fork and import need room too', async () => {
    const { api } = await ownServer({ MAX_SESSIONS: 2 })
    const id = await createIdle(api)
    const gone = await createIdle(api)
    const exported = (await api.get<ExportedSession>(`/sessions/${gone}/export`)).body
    await api.delete(`/sessions/${gone}`)
    await roomAgain(api)
    expectFull(await api.post(`/sessions/${id}/fork`, {}), 2, 2)
    expectFull(await api.post('/sessions/import', exported), 2, 2)
    expect(await total(api)).toBe(2)
  })

  test('of 40 sessions created at once exactly two come to be', async () => {
    const { api } = await ownServer({ MAX_SESSIONS: 2 })
    const answers = await Promise.all(Array.from({ length: 40 }, () => api.post('/sessions', { prompt: 'race' })))
    expect(answers.filter((answer) => answer.status === 201)).toHaveLength(2)
    for (const answer of answers.filter((answer) => answer.status !== 201)) {
      expectProblem(answer, 503, 'SESSION_CAPACITY_REACHED')
      expectRetryAfter(answer)
    }
    expect(await total(api)).toBe(2)
  })

  test('a session whose first turn runs or has failed takes its place', async () => {
    const gate = gatedAgent()
    const { api } = await ownServer({ MAX_SESSIONS: 2 }, { gates: [gate] })
    const created = api.post('/sessions', { agent: 'gated', prompt: 'place' })
    const run = await gate.run('place')
    expectProblem(await api.post('/sessions', { agent: 'scripted', prompt: 'fail x' }), 500, 'AGENT_ERROR')
    expectFull(await api.post('/sessions', idle), 2, 2)
    run.finish()
    expect((await created).status).toBe(201)
    expectFull(await api.post('/sessions', idle), 2, 2)
  })

  test('what is refused or cannot be built takes no place, however often', async () => {
    const broken = {
      name: 'broken',
      buildAgent() {
        throw new Error('no parts')
      },
    }
    const { api } = await ownServer({ MAX_SESSIONS: 2 }, { agents: [broken] })
    for (let i = 0; i < 5; i++) {
      expectInvalid(await api.post('/sessions', { agent: 'nobody', prompt: 'x' }))
      expectInvalid(await api.post('/sessions', { prompt: ' ' }))
      expectProblem(await api.post('/sessions', { prompt: 'x', output_schema: {} }), 501, 'CAPABILITY_UNAVAILABLE')
      expect((await api.post('/sessions', { agent: 'broken', prompt: 'x' })).status).toBe(500)
      expectInvalid(await api.post('/sessions/import', { version: 1 }))
    }
    await createIdle(api)
    await createIdle(api)
    expectFull(await api.post('/sessions', idle), 2, 2)
  })

  test('a session that is archived while it runs keeps its place until the turn is over', async () => {
    const gate = gatedAgent()
    const { api } = await ownServer({ MAX_SESSIONS: 2 }, { gates: [gate] })
    await createIdle(api)
    const id = await createIdle(api, { agent: 'gated' })
    const turn = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'keeps' })
    const run = await gate.run('keeps')
    expect((await api.delete(`/sessions/${id}`)).status).toBe(200)
    expect(await total(api)).toBe(1)
    for (let i = 0; i < 5; i++) {
      const answer = await api.post('/sessions', idle)
      expectProblem(answer, 503, 'SESSION_CAPACITY_REACHED')
    }
    run.finish()
    expect((await turn).status).toBe(200)
    await roomAgain(api)
  })

  test('places come back from every kind of end, over many rounds', async () => {
    const { api } = await ownServer({ MAX_SESSIONS: 1 })
    for (let round = 0; round < 15; round++) {
      const script = ['say x', 'fail x', 'throw', 'tool clock {}'][round % 4]
      await until('there is room', async () => {
        return (await api.post('/sessions', { agent: 'scripted', prompt: script })).status !== 503
      })
      const [session] = (await api.get<SessionList>('/sessions')).body.sessions
      const running = api.post(`/sessions/${session?.session_id}/turns`, { prompt: round % 2 ? 'deaf' : 'hang' })
      await until('the turn runs', async () => (await readSession(api, String(session?.session_id))).state.is_active)
      expect((await api.delete(`/sessions/${session?.session_id}?mode=cancel`)).status).toBe(200)
      expect((await running).status).toBe(200)
    }
    await roomAgain(api)
    expectFull(await api.post('/sessions', idle), 1, 1)
  })
})

describe('MAX_ACTIVE_TURNS=1', () => {
  test('a second turn at the same time is refused with Retry-After, not queued; then there is room', async () => {
    const gate = gatedAgent()
    const { api } = await ownServer({ MAX_ACTIVE_TURNS: 1 }, { gates: [gate] })
    const a = await createIdle(api, { agent: 'gated' })
    const b = await createIdle(api, { agent: 'gated' })
    const first = api.post<RunResult>(`/sessions/${a}/turns`, { prompt: 'first' })
    const run = await gate.run('first')
    for (const answer of [
      await api.post(`/sessions/${b}/turns`, { prompt: 'second' }),
      await api.post(`/sessions/${b}/turns/stream`, { prompt: 'second' }),
      await api.post('/sessions', { agent: 'gated', prompt: 'second' }),
    ]) {
      expectProblemDocument(answer)
      expect([429, 503]).toContain(answer.status)
      expectRetryAfter(answer)
    }
    expect((await readSession(api, b)).state).toMatchObject({ is_active: false, turn: 0 })
    expect(await createIdle(api)).toMatch(/^[0-9a-f-]{36}$/)
    run.finish()
    expect((await first).status).toBe(200)
    const next = api.post<RunResult>(`/sessions/${b}/turns`, { prompt: 'third' })
    ;(await gate.run('third')).finish()
    expect((await next).body.turn).toBe(1)
    expect(gate.begun).toEqual(['first', 'third'])
  })

  test('places come back from turns that fail or are interrupted', async () => {
    const { api } = await ownServer({ MAX_ACTIVE_TURNS: 1 })
    const id = await createIdle(api, { agent: 'scripted' })
    for (let round = 0; round < 8; round++) {
      await api.post(`/sessions/${id}/turns`, { prompt: ['fail x', 'throw', 'say x'][round % 3] })
      const hanging = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'hang' })
      await until('the turn runs', async () => (await readSession(api, id)).state.is_active)
      await api.post(`/sessions/${id}/interrupt`)
      expect((await hanging).body.stop_reason).toBe('cancelled')
    }
    expect((await api.post<RunResult>('/sessions', { prompt: 'room' })).body.text).toBe('room')
  })
})
