import { describe, expect, test } from 'vitest'
import { createIdle, type Problem, type RunResult, readSession, type TurnList } from '../helpers/contract.ts'
import { type Answer, until } from '../helpers/http.ts'
import { useServer } from '../helpers/suite.ts'

const server = useServer()
const { api } = server

/** The same numbers at every run: a failure can be run again. */
function random(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
}

const TERMINAL = /^run_(completed|failed|interrupted)$/

/** Holds the log of a session against its turn records: turns one after the other, each with one beginning and one end. */
async function expectOrderlyLog(id: string) {
  const { turns, total } = (await api.get<TurnList>(`/sessions/${id}/turns?limit=1000`)).body
  expect(turns.map((turn) => turn.turn)).toEqual(turns.map((_, index) => index + 1))
  expect(turns).toHaveLength(total)
  const stream = await server.stream(`/sessions/${id}/events?after=0`)
  const ran = turns.filter((turn) => turn.started_at !== undefined)
  const last = ran.at(-1)?.turn
  if (last !== undefined) await stream.upTo((frame) => frame.json.turn === last && TERMINAL.test(frame.event))
  const numbered = stream.frames.filter((frame) => frame.id !== undefined)
  expect(numbered.map((frame) => frame.json.seq)).toEqual(numbered.map((_, index) => index + 1))
  const marks = numbered.filter((frame) => frame.event === 'run_started' || TERMINAL.test(frame.event))
  let open: number | undefined
  const ends = new Map<number, string>()
  for (const { event, json } of numbered) {
    if (event === 'run_started') {
      expect(open, `turn ${json.turn} begins`).toBeUndefined()
      open = json.turn
    }
    expect(json.turn, `${event} between turns`).toBe(open)
    if (TERMINAL.test(event)) {
      ends.set(Number(json.turn), event.slice('run_'.length))
      open = undefined
    }
  }
  expect(marks.length % 2).toBe(0)
  for (const { turn, status, started_at } of turns) {
    if (started_at !== undefined) expect(ends.get(turn), `turn ${turn}`).toBe(status)
  }
  return { turns, ends }
}

describe('many calls on one session at once', () => {
  test.each([1, 2, 3])('leave every caller with an answer and the log in order (seed %i)', async (seed) => {
    const pick = random(seed)
    const id = await createIdle(api, { agent: 'scripted' })
    const scripts = [
      'say a b',
      'deltas 20',
      'wait 3\nsay c',
      'tool add {"a":1,"b":2}\nsay d',
      'fail e',
      'wait 20\nsay f',
    ]
    const calls: Promise<Answer<RunResult & Problem>>[] = []
    for (let n = 0; n < 120; n++) {
      const prompt = scripts[pick(scripts.length)]
      const on_busy = ['reject', 'enqueue', 'interrupt'][pick(3)]
      const kind = pick(8)
      if (kind < 5) calls.push(api.post(`/sessions/${id}/turns`, { prompt, on_busy }))
      else if (kind < 7) calls.push(api.post(`/sessions/${id}/interrupt`))
      else calls.push(api.get(`/sessions/${id}`))
      if (pick(4) === 0) await api.get('/health')
    }
    const answers = await Promise.all(calls)
    for (const { status, body, text } of answers) {
      expect([200, 409, 500, 503], text).toContain(status)
      if (status === 500) expect(body.code, text).toBe('AGENT_ERROR')
    }
    await until('the session is idle', async () => !(await readSession(api, id)).state.is_active)
    const { turns } = await expectOrderlyLog(id)
    const results = answers.filter(({ status, body }) => status === 200 && body.stop_reason !== undefined)
    expect(results.length).toBeGreaterThan(5)
    for (const { body } of results) {
      const turn = turns[body.turn - 1]
      expect(turn?.result).toEqual(body)
      expect(turn?.status).toBe(body.stop_reason === 'cancelled' ? 'interrupted' : 'completed')
    }
    const numbers = results.map(({ body }) => body.turn)
    expect(new Set(numbers).size).toBe(numbers.length)
    const last = await api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'say still well' })
    expect(last.body).toMatchObject({ turn: turns.length + 1, text: 'still well', stop_reason: 'end_turn' })
  })

  test('archive wins or the turn wins, nobody waits for ever', async () => {
    for (let round = 0; round < 25; round++) {
      const id = await createIdle(api, { agent: 'scripted' })
      const start = api.post<RunResult & Problem>(`/sessions/${id}/turns`, { prompt: 'deltas 50' })
      const archive = api.delete(`/sessions/${id}${round % 2 ? '?mode=cancel' : ''}`)
      const [turn, archived] = await Promise.all([start, archive])
      expect(archived.status).toBe(200)
      expect([200, 404]).toContain(turn.status)
      if (turn.status === 404) expect(turn.body.code).toBe('SESSION_NOT_FOUND')
      else expect(['end_turn', 'cancelled']).toContain(turn.body.stop_reason)
      expect((await api.post(`/sessions/${id}/turns`, { prompt: 'say x' })).status).toBe(404)
    }
  })

  test('two archives at once: one succeeds, the other finds nothing', async () => {
    for (let round = 0; round < 10; round++) {
      const id = await createIdle(api)
      const answers = await Promise.all([api.delete(`/sessions/${id}`), api.delete(`/sessions/${id}`)])
      expect(answers.map((answer) => answer.status).sort()).toEqual([200, 404])
    }
  })
})
