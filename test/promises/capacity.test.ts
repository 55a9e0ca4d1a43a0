import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import type { SessionAgentBuilder } from '../../src/core/agent.ts'
import type { Problem } from '../helpers/contract.ts'
import { type Answer, client, until } from '../helpers/http.ts'
import { startServer } from '../helpers/server.ts'
import { openStream } from '../helpers/sse.ts'
import { between, pooled, SEED, scale, seeded } from './support.ts'

const LIMIT = 8
const CYCLES = scale(600, 10_000)
const CLIENTS = 40

/** Agents that count how many of their runs are under way, as the engine sees it and as they see it themselves. */
class Census {
  most = 0
  #running = 0
  /** How many turns the server says that are running; asked at every step of every run. */
  ask: () => number = () => 0

  #look(): void {
    this.most = Math.max(this.most, this.#running, this.ask())
  }

  readonly worker: SessionAgentBuilder = {
    name: 'worker',
    accepts: ['provider_params'],
    buildAgent: async ({ provider_params }) => {
      if (provider_params?.broken === true) throw new Error('cannot be built')
      const census = this
      return {
        async *run({ prompt }, { signal }) {
          census.#running++
          try {
            for (let i = 0; i < 3; i++) {
              census.#look()
              yield { type: 'text_delta', delta: `${i}` }
              await sleep(1, undefined, { signal })
            }
            if (prompt === 'hang') await sleep(60_000, undefined, { signal })
            if (prompt === 'throw') throw new Error('thrown')
            return undefined
          } finally {
            census.#running--
          }
        },
      }
    },
  }
}

interface Setting {
  url: string
  census: Census
  stats: () => { turnsRunning: number; residents: number }
  close: () => Promise<void>
}

async function setUp(maxActiveTurns: number): Promise<Setting> {
  const census = new Census()
  const { url, app, close } = await startServer({ MAX_ACTIVE_TURNS: maxActiveTurns }, { agents: [census.worker] })
  census.ask = () => app.sessions.stats.turnsRunning
  return { url, census, stats: () => app.sessions.stats, close }
}

/** What is wrong with an answer to somebody who wanted to run a turn. */
function answerFaults({ status, headers, body, text }: Answer): string[] {
  if (status !== 503) return [200, 201, 202, 409, 500].includes(status) ? [] : [`status ${status}: ${text}`]
  const faults: string[] = []
  const { code, detail } = body as Problem
  if (code !== 'SESSION_CAPACITY_REACHED') faults.push(`503 with ${code}`)
  const wait = headers['retry-after'] ?? ''
  if (!/^\d+$/.test(wait) || Number(wait) < 1 || Number(wait) > 60) faults.push(`Retry-After ${wait}`)
  if (!/\b\d+\/\d+\b/.test(detail)) faults.push(`detail ${detail}`)
  return faults
}

/** Many clients that create, run, fail, leave, interrupt and archive, all at once; what they saw that is wrong. */
async function storm({ url, census }: Setting, cycles: number, seed: number) {
  const faults: string[] = []
  const statuses = new Map<number, number>()
  const note = (answer: Answer) => {
    faults.push(...answerFaults(answer))
    statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1)
    return answer
  }
  const api = client(() => url)
  await pooled(cycles, CLIENTS, async (cycle) => {
    const random = seeded(seed + cycle)
    const kind = between(random, 0, 6)
    const agent = 'worker'
    if (kind === 0) {
      note(await api.post('/sessions', { agent, prompt: 'go' }))
    } else if (kind === 1) {
      note(await api.post('/sessions', { agent, prompt: 'throw' }))
    } else if (kind === 2) {
      note(await api.post('/sessions', { agent, prompt: 'go', provider_params: { broken: true } }))
    } else if (kind === 3) {
      // Leaves in the middle, and the turn with it.
      const stream = await openStream(`${url}/sessions/stream?on_disconnect=interrupt`, {
        json: { agent, prompt: 'hang' },
        cutAfterBytes: between(random, 1, 150),
      })
      if (stream.status === 200) await stream.ended().catch(() => {})
      stream.leave()
    } else {
      const deferred = await api.post<{ session_id: string }>('/sessions', { agent, initial_turn: 'deferred' })
      const session = `/sessions/${deferred.body.session_id}`
      const prompt = kind === 4 ? 'go' : 'hang'
      const started = note(await api.post(`${session}/turns`, { prompt }, { prefer: 'respond-async' }))
      if (kind === 5 && started.status === 202) await api.post(`${session}/interrupt`, {})
      await api.delete(`${session}?mode=${kind === 6 ? 'cancel' : 'drain'}`)
    }
  })
  if (census.most > LIMIT) faults.push(`${census.most} turns at a time`)
  return { faults, statuses }
}

/** How many turns can be started when nothing else runs; and everything that was started is ended again. */
async function room({ url, stats }: Setting, tries: number): Promise<number> {
  await until('no turn runs any more', () => stats().turnsRunning === 0).catch(() => {})
  const api = client(() => url)
  const answers = await Promise.all(
    Array.from({ length: tries }, () =>
      api.post<{ session_id: string }>('/sessions', { agent: 'worker', prompt: 'hang' }, { prefer: 'respond-async' }),
    ),
  )
  const started = answers.filter(({ status }) => status === 202)
  await Promise.all(started.map(({ body }) => api.delete(`/sessions/${body.session_id}?mode=cancel`)))
  return started.length
}

describe(`under a storm of creates, turns, failures, departures and interrupts (SEED=${SEED})`, () => {
  test(
    `never more than ${LIMIT} turns run, the rest is told when to come back, and every place comes back`,
    async () => {
      const setting = await setUp(LIMIT)
      try {
        const { faults, statuses } = await storm(setting, CYCLES, SEED)
        expect(faults).toEqual([])
        expect(setting.census.most).toBe(LIMIT)
        expect(statuses.get(503), 'the limit was reached').toBeGreaterThan(10)
        expect(statuses.get(201), 'turns were run').toBeGreaterThan(10)
        expect(await room(setting, LIMIT + 4)).toBe(LIMIT)
        expect(await room(setting, LIMIT + 4)).toBe(LIMIT)
      } finally {
        await setting.close()
      }
    },
    scale(60_000, 600_000),
  )

  test('of MAX_SESSIONS places none is lost to sessions that were archived, failed to be made or were imported', async () => {
    const { url, app, close } = await startServer({ MAX_SESSIONS: LIMIT }, { agents: [new Census().worker] })
    const api = client(() => url)
    try {
      await pooled(scale(300, 5_000), CLIENTS, async (cycle) => {
        const broken = cycle % 3 === 0 ? { provider_params: { broken: true } } : {}
        const created = await api.post<{ session_id: string }>('/sessions', {
          agent: 'worker',
          prompt: 'go',
          ...broken,
        })
        expect(answerFaults(created)).toEqual([])
        if (created.status === 201) await api.delete(`/sessions/${created.body.session_id}`)
      })
      expect(app.sessions.stats).toMatchObject({ residents: 0, sessions: 0 })
      const answers = await Promise.all(
        Array.from({ length: LIMIT + 4 }, () => api.post('/sessions', { initial_turn: 'deferred' })),
      )
      expect(answers.filter(({ status }) => status === 201)).toHaveLength(LIMIT)
      for (const answer of answers.filter(({ status }) => status !== 201)) {
        expect(answer.status).toBe(503)
        expect(answerFaults(answer)).toEqual([])
        expect((answer.body as Problem).detail).toContain(`${LIMIT}/${LIMIT}`)
      }
    } finally {
      await close()
    }
  })
})

describe('the checker of capacity notices', () => {
  test('a server without a limit', async () => {
    const setting = await setUp(10_000)
    const { faults } = await storm(setting, 200, SEED)
    await setting.close()
    expect(faults).toContainEqual(expect.stringMatching(/^(9|\d\d+) turns at a time$/))
  })

  test('a place that does not come back', async () => {
    const setting = await setUp(LIMIT)
    const api = client(() => setting.url)
    await api.post('/sessions', { agent: 'worker', prompt: 'hang' }, { prefer: 'respond-async' })
    const rooms = await room({ ...setting, stats: () => ({ turnsRunning: 0, residents: 0 }) }, LIMIT)
    await setting.close()
    expect(rooms).toBe(LIMIT - 1)
  })

  test('a refusal that does not say when to come back, or for another reason', () => {
    const answer = { status: 503, rawHeaders: [], text: '', body: { code: 'SHUTTING_DOWN', detail: 'no' } }
    expect(answerFaults({ ...answer, headers: {} })).toEqual(['503 with SHUTTING_DOWN', 'Retry-After ', 'detail no'])
    expect(answerFaults({ ...answer, headers: { 'retry-after': '0' } })).toContain('Retry-After 0')
    expect(answerFaults({ ...answer, headers: { 'retry-after': 'soon' } })).toContain('Retry-After soon')
  })
})
