import { get } from 'node:http'
import { describe, expect, test } from 'vitest'
import { createIdle, expectInvalid, expectProblem, readTurn, type TurnList } from '../helpers/contract.ts'
import { gatedAgent } from '../helpers/gate.ts'
import { until } from '../helpers/http.ts'
import { textOf, types } from '../helpers/sse.ts'
import { ownServer, useServer } from '../helpers/suite.ts'

const gate = gatedAgent()
const server = useServer({ STREAM_HEARTBEAT_MS: 60, STREAM_STALL_MS: 400, RETAIN_EVENTS: 50 }, { gates: [gate] })

const scripted = () => createIdle(server.api, { agent: 'scripted' })
const metric = async (name: string) => {
  const text = await (await fetch(`${server.url}/metrics`)).text()
  return Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(text)?.[1])
}

describe('a POST stream', () => {
  test('has the headers of an event stream, names its turn, and ends cleanly after the terminal event', async () => {
    const id = await scripted()
    const stream = await server.stream(`/sessions/${id}/turns/stream`, { json: { prompt: 'say hello world' } })
    expect(stream.status).toBe(200)
    expect(stream.headers).toMatchObject({
      'content-type': 'text/event-stream',
      'cache-control': 'no-cache, no-transform',
      'x-accel-buffering': 'no',
      location: `/sessions/${id}/turns/1`,
      'content-location': `/sessions/${id}/turns/1`,
      'transfer-encoding': 'chunked',
    })
    expect(stream.headers).not.toHaveProperty('x-no-compression')
    expect(types(await stream.all())).toEqual([
      'run_started',
      'turn_started',
      'text_delta',
      'text_delta',
      'text_complete',
      'turn_completed',
      'run_completed',
    ])
    expect(stream.end).toBe('clean')
  })

  test('says nothing to a HEAD request but its headers, and starts nothing', async () => {
    const id = await scripted()
    const head = await fetch(`${server.url}/sessions/${id}/events`, { method: 'HEAD' })
    expect(head.status).toBe(200)
    expect(head.headers.get('content-type')).toBe('text/event-stream')
    expect(await metric('suricate_stream_readers')).toBe(0)
  })

  test('of a client that leaves goes on, unless it asked for an interrupt', async () => {
    const [kept, ended] = [
      await createIdle(server.api, { agent: 'gated' }),
      await createIdle(server.api, { agent: 'gated' }),
    ]
    const stays = await server.stream(`/sessions/${kept}/turns/stream`, { json: { prompt: 'goes on' } })
    const goes = await server.stream(`/sessions/${ended}/turns/stream?on_disconnect=interrupt`, {
      json: { prompt: 'ends' },
    })
    const [keptRun, endedRun] = [await gate.run('goes on'), await gate.run('ends')]
    await stays.upTo('run_started')
    await goes.upTo('run_started')
    stays.leave()
    goes.leave()
    await until('the interrupt', () => endedRun.signal.aborted)
    await until('the end', async () => (await readTurn(server.api, ended, 1)).status === 'interrupted')
    expect(keptRun.signal.aborted).toBe(false)
    keptRun.finish({ text: 'done' })
    await until('the end', async () => (await readTurn(server.api, kept, 1)).status === 'completed')
  })
})

describe('resuming', () => {
  test('after any event gives exactly the later ones, by header or query, and the header wins', async () => {
    const id = await scripted()
    const whole = await (await server.stream(`/sessions/${id}/turns/stream`, { json: { prompt: 'deltas 20' } })).all()
    const last = whole.length
    const path = `/sessions/${id}/turns/1/events`
    for (let after = 0; after < last; after++) {
      const expected = whole.slice(after).map(({ block }) => block)
      const byQuery = await (await server.stream(`${path}?after=${after}`)).all()
      const byHeader = await server.stream(`${path}?after=0`, { headers: { 'last-event-id': String(after) } })
      expect(byQuery.map(({ block }) => block)).toEqual(expected)
      expect((await byHeader.all()).map(({ block }) => block)).toEqual(expected)
      expect(byHeader.end).toBe('clean')
    }
    const over = await server.stream(path, { headers: { 'last-event-id': String(last) } })
    expect(over.status).toBe(204)
  })

  test('with a cursor that is beyond the end or no number is refused', async () => {
    const id = await scripted()
    for (const cursor of ['1', '1000000000000000', '99999999999999999999999', 'x', '-1', '1.5']) {
      expectInvalid(await server.api.get(`/sessions/${id}/events`, { 'last-event-id': cursor }))
      expectInvalid(await server.api.get(`/sessions/${id}/events?after=${cursor}`))
    }
  })

  test('after events that are gone begins with what was missed, and goes on with the oldest that is left', async () => {
    const id = await scripted()
    await server.api.post(`/sessions/${id}/turns`, { prompt: 'deltas 200' })
    const stream = await server.stream(`/sessions/${id}/turns/1/events`)
    const frames = await stream.all()
    expect(frames[0]?.json).toEqual({ type: 'stream_truncated', reason: 'retention', missed_from: 1, missed_to: 155 })
    expect(frames[0]?.id).toBeUndefined()
    expect(frames.slice(1).map(({ json }) => json.seq)).toEqual(Array.from({ length: 50 }, (_, i) => 156 + i))
    expect(stream.end).toBe('clean')
  })

  test('a turn whose events are all gone still ends with its terminal event', async () => {
    const id = await scripted()
    await server.api.post(`/sessions/${id}/turns`, { prompt: 'say first' })
    await server.api.post(`/sessions/${id}/turns`, { prompt: 'deltas 200' })
    const stream = await server.stream(`/sessions/${id}/turns/1/events?after=2`)
    const frames = await stream.all()
    expect(types(frames)).toEqual(['stream_truncated', 'run_completed'])
    expect(frames[0]?.json).toMatchObject({ missed_from: 3, missed_to: 5 })
    expect(frames[1]?.json).toMatchObject({ seq: 6, turn: 1, result: { text: 'first' } })
    expect(stream.end).toBe('clean')
  })
})

describe('a session stream', () => {
  test('follows across turns from before the first event and ends with done when the session is archived', async () => {
    const id = await scripted()
    const stream = await server.stream(`/sessions/${id}/events`)
    await stream.upTo('session_loaded')
    await server.api.post(`/sessions/${id}/turns`, { prompt: 'say one' })
    await server.api.post(`/sessions/${id}/turns`, { prompt: 'say two' })
    await server.api.delete(`/sessions/${id}`)
    const frames = await stream.all()
    expect(frames[0]?.json).toEqual({
      type: 'session_loaded',
      session_id: id,
      message_count: 0,
      turn: 0,
      is_active: false,
    })
    expect(frames.at(-1)).toMatchObject({ id: undefined, json: { type: 'done', session_id: id } })
    expect(textOf(frames)).toBe('onetwo')
    expect(stream.end).toBe('clean')
    const last = frames.at(-2)?.id ?? ''
    expect((await server.stream(`/sessions/${id}/events`, { headers: { 'last-event-id': last } })).status).toBe(204)
    const resumed = await server.stream(`/sessions/${id}/events`, {
      headers: { 'last-event-id': String(Number(last) - 1) },
    })
    expect(types(await resumed.all())).toEqual(['session_loaded', 'run_completed', 'done'])
  })

  test('without a cursor starts with the first event of the turn that is running', async () => {
    const id = await createIdle(server.api, { agent: 'gated' })
    const running = server.api.post(`/sessions/${id}/turns`, { prompt: 'first come' })
    const run = await gate.run('first come')
    await run.say('a')
    const stream = await server.stream(`/sessions/${id}/events`)
    await stream.upTo('text_delta')
    expect(types(stream.frames)).toEqual(['session_loaded', 'run_started', 'turn_started', 'text_delta'])
    run.finish()
    await running
  })

  test('is quiet with comments of one line between blocks, or with events for those who ask', async () => {
    const id = await scripted()
    const [comments, beats] = [
      await server.stream(`/sessions/${id}/events`),
      await server.stream(`/sessions/${id}/events?heartbeat=event`),
    ]
    await comments.sees('three pings', ({ comments: seen }) => seen.length >= 3)
    expect(new Set(comments.comments)).toEqual(new Set([': ping']))
    expect(comments.text).not.toMatch(/: ping\n\n/)
    const frame = await beats.upTo('heartbeat')
    expect(frame).toMatchObject({ id: undefined, json: { type: 'heartbeat' } })
  })
})

describe('readers', () => {
  test('beyond MAX_STREAMS are turned away for a while: GET with retry and a broken end, POST with 429', async () => {
    const small = await ownServer({ MAX_STREAMS: 1 })
    const id = await createIdle(small.api)
    const first = await small.stream(`/sessions/${id}/events`)
    await first.upTo('session_loaded')
    const refused = await new Promise<{ status: number | undefined; text: string; complete: boolean }>((resolve) => {
      get(`${small.url}/sessions/${id}/events`, (response) => {
        let text = ''
        response.on('data', (chunk) => {
          text += chunk
        })
        response.on('error', () => {})
        response.on('close', () => resolve({ status: response.statusCode, text, complete: response.complete }))
      })
    })
    expect(refused).toMatchObject({ status: 200, complete: false, text: expect.stringMatching(/^retry: [12]\d{3}\n$/) })
    const post = await small.api.post(`/sessions/${id}/turns/stream`, { prompt: 'x' })
    expectProblem(post, 429, 'RATE_LIMITED')
    expect(post.headers['retry-after']).toBe('1')
    expect((await small.api.get<TurnList>(`/sessions/${id}/turns`)).body.total).toBe(0)
  })
})

test('whatever a prompt says, no line of it becomes a field', async () => {
  const id = await createIdle(server.api)
  const prompt = 'a\r\rid: 9\revent: evil\rdata: {}\n\nid: 7\n\u2028\u2029event: x\u0085 ümläut 😀 end'
  const stream = await server.stream(`/sessions/${id}/turns/stream`, { json: { prompt } })
  expect(textOf(await stream.all())).toBe(prompt)
})
