import { once } from 'node:events'
import net from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import type { SessionAgentBuilder } from '../../src/core/agent.ts'
import { AgentError } from '../../src/core/errors.ts'
import { createIdle, expectProblem, readTurn } from '../helpers/contract.ts'
import { gatedAgent } from '../helpers/gate.ts'
import { type Client, client, RawSocket, send, until, within } from '../helpers/http.ts'
import { startServer, type TestServer } from '../helpers/server.ts'
import { patience } from '../helpers/slowness.ts'
import { type EventStream, openStream, textOf, types } from '../helpers/sse.ts'
import { WatchedStore } from '../promises/watched-store.ts'

/**
 * What fastify-sse-v2 4.2.2 does by itself, one test a defect, each seen from outside: none of it may be true of this
 * server. The numbers are those of the list in the decision record.
 */

const store = new WatchedStore('defective')
const gate = gatedAgent()

/** Yields what is in its prompt, as JSON: an agent that can say anything. */
const mouthpiece: SessionAgentBuilder = {
  name: 'mouthpiece',
  buildAgent: () => ({
    async *run({ prompt }) {
      for (const output of JSON.parse(prompt)) {
        if (output.throw !== undefined) throw new AgentError(output.throw)
        yield output
      }
      return undefined
    },
  }),
}

/** Is built only when the test lets it. */
let build: () => void = () => {}
let building: () => void = () => {}
const slow: SessionAgentBuilder = {
  name: 'slow',
  buildAgent: async () => {
    const built = new Promise<void>((resolve) => {
      build = resolve
    })
    building()
    await built
    return {
      async *run({ prompt }, { signal }) {
        yield { type: 'text_delta', delta: prompt }
        if (prompt === 'hang') await sleep(60_000, undefined, { signal })
        return undefined
      },
    }
  },
}

const STANDARD = { STORE_URL: 'defective:', DRAIN_MS: 50, CORS_ORIGINS: 'https://app.example' }

/** The server that most tests share, and the one that this test talks to. */
let standing: TestServer
let server: TestServer
let api: Client
const streams: EventStream[] = []
const sockets: net.Socket[] = []

const start = (settings: Record<string, string | number> = {}) =>
  startServer({ ...STANDARD, ...settings }, { agents: [gate.agent, mouthpiece, slow] })

/** A server with other settings for the rest of this test. */
async function restart(settings: Record<string, string | number> = {}): Promise<void> {
  server = await start(settings)
  api = client(() => server.url)
}

beforeAll(async () => {
  standing = await start()
})

beforeEach(() => {
  server = standing
  api = client(() => server.url)
})

afterEach(async () => {
  store.beforeRead = () => {}
  for (const stream of streams.splice(0)) stream.leave()
  for (const socket of sockets.splice(0)) socket.destroy()
  if (server !== standing) await server.close()
  await noReaders()
})

afterAll(async () => {
  gate.open()
  await standing.close()
})

async function open(path: string, options: Parameters<typeof openStream>[1] = {}): Promise<EventStream> {
  const stream = await openStream(server.url + path, options)
  streams.push(stream)
  return stream
}

async function bare(request: string): Promise<net.Socket> {
  const socket = net.connect({ port: server.port, host: '127.0.0.1' })
  sockets.push(socket)
  socket.on('error', () => {})
  await new Promise<void>((resolve) => socket.once('connect', () => socket.write(request, () => resolve())))
  return socket
}

const get = (path: string) => `GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`
const idle = (agent = 'gated') => createIdle(api, { agent })
const noReaders = () => until('no reader is left', () => server.app.streams.open === 0 && store.watchers === 0)

describe('D1, D2: a source that fails', () => {
  test('in the middle of a stream cuts that reader off, and neither the process, the turn nor another reader notices', {
    timeout: patience(8_000),
  }, async () => {
    const id = await idle()
    const unlucky = await open(`/sessions/${id}/events?after=0`)
    const lucky = await open(`/sessions/${id}/events?after=0`)
    const answer = api.post<{ text: string }>(`/sessions/${id}/turns`, { prompt: 'go' })
    const run = await gate.run('go')
    await run.say('one')
    await unlucky.upTo('text_delta')
    await lucky.upTo('text_delta')
    let left = 1
    store.beforeRead = () => {
      if (left-- > 0) throw new Error('the disk is gone')
    }
    await run.say(' two')
    run.finish()
    expect((await answer).body.text).toBe('one two')
    await api.delete(`/sessions/${id}`)
    expect(textOf(await lucky.all())).toBe('one two')
    expect(lucky.end).toBe('clean')
    expect(await unlucky.ended()).toBe('destroyed')
  })

  test('before the first byte is a problem document that tells nothing of it', async () => {
    const id = await createIdle(api)
    await api.post(`/sessions/${id}/turns`, { prompt: 'one' })
    store.beforeRead = () => {
      throw new Error('the disk is gone')
    }
    const answer = await api.get(`/sessions/${id}/turns/1/events`)
    expectProblem(answer, 500, 'INTERNAL_ERROR')
    expect(answer.text).not.toContain('disk')
    await noReaders()
  })

  test('lets a reader come back and have all of it', { timeout: patience(8_000) }, async () => {
    const id = await createIdle(api)
    await api.post(`/sessions/${id}/turns`, { prompt: 'one two' })
    let left = 1
    store.beforeRead = () => {
      if (left-- > 0) throw new Error('the disk is gone')
    }
    const cut = await open(`/sessions/${id}/events?after=0`)
    expect(await cut.ended()).toBe('destroyed')
    const again = await open(`/sessions/${id}/events?after=0`)
    await again.upTo('run_completed')
  })
})

describe('D3, D4, D16: a reader that leaves', () => {
  test('is forgotten at once, without another event', async () => {
    const id = await idle()
    const readers = await Promise.all(Array.from({ length: 100 }, () => open(`/sessions/${id}/events`)))
    await Promise.all(readers.map((reader) => reader.upTo('session_loaded')))
    expect(store.watchers).toBe(100)
    expect(server.app.streams.open).toBe(100)
    for (const reader of readers) reader.leave()
    await noReaders()
  })

  test('while it cannot take any more is forgotten as well', async () => {
    await restart({ RETAIN_BYTES: 268_435_456 })
    const loud = await createIdle(api, { agent: 'scripted' })
    const stuck = await bare(get(`/sessions/${loud}/events?after=0`))
    stuck.pause()
    await until('it is there', () => server.app.streams.open === 1)
    await api.post(`/sessions/${loud}/turns`, { prompt: 'deltas 100 60000' })
    expect(server.app.streams.open).toBe(1)
    stuck.destroy()
    await noReaders()
  })
})

describe('D5: a reader that does not read', () => {
  test('has no queue of its own: what the server holds for it does not grow with what is said', async () => {
    await restart({ RETAIN_BYTES: 268_435_456 })
    let connection: net.Socket | undefined
    server.app.server.once('connection', (socket) => {
      connection = socket
    })
    const id = '/sessions/0199d3c0-0000-7000-8000-000000000000'
    const stuck = await bare(get(`${id}/events`))
    await new Promise((resolve) => stuck.once('data', resolve))
    stuck.pause()
    const loud = await createIdle(api, { agent: 'scripted' })
    stuck.write(get(`/sessions/${loud}/events?after=0`))
    await until('it is there', () => server.app.streams.open === 1)
    // Many words that need not be said again at the end.
    const held: number[] = []
    for (let round = 0; round < 4; round++) {
      await api.post(`/sessions/${loud}/turns`, { prompt: 'deltas 500 1000\n'.repeat(4) })
      held.push(connection?.writableLength ?? 0)
    }
    expect(held.at(-1)).toBeGreaterThan(0)
    expect(Math.max(...held)).toBeLessThan(8_388_608)
    expect(held.at(-1)).toBe(held.at(-2))
  })
})

describe('D6: what agents say', () => {
  test.each([
    ['a type with a line feed', 'text_delta\n\nevent: evil\ndata: owned'],
    ['a type with a carriage return', 'text_delta\revent: evil'],
    ['a type with a NUL', 'text\0delta'],
    ['the end of a turn', 'run_completed'],
    ['the end of a session', 'done'],
    ['a name that every object has', 'constructor'],
  ])('cannot forge events: %s fails the turn', async (_, type) => {
    const id = await createIdle(api, { agent: 'mouthpiece' })
    const stream = await open(`/sessions/${id}/turns/stream`, { json: { prompt: JSON.stringify([{ type }]) } })
    const frames = await stream.all()
    expect(types(frames).filter((name) => name.startsWith('run_'))).toEqual(['run_started', 'run_failed'])
    expect(frames.at(-1)?.json).toMatchObject({ code: 'AGENT_ERROR' })
    expect(new Set(types(frames))).not.toContain('evil')
  })

  test('cannot forge events by what went wrong, nor by what a tool is called', async () => {
    const evil = 'x\r\n\r\nid: 99\nevent: evil\rdata: owned\n\n'
    const id = await createIdle(api, { agent: 'mouthpiece' })
    const script = [
      { type: 'tool_call_requested', id: evil, name: evil, args: evil },
      { type: 'tool_execution_completed', id: evil, name: evil, result: evil, is_error: false, duration_ms: 0 },
      { throw: evil },
    ]
    const stream = await open(`/sessions/${id}/turns/stream`, { json: { prompt: JSON.stringify(script) } })
    const frames = await stream.all()
    expect(types(frames)).not.toContain('evil')
    expect(frames.find(({ event }) => event === 'tool_call_requested')?.json).toMatchObject({ id: evil, name: evil })
    expect(frames.at(-1)?.json).toMatchObject({ type: 'run_failed', error: evil })
  })
})

test('D7: what is empty is not lost', async () => {
  const id = await createIdle(api, { agent: 'mouthpiece' })
  const script = [
    { type: 'text_delta', delta: '' },
    { type: 'reasoning_delta', delta: '' },
    { type: 'tool_call_requested', id: '', name: '', args: null },
    { type: 'tool_execution_completed', id: '', name: '', result: '', is_error: false, duration_ms: 0 },
    { type: 'text_delta', delta: '' },
  ]
  const stream = await open(`/sessions/${id}/turns/stream`, { json: { prompt: JSON.stringify(script) } })
  const frames = await stream.all()
  const said = frames.map(({ json: { seq: _seq, turn: _turn, ...event } }) => event)
  for (const event of script) expect(said).toContainEqual(event)
  expect(frames.at(-1)?.json).toMatchObject({ type: 'run_completed', result: { text: '' } })
})

test('D8: a POST that has been read is not taken for a client that left', async () => {
  const id = await idle()
  const stream = await open(`/sessions/${id}/turns/stream?on_disconnect=interrupt`, { json: { prompt: 'stay' } })
  const waiting = await idle()
  const answer = api.post<{ text: string }>(`/sessions/${waiting}/turns?on_disconnect=interrupt`, { prompt: 'wait' })
  const runs = [await gate.run('stay'), await gate.run('wait')]
  for (const run of runs) {
    await run.say('one')
    await run.say(' two')
    expect(run.signal.aborted).toBe(false)
    run.finish()
  }
  expect(types(await stream.all()).at(-1)).toBe('run_completed')
  expect((await answer).body.text).toBe('one two')
})

test('D9: the end of every stream is counted, whether POST or GET, whole or cut', async () => {
  const id = await idle()
  const posted = await open(`/sessions/${id}/turns/stream`, { json: { prompt: 'count' } })
  const got = await open(`/sessions/${id}/events`)
  const ofTurn = await open(`/sessions/${id}/turns/1/events`)
  const run = await gate.run('count')
  await Promise.all([posted, got, ofTurn].map((stream) => stream.upTo('run_started')))
  expect(server.app.streams.open).toBe(3)
  posted.leave()
  await until('one left', () => server.app.streams.open === 2)
  run.finish()
  await ofTurn.all()
  await until('one ended', () => server.app.streams.open === 1)
  got.leave()
  await noReaders()
})

describe('D10: a client that left before its stream began', () => {
  async function leaveEarly(query: string, prompt: string) {
    const begun = new Promise<void>((resolve) => {
      building = resolve
    })
    const body = JSON.stringify({ agent: 'slow', prompt, labels: { who: prompt } })
    const arrived = new Promise<net.Socket>((resolve) => server.app.server.once('connection', resolve))
    const socket = await bare(
      `POST /sessions/stream${query} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
    )
    await within('the agent to be built', begun)
    const known = once(await arrived, 'close')
    socket.destroy()
    await within('the server to know', known)
    build()
    const list = await until('the session is there', async () => {
      const { body: found } = await api.get<{ sessions: { session_id: string }[] }>(`/sessions?label=who%3D${prompt}`)
      return found.sessions[0]
    })
    return list.session_id
  }

  test('is not served, and its turn goes on', async () => {
    const id = await leaveEarly('', 'said')
    await until('the turn is over', async () => (await readTurn(api, id, 1)).status === 'completed')
    await noReaders()
  })

  test('has its turn interrupted if it asked for that', async () => {
    const id = await leaveEarly('?on_disconnect=interrupt', 'hang')
    await until('the turn is over', async () => (await readTurn(api, id, 1)).status === 'interrupted')
    await noReaders()
  })
})

test('D11: a server that closes ends its streams properly, cuts those that do not read, and does not wait for ever', async () => {
  await restart({ RETAIN_BYTES: 268_435_456 })
  const [quiet, busy] = [await idle(), await idle()]
  const loud = await createIdle(api, { agent: 'scripted' })
  const follower = await open(`/sessions/${quiet}/events`)
  const running = await open(`/sessions/${busy}/turns/stream`, { json: { prompt: 'never ends' } })
  await (await gate.run('never ends')).say('so far')
  const stuck = await bare(get(`/sessions/${loud}/events?after=0`))
  stuck.pause()
  await until('it is there', () => server.app.streams.open === 3)
  await api.post(`/sessions/${loud}/turns`, { prompt: 'deltas 100 60000' })
  await within('the server to close', server.close())
  expect(types(await follower.all()).at(-1)).toBe('done')
  expect(types(await running.all()).at(-1)).toBe('run_interrupted')
  expect([follower.end, running.end]).toEqual(['clean', 'clean'])
  await noReaders()
})

describe('D11 in HTTP/1.0, which has no chunks', () => {
  test('a whole stream ends, and one that is cut is reset, so that nobody takes the one for the other', async () => {
    await restart({ MAX_STREAMS: 2 })
    const id = await createIdle(api, { agent: 'scripted' })
    await api.post(`/sessions/${id}/turns`, { prompt: 'say x' })
    const whole = await RawSocket.connect(server.port)
    whole.write(`GET /sessions/${id}/turns/1/events HTTP/1.0\r\n\r\n`)
    await whole.closed()
    expect(whole.end).toBe('fin')
    expect(whole.received).toContain('event: run_completed')
    expect(whole.received).not.toContain('transfer-encoding')
    for (let i = 0; i < 2; i++) await (await open(`/sessions/${id}/events`)).upTo('session_loaded')
    const refused = await RawSocket.connect(server.port)
    refused.write(`GET /sessions/${id}/events HTTP/1.0\r\n\r\n`)
    await refused.closed()
    expect(refused.end).toBe('reset')
  })
})

test('D12: a HEAD has the headers of the stream, and starts, counts and watches nothing', async () => {
  const id = await createIdle(api)
  await api.post(`/sessions/${id}/turns`, { prompt: 'one' })
  const reads = vi.fn()
  store.beforeRead = reads
  const { events } = server.app.streams
  for (const path of [`/sessions/${id}/events?after=0`, `/sessions/${id}/turns/1/events`]) {
    const { status, headers, text } = await send(server.url + path, 'HEAD')
    expect({ status, text }).toEqual({ status: 200, text: '' })
    expect(headers).toMatchObject({
      'content-type': 'text/event-stream',
      'cache-control': 'no-cache, no-transform',
      'x-accel-buffering': 'no',
    })
  }
  expect(reads).not.toHaveBeenCalled()
  expect(server.app.streams).toMatchObject({ open: 0, events })
  expect((await send(`${server.url}/sessions/${id}/turns/9/events`, 'HEAD')).status).toBe(404)
  for (const path of ['/sessions/stream', `/sessions/${id}/turns/stream`]) {
    expect((await send(server.url + path, 'HEAD')).status).toBeGreaterThanOrEqual(400)
  }
})

describe('D13: the headers of a stream', () => {
  test('are those of the contract, with what others have set, and nothing of the library', async () => {
    const id = await createIdle(api, { agent: 'scripted' })
    const headers = { origin: 'https://app.example', 'x-request-id': 'mine' }
    const streamed = await open(`/sessions/${id}/turns/stream`, { json: { prompt: 'say x' }, headers })
    const followed = await open(`/sessions/${id}/events`, { headers })
    for (const stream of [streamed, followed]) {
      expect(stream.headers).toMatchObject({
        'content-type': 'text/event-stream',
        'cache-control': 'no-cache, no-transform',
        'x-accel-buffering': 'no',
        'x-request-id': 'mine',
        'access-control-allow-origin': 'https://app.example',
        'access-control-expose-headers': expect.stringContaining('Location'),
        vary: expect.stringContaining('Origin'),
      })
      expect(stream.headers).not.toHaveProperty('x-no-compression')
      expect(stream.headers).not.toHaveProperty('content-encoding')
      expect(stream.headers).not.toHaveProperty('content-length')
    }
  })

  test('are not compressed, whatever the client would take', async () => {
    const id = await createIdle(api, { agent: 'scripted' })
    const headers = { 'accept-encoding': 'gzip, deflate, br, zstd' }
    const stream = await open(`/sessions/${id}/turns/stream`, { json: { prompt: 'say x' }, headers })
    expect(stream.headers).not.toHaveProperty('content-encoding')
    expect(types(await stream.all()).at(-1)).toBe('run_completed')
  })

  test('arrive before there is anything to say', async () => {
    const id = await idle()
    // Answers only once headers are there; no turn has begun and nothing will be said.
    const stream = await open(`/sessions/${id}/events`)
    expect(stream.status).toBe(200)
    const queued = api.post(`/sessions/${id}/turns`, { prompt: 'first' })
    const run = await gate.run('first')
    const waiting = await open(`/sessions/${id}/turns/stream`, { json: { prompt: 'second', on_busy: 'enqueue' } })
    expect(waiting.status).toBe(200)
    expect(waiting.frames).toEqual([])
    run.finish()
    await queued
    const second = await gate.run('second')
    second.finish()
    expect(types(await waiting.all())[0]).toBe('run_started')
  })
})

test('D14: many readers of one session are no reason for a warning', async () => {
  const warnings: Error[] = []
  const warn = (warning: Error) => warnings.push(warning)
  process.on('warning', warn)
  const id = await idle()
  const readers = await Promise.all(Array.from({ length: 60 }, () => open(`/sessions/${id}/events`)))
  const answer = api.post(`/sessions/${id}/turns`, { prompt: 'to all' })
  ;(await gate.run('to all')).finish()
  await answer
  await Promise.all(readers.map((reader) => reader.upTo('run_completed')))
  await new Promise((resolve) => setImmediate(resolve))
  process.off('warning', warn)
  expect(warnings).toEqual([])
})

test('D15: what cannot be a stream is refused before it is one', async () => {
  const id = await idle()
  const answer = api.post(`/sessions/${id}/turns`, { prompt: 'in the way' })
  const run = await gate.run('in the way')
  const refused = await send(`${server.url}/sessions/${id}/turns/stream`, 'POST', { json: { prompt: 'x' } })
  expectProblem(refused, 409, 'SESSION_BUSY')
  expectProblem(
    await send(`${server.url}/sessions/stream`, 'POST', { json: { initial_turn: 'deferred' } }),
    400,
    'INVALID_PARAMS',
  )
  run.finish()
  await answer
})

describe('heartbeats', () => {
  test('stand between blocks only, however often they come and however large the blocks are', async () => {
    await restart({ STREAM_HEARTBEAT_MS: 10 })
    const id = await createIdle(api, { agent: 'scripted' })
    const prompt = 'deltas 3 60000\nwait 30\n'.repeat(8)
    const stream = await open(`/sessions/${id}/turns/stream`, { json: { prompt } })
    // The reader fails at a comment that is inside of a block.
    const frames = await stream.all()
    expect(types(frames).at(-1)).toBe('run_completed')
    expect(stream.comments.length).toBeGreaterThan(3)
    expect(new Set(stream.comments)).toEqual(new Set([': ping']))
  })

  test('are none while there is something to say', async () => {
    await restart({ STREAM_HEARTBEAT_MS: 5_000 })
    const id = await createIdle(api, { agent: 'scripted' })
    const stream = await open(`/sessions/${id}/turns/stream`, { json: { prompt: 'deltas 2000' } })
    await stream.all()
    expect(stream.comments).toEqual([])
  })

  test('have one timer for all streams together', async () => {
    const made: string[] = []
    const note = (stack: string | undefined) => {
      if (stack?.includes('/src/')) made.push(stack)
    }
    const { setTimeout: realTimeout, setInterval: realInterval } = globalThis
    const spies = [
      vi.spyOn(globalThis, 'setTimeout').mockImplementation(((...args: Parameters<typeof setTimeout>) => {
        note(new Error('made here').stack)
        return realTimeout(...args)
      }) as typeof setTimeout),
      vi.spyOn(globalThis, 'setInterval').mockImplementation(((...args: Parameters<typeof setInterval>) => {
        note(new Error('made here').stack)
        return realInterval(...args)
      }) as typeof setInterval),
    ]
    const id = await idle()
    made.length = 0
    const readers = await Promise.all(Array.from({ length: 30 }, () => open(`/sessions/${id}/events`)))
    await Promise.all(readers.map((reader) => reader.upTo('session_loaded')))
    expect(made).toEqual([])
    await restart()
    // The spies do see what the source makes.
    expect(made.length).toBeGreaterThan(0)
    for (const spy of spies) spy.mockRestore()
  })
})
