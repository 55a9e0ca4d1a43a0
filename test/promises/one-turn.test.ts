import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, expect, test } from 'vitest'
import { createIdle } from '../helpers/contract.ts'
import { gatedAgent } from '../helpers/gate.ts'
import { client, send } from '../helpers/http.ts'
import { openStream, types } from '../helpers/sse.ts'
import { useServer } from '../helpers/suite.ts'
import { scale } from './support.ts'

const RACERS = scale(60, 200)
const ROUNDS = scale(10, 500)

const gate = gatedAgent()
const server = useServer({}, { gates: [gate] })
const kept = new http.Agent({ keepAlive: true, maxSockets: 32 })
afterAll(() => kept.destroy())

interface Outcome {
  prompt: string
  status: number
  code: string | undefined
  /** The turn that was started, or that is in the way. */
  turn: number | undefined
}

/** One try to start a turn: over a connection that is used again, over a new one, or as a stream. */
async function attempt(session: string, prompt: string, index: number): Promise<Outcome> {
  type Body = { turn?: number; code?: string; active_turn?: { turn: number } }
  if (index % 3 === 2) {
    const stream = await openStream(`${session}/turns/stream`, { json: { prompt } })
    if (stream.status === 200) {
      const turn = Number(/\d+$/.exec(stream.headers.location ?? '')?.[0])
      stream.leave()
      return { prompt, status: 202, code: undefined, turn }
    }
    stream.leave()
    return { prompt, status: stream.status, code: undefined, turn: undefined }
  }
  const { status, body } = await send<Body>(`${session}/turns`, 'POST', {
    json: { prompt },
    headers: { prefer: 'respond-async' },
    ...(index % 3 === 0 ? { agent: kept } : {}),
  })
  return { prompt, status, code: body?.code, turn: body?.active_turn?.turn ?? body?.turn }
}

/** What is wrong with one round of racers for a session that was idle. */
function raceFaults(outcomes: readonly Outcome[]): string[] {
  const accepted = outcomes.filter(({ status }) => status === 202)
  const faults: string[] = []
  if (accepted.length !== 1) faults.push(`${accepted.length} accepted`)
  const turns = new Set(outcomes.map(({ turn }) => turn).filter((turn) => turn !== undefined))
  if (turns.size !== 1) faults.push(`turns ${[...turns].join(', ')}`)
  for (const { status, code } of outcomes) {
    if (status !== 202 && status !== 409) faults.push(`status ${status}`)
    if (status === 409 && code !== undefined && code !== 'SESSION_BUSY') faults.push(`code ${code}`)
  }
  return faults
}

/** What is wrong with the beginnings and ends in a session's log. */
function alternationFaults(events: readonly string[]): string[] {
  const faults: string[] = []
  let running = false
  for (const [index, type] of events.entries()) {
    const begins = type === 'run_started'
    const ends = /^run_(completed|failed|interrupted)$/.test(type)
    if (begins && running) faults.push(`${index}: a second turn begins`)
    if (ends && !running) faults.push(`${index}: an end without a beginning`)
    if (begins || ends) running = begins
  }
  if (running) faults.push('the last turn never ends')
  return faults
}

/** Rounds of racers; `finish` ends the turn that was accepted. */
async function race(session: string, rounds: number, racers: number, finish: (outcome: Outcome) => Promise<void>) {
  const faults: string[] = []
  for (let round = 0; round < rounds; round++) {
    const outcomes = await Promise.all(
      Array.from({ length: racers }, (_, i) => attempt(session, `round ${round} racer ${i}`, i)),
    )
    faults.push(...raceFaults(outcomes).map((fault) => `round ${round}: ${fault}`))
    for (const outcome of outcomes) if (outcome.status === 202) await finish(outcome)
  }
  return faults
}

test(
  `of ${RACERS} who start a turn of one session at the same time exactly one is accepted, ${ROUNDS} times over`,
  async () => {
    const id = await createIdle(server.api, { agent: 'gated' })
    const session = `${server.url}/sessions/${id}`
    const faults = await race(session, ROUNDS, RACERS, async ({ prompt, turn }) => {
      const run = await gate.run(prompt)
      run.finish({ text: 'done' })
      await (await openStream(`${session}/turns/${turn}/events`)).upTo('run_completed')
    })
    expect(faults).toEqual([])
    expect(gate.begun).toHaveLength(ROUNDS)
    await server.api.delete(`/sessions/${id}`)
    const log = await (await openStream(`${session}/events?after=0`)).all()
    expect(alternationFaults(types(log))).toEqual([])
    expect(types(log).filter((type) => type === 'run_started')).toHaveLength(ROUNDS)
  },
  scale(60_000, 900_000),
)

test('of many who race for a session with the end of its turn, each is either the next turn or told that it is busy', async () => {
  const id = await createIdle(server.api, { agent: 'echo' })
  const session = `${server.url}/sessions/${id}`
  const outcomes = await Promise.all(
    Array.from({ length: scale(90, 2_000) }, (_, i) => attempt(session, `go ${i}`, i % 2)),
  )
  const accepted = outcomes.filter(({ status }) => status === 202)
  expect(outcomes.filter(({ status, code }) => status !== 202 && code !== 'SESSION_BUSY')).toEqual([])
  expect(new Set(accepted.map(({ turn }) => turn)).size).toBe(accepted.length)
  await server.api.delete(`/sessions/${id}`)
  const log = await (await openStream(`${session}/events?after=0`)).all()
  expect(alternationFaults(types(log))).toEqual([])
  expect(types(log).filter((type) => type === 'run_started')).toHaveLength(accepted.length)
})

test('of many equal requests with one idempotency key one runs, and all get its result', async () => {
  const id = await createIdle(server.api, { agent: 'echo' })
  const api = client(() => `${server.url}/sessions/${id}`)
  const answers = await Promise.all(
    Array.from({ length: scale(60, 300) }, () => api.post('/turns', { prompt: 'once' }, { 'idempotency-key': 'same' })),
  )
  expect(new Set(answers.map(({ status, text }) => `${status} ${text}`)).size).toBe(1)
  expect(answers[0]?.status).toBe(200)
  expect((await api.get<{ total: number }>('/turns')).body.total).toBe(1)
})

test('the checker notices a server that looks whether a session is busy and claims it later', async () => {
  let running: { turn: number } | undefined
  let turns = 0
  const log: string[] = []
  const careless = http.createServer((request, response) => {
    request.resume()
    const answer = (status: number, body: object, headers = {}) =>
      response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body))
    if (running !== undefined) {
      answer(409, { code: 'SESSION_BUSY', active_turn: running })
      return
    }
    setImmediate(() => {
      running = { turn: ++turns }
      log.push('run_started')
      if (request.url?.endsWith('/stream')) answer(200, {}, { location: `/turns/${running.turn}` })
      else answer(202, running)
    })
  })
  await new Promise<void>((resolve) => careless.listen(0, '127.0.0.1', resolve))
  const { port } = careless.address() as AddressInfo
  const faults = await race(`http://127.0.0.1:${port}/sessions/x`, 3, 30, async () => {
    running = undefined
    log.push('run_completed')
  })
  careless.close()
  careless.closeAllConnections()
  expect(faults).toContainEqual(expect.stringMatching(/: ([2-9]|\d\d) accepted$/))
  expect(faults).toContainEqual(expect.stringMatching(/: turns \d+, \d+/))
  expect(alternationFaults(log)).toContainEqual(expect.stringContaining('a second turn begins'))
})
