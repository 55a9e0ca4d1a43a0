import { describe, expect, test } from 'vitest'
import { createIdle, expectProblem, type RunResult } from '../helpers/contract.ts'
import { gatedAgent } from '../helpers/gate.ts'
import { within } from '../helpers/http.ts'
import { textOf } from '../helpers/sse.ts'
import { ownServer } from '../helpers/suite.ts'

const HEAD = 'HTTP/1.1\r\nHost: 127.0.0.1\r\n'

describe('a server that is closing', () => {
  test('lets a running turn finish: its caller gets the result, its readers the terminal event', async () => {
    const gate = gatedAgent()
    const own = await ownServer({ DRAIN_MS: 20_000 }, { gates: [gate] })
    const id = await createIdle(own.api, { agent: 'gated' })
    const call = own.api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'last' })
    const run = await gate.run('last')
    const reader = await own.stream(`/sessions/${id}/turns/1/events`)
    await reader.upTo('run_started')
    const closing = own.close()
    await run.say('to the end')
    run.finish()
    const answer = await call
    expect(answer.status).toBe(200)
    expect(answer.body).toMatchObject({ turn: 1, text: 'to the end', stop_reason: 'end_turn' })
    const frames = await reader.all()
    expect(textOf(frames)).toBe('to the end')
    expect(frames.at(-1)?.event).toBe('run_completed')
    expect(reader.end).toBe('clean')
    await within('the server to close', closing)
  })

  test('interrupts what does not finish in DRAIN_MS: 200 with the text so far, run_interrupted on the stream', async () => {
    const gate = gatedAgent()
    const own = await ownServer({ DRAIN_MS: 200 }, { gates: [gate] })
    const id = await createIdle(own.api, { agent: 'gated' })
    const call = own.api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'endless' })
    const run = await gate.run('endless')
    await run.say('so far')
    const reader = await own.stream(`/sessions/${id}/turns/1/events`)
    await reader.upTo('text_delta')
    const closing = own.close()
    const answer = await call
    expect(answer.status).toBe(200)
    expect(answer.body).toMatchObject({ turn: 1, text: 'so far', stop_reason: 'cancelled' })
    expect((await reader.all()).at(-1)?.json).toMatchObject({
      type: 'run_interrupted',
      result: { text: 'so far', stop_reason: 'cancelled' },
    })
    expect(reader.end).toBe('clean')
    await within('the server to close', closing)
  })

  test('ends an idle session stream by done or by destroying it, never by a clean end without done', async () => {
    const own = await ownServer({ DRAIN_MS: 100 })
    const id = await createIdle(own.api)
    const stream = await own.stream(`/sessions/${id}/events`)
    await stream.upTo('session_loaded')
    const closing = own.close()
    const last = (await stream.all()).at(-1)
    if (stream.end === 'clean') expect(last?.event).toBe('done')
    else expect(stream.end).toBe('destroyed')
    await within('the server to close', closing)
  })

  test('refuses new turns and sessions with 503 and Retry-After, and is not ready', async () => {
    const gate = gatedAgent()
    const own = await ownServer({ DRAIN_MS: 20_000 }, { gates: [gate] })
    const id = await createIdle(own.api, { agent: 'gated' })
    const idle = await createIdle(own.api)
    const call = own.api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'drain' })
    const run = await gate.run('drain')

    // Requests that have begun to arrive before the closing, so that their connections are still served.
    const begin = async (start: string) => {
      const socket = await own.socket()
      socket.write(start)
      return socket
    }
    const body = '{"prompt":"x"}'
    const json = `Content-Type: application/json\r\nContent-Length: ${body.length}\r\n`
    const create = await begin(`POST /sessions ${HEAD}${json}`)
    const start = await begin(`POST /sessions/${idle}/turns ${HEAD}${json}`)
    const ready = await begin(`GET /ready ${HEAD}`)
    const health = await begin(`GET /health ${HEAD}`)
    const events = await begin(`GET /sessions/${id}/events ${HEAD}`)
    // All of those bytes have been read when a later request on a new connection has been answered.
    expect((await own.api.get('/ready')).status).toBe(200)

    const closing = own.close()
    ready.write('\r\n')
    const notReady = await ready.response()
    expect(notReady.status).toBe(503)
    health.write('\r\n')
    expect((await health.response()).status).toBe(200)
    for (const socket of [create, start]) {
      socket.write(`\r\n${body}`)
      const answer = await socket.response()
      expectProblem(answer, 503, 'SHUTTING_DOWN')
      expect(answer.headers['retry-after']).toMatch(/^\d+$/)
    }
    // An EventSource would never come back after a 503: it is told when to retry, and its socket is destroyed.
    events.write('\r\n')
    await events.closed()
    expect(events.received).toMatch(/^HTTP\/1\.1 200 /)
    expect(events.received.toLowerCase()).toContain('content-type: text/event-stream')
    const retry = Number(/\nretry: (\d+)\n/.exec(events.received)?.[1])
    expect(retry).toBeGreaterThanOrEqual(1000)
    expect(retry).toBeLessThanOrEqual(3000)
    expect(events.received).not.toContain('\r\n0\r\n\r\n')
    expect(events.received).not.toContain('data:')

    await run.say('drained')
    run.finish()
    expect((await call).body.text).toBe('drained')
    await within('the server to close', closing)
    expect(gate.begun).toEqual(['drain'])
  })
})
