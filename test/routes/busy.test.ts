import http from 'node:http'
import { describe, expect, test } from 'vitest'
import {
  createIdle,
  expectProblem,
  type RunResult,
  readMessages,
  readTurn,
  said,
  TIME,
  type TurnList,
} from '../helpers/contract.ts'
import { gatedAgent } from '../helpers/gate.ts'
import { type Answer, send, until } from '../helpers/http.ts'
import { useServer } from '../helpers/suite.ts'

const gate = gatedAgent()
const server = useServer({}, { gates: [gate] })
const { api } = server

describe('a turn that is started while another one runs', () => {
  test('is refused with 409, and the answer is enough to find and follow the running turn', async () => {
    const { body } = await api.post<RunResult>('/sessions', { agent: 'gated', initial_turn: 'deferred' })
    const id = body.session_id
    const first = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'b1' })
    const run = await gate.run('b1')
    await run.say('one')
    await run.say(' two')

    const answer = await api.post(`/sessions/${id}/turns`, { prompt: 'b2' })
    const problem = expectProblem(answer, 409, 'SESSION_BUSY')
    expect(problem).toMatchObject({
      session_id: id,
      active_turn: { turn: 1, status: 'running', started_at: expect.stringMatching(TIME) },
      links: {
        turn: `/sessions/${id}/turns/1`,
        events: `/sessions/${id}/turns/1/events`,
        interrupt: `/sessions/${id}/interrupt`,
      },
    })
    expect(Object.keys(problem.active_turn ?? {}).sort()).toEqual(['last_seq', 'started_at', 'status', 'turn'])
    expect(answer.headers.location).toBe(`/sessions/${id}/turns/1`)

    const seen = await server.stream(`/sessions/${id}/turns/1/events`)
    const last = await seen.upTo((frame) => frame.json.delta === ' two')
    expect(problem.active_turn?.last_seq).toBe(last.json.seq)
    expect(problem.active_turn?.started_at).toBe((await readTurn(api, id, 1)).started_at)

    const attached = await server.stream(`${problem.links?.events}?after=${problem.active_turn?.last_seq}`)
    await run.say(' three')
    expect((await attached.next())?.json).toMatchObject({ delta: ' three', seq: Number(last.json.seq) + 1 })
    const interrupted = await api.post(String(problem.links?.interrupt), { turn: problem.active_turn?.turn })
    expect(interrupted.body).toEqual({ session_id: id, turn: 1, interrupted: true })
    expect((await first).body).toMatchObject({ text: 'one two three', stop_reason: 'cancelled' })
  })

  test('is refused the same way as a stream, with reject spelled out, and during the very first turn', async () => {
    const created = api.post<RunResult>('/sessions', { agent: 'gated', prompt: 'c1' })
    const run = await gate.run('c1')
    const id = run.sessionId
    for (const answer of [
      await api.post(`/sessions/${id}/turns`, { prompt: 'x', on_busy: 'reject' }),
      await api.post(`/sessions/${id}/turns/stream`, { prompt: 'x' }),
      await api.post(`/sessions/${id}/turns`, { prompt: 'x' }, { accept: 'text/event-stream' }),
      await api.post(`/sessions/${id}/turns`, { prompt: 'x' }, { prefer: 'respond-async' }),
    ]) {
      const problem = expectProblem(answer, 409, 'SESSION_BUSY')
      expect(problem.active_turn).toMatchObject({ turn: 1, status: 'running' })
      expect(answer.headers.location).toBe(`/sessions/${id}/turns/1`)
    }
    run.finish()
    expect((await created).status).toBe(201)
  })

  test('does not touch the running turn and takes no turn number', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const first = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'd1' })
    const run = await gate.run('d1')
    for (let i = 0; i < 10; i++) {
      expectProblem(await api.post(`/sessions/${id}/turns`, { prompt: 'not me' }), 409, 'SESSION_BUSY')
    }
    await run.say('undisturbed')
    run.finish()
    expect((await first).body).toMatchObject({ turn: 1, text: 'undisturbed', stop_reason: 'end_turn' })
    const second = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'd2' })
    const run2 = await gate.run('d2')
    await run2.say('mine')
    run2.finish()
    expect((await second).body.turn).toBe(2)
    expect(await readMessages(api, id)).toEqual([...said('d1', 'undisturbed'), ...said('d2', 'mine')])
    expect(gate.begun).not.toContain('not me')
  })

  test('is judged before it is refused: a bad body is 400, busy or not', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const first = api.post(`/sessions/${id}/turns`, { prompt: 'e1' })
    const run = await gate.run('e1')
    expectProblem(await api.post(`/sessions/${id}/turns`, { prompt: ' ' }), 400, 'INVALID_PARAMS')
    run.finish()
    await first
  })
})

describe('200 turns started at once on one session', () => {
  async function race(name: string, agent?: http.Agent) {
    const id = await createIdle(api, { agent: 'gated' })
    const path = `${server.url}/sessions/${id}/turns`
    const losers: Answer[] = []
    const racing = Array.from({ length: 200 }, async () => {
      const answer = await send<RunResult>(path, 'POST', { json: { prompt: name }, ...(agent ? { agent } : {}) })
      if (answer.status !== 200) losers.push(answer)
      return answer
    })
    const run = await gate.run(name)
    // All losers are answered while the winner still runs: nothing was queued.
    await until('199 are refused', () => losers.length === 199)
    for (const loser of losers) {
      expect(expectProblem(loser, 409, 'SESSION_BUSY').active_turn?.turn).toBe(1)
    }
    await run.say('winner')
    run.finish()
    const accepted = (await Promise.all(racing)).filter((answer) => answer.status === 200)
    expect(accepted).toHaveLength(1)
    expect(accepted[0]?.body).toMatchObject({ session_id: id, turn: 1, text: 'winner' })
    expect(gate.begun.filter((prompt) => prompt === name)).toHaveLength(1)
    expect((await api.get<TurnList>(`/sessions/${id}/turns`)).body.total).toBe(1)
    expect(await readMessages(api, id)).toEqual(said(name, 'winner'))
  }

  test('on connections of their own: exactly one is accepted, 199 are told who runs', async () => {
    await race('race on new sockets')
  })

  test('on 20 kept connections: exactly one is accepted, 199 are told who runs', async () => {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 20 })
    try {
      await race('race on kept sockets', agent)
    } finally {
      agent.destroy()
    }
  })
})
