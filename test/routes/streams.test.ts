import net from 'node:net'
import { describe, expect, onTestFinished, test } from 'vitest'
import {
  createIdle,
  expectInvalid,
  expectProblem,
  NOBODY,
  type RunResult,
  readMessages,
  readSession,
  readTurn,
  said,
  usage,
} from '../helpers/contract.ts'
import { gatedAgent } from '../helpers/gate.ts'
import { dechunk, until, within } from '../helpers/http.ts'
import { events, textOf, types } from '../helpers/sse.ts'
import { ownServer, useServer } from '../helpers/suite.ts'

const gate = gatedAgent()
const server = useServer({}, { gates: [gate] })
const { api } = server

/** Sends a request on a bare connection and splits what came, to its end, into head and body. */
async function rawStream(request: string): Promise<{ head: string; body: string; trailing: number; end: unknown }> {
  const socket = await server.socket()
  socket.write(request)
  await socket.closed()
  const headEnd = socket.bytes.indexOf('\r\n\r\n')
  const head = socket.bytes.toString('latin1', 0, headEnd)
  const rest = socket.bytes.subarray(headEnd + 4)
  const decoded = dechunk(rest)
  if (decoded === undefined) throw new Error(`No last chunk in ${JSON.stringify(rest.toString())}`)
  return { head, body: decoded.body.toString(), trailing: rest.length - decoded.length, end: socket.end }
}

function rawPost(path: string, json: unknown): string {
  const body = JSON.stringify(json)
  return [
    `POST ${path} HTTP/1.1`,
    'Host: 127.0.0.1',
    'Connection: close',
    'Content-Type: application/json',
    `Content-Length: ${Buffer.byteLength(body)}`,
    '',
    body,
  ].join('\r\n')
}

describe('the bytes of a stream', () => {
  test('are, for an echoed turn, exactly these, and then the last chunk and FIN', async () => {
    const id = await createIdle(api, { agent: 'echo' })
    const { body, trailing, end } = await rawStream(rawPost(`/sessions/${id}/turns/stream`, { prompt: 'hello world' }))
    const tokens = '{"input_tokens":2,"output_tokens":2,"total_tokens":4}'
    const last = body.slice(body.lastIndexOf('event: '))
    expect(body.slice(0, -last.length)).toBe(
      [
        'retry: 1000',
        'event: run_started',
        `data: {"type":"run_started","seq":1,"turn":1,"session_id":"${id}","prompt":"hello world"}`,
        'id: 1',
        '',
        'event: turn_started',
        'data: {"type":"turn_started","seq":2,"turn":1,"turn_number":0}',
        'id: 2',
        '',
        'event: text_delta',
        'data: {"type":"text_delta","seq":3,"turn":1,"delta":"hello"}',
        'id: 3',
        '',
        'event: text_delta',
        'data: {"type":"text_delta","seq":4,"turn":1,"delta":" world"}',
        'id: 4',
        '',
        'event: text_complete',
        'data: {"type":"text_complete","seq":5,"turn":1,"content":"hello world"}',
        'id: 5',
        '',
        'event: turn_completed',
        `data: {"type":"turn_completed","seq":6,"turn":1,"stop_reason":"end_turn","usage":${tokens}}`,
        'id: 6',
        '',
        '',
      ].join('\n'),
    )
    const parts = /^event: run_completed\ndata: (\{[^\n]*\})\nid: 7\n\n$/.exec(last)
    expect(JSON.parse(String(parts?.[1]))).toMatchObject({
      type: 'run_completed',
      seq: 7,
      turn: 1,
      session_id: id,
      result: {
        session_id: id,
        turn: 1,
        text: 'hello world',
        stop_reason: 'end_turn',
        turns: 1,
        tool_calls: 0,
        usage: usage(2, 2),
        session_usage: usage(2, 2),
      },
    })
    expect(body).not.toContain('\r')
    expect(trailing).toBe(0)
    expect(end).toBe('fin')
  })

  test('are never compressed, whatever the client would accept', async () => {
    const id = await createIdle(api)
    const prompt = 'word '.repeat(2000).trim()
    const stream = await server.stream(`/sessions/${id}/turns/stream`, {
      json: { prompt },
      headers: { 'accept-encoding': 'gzip, br, deflate, zstd' },
    })
    expect(stream.headers).not.toHaveProperty('content-encoding')
    expect(textOf(await stream.all())).toBe(prompt)
  })

  test.each([
    ['LF, CR and CR LF', 'one\ntwo\rthree\r\nfour'],
    ['forged frames', 'x\n\nid: 999\nevent: run_completed\ndata: {"type":"run_completed"}\n\n: ping\nretry: 1\n\n'],
    ['the line separators of JavaScript and Unicode', 'a\u2028b\u2029c\u0085d\u000be\u000cf'],
    ['text of one to four bytes', 'e\u0301 é ß 漢字 한글 🦦 👩‍👩‍👧‍👦 \u{10ffff}'],
    ['a byte order mark', '\ufeffstart \ufeff end'],
    ['control characters', 'a\u0001b\u001b[31mred\u007f\u009f'],
    ['text that looks like JSON', '{"type":"done"} \\u0000 \\n "quoted" \\'],
    ['white space before, between and after words', '  leading\t\ttabs  \n\n trailing \n'],
    ['right-to-left marks and joiners', '\u202eabc\u202c \u200b\u200d'],
  ])('carry %s unchanged in prompt, deltas, text and transcript', async (_, prompt) => {
    const id = await createIdle(api, { agent: 'echo' })
    const stream = await server.stream(`/sessions/${id}/turns/stream`, { json: { prompt } })
    const frames = await stream.all()
    expect(frames[0]?.json.prompt).toBe(prompt)
    expect(textOf(frames)).toBe(prompt)
    expect(frames.find((frame) => frame.event === 'text_complete')?.json.content).toBe(prompt)
    expect(frames.at(-1)?.json.result).toMatchObject({ text: prompt })
    expect((await readTurn(api, id, 1)).prompt).toBe(prompt)
    expect(await readMessages(api, id)).toEqual(said(prompt, prompt))
  })

  test('have U+FFFD where a prompt had half a surrogate pair', async () => {
    const id = await createIdle(api, { agent: 'echo' })
    const socket = await server.socket()
    const json = '{"prompt":"a\\ud800b \\udc00 \\ud83e\\udda6"}'
    socket.write(
      `POST /sessions/${id}/turns HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: ${json.length}\r\n\r\n${json}`,
    )
    const answer = await socket.response<RunResult>()
    expect(answer.status).toBe(200)
    expect(answer.body.text).toBe('a\ufffdb \ufffd 🦦')
    const frames = await (await server.stream(`/sessions/${id}/turns/1/events`)).all()
    expect(frames[0]?.json.prompt).toBe('a\ufffdb \ufffd 🦦')
    expect(textOf(frames)).toBe('a\ufffdb \ufffd 🦦')
    expect(await readMessages(api, id)).toEqual(said('a\ufffdb \ufffd 🦦', 'a\ufffdb \ufffd 🦦'))
  })

  test('stay whole when an event is larger than what a socket takes at once', async () => {
    const id = await createIdle(api, { agent: 'echo' })
    const prompt = `${'x'.repeat(900_000)} end`
    const stream = await server.stream(`/sessions/${id}/turns/stream`, { json: { prompt } })
    const frames = await stream.all()
    expect(stream.end).toBe('clean')
    expect(types(frames)).toEqual([
      'run_started',
      'turn_started',
      'text_delta',
      'text_delta',
      'text_complete',
      'turn_completed',
      'run_completed',
    ])
    expect(textOf(frames) === prompt).toBe(true)
  })
})

describe('the headers of a stream', () => {
  function expectStreamHeaders(headers: Record<string, unknown>) {
    expect(headers['content-type']).toMatch(/^text\/event-stream(; ?charset=utf-8)?$/)
    expect(headers['cache-control']).toBe('no-cache, no-transform')
    expect(headers['x-accel-buffering']).toBe('no')
    expect(headers).not.toHaveProperty('content-encoding')
    expect(headers).not.toHaveProperty('content-length')
  }

  test('of createSessionStream say where the turn can be read and followed again', async () => {
    const stream = await server.stream('/sessions/stream', { json: { prompt: 'hi there' } })
    expect(stream.status).toBe(200)
    expectStreamHeaders(stream.headers)
    const frames = await stream.all()
    const id = frames[0]?.json.session_id
    expect(stream.headers.location).toBe(`/sessions/${id}/turns/1`)
    expect(stream.headers['content-location']).toBe(`/sessions/${id}/turns/1`)
    const again = await server.stream(`${stream.headers.location}/events`)
    expect((await again.all()).map((frame) => frame.block)).toEqual(frames.map((frame) => frame.block))
    expect(again.end).toBe('clean')
  })

  test('of startTurnStream name its own turn', async () => {
    const { body } = await api.post<RunResult>('/sessions', { prompt: 'one' })
    const stream = await server.stream(`/sessions/${body.session_id}/turns/stream`, { json: { prompt: 'two' } })
    expectStreamHeaders(stream.headers)
    expect(stream.headers.location).toBe(`/sessions/${body.session_id}/turns/2`)
    expect(stream.headers['content-location']).toBe(`/sessions/${body.session_id}/turns/2`)
    expect(events(await stream.all())[0]).toMatchObject({ type: 'run_started', turn: 2, prompt: 'two' })
  })

  test('of GET streams are the same', async () => {
    const { body } = await api.post<RunResult>('/sessions', { prompt: 'one' })
    for (const path of ['turns/1/events', 'events']) {
      const stream = await server.stream(`/sessions/${body.session_id}/${path}`)
      expect(stream.status).toBe(200)
      expectStreamHeaders(stream.headers)
    }
  })

  test('come before the first event of a turn that says nothing yet', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const stream = await server.stream(`/sessions/${id}/turns/stream`, { json: { prompt: 'silent' } })
    expect(stream.status).toBe(200)
    expect((await stream.next())?.event).toBe('run_started')
    ;(await gate.run('silent')).finish()
    expect(await stream.ended()).toBe('clean')
  })
})

describe('a turn stream', () => {
  test('begins with run_started, ends cleanly after its one terminal event', async () => {
    const stream = await server.stream('/sessions/stream', { json: { agent: 'scripted', prompt: 'say a b\nsay c' } })
    const frames = await stream.all()
    expect(stream.end).toBe('clean')
    expect(types(frames)).toEqual([
      'run_started',
      'turn_started',
      'text_delta',
      'text_delta',
      'text_delta',
      'text_complete',
      'turn_completed',
      'run_completed',
    ])
    const id = String(frames[0]?.json.session_id)
    expect(frames.at(-1)?.json.result).toEqual((await readTurn(api, id, 1)).result)
  })

  test('of a failing turn ends cleanly with run_failed, which says what and which code', async () => {
    const stream = await server.stream('/sessions/stream', {
      json: { agent: 'scripted', prompt: 'say a\nfail no more' },
    })
    expect(stream.status).toBe(200)
    const frames = await stream.all()
    expect(stream.end).toBe('clean')
    expect(frames.at(-1)).toMatchObject({
      event: 'run_failed',
      json: { turn: 1, session_id: frames[0]?.json.session_id, error: 'no more', code: 'AGENT_ERROR' },
    })
    expect(frames.filter((frame) => /^run_(completed|failed|interrupted)$/.test(frame.event))).toHaveLength(1)
  })

  test('shows events as they happen, not when the turn is over', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const stream = await server.stream(`/sessions/${id}/turns/stream`, { json: { prompt: 'live' } })
    const run = await gate.run('live')
    for (const word of ['now', ' and', ' now']) {
      await run.say(word)
      expect((await stream.upTo('text_delta')).json.delta).toBe(word)
    }
    run.finish()
    await stream.upTo('run_completed')
    expect(await stream.next()).toBeUndefined()
    expect(stream.end).toBe('clean')
  })

  test('of a running turn replays what was, then follows', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const turn = api.post(`/sessions/${id}/turns`, { prompt: 'late reader' })
    const run = await gate.run('late reader')
    await run.say('early')
    const stream = await server.stream(`/sessions/${id}/turns/1/events`)
    expect((await stream.upTo('text_delta')).json).toMatchObject({ delta: 'early' })
    await run.say(' late')
    run.finish()
    await turn
    const frames = await stream.all()
    expect(stream.end).toBe('clean')
    expect(types(frames)).toEqual([
      'run_started',
      'turn_started',
      'text_delta',
      'text_delta',
      'text_complete',
      'turn_completed',
      'run_completed',
    ])
    expect(textOf(frames)).toBe('early late')
  })

  test('contains nothing of the turns before and after it', async () => {
    const { body } = await api.post<RunResult>('/sessions', { prompt: 'first' })
    const id = body.session_id
    await api.post(`/sessions/${id}/turns`, { prompt: 'second' })
    await api.post(`/sessions/${id}/turns`, { prompt: 'third' })
    const frames = await (await server.stream(`/sessions/${id}/turns/2/events`)).all()
    expect(new Set(frames.map((frame) => frame.json.turn))).toEqual(new Set([2]))
    expect(frames[0]).toMatchObject({ event: 'run_started', json: { prompt: 'second' } })
    expect(frames.at(-1)?.event).toBe('run_completed')
    const firstSeq = Number(frames[0]?.id)
    const before = await (await server.stream(`/sessions/${id}/turns/1/events`)).all()
    expect(Number(before.at(-1)?.id)).toBe(firstSeq - 1)
  })

  test('looks the same to every reader, byte by byte, live or later', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const live = await server.stream(`/sessions/${id}/turns/stream`, { json: { prompt: 'same' } })
    const run = await gate.run('same')
    await run.say('one 漢')
    const second = await server.stream(`/sessions/${id}/turns/1/events`)
    const session = await server.stream(`/sessions/${id}/events`)
    await run.say('\r\n two 🦦')
    run.finish()
    await live.all()
    await second.all()
    await session.upTo('run_completed')
    const replay = await server.stream(`/sessions/${id}/turns/1/events`)
    await replay.all()
    const expected = live.frames.map((frame) => frame.block)
    expect(expected.length).toBeGreaterThan(5)
    expect(second.frames.map((frame) => frame.block)).toEqual(expected)
    expect(replay.frames.map((frame) => frame.block)).toEqual(expected)
    expect(session.frames.slice(1).map((frame) => frame.block)).toEqual(expected)
    expect(replay.text).toBe(live.text)
  })

  test('of a JSON call can be read afterwards like that of a stream call', async () => {
    const { body } = await api.post<RunResult>('/sessions', { prompt: 'x y' })
    const stream = await server.stream(`/sessions/${body.session_id}/turns/1/events`)
    const frames = await stream.all()
    expect(stream.end).toBe('clean')
    expect(frames.at(-1)?.json.result).toEqual(body)
  })
})

describe('a client that goes away', () => {
  test('does not stop the turn', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const stream = await server.stream(`/sessions/${id}/turns/stream`, { json: { prompt: 'gone' } })
    const run = await gate.run('gone')
    await run.say('before')
    await stream.upTo('text_delta')
    stream.leave()
    await run.say(' after')
    expect(run.signal.aborted).toBe(false)
    run.finish()
    await until('the turn is completed', async () => (await readTurn(api, id, 1)).status === 'completed')
    expect((await readTurn(api, id, 1)).result).toMatchObject({ text: 'before after', stop_reason: 'end_turn' })
    const again = await server.stream(`/sessions/${id}/turns/1/events`)
    expect(textOf(await again.all())).toBe('before after')
  })

  test.each(['/sessions/stream?on_disconnect=interrupt', 'turns/stream?on_disconnect=interrupt'])(
    'interrupts it when %s asked for that',
    async (path) => {
      const prompt = `leave ${path}`
      const target = path.startsWith('/') ? path : `/sessions/${await createIdle(api, { agent: 'gated' })}/${path}`
      const json = path.startsWith('/') ? { agent: 'gated', prompt } : { prompt }
      const stream = await server.stream(target, { json })
      const run = await gate.run(prompt)
      await run.say('before')
      await stream.upTo('text_delta')
      expect(run.signal.aborted).toBe(false)
      stream.leave()
      await until('the turn is interrupted', async () => {
        return (await readTurn(api, run.sessionId, 1)).status === 'interrupted'
      })
      expect(run.signal.aborted).toBe(true)
      expect((await readTurn(api, run.sessionId, 1)).result).toMatchObject({ text: 'before', stop_reason: 'cancelled' })
    },
  )

  test('with on_disconnect=interrupt does not harm a turn that it has read to the end, nor the next one', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const stream = await server.stream(`/sessions/${id}/turns/stream?on_disconnect=interrupt`, {
      json: { prompt: 'w1' },
    })
    ;(await gate.run('w1')).finish()
    await stream.all()
    stream.leave()
    const next = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'w2' })
    const run = await gate.run('w2')
    await run.say('x')
    run.finish()
    expect((await next).body.stop_reason).toBe('end_turn')
    expect((await readTurn(api, id, 1)).status).toBe('completed')
  })

  test('a second reader that leaves stops nothing, whatever the first one asked for', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const first = await server.stream(`/sessions/${id}/turns/stream?on_disconnect=interrupt`, {
      json: { prompt: 'two' },
    })
    const run = await gate.run('two')
    const second = await server.stream(`/sessions/${id}/turns/1/events`)
    await second.next()
    second.leave()
    await run.say('on')
    await first.upTo('text_delta')
    expect(run.signal.aborted).toBe(false)
    run.finish()
    expect((await first.all()).at(-1)?.event).toBe('run_completed')
  })

  test('an unknown on_disconnect is 400 and starts nothing', async () => {
    const id = await createIdle(api)
    const answer = await api.post(`/sessions/${id}/turns/stream?on_disconnect=explode`, { prompt: 'x' })
    expectInvalid(answer, 'on_disconnect')
    expect((await readSession(api, id)).state.turn).toBe(0)
  })
})

describe('a session stream', () => {
  test('begins with session_loaded, shows every turn from its first event, ends with done on archive', async () => {
    const id = await createIdle(api, { agent: 'echo' })
    const stream = await server.stream(`/sessions/${id}/events`)
    expect((await stream.next())?.json).toEqual({
      type: 'session_loaded',
      session_id: id,
      message_count: 0,
      turn: 0,
      is_active: false,
    })
    expect(stream.frames[0]?.id).toBeUndefined()
    await api.post(`/sessions/${id}/turns`, { prompt: 'one' })
    await api.post(`/sessions/${id}/turns`, { prompt: 'two' })
    await api.delete(`/sessions/${id}`)
    const frames = await stream.all()
    expect(stream.end).toBe('clean')
    expect(frames.at(-1)).toMatchObject({ id: undefined, event: 'done' })
    const numbered = frames.slice(1, -1)
    expect(numbered.map((frame) => [frame.id, frame.event, frame.json.turn])).toEqual([
      ['1', 'run_started', 1],
      ['2', 'turn_started', 1],
      ['3', 'text_delta', 1],
      ['4', 'text_complete', 1],
      ['5', 'turn_completed', 1],
      ['6', 'run_completed', 1],
      ['7', 'run_started', 2],
      ['8', 'turn_started', 2],
      ['9', 'text_delta', 2],
      ['10', 'text_complete', 2],
      ['11', 'turn_completed', 2],
      ['12', 'run_completed', 2],
    ])
  })

  test('of an idle session with a past starts with the next event, of a running one with its first', async () => {
    const { body } = await api.post<RunResult>('/sessions', { agent: 'gated', initial_turn: 'deferred' })
    const id = body.session_id
    const first = api.post(`/sessions/${id}/turns`, { prompt: 'p1' })
    const run1 = await gate.run('p1')
    await run1.say('past')
    run1.finish()
    await first

    const idle = await server.stream(`/sessions/${id}/events`)
    expect((await idle.next())?.json).toEqual({
      type: 'session_loaded',
      session_id: id,
      message_count: 2,
      turn: 1,
      is_active: false,
    })
    const second = api.post(`/sessions/${id}/turns`, { prompt: 'p2' })
    const run2 = await gate.run('p2')
    await run2.say('present')
    expect((await idle.next())?.json).toMatchObject({ type: 'run_started', turn: 2, prompt: 'p2' })

    const running = await server.stream(`/sessions/${id}/events`)
    expect((await running.next())?.json).toMatchObject({ type: 'session_loaded', turn: 2, is_active: true })
    expect((await running.next())?.json).toMatchObject({ type: 'run_started', turn: 2, prompt: 'p2' })
    expect((await running.upTo('text_delta')).json.delta).toBe('present')
    run2.finish()
    await second
    await running.upTo('run_completed')
  })

  test('can be opened while the first turn of createSession runs', async () => {
    const created = api.post<RunResult>('/sessions', { agent: 'gated', prompt: 'f0' })
    const run = await gate.run('f0')
    const stream = await server.stream(`/sessions/${run.sessionId}/events`)
    expect(stream.status).toBe(200)
    await stream.upTo('run_started')
    await run.say('seen')
    expect((await stream.upTo('text_delta')).json).toMatchObject({ delta: 'seen', turn: 1 })
    run.finish()
    await created
    await stream.upTo('run_completed')
  })

  test('does not end with a turn', async () => {
    const id = await createIdle(api, { agent: 'echo' })
    const stream = await server.stream(`/sessions/${id}/events`)
    for (let turn = 1; turn <= 3; turn++) {
      await api.post(`/sessions/${id}/turns`, { prompt: 'x' })
      expect((await stream.upTo('run_completed')).json.turn).toBe(turn)
      expect(stream.end).toBeUndefined()
    }
  })

  test('of a session that is archived during a turn ends with done after the terminal event of that turn', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const stream = await server.stream(`/sessions/${id}/events`)
    const turn = api.post(`/sessions/${id}/turns`, { prompt: 'ar' })
    const run = await gate.run('ar')
    await api.delete(`/sessions/${id}`)
    await run.say('last words')
    run.finish()
    await turn
    const frames = await stream.all()
    expect(stream.end).toBe('clean')
    expect(types(frames).slice(-2)).toEqual(['run_completed', 'done'])
    expect(textOf(frames)).toBe('last words')
  })

  test('shows nothing of another session', async () => {
    const a = await createIdle(api, { agent: 'echo' })
    const b = await createIdle(api, { agent: 'echo' })
    const stream = await server.stream(`/sessions/${a}/events`)
    await stream.next()
    await api.post(`/sessions/${b}/turns`, { prompt: 'not for a' })
    await api.post(`/sessions/${a}/turns`, { prompt: 'for a' })
    await api.delete(`/sessions/${a}`)
    const frames = await stream.all()
    expect(textOf(frames)).toBe('for a')
    expect(frames.find((frame) => frame.id !== undefined)?.id).toBe('1')
  })
})

describe('a stream that cannot be opened', () => {
  test('is a problem document with its status', async () => {
    const id = await createIdle(api)
    const events = { accept: 'text/event-stream' }
    expectProblem(await api.get(`/sessions/${NOBODY}/events`, events), 404, 'SESSION_NOT_FOUND')
    expectProblem(await api.get(`/sessions/${NOBODY}/turns/1/events`, events), 404, 'SESSION_NOT_FOUND')
    expectProblem(await api.get(`/sessions/${id}/turns/1/events`, events), 404, 'TURN_NOT_FOUND')
    expectProblem(await api.post(`/sessions/${NOBODY}/turns/stream`, { prompt: 'x' }, events), 404, 'SESSION_NOT_FOUND')
    expectInvalid(await api.post('/sessions/stream', { prompt: '' }, events), 'prompt')
    expectInvalid(await api.post(`/sessions/${id}/turns/stream`, {}, events), 'prompt')
    expectInvalid(await api.get('/sessions/nobody/events', events))
    expectInvalid(await api.get(`/sessions/${id}/events?heartbeat=loud`, events), 'heartbeat')
  })
})

describe('heartbeats', () => {
  test('are one comment line without a blank line, between blocks, and take no number', async () => {
    const own = await ownServer({ STREAM_HEARTBEAT_MS: 100 })
    const id = await createIdle(own.api, { agent: 'echo' })
    const stream = await own.stream(`/sessions/${id}/events`)
    await stream.next()
    const loaded = stream.text
    await stream.sees('three heartbeats', () => stream.comments.length >= 3)
    expect(stream.text.slice(loaded.length)).toMatch(/^(: ping\n){3,}$/)
    await own.api.post(`/sessions/${id}/turns`, { prompt: 'after the pings' })
    await stream.upTo('run_completed')
    const count = stream.comments.length
    await stream.sees('another heartbeat', () => stream.comments.length > count)
    expect(new Set(stream.comments)).toEqual(new Set([': ping']))
    expect(stream.frames.filter((frame) => frame.id !== undefined).map((frame) => frame.id)).toEqual(
      Array.from({ length: 8 }, (_, index) => String(index + 1)),
    )
  })

  test('flow on a turn stream whose agent is silent, and never inside a block', async () => {
    const quiet = gatedAgent('quiet')
    const own = await ownServer({ STREAM_HEARTBEAT_MS: 50 }, { gates: [quiet] })
    const id = await createIdle(own.api, { agent: 'quiet' })
    const stream = await own.stream(`/sessions/${id}/turns/stream`, { json: { prompt: 'hush' } })
    const run = await quiet.run('hush')
    for (let i = 1; i <= 3; i++) {
      const count = stream.comments.length
      await stream.sees('a heartbeat', () => stream.comments.length > count)
      await run.say(`${i} `)
      await stream.upTo('text_delta')
    }
    run.finish()
    expect(textOf(await stream.all())).toBe('1 2 3 ')
    expect(stream.end).toBe('clean')
    expect(new Set(stream.comments)).toEqual(new Set([': ping']))
  })

  test('are events without id for a client that asked for them, and no comments then', async () => {
    const own = await ownServer({ STREAM_HEARTBEAT_MS: 50 })
    const id = await createIdle(own.api, { agent: 'echo' })
    const stream = await own.stream(`/sessions/${id}/events?heartbeat=event`)
    await stream.upTo('heartbeat')
    const beat = await stream.upTo('heartbeat')
    expect(beat.id).toBeUndefined()
    expect(beat.json).toMatchObject({ type: 'heartbeat' })
    expect(beat.json).not.toHaveProperty('seq')
    await own.api.post(`/sessions/${id}/turns`, { prompt: 'x' })
    await stream.upTo('run_completed')
    await stream.upTo('heartbeat')
    expect(stream.comments).toEqual([])
    expect(stream.frames.filter((frame) => frame.id !== undefined).map((frame) => frame.id)).toEqual(
      Array.from({ length: 6 }, (_, index) => String(index + 1)),
    )
  })

  test('work as events on POST streams too', async () => {
    const quiet = gatedAgent('quiet')
    const own = await ownServer({ STREAM_HEARTBEAT_MS: 50 }, { gates: [quiet] })
    const stream = await own.stream('/sessions/stream?heartbeat=event', { json: { agent: 'quiet', prompt: 'hm' } })
    await stream.upTo('heartbeat')
    ;(await quiet.run('hm')).finish()
    expect((await stream.all()).at(-1)?.event).toBe('run_completed')
    expect(stream.comments).toEqual([])
  })
})

describe('a reader that does not read', () => {
  test('slows no turn and no other reader, and its socket is destroyed', async () => {
    const own = await ownServer({ STREAM_STALL_MS: 500 })
    const id = await createIdle(own.api, { agent: 'echo' })
    const stuck = net.connect({ port: own.port, host: '127.0.0.1' })
    onTestFinished(() => {
      stuck.destroy()
    })
    stuck.on('error', () => undefined)
    stuck.write(`GET /sessions/${id}/events?after=0 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n`)
    stuck.pause()
    const other = await own.stream(`/sessions/${id}/events?after=0`)
    const prompt = 'x'.repeat(500_000)
    for (let turn = 1; turn <= 4; turn++) {
      const answer = await own.api.post<RunResult>(`/sessions/${id}/turns`, { prompt })
      expect(answer.body).toMatchObject({ turn, stop_reason: 'end_turn' })
      expect((await other.upTo('run_completed')).json.turn).toBe(turn)
    }
    await until('one reader is left', async () => {
      return /^suricate_stream_readers(\{.*\})? 1$/m.test((await own.api.get('/metrics')).text)
    })
    const received: Buffer[] = []
    stuck.on('data', (chunk: Buffer) => received.push(chunk))
    const closed = new Promise((resolve) => stuck.once('close', resolve))
    stuck.resume()
    await within('the connection to end', closed)
    const text = Buffer.concat(received).toString('latin1')
    expect(text).toMatch(/^HTTP\/1\.1 200 /)
    expect(text.endsWith('0\r\n\r\n')).toBe(false)
    await own.api.delete(`/sessions/${id}`)
    await other.upTo('done')
  })
})
