import { describe, expect, test } from 'vitest'
import {
  createIdle,
  expectInvalid,
  expectProblem,
  type RunResult,
  readMessages,
  readSession,
  readTurn,
  type TurnList,
} from '../helpers/contract.ts'
import { type GatedRun, gatedAgent } from '../helpers/gate.ts'
import { until } from '../helpers/http.ts'
import { types } from '../helpers/sse.ts'
import { useServer } from '../helpers/suite.ts'

const gate = gatedAgent()
const server = useServer({}, { gates: [gate] })
const { api } = server

let prompts = 0

/** A session whose first turn runs, with turns in line that somebody waits for. */
async function withQueue(waiting: number): Promise<Line> {
  const id = await createIdle(api, { agent: 'gated' })
  const prompt = `p${++prompts}`
  const first = api.post<RunResult>(`/sessions/${id}/turns`, { prompt })
  const run = await gate.run(prompt)
  const queued: Promise<{ status: number; body: RunResult }>[] = []
  for (let turn = 2; turn < waiting + 2; turn++) {
    queued.push(api.post<RunResult>(`/sessions/${id}/turns`, { prompt: `${prompt}-${turn}`, on_busy: 'enqueue' }))
    await inLine(id, turn)
  }
  return { id, prompt, run, first, queued }
}

interface Line {
  id: string
  prompt: string
  run: GatedRun
  first: Promise<{ status: number; body: RunResult }>
  queued: Promise<{ status: number; body: RunResult }>[]
}

const inLine = (id: string, turn: number) =>
  until(`turn ${turn} is in line`, async () => (await api.get<TurnList>(`/sessions/${id}/turns`)).body.total === turn)

const cancelled = (id: string, turn: number) => ({
  status: 200,
  body: { session_id: id, turn, text: '', stop_reason: 'cancelled', turns: 0, tool_calls: 0 },
})

async function eventsOf(id: string, turn: number): Promise<string[]> {
  const stream = await server.stream(`/sessions/${id}/turns/${turn}/events`)
  const seen = types(await stream.all())
  expect(stream.end).toBe('clean')
  return seen
}

async function expectUntouched({ run, first }: Line): Promise<void> {
  expect(run.signal.aborted).toBe(false)
  await run.say('to the end')
  run.finish()
  expect(await first).toMatchObject({ status: 200, body: { text: 'to the end', stop_reason: 'end_turn' } })
}

describe('interrupting a turn that waits in line', () => {
  test('ends it at once with run_started and run_interrupted, and no other turn', async () => {
    const line = await withQueue(3)
    const { id, queued, prompt } = line
    const reader = await server.stream(`/sessions/${id}/events?after=0`)
    const own = await server.stream(`/sessions/${id}/turns/1/events`)
    const stream = await server.stream(`/sessions/${id}/turns/3/events`)
    const answer = await api.post(`/sessions/${id}/interrupt`, { turn: 3 })
    expect([answer.status, answer.body]).toEqual([200, { session_id: id, turn: 3, interrupted: true }])
    expect(await queued[1]).toMatchObject(cancelled(id, 3))
    expect(types(await stream.all())).toEqual(['run_started', 'run_interrupted'])
    expect(stream.end).toBe('clean')
    expect(stream.frames[0]?.json.prompt).toBe(`${prompt}-3`)
    const turn = await readTurn(api, id, 3)
    expect(turn).toMatchObject({ status: 'interrupted', result: (await queued[1])?.body })
    expect(turn.ended_at).toBeDefined()
    expectProblem(await api.post(`/sessions/${id}/interrupt`, { turn: 3 }), 409, 'SESSION_NOT_RUNNING')
    await expectUntouched(line)
    for (const number of [2, 4]) (await gate.run(`${prompt}-${number}`)).finish()
    expect((await queued[2])?.body.stop_reason).toBe('end_turn')
    // The running turn's reader sees its own events alone, everybody's all of them without a gap.
    expect((await own.all()).map(({ json }) => json.turn)).not.toContain(3)
    await reader.upTo(({ json, event }) => json.turn === 4 && event === 'run_completed')
    const begun = (await readMessages(api, id)).filter(({ role }) => role === 'user').map(({ content }) => content)
    expect(begun).toEqual([prompt, `${prompt}-2`, `${prompt}-4`])
  })

  test('with scope all ends the running turn and the whole line', async () => {
    const { id, first, queued, run } = await withQueue(3)
    await run.say('so far')
    const answer = await api.post(`/sessions/${id}/interrupt`, { scope: 'all' })
    expect([answer.status, answer.body]).toEqual([200, { session_id: id, turn: 1, interrupted: true }])
    expect(await first).toMatchObject({ status: 200, body: { text: 'so far', stop_reason: 'cancelled' } })
    for (const [at, turn] of [2, 3, 4].entries()) {
      expect(await queued[at]).toMatchObject(cancelled(id, turn))
      expect(await eventsOf(id, turn)).toEqual(['run_started', 'run_interrupted'])
    }
    expect((await readSession(api, id)).state.is_active).toBe(false)
    expectProblem(await api.post(`/sessions/${id}/interrupt`, { scope: 'all' }), 409, 'SESSION_NOT_RUNNING')
  })

  test('with scope all works where nothing is in line', async () => {
    const { id, first } = await withQueue(0)
    expect((await api.post(`/sessions/${id}/interrupt`, { scope: 'all' })).body).toMatchObject({ turn: 1 })
    expect((await first).body.stop_reason).toBe('cancelled')
  })

  test('with another scope, or with both, is 400 and interrupts nothing', async () => {
    const line = await withQueue(1)
    expectInvalid(await api.post(`/sessions/${line.id}/interrupt`, { scope: 'queue' }), 'scope')
    expectInvalid(await api.post(`/sessions/${line.id}/interrupt`, { scope: null }), 'scope')
    expectInvalid(await api.post(`/sessions/${line.id}/interrupt`, { scope: 'all', turn: 2 }), 'scope')
    await expectUntouched(line)
    ;(await gate.run(`${line.prompt}-2`)).finish()
    expect((await line.queued[0])?.body.stop_reason).toBe('end_turn')
  })
})

describe('a client that leaves while its turn waits in line', () => {
  test.each(['turns/stream', 'turns'])('to %s ends it where it asked for that, and no other', async (path) => {
    const line = await withQueue(0)
    const { id, prompt } = line
    const json = { prompt: `${prompt}-mine`, on_busy: 'enqueue' }
    const url = `/sessions/${id}/${path}?on_disconnect=interrupt`
    const socket = await server.socket()
    const body = JSON.stringify(json)
    socket.write(
      `POST ${url} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
    )
    await inLine(id, 2)
    socket.destroy()
    await until('its turn is over', async () => (await readTurn(api, id, 2)).status === 'interrupted')
    expect(await eventsOf(id, 2)).toEqual(['run_started', 'run_interrupted'])
    await expectUntouched(line)
    expect(gate.begun).not.toContain(json.prompt)
  })
})

describe('an archived session whose last turn still runs', () => {
  test('has its line cancelled at once, and its turn comes to its end', async () => {
    const line = await withQueue(2)
    const { id, queued } = line
    expect((await api.delete(`/sessions/${id}`)).status).toBe(200)
    for (const [at, turn] of [2, 3].entries()) {
      expect(await queued[at]).toMatchObject(cancelled(id, turn))
      expect(await eventsOf(id, turn)).toEqual(['run_started', 'run_interrupted'])
    }
    expect((await readTurn(api, id, 1)).status).toBe('running')
    expectProblem(await api.delete(`/sessions/${id}`), 404, 'SESSION_NOT_FOUND')
    expectProblem(await api.post(`/sessions/${id}/turns`, { prompt: 'x' }), 404, 'SESSION_NOT_FOUND')
    await expectUntouched(line)
  })

  test.each([
    ['interrupt', 200, (id: string) => api.post(`/sessions/${id}/interrupt`)],
    ['interrupt {turn}', 200, (id: string) => api.post(`/sessions/${id}/interrupt`, { turn: 1 })],
    ['interrupt {scope}', 200, (id: string) => api.post(`/sessions/${id}/interrupt`, { scope: 'all' })],
    ['DELETE ?mode=cancel', 200, (id: string) => api.delete(`/sessions/${id}?mode=cancel`)],
  ])('can be stopped with %s, and after that there is nothing to stop', async (_, status, stop) => {
    const { id, run, first } = await withQueue(0)
    await run.say('so far')
    await api.delete(`/sessions/${id}`)
    const answer = await stop(id)
    expect(answer.status, answer.text).toBe(status)
    expect(await first).toMatchObject({ status: 200, body: { text: 'so far', stop_reason: 'cancelled' } })
    expectProblem(await stop(id), 404, 'SESSION_NOT_FOUND')
    expectProblem(await api.delete(`/sessions/${id}`), 404, 'SESSION_NOT_FOUND')
    expect((await readTurn(api, id, 1)).status).toBe('interrupted')
  })
})
