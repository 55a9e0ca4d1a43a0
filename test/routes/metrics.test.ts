import { describe, expect, test } from 'vitest'
import { createIdle, type RunResult, readTurn } from '../helpers/contract.ts'
import { gatedAgent } from '../helpers/gate.ts'
import { until } from '../helpers/http.ts'
import { ownServer, type Suite, useServer } from '../helpers/suite.ts'

const gate = gatedAgent()
const server = useServer({ RETAIN_EVENTS: 50 }, { gates: [gate] })

/** Sum of all samples of a metric whose labels contain all of `labels`. A metric that is not there is no number. */
async function sample(suite: Pick<Suite, 'api'>, name: string, ...labels: string[]): Promise<number> {
  const { text } = await suite.api.get('/metrics')
  const values = text
    .split('\n')
    .filter((line) => line.startsWith(`${name} `) || line.startsWith(`${name}{`))
    .filter((line) => labels.every((label) => line.includes(label)))
    .map((line) => Number(line.slice(line.lastIndexOf(' ') + 1)))
  return values.length === 0 ? Number.NaN : values.reduce((sum, value) => sum + value, 0)
}

const NAMES = {
  suricate_sessions: 'gauge',
  suricate_turns_running: 'gauge',
  suricate_turns_total: 'counter',
  suricate_turn_duration_seconds: 'histogram',
  suricate_stream_readers: 'gauge',
  suricate_stream_events_total: 'counter',
  suricate_stream_truncated_total: 'counter',
}

describe('/metrics', () => {
  test('is Prometheus text that declares every metric', async () => {
    const { status, headers, text } = await server.api.get('/metrics')
    expect(status).toBe(200)
    expect(headers['content-type']).toMatch(/^text\/plain\b/)
    for (const [name, type] of Object.entries(NAMES)) {
      expect(text).toMatch(new RegExp(`^# HELP ${name} \\S`, 'm'))
      expect(text).toMatch(new RegExp(`^# TYPE ${name} ${type}$`, 'm'))
    }
    for (const line of text.split('\n')) {
      expect(line).toMatch(/^$|^# |^[a-zA-Z_:][a-zA-Z0-9_:]*(\{[^\n]*\})? (-?[0-9.e+-]+|NaN|[+-]Inf)$/)
    }
  })

  test('suricate_sessions is the number of live sessions', async () => {
    const own = await ownServer()
    expect(await sample(own, 'suricate_sessions')).toBe(0)
    const ids = [await createIdle(own.api), await createIdle(own.api), await createIdle(own.api)]
    expect(await sample(own, 'suricate_sessions')).toBe(3)
    await own.api.delete(`/sessions/${ids[0]}`)
    await until('two sessions are left', async () => (await sample(own, 'suricate_sessions')) === 2)
  })

  test('suricate_turns_running rises and falls with a turn', async () => {
    const id = await createIdle(server.api, { agent: 'gated' })
    expect(await sample(server, 'suricate_turns_running')).toBe(0)
    const turn = server.api.post(`/sessions/${id}/turns`, { prompt: 'counted' })
    const run = await gate.run('counted')
    expect(await sample(server, 'suricate_turns_running')).toBe(1)
    run.finish()
    await turn
    await until('no turn runs', async () => (await sample(server, 'suricate_turns_running')) === 0)
  })

  test('suricate_turns_total counts turns by outcome, suricate_turn_duration_seconds observes each', async () => {
    const own = await ownServer()
    const id = await createIdle(own.api, { agent: 'scripted' })
    for (let i = 0; i < 3; i++) await own.api.post(`/sessions/${id}/turns`, { prompt: 'say x' })
    for (let i = 0; i < 2; i++) await own.api.post(`/sessions/${id}/turns`, { prompt: 'fail x' })
    const hanging = own.api.post(`/sessions/${id}/turns`, { prompt: 'hang' })
    await until('the turn runs', async () => {
      return (await own.api.get<{ status?: string }>(`/sessions/${id}/turns/6`)).body.status === 'running'
    })
    await own.api.post(`/sessions/${id}/interrupt`)
    await hanging
    await until('six turns are counted', async () => (await sample(own, 'suricate_turns_total')) === 6)
    expect(await sample(own, 'suricate_turns_total', 'outcome="completed"')).toBe(3)
    expect(await sample(own, 'suricate_turns_total', 'outcome="failed"')).toBe(2)
    expect(await sample(own, 'suricate_turns_total', 'outcome="interrupted"')).toBe(1)
    expect(await sample(own, 'suricate_turn_duration_seconds_count')).toBe(6)
    expect(await sample(own, 'suricate_turn_duration_seconds_bucket', 'le="+Inf"')).toBe(6)
  })

  test('suricate_stream_readers is the number of open streams, however they end', async () => {
    const { api } = server
    const id = await createIdle(api)
    const readers = (count: number) =>
      until(`${count} streams are open`, async () => (await sample(server, 'suricate_stream_readers')) === count)
    await readers(0)
    const first = await server.stream(`/sessions/${id}/events`)
    const second = await server.stream(`/sessions/${id}/events`)
    await readers(2)
    first.leave()
    await readers(1)
    await api.delete(`/sessions/${id}`)
    await second.all()
    await readers(0)
  })

  test('suricate_stream_events_total counts what was sent, to each reader', async () => {
    const own = await ownServer()
    const { body } = await own.api.post<RunResult>('/sessions', { agent: 'echo', prompt: 'a b c' })
    const before = await sample(own, 'suricate_stream_events_total')
    for (let i = 0; i < 3; i++) {
      const frames = await (await own.stream(`/sessions/${body.session_id}/turns/1/events`)).all()
      expect(frames).toHaveLength(8)
    }
    await until('24 events more are counted', async () => {
      return (await sample(own, 'suricate_stream_events_total')) === before + 24
    })
  })

  test('suricate_stream_truncated_total counts readers that were told of a loss', async () => {
    const before = await sample(server, 'suricate_stream_truncated_total')
    const { body } = await server.api.post<RunResult>('/sessions', { agent: 'scripted', prompt: 'deltas 200' })
    const stream = await server.stream(`/sessions/${body.session_id}/turns/1/events`)
    expect((await stream.all())[0]?.event).toBe('stream_truncated')
    await until('one more is counted', async () => {
      return (await sample(server, 'suricate_stream_truncated_total')) === before + 1
    })
  })

  test('nothing that a client wrote, and no id, becomes a label', async () => {
    const { api } = server
    const secret = 'canary-4711'
    const created = await api.post<RunResult>('/sessions', {
      prompt: secret,
      labels: { [secret]: secret },
      system_prompt: secret,
    })
    await api.get(`/sessions/${created.body.session_id}?x=${secret}`)
    await api.get(`/${secret}`)
    expect((await readTurn(api, created.body.session_id, 1)).prompt).toBe(secret)
    const { text } = await api.get('/metrics')
    expect(text).not.toContain(secret)
    expect(text).not.toContain(created.body.session_id)
  })
})
