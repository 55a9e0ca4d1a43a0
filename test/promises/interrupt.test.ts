import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import type { SessionAgentBuilder } from '../../src/core/agent.ts'
import { createIdle, expectProblem, readTurn, type Turn, type TurnList } from '../helpers/contract.ts'
import { gatedAgent } from '../helpers/gate.ts'
import { client } from '../helpers/http.ts'
import { textOf, types } from '../helpers/sse.ts'
import { useServer } from '../helpers/suite.ts'
import { between, pooled, SEED, scale, seeded } from './support.ts'

/** Runs for as many milliseconds as the prompt says; `deaf` ones do not hear that they should stop. */
const brief = (name: string, deaf: boolean): SessionAgentBuilder => ({
  name,
  buildAgent: () => ({
    async *run({ prompt }, { signal }) {
      const ms = Number.parseInt(prompt, 10)
      yield { type: 'text_delta', delta: 'begun' }
      if (ms > 0) await sleep(ms, undefined, deaf ? {} : { signal })
      yield { type: 'text_delta', delta: ' ended' }
      return undefined
    },
  }),
})

const gate = gatedAgent()
const deafGate = gatedAgent('deaf-gated', { deaf: true })
const server = useServer(
  { ARCHIVE_DRAIN_MS: 100 },
  { gates: [gate, deafGate], agents: [brief('brief', false), brief('brief-deaf', true)] },
)

interface Round {
  /** Statuses of the interrupts that named turn `n`. */
  answers: number[]
  aimed: Turn
  next: Turn
}

/** What is wrong with a turn that was interrupted around its end, and with the turn after it. */
function interruptFaults({ answers, aimed, next }: Round): string[] {
  const faults: string[] = []
  for (const status of answers) if (status !== 200 && status !== 409) faults.push(`status ${status}`)
  const promised = answers.includes(200)
  if (promised && aimed.status !== 'interrupted') faults.push(`promised, but turn ${aimed.turn} is ${aimed.status}`)
  if (!promised && aimed.status !== 'completed') faults.push(`refused, but turn ${aimed.turn} is ${aimed.status}`)
  if (aimed.status === 'interrupted' && aimed.result?.stop_reason !== 'cancelled') {
    faults.push(`interrupted with ${aimed.result?.stop_reason}`)
  }
  if (next.status !== 'completed') faults.push(`the next turn is ${next.status}`)
  return faults
}

/** A turn that takes a moment, interrupts of it at all sorts of moments, and the next turn as soon as there is room. */
async function playRound(agent: string, random: () => number, aim: (turn: number) => object): Promise<Round> {
  const id = await createIdle(server.api, { agent })
  const api = client(() => `${server.url}/sessions/${id}`)
  const first = api.post(`/turns`, { prompt: `${between(random, 0, 8)}` })
  const interrupts = Array.from({ length: 6 }, async () => {
    await sleep(between(random, 0, 12))
    return (await api.post('/interrupt', aim(1))).status
  })
  const second = api.post('/turns', { prompt: '4', on_busy: 'enqueue' })
  const answers = await Promise.all(interrupts)
  await Promise.all([first, second])
  const { turns } = (await api.get<TurnList>('/turns')).body
  return { answers, aimed: turns[0] as Turn, next: turns[1] as Turn }
}

describe.each(['brief', 'brief-deaf'])('an interrupt that names its turn, of the agent "%s"', (agent) => {
  test(
    `around the end of the turn counts or is refused, and never reaches the next turn (SEED=${SEED})`,
    async () => {
      const rounds = await pooled(scale(60, 1_500), 12, (i) => playRound(agent, seeded(SEED + i), (turn) => ({ turn })))
      expect(rounds.flatMap(interruptFaults)).toEqual([])
      // Both ways out were taken.
      expect(new Set(rounds.map(({ aimed }) => aimed.status))).toEqual(new Set(['interrupted', 'completed']))
    },
    scale(30_000, 300_000),
  )
})

test('the checker notices an interrupt that names no turn and reaches whatever runs', async () => {
  const rounds = await pooled(60, 12, (i) => playRound('brief', seeded(SEED + i), () => ({})))
  expect(rounds.flatMap(interruptFaults)).toContain('the next turn is interrupted')
})

test('a turn whose agent stops when it is told so ends with run_interrupted and the text so far', async () => {
  const id = await createIdle(server.api, { agent: 'gated' })
  const stream = await server.stream(`/sessions/${id}/turns/stream`, { json: { prompt: 'cooperative' } })
  const run = await gate.run('cooperative')
  await run.say('so far')
  expect((await server.api.post(`/sessions/${id}/interrupt`, { turn: 1 })).body).toEqual({
    session_id: id,
    turn: 1,
    interrupted: true,
  })
  const last = (await stream.all()).at(-1)
  expect(last?.json).toMatchObject({ type: 'run_interrupted', result: { text: 'so far', stop_reason: 'cancelled' } })
  expect(stream.end).toBe('clean')
  expect(run.signal.aborted).toBe(true)
})

test('a turn whose agent is deaf ends all the same, and what that agent says later reaches nobody', async () => {
  const id = await createIdle(server.api, { agent: 'deaf-gated' })
  const follower = await server.stream(`/sessions/${id}/events?after=0`)
  const answer = server.api.post(`/sessions/${id}/turns`, { prompt: 'does not listen' })
  const run = await deafGate.run('does not listen')
  await run.say('so far')
  await server.api.post(`/sessions/${id}/interrupt`, { turn: 1 })
  expect(await answer).toMatchObject({ status: 200, body: { text: 'so far', stop_reason: 'cancelled' } })
  const next = server.api.post(`/sessions/${id}/turns`, { prompt: 'the next one' })
  const nextRun = await deafGate.run('the next one')
  // The first agent wakes up in the middle of the second turn.
  run.say(' and much too late').catch(() => {})
  run.finish({ text: 'too late' })
  await nextRun.say('heard')
  nextRun.finish()
  expect(await next).toMatchObject({ status: 200, body: { text: 'heard', stop_reason: 'end_turn' } })
  await server.api.delete(`/sessions/${id}`)
  const frames = await follower.all()
  expect(textOf(frames)).toBe('so farheard')
  expect(types(frames).filter((type) => /^run_/.test(type))).toEqual([
    'run_started',
    'run_interrupted',
    'run_started',
    'run_completed',
  ])
})

test('an interrupt of a session that is idle, or of a turn that is over or not there, is refused and does nothing', async () => {
  const id = await createIdle(server.api, { agent: 'gated' })
  const interrupt = (body?: object) => server.api.post(`/sessions/${id}/interrupt`, body)
  expectProblem(await interrupt({}), 409, 'SESSION_NOT_RUNNING')
  expectProblem(await interrupt({ turn: 1 }), 409, 'SESSION_NOT_RUNNING')
  const answer = server.api.post(`/sessions/${id}/turns`, { prompt: 'left alone' })
  const run = await gate.run('left alone')
  expectProblem(await interrupt({ turn: 2 }), 409, 'SESSION_NOT_RUNNING')
  expect(run.signal.aborted).toBe(false)
  run.finish({ text: 'whole' })
  expect(await answer).toMatchObject({ status: 200, body: { text: 'whole' } })
  expectProblem(await interrupt({ turn: 1 }), 409, 'SESSION_NOT_RUNNING')
  expect((await readTurn(server.api, id, 1)).status).toBe('completed')
})
