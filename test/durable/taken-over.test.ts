import { expect, onTestFinished, test } from 'vitest'
import {
  createIdle,
  expectProblem,
  NOBODY,
  type RunResult,
  readMessages,
  readTurn,
  type Turn,
} from '../helpers/contract.ts'
import { type Gate, gatedAgent } from '../helpers/gate.ts'
import { onlyIfAwaited, until } from '../helpers/http.ts'
import { newDatabase, sharedPostgres } from '../helpers/postgres.ts'
import { openStream } from '../helpers/sse.ts'
import { type Node, startNode } from './stores.ts'

/** Servers of one process, whose owners and leases a test changes in the database, as others would. */

interface Owner extends Node {
  gate: Gate
}

async function nodeOver(url: string, settings = {}): Promise<Owner> {
  const gate = gatedAgent()
  const node = await startNode(url, settings, { agents: [gate.agent] })
  onTestFinished(() => gate.open())
  return { ...node, gate }
}

async function pair(settings = {}): Promise<{ url: string; a: Owner; b: Owner }> {
  const url = await newDatabase()
  return { url, a: await nodeOver(url, settings), b: await nodeOver(url, settings) }
}

async function inDatabase(url: string, sql: string) {
  return (await sharedPostgres()).as(new URL(url).pathname.slice(1), (run) => run.unsafe(sql))
}

/** What another server does that takes `id` over. Every server but that one is fenced off from it. */
const takeOver = (url: string, id: string) =>
  inDatabase(url, `update session set owner = null, epoch = epoch + 1 where id = '${id}'`)

async function open(node: Node, path: string, json?: unknown) {
  const stream = await openStream(node.server.url + path, json === undefined ? {} : { json })
  onTestFinished(() => stream.leave())
  return stream
}

test('a session that was taken over is left alone: its agent stops, its readers are cut off, its callers are told', async () => {
  const { url, a, b } = await pair()
  const id = await createIdle(a.api, { agent: 'gated' })
  const stream = await open(a, `/sessions/${id}/turns/stream`, { prompt: 'first' })
  const run = await a.gate.run('first')
  await run.say('so far')
  await stream.upTo('text_delta')
  const waiting = a.api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'second', on_busy: 'enqueue' })
  await until(
    'it is in line',
    async () => (await b.api.get<{ total: number }>(`/sessions/${id}/turns`)).body.total === 2,
  )
  const reader = await open(b, `/sessions/${id}/events?after=0`)

  await takeOver(url, id)
  await run.say(' and what nobody hears')
  await stream.all()
  expect(stream.end).toBe('destroyed')
  await until('the agent is told', () => run.signal.aborted)
  // Somebody finds that nobody has it.
  await reader.upTo('run_failed')
  const second = await Promise.race([a.gate.run('second'), b.gate.run('second')])
  await second.say('done')
  second.finish({ text: 'done' })
  expect((await waiting).body).toMatchObject({ turn: 2, text: 'done' })
  await reader.upTo(({ json }) => json.type === 'run_completed')
  expect(reader.frames.filter(({ event }) => event === 'text_delta').map(({ json }) => json.delta)).toEqual([
    'so far',
    'done',
  ])
  for (const { api } of [a, b]) {
    expect(await readTurn(api, id, 1)).toMatchObject({ status: 'failed', error: { code: 'TURN_LOST' } })
    expect((await readMessages(api, id)).map(({ content }) => content)).toContain('first')
  }
})

test('whoever waits for a turn that was taken over gets what became of it elsewhere', async () => {
  const { url, a, b } = await pair()
  const id = await createIdle(a.api, { agent: 'gated' })
  const caller = a.api.post(`/sessions/${id}/turns`, { prompt: 'mine' })
  const run = await a.gate.run('mine')
  await until('it is kept', async () => (await b.api.get(`/sessions/${id}/turns/1`)).status === 200)
  await takeOver(url, id)
  run.finish({ text: 'too late' })
  expectProblem(await caller, 500, 'TURN_LOST')
  expect(await readTurn(a.api, id, 1)).toMatchObject({ status: 'failed' })
})

test('a copy that is older than what the store has is read again', async () => {
  const { a, b } = await pair()
  const id = await createIdle(a.api, { agent: 'gated' })
  for (const [node, prompt] of [
    [a, 'one'],
    [b, 'two'],
    [a, 'three'],
    [b, 'four'],
  ] as const) {
    const turn = node.api.post<RunResult>(`/sessions/${id}/turns`, { prompt })
    const run = await node.gate.run(prompt)
    expect(run.context.session.messages.filter(({ role }) => role === 'user')).toHaveLength(run.turn - 1)
    run.finish({ text: prompt.toUpperCase() })
    expect((await turn).body.text).toBe(prompt.toUpperCase())
  }
  expect((await readMessages(a.api, id)).map(({ role }) => role)).toHaveLength(8)
})

test('what an agent says between its turns is heard, unless its session goes on elsewhere', async () => {
  const { url, a, b } = await pair()
  const id = await createIdle(a.api, { agent: 'gated' })
  const turn = a.api.post(`/sessions/${id}/turns`, { prompt: 'go' })
  const run = await a.gate.run('go')
  run.finish()
  await turn
  const reader = await open(b, `/sessions/${id}/events`)
  await reader.upTo('session_loaded')
  const { session } = run.context
  session.emit({ type: 'skills_resolved', skills: ['heard'], injection_bytes: 1 })
  await reader.upTo(({ json }) => JSON.stringify(json).includes('heard'))
  await takeOver(url, id)
  session.emit({ type: 'skills_resolved', skills: ['lost'], injection_bytes: 1 })
  const next = b.api.post(`/sessions/${id}/turns`, { prompt: 'next' })
  ;(await b.gate.run('next')).finish()
  await next
  const { frames } = await reader.upTo('run_completed').then(() => reader)
  expect(frames.map(({ json }) => JSON.stringify(json)).join()).not.toContain('lost')
})

test('a server that was not heard for longer than its lease gives up what is no longer its own', async () => {
  const { url, a, b } = await pair()
  const id = await createIdle(a.api, { agent: 'gated' })
  const started = await a.api.post<Turn>(`/sessions/${id}/turns`, { prompt: 'hang' }, { prefer: 'respond-async' })
  expect(started.status).toBe(202)
  const run = await a.gate.run('hang')
  const [row] = await inDatabase(url, `select owner from session where id = '${id}'`)
  // Beats prolong it again, but somebody was faster.
  await until('it is taken over', async () => {
    await inDatabase(
      url,
      `update node set lease_until = clock_timestamp() - interval '1 second' where id = '${row?.owner}'`,
    )
    return (await readTurn(b.api, id, 1)).status === 'failed'
  })
  expect((await readTurn(b.api, id, 1)).error).toMatchObject({ code: 'TURN_LOST' })
  run.finish()
  await until('it is idle', async () => {
    const answer = await a.api.post(
      `/sessions/${id}/turns`,
      { prompt: `again ${Math.random()}` },
      { prefer: 'respond-async' },
    )
    return answer.status === 202
  })
})

test('places of all servers are given back by whoever is closed', async () => {
  const { a, b } = await pair({ MAX_CLUSTER_TURNS: 1 })
  const [one, two] = [await createIdle(a.api, { agent: 'gated' }), await createIdle(b.api, { agent: 'gated' })]
  const held = a.api.post(`/sessions/${one}/turns`, { prompt: 'held' })
  const run = await a.gate.run('held')
  const refused = await b.api.post(`/sessions/${two}/turns`, { prompt: 'too many' })
  expectProblem(refused, 503, 'SESSION_CAPACITY_REACHED')
  expect(refused.headers['retry-after']).toBe('1')
  // In line it needs no place of its own.
  const queued = b.api.post<RunResult>(`/sessions/${one}/turns`, { prompt: 'queued', on_busy: 'enqueue' })
  await until(
    'it is in line',
    async () => (await a.api.get<{ total: number }>(`/sessions/${one}/turns`)).body.total === 2,
  )
  run.finish()
  await held
  ;(await a.gate.run('queued')).finish({ text: 'ran' })
  expect((await queued).body.text).toBe('ran')
  await until('the place is free', async () => {
    const answer = await b.api.post(`/sessions/${two}/turns`, { prompt: 'now' }, { prefer: 'respond-async' })
    return answer.status === 202
  })
  ;(await b.gate.run('now')).finish()
})

test('a server without room for what was lost takes it up once it has', async () => {
  const { url, a, b } = await pair({ MAX_SESSIONS: 1 })
  const [lost, other] = [await createIdle(a.api, { agent: 'gated' }), await createIdle(b.api, { agent: 'gated' })]
  const caller = a.api.post(`/sessions/${lost}/turns`, { prompt: 'lost' })
  const run = await a.gate.run('lost')
  const busy = b.api.post(`/sessions/${other}/turns`, { prompt: 'busy' })
  const held = await b.gate.run('busy')
  await until('it is kept', async () => (await b.api.get(`/sessions/${lost}/turns/1`)).status === 200)
  await takeOver(url, lost)
  await run.say('unheard')
  await until('the agent is told', () => run.signal.aborted)
  expectProblem(await caller, 500, 'TURN_LOST')
  held.finish()
  await busy
  expect(await readTurn(b.api, lost, 1)).toMatchObject({ status: 'failed' })
})

test('code in this process waits for sessions, and reads turns, of other servers', async () => {
  const { a, b } = await pair()
  const service = b.server.app.sessions
  const stop = new AbortController()
  const inVain = expect(service.waitSessionRegistered(NOBODY, { signal: stop.signal })).rejects.toThrow()
  const any = service.waitSessionRegistered()
  const id = await createIdle(a.api, { agent: 'gated' })
  await any
  await service.waitSessionRegistered(id)
  const turn = a.api.post(`/sessions/${id}/turns`, { prompt: 'go' })
  const run = await a.gate.run('go')
  await until('it is kept', async () => (await b.api.get(`/sessions/${id}/turns/1`)).status === 200)
  const read = async () => {
    const types: string[] = []
    for await (const { type } of service.events(id, { turn: 1 })) types.push(type)
    return types
  }
  const seen = onlyIfAwaited(read())
  await run.say('heard')
  run.finish()
  await turn
  expect(await seen).toEqual([
    'run_started',
    'turn_started',
    'text_delta',
    'text_complete',
    'turn_completed',
    'run_completed',
  ])
  stop.abort()
  await inVain
})

test('a key for another body is refused while its request is under way, at whatever server', async () => {
  const { a, b } = await pair()
  const id = await createIdle(a.api, { agent: 'gated' })
  const key = { 'idempotency-key': 'one' }
  const first = a.api.post(`/sessions/${id}/turns`, { prompt: 'first' }, key)
  const run = await a.gate.run('first')
  await until('it is kept', async () => (await b.api.get(`/sessions/${id}/turns/1`)).status === 200)
  for (const { api } of [a, b]) {
    expectProblem(await api.post(`/sessions/${id}/turns`, { prompt: 'another' }, key), 422, 'IDEMPOTENCY_KEY_REUSED')
    const cursor = { 'idempotency-key': 'none', 'last-event-id': '1' }
    expectProblem(await api.post(`/sessions/${id}/turns/stream`, { prompt: 'first' }, cursor), 400, 'INVALID_PARAMS')
  }
  run.finish()
  expect((await first).status).toBe(200)
})
