import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { SqliteStore } from '../../src/stores/sqlite/sqlite-store.ts'
import { createIdle, NOBODY } from '../helpers/contract.ts'
import { turnFor } from '../helpers/fake-store.ts'
import { gatedAgent } from '../helpers/gate.ts'
import { until } from '../helpers/http.ts'
import { sessionWrite } from '../helpers/rows.ts'
import { ownServer, type Suite } from '../helpers/suite.ts'

async function metricsOf({ api }: Suite): Promise<Map<string, number>> {
  const { text } = await api.get('/metrics')
  const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'))
  return new Map(lines.map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ')))]))
}

/** Those of the server itself, without what is said of the process. */
const own = (metrics: Map<string, number>) =>
  Object.fromEntries([...metrics].filter(([name]) => name.startsWith('suricate_') && !name.includes('_bucket')))

test('a server that has done nothing says so: every number is there from the start', async () => {
  const server = await ownServer()
  expect(own(await metricsOf(server))).toEqual({
    suricate_sessions: 0,
    suricate_sessions_resident: 0,
    suricate_turns_running: 0,
    suricate_stream_readers: 0,
    suricate_stream_events_total: 0,
    suricate_stream_truncated_total: 0,
    'suricate_turns_total{outcome="completed"}': 0,
    'suricate_turns_total{outcome="interrupted"}': 0,
    'suricate_turns_total{outcome="failed"}': 0,
    suricate_turn_duration_seconds_sum: 0,
    suricate_turn_duration_seconds_count: 0,
  })
})

test('the text is that of Prometheus: a help and a type for each, and a content type that says so', async () => {
  const server = await ownServer()
  const { text, headers, status } = await server.api.get('/metrics')
  expect(status).toBe(200)
  expect(headers['content-type']).toMatch(/^text\/plain; version=0\.0\.4; charset=utf-8$/)
  const names = new Set(
    [...(await metricsOf(server)).keys()].map((name) => name.replace(/\{.*/, '').replace(/_(bucket|sum|count)$/, '')),
  )
  for (const name of names) {
    expect(text).toMatch(new RegExp(`^# HELP ${name} \\S`, 'm'))
    expect(text).toMatch(new RegExp(`^# TYPE ${name} (counter|gauge|histogram|summary)$`, 'm'))
  }
  expect(names).toContain('process_resident_memory_bytes')
  expect(names).toContain('nodejs_eventloop_lag_seconds')
})

test('turns are counted by how they ended, sessions and readers while they are there', async () => {
  const gate = gatedAgent()
  const server = await ownServer({ RETAIN_EVENTS: 5 }, { gates: [gate] })
  const { api } = server
  await api.post('/sessions', { prompt: 'one two' })
  await api.post('/sessions', { agent: 'scripted', prompt: 'fail' })
  const id = await createIdle(api, { agent: 'gated' })
  const stream = await server.stream(`/sessions/${id}/turns/stream`, { json: { prompt: 'hold' } })
  const run = await gate.run('hold')
  await stream.upTo('run_started')
  expect(own(await metricsOf(server))).toMatchObject({
    suricate_sessions: 3,
    suricate_sessions_resident: 3,
    suricate_turns_running: 1,
    suricate_stream_readers: 1,
  })
  await api.post(`/sessions/${id}/interrupt`, {})
  expect(run.signal.aborted).toBe(true)
  await stream.all()
  const numbered = stream.frames.length
  await api.delete(`/sessions/${id}`)
  await until('the reader is gone', () => metricsOf(server).then((m) => m.get('suricate_stream_readers') === 0))
  await until('the agent is disposed', () => metricsOf(server).then((m) => m.get('suricate_sessions_resident') === 2))
  const metrics = own(await metricsOf(server))
  expect(metrics).toMatchObject({
    suricate_sessions: 2,
    suricate_turns_running: 0,
    suricate_stream_events_total: numbered,
    suricate_stream_truncated_total: 0,
    'suricate_turns_total{outcome="completed"}': 1,
    'suricate_turns_total{outcome="interrupted"}': 1,
    'suricate_turns_total{outcome="failed"}': 1,
    suricate_turn_duration_seconds_count: 3,
  })
  expect(metrics.suricate_turn_duration_seconds_sum).toBeGreaterThanOrEqual(0)
})

test('readers that came too late are counted once each, and what they missed is not counted as sent', async () => {
  const server = await ownServer({ RETAIN_EVENTS: 5 })
  const id = await createIdle(server.api)
  await server.api.post(`/sessions/${id}/turns`, { prompt: 'a b c d e f g h' })
  for (let i = 1; i <= 2; i++) {
    const stream = await server.stream(`/sessions/${id}/turns/1/events`)
    await stream.all()
    await until('it is counted', () => metricsOf(server).then((m) => m.get('suricate_stream_truncated_total') === i))
    expect((await metricsOf(server)).get('suricate_stream_events_total')).toBe(5 * i)
  }
})

test('two servers in one process count for themselves', async () => {
  const [one, other] = [await ownServer(), await ownServer()]
  await one.api.post('/sessions', { prompt: 'x' })
  expect((await metricsOf(one)).get('suricate_turns_total{outcome="completed"}')).toBe(1)
  expect((await metricsOf(other)).get('suricate_turns_total{outcome="completed"}')).toBe(0)
})

test('nothing that a caller says becomes a name or a label: the number of series does not grow with them', async () => {
  const server = await ownServer()
  await server.api.post('/sessions', { prompt: 'x' })
  // What Node counts of itself (kinds of collection, of handles) comes and goes by itself.
  const ours = async () => [...(await metricsOf(server)).keys()].filter((name) => !/^(nodejs|process)_/.test(name))
  const before = await ours()
  expect(before.length).toBeGreaterThan(20)
  for (let i = 0; i < 20; i++) {
    await server.api.post('/sessions', { prompt: `p${i}`, labels: { [`l${i}`]: 'v' } })
    await server.api.get(`/nothing/${i}`)
    await server.api.get(`/sessions?label=a=${i}`)
  }
  expect(await ours()).toEqual(before)
})

test('a turn whose duration nobody has measured is counted, and is not in the histogram', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'suricate-metrics-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const store = await SqliteStore.open(join(folder, 'test.db'))
  // As a process leaves it that is killed in the middle of a turn.
  await store.commit([sessionWrite({ id: NOBODY, isActive: true, turnCount: 1 }, { turns: [turnFor(1)] })])
  await store.close()
  const gate = gatedAgent()
  const server = await ownServer({ STORE_URL: `sqlite:${join(folder, 'test.db')}` }, { gates: [gate] })
  await until('the lost turn is over', async () => {
    const { text } = await server.api.get(`/sessions/${NOBODY}/turns/1`)
    return text.includes('TURN_LOST')
  })
  const id = await createIdle(server.api, { agent: 'gated' })
  const turns = `/sessions/${id}/turns`
  await server.api.post(turns, { prompt: 'run' }, { prefer: 'respond-async' })
  await gate.run('run')
  await server.api.post(turns, { prompt: 'wait', on_busy: 'enqueue' }, { prefer: 'respond-async' })
  await server.api.delete(`/sessions/${id}?mode=cancel`)
  await until('all are over', async () => {
    return (await metricsOf(server)).get('suricate_turns_total{outcome="interrupted"}') === 2
  })
  expect(own(await metricsOf(server))).toMatchObject({
    'suricate_turns_total{outcome="failed"}': 1,
    // Only the one that ran.
    suricate_turn_duration_seconds_count: 1,
  })
})
