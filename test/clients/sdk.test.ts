import { randomUUID } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { type AgentEvent, isTerminal, type LoggedEvent } from '../../src/core/events.ts'
import { gatedAgent } from '../helpers/gate.ts'
import { events } from '../helpers/sse.ts'
import { ownServer, useServer } from '../helpers/suite.ts'
import { type Cut, cuttingProxy } from './cutting-proxy.ts'
import { generate, importTool, typeCheck } from './generated.ts'

/** The SDK that @hey-api/openapi-ts makes of the document, against a server that really listens. */

await generate('sdk')
const sdk = await importTool('generated/sdk/dist/index.js')
const { createClient } = await importTool('generated/sdk/dist/client/index.js')

const gate = gatedAgent()
const server = useServer({}, { gates: [gate] })

/** What every call is made with, and how its attempts failed: ten at most, with hardly a wait between them. */
function connect(baseUrl = server.url, options: Record<string, unknown> = {}) {
  const errors: Error[] = []
  const onSseError = (error: Error) => errors.push(error)
  const on = { client: createClient({ baseUrl, ...options }), sseMaxRetryAttempts: 10, sseMaxRetryDelay: 1, onSseError }
  return { on, errors }
}

/** Reads as a caller should: to the terminal event, and not one step further. */
async function turnOf({ stream }: { stream: AsyncIterable<AgentEvent> }): Promise<AgentEvent[]> {
  const read: AgentEvent[] = []
  for await (const event of stream) {
    read.push(event)
    if (isTerminal(event)) break
  }
  return read
}

/** Reads until the client itself ends the stream. */
async function allOf({ stream }: { stream: AsyncIterable<AgentEvent> }): Promise<AgentEvent[]> {
  const read: AgentEvent[] = []
  for await (const event of stream) read.push(event)
  return read
}

/** A turn's events as they stand in the log. */
async function recorded(sessionId: string, turn = 1) {
  return events(await (await server.stream(`/sessions/${sessionId}/turns/${turn}/events`)).all())
}

const words = Array.from({ length: 12 }, (_, at) => `word${at}`).join(' ')

async function createIdle(agent = 'echo'): Promise<string> {
  const { on } = connect()
  const { data } = await sdk.createSession({ ...on, body: { agent, initial_turn: 'deferred' } })
  return data.session_id
}

test('compiles against the generated types what is right, and nothing that is wrong', async () => {
  const { found, expected, output } = await typeCheck('sdk')
  expect(found, output).toEqual(expected)
  expect(expected.length).toBeGreaterThan(10)
}, 120_000)

describe('JSON', () => {
  test('creates a session, starts a turn, and reads and lists what has become of them', async () => {
    const { on } = connect()
    const created = await sdk.createSession({ ...on, body: { agent: 'echo', prompt: 'one two', labels: { a: 'b' } } })
    expect(created.error).toBeUndefined()
    expect(created.response.status).toBe(201)
    expect(created.data).toMatchObject({ turn: 1, text: 'one two', stop_reason: 'end_turn' })
    const path = { session_id: created.data.session_id }

    const started = await sdk.startTurn({ ...on, path, body: { prompt: 'three' } })
    expect(started.data).toMatchObject({ turn: 2, text: 'three', session_usage: { total_tokens: 6 } })
    const session = await sdk.readSession({ ...on, path })
    expect(session.data.state).toMatchObject({ turn: 2, message_count: 4, is_active: false, labels: { a: 'b' } })
    const turns = await sdk.listTurns({ ...on, path, query: { limit: 1, offset: 1 } })
    expect(turns.data).toMatchObject({ turns: [{ turn: 2, status: 'completed' }], total: 2, limit: 1, offset: 1 })
    const sessions = await sdk.listSessions({ ...on, query: { limit: 10, offset: 0, label: ['a=b'], active: false } })
    expect(sessions.data).toMatchObject({ sessions: [path], total: 1 })
    const messages = await sdk.listMessages({ ...on, path, query: { limit: 10, offset: 0 } })
    expect(messages.data.messages).toHaveLength(4)
    const archived = await sdk.archiveSession({ ...on, path })
    expect(archived.data).toEqual({ ...path, archived: true })
  })

  test('has the problem of a missing session, of a wrong body and of a busy session, typed', async () => {
    const { on } = connect()
    const path = { session_id: randomUUID() }
    const missing = await sdk.readSession({ ...on, path })
    expect(missing.data).toBeUndefined()
    expect(missing.response.status).toBe(404)
    expect(missing.error).toMatchObject({ status: 404, code: 'SESSION_NOT_FOUND' })

    const wrong = await sdk.createSession({ ...on, body: { prompt: 'x', promt: 'y' } })
    expect(wrong.error).toMatchObject({ code: 'INVALID_PARAMS', errors: [{ path: '/promt' }] })

    const busyPath = { session_id: await createIdle('gated') }
    const running = sdk.startTurn({ ...on, path: busyPath, body: { prompt: 'busy' } })
    const run = await gate.run('busy')
    const refused = await sdk.startTurn({ ...on, path: busyPath, body: { prompt: 'refused' } })
    expect(refused.response.status).toBe(409)
    expect(refused.error).toMatchObject({
      code: 'SESSION_BUSY',
      session_id: busyPath.session_id,
      active_turn: { turn: 1, status: 'running' },
      links: { events: `/sessions/${busyPath.session_id}/turns/1/events` },
    })
    // The answer alone is enough to follow the turn that is in the way.
    const following = turnOf(
      await sdk.streamTurnEvents({ ...on, path: { ...busyPath, turn: refused.error.active_turn.turn } }),
    )
    await run.say('hello')
    run.finish()
    expect((await following).map(({ type }) => type)).toEqual(expect.arrayContaining(['text_delta', 'run_completed']))
    expect((await running).data).toMatchObject({ text: 'hello' })
  })

  test('sends its key with JSON and with streams', async () => {
    const key = randomUUID()
    const { url } = await ownServer({ API_KEYS: JSON.stringify([{ key, name: 'sdk' }]) })
    const { on } = connect(url, { auth: () => key })
    const { data } = await sdk.createSession({ ...on, body: { agent: 'echo', prompt: 'hello' } })
    expect(data).toMatchObject({ text: 'hello' })
    const path = { session_id: data.session_id, turn: 1 }
    expect((await turnOf(await sdk.streamTurnEvents({ ...on, path }))).at(-1)?.type).toBe('run_completed')
    const stranger = await sdk.readTurn({ ...connect(url).on, path })
    expect(stranger.error).toMatchObject({ status: 401, code: 'UNAUTHORIZED' })
  })
})

describe('streams', () => {
  test('a session is created and its first turn streamed, from its first event to its last', async () => {
    const { on, errors } = connect()
    const read = await allOf(await sdk.createSessionStream({ ...on, body: { agent: 'echo', prompt: 'one two' } }))
    expect(read[0]).toMatchObject({ type: 'run_started', seq: 1, turn: 1, prompt: 'one two' })
    expect(read.at(-1)).toMatchObject({ type: 'run_completed', result: { text: 'one two' } })
    expect(read).toEqual(await recorded((read[0] as { session_id: string }).session_id))
    expect(errors).toEqual([])
  })

  test('a turn is streamed as it runs, and again by streamTurnEvents, event for event the same', async () => {
    const { on, errors } = connect()
    const path = { session_id: await createIdle() }
    const live = await allOf(await sdk.startTurnStream({ ...on, path, body: { prompt: words } }))
    const again = await allOf(await sdk.streamTurnEvents({ ...on, path: { ...path, turn: 1 } }))
    expect(again).toEqual(live)
    expect(live).toEqual(await recorded(path.session_id))
    const after = await allOf(await sdk.streamTurnEvents({ ...on, path: { ...path, turn: 1 }, query: { after: 3 } }))
    expect(after).toEqual(live.slice(3))
    expect(errors).toEqual([])
  })

  test('a session is followed across its turns until it is archived', async () => {
    const { on, errors } = connect()
    const path = { session_id: await createIdle() }
    const { stream } = await sdk.streamSessionEvents({ ...on, path })
    const { value: first } = await stream.next()
    expect(first).toMatchObject({ type: 'session_loaded', ...path, turn: 0 })
    await sdk.startTurn({ ...on, path, body: { prompt: 'one' } })
    await sdk.startTurn({ ...on, path, body: { prompt: 'two' } })
    await sdk.archiveSession({ ...on, path })
    const rest = await allOf({ stream })
    expect(rest.slice(0, -1).map((event) => (event as LoggedEvent).seq)).toEqual(
      rest.slice(0, -1).map((_, at) => at + 1),
    )
    expect(rest.filter(({ type }) => type === 'run_completed')).toHaveLength(2)
    expect(rest.at(-1)).toEqual({ type: 'done', ...path })
    expect(errors).toEqual([])
  })

  test('an event of an unknown type is passed on like any other', async () => {
    const { on } = connect(undefined, {
      fetch: async () => new Response('event: news\ndata: {"type":"news","seq":7,"turn":1}\nid: 7\n\n'),
    })
    const path = { session_id: randomUUID(), turn: 1 }
    expect(await allOf(await sdk.streamTurnEvents({ ...on, path }))).toEqual([{ type: 'news', seq: 7, turn: 1 }])
  })
})

describe('a stream that is refused', () => {
  test('is asked for sseMaxRetryAttempts times and ends without an event', async () => {
    const { on, errors } = connect()
    const missing = { session_id: randomUUID(), turn: 1 }
    expect(await allOf(await sdk.streamTurnEvents({ ...on, path: missing }))).toEqual([])
    expect(errors.map(String)).toEqual(Array(10).fill('Error: SSE failed: 404 Not Found'))

    errors.length = 0
    const path = { session_id: await createIdle('gated') }
    const running = sdk.startTurn({ ...on, path, body: { prompt: 'in the way' } })
    const run = await gate.run('in the way')
    expect(await allOf(await sdk.startTurnStream({ ...on, path, body: { prompt: 'refused' } }))).toEqual([])
    expect(errors.map(String)).toEqual(Array(10).fill('Error: SSE failed: 409 Conflict'))
    run.finish()
    await running
    expect(gate.begun).not.toContain('refused')
  })

  test('is asked for again without end where sseMaxRetryAttempts is not set', async () => {
    const waits: number[] = []
    const { on, errors } = connect()
    const endless = { ...on, sseMaxRetryAttempts: undefined, sseMaxRetryDelay: undefined }
    // Not in the types of the SDK, but in its code.
    const sseSleepFn = async (ms: number) => {
      if (waits.push(ms) === 40) throw new Error('the caller has had enough')
    }
    const path = { session_id: randomUUID(), turn: 1 }
    const { stream } = await sdk.streamTurnEvents({ ...endless, sseSleepFn, path })
    await expect(allOf({ stream })).rejects.toThrow('the caller has had enough')
    expect(errors.map(String)).toEqual(Array(40).fill('Error: SSE failed: 404 Not Found'))
    expect(waits.slice(0, 6)).toEqual([3_000, 6_000, 12_000, 24_000, 30_000, 30_000])
  })

  test('gives up at once, with the typed problem, where the caller brings a fetch that looks', async () => {
    const abort = new AbortController()
    let problem: unknown
    const { on, errors } = connect(undefined, {
      signal: abort.signal,
      fetch: async (request: Request) => {
        const response = await fetch(request)
        if (response.headers.get('content-type')?.startsWith('application/problem+json')) {
          problem = await response.clone().json()
          if (response.status < 500) abort.abort()
        }
        return response
      },
    })
    const path = { session_id: randomUUID() }
    expect(await allOf(await sdk.startTurnStream({ ...on, path, body: { prompt: 'x' } }))).toEqual([])
    expect(problem).toMatchObject({ status: 404, code: 'SESSION_NOT_FOUND' })
    expect(errors).toHaveLength(1)
  })

  test('never comes up where the turn is started in JSON and followed by its number', async () => {
    const { on, errors } = connect()
    const path = { session_id: await createIdle() }
    const headers = { prefer: 'respond-async' }
    const { data, response } = await sdk.startTurn({ ...on, path, headers, body: { prompt: words } })
    expect(response.status).toBe(202)
    expect(data).toMatchObject({ turn: 1, prompt: words })
    const read = await turnOf(await sdk.streamTurnEvents({ ...on, path: { ...path, turn: data.turn } }))
    expect(read).toEqual(await recorded(path.session_id))
    expect(errors).toEqual([])
  })
})

describe('a connection that breaks', () => {
  test('is resumed with every event exactly once, wherever the stream of a turn is cut', async () => {
    const path = { session_id: await createIdle(), turn: 1 }
    await sdk.startTurn({ ...connect().on, path, body: { prompt: words } })
    const whole = await recorded(path.session_id)
    const length = await lengthOf(path)
    for (let bytes = 1; bytes < length; bytes += 41) {
      using proxy = await cuttingProxy(server.port, [{ bytes, reset: bytes % 2 === 0 }])
      const { on, errors } = connect(proxy.url)
      const read = await turnOf(await sdk.streamTurnEvents({ ...on, path }))
      expect(read, `cut after ${bytes} bytes`).toEqual(whole)
      expect(errors.length, `cut after ${bytes} bytes`).toBeLessThanOrEqual(1)
    }
  })

  test('starts one turn and yields its events exactly once where a POST has an Idempotency-Key', async () => {
    const path = { session_id: await createIdle('gated') }
    const cuts = [{ bytes: 40 }, { frames: 2 }, { frames: 1, bytes: 9, reset: true }, { frames: 1 }, { frames: 2 }]
    using proxy = await cuttingProxy(server.port, cuts)
    const { on, errors } = connect(proxy.url)
    const headers = { 'idempotency-key': randomUUID() }
    const reading = turnOf(await sdk.startTurnStream({ ...on, path, headers, body: { prompt: 'cut again and again' } }))
    const run = await gate.run('cut again and again')
    for (const word of words.split(' ')) await run.say(word)
    run.finish()
    expect(await reading).toEqual(await recorded(path.session_id))
    expect(errors).toHaveLength(cuts.length)
    expect(proxy.requests.map(({ line }) => line)).toEqual(
      Array(cuts.length + 1).fill(`POST /sessions/${path.session_id}/turns/stream`),
    )
    expect(proxy.requests.slice(0, 2).map(({ lastEventId }) => lastEventId)).toEqual([undefined, undefined])
    expect(proxy.requests.at(-1)?.lastEventId).toMatch(/^\d+$/)
    const { data } = await sdk.listTurns({ ...connect().on, path, query: { limit: 10, offset: 0 } })
    expect(data.total).toBe(1)
  })

  test.each<[string, Cut[]]>([
    ['before the answer began', [{ bytes: 0 }, { bytes: 1 }]],
    ['within the head of the answer', [{ bytes: 100 }]],
    [
      'within the first frame and within later ones',
      [{ frames: 0, bytes: 60 }, { frames: 3, bytes: 20 }, { frames: 2 }],
    ],
  ])('creates one session where it breaks %s', async (when, cuts) => {
    using proxy = await cuttingProxy(server.port, cuts)
    const { on, errors } = connect(proxy.url)
    const headers = { 'idempotency-key': randomUUID() }
    const body = { agent: 'echo', prompt: words, labels: { when } }
    const read = await turnOf(await sdk.createSessionStream({ ...on, headers, body }))
    const query = { limit: 10, offset: 0, label: [`when=${when}`] }
    const { data } = await sdk.listSessions({ ...connect().on, query })
    expect(data.total).toBe(1)
    expect(read).toEqual(await recorded(data.sessions[0].session_id))
    expect(errors).toHaveLength(cuts.length)
  })

  test('may start a second turn without a key, but only where no event of the first was seen', async () => {
    const once = async (cut: Cut, label: string) => {
      using proxy = await cuttingProxy(server.port, [cut])
      const { on, errors } = connect(proxy.url)
      const body = { agent: 'echo', prompt: words, labels: { label } }
      const read = await turnOf(await sdk.createSessionStream({ ...on, body }))
      const query = { limit: 10, offset: 0, label: [`label=${label}`] }
      const { data } = await sdk.listSessions({ ...connect().on, query })
      return { read, errors: errors.map(String), sessions: data.total }
    }
    const unseen = await once({ bytes: 100 }, 'unseen')
    expect(unseen).toMatchObject({ sessions: 2, errors: [expect.any(String)] })
    expect(unseen.read.at(-1)?.type).toBe('run_completed')
    // The rest is at the turn's own URL, which a client that sends the POST again does not look for.
    const seen = await once({ frames: 2 }, 'seen')
    expect(seen).toMatchObject({ sessions: 1, read: [{ seq: 1 }, { seq: 2 }] })
    expect(seen.errors.slice(1)).toEqual(Array(9).fill('Error: SSE failed: 400 Bad Request'))
  })

  test('is resumed with every event exactly once on the stream of a session', async () => {
    const path = { session_id: await createIdle() }
    const direct = connect().on
    const cuts = [{ bytes: 30 }, { frames: 4, bytes: 1, reset: true }, { frames: 3 }, { frames: 5, bytes: 40 }]
    using proxy = await cuttingProxy(server.port, cuts)
    const { on, errors } = connect(proxy.url)
    await sdk.startTurn({ ...direct, path, body: { prompt: words } })
    const reading = allOf(await sdk.streamSessionEvents({ ...on, path, query: { after: 0 } }))
    await sdk.startTurn({ ...direct, path, body: { prompt: words } })
    const log = [...(await recorded(path.session_id, 1)), ...(await recorded(path.session_id, 2))]
    await sdk.archiveSession({ ...direct, path })
    const read = await reading
    expect(read.filter((event) => 'seq' in event)).toEqual(log)
    expect(read.at(-1)?.type).toBe('done')
    expect(errors).toHaveLength(cuts.length)
  })

  test('uses up one of sseMaxRetryAttempts each time; after the last of them the stream ends as if all were well', async () => {
    const path = { session_id: await createIdle(), turn: 1 }
    await sdk.startTurn({ ...connect().on, path, body: { prompt: words } })
    using proxy = await cuttingProxy(server.port, [{ frames: 2 }, { frames: 2 }, { frames: 2 }])
    const { on, errors } = connect(proxy.url)
    const read = await allOf(await sdk.streamTurnEvents({ ...on, path, sseMaxRetryAttempts: 3 }))
    const whole = await recorded(path.session_id)
    expect(read).toEqual(whole.slice(0, read.length))
    expect(read.length).toBeLessThan(whole.length)
    expect(errors).toHaveLength(3)
  })

  test('after the last event is 204 to whoever reads on, and nothing to whoever stops at the terminal event', async () => {
    const path = { session_id: await createIdle(), turn: 1 }
    await sdk.startTurn({ ...connect().on, path, body: { prompt: 'one two' } })
    const whole = await recorded(path.session_id)
    const atEnd = [{ frames: whole.length }]

    using proxy = await cuttingProxy(server.port, atEnd)
    const { on, errors } = connect(proxy.url)
    expect(await allOf(await sdk.streamTurnEvents({ ...on, path }))).toEqual(whole)
    expect(errors.slice(1).map(String)).toEqual(Array(9).fill('Error: No body in SSE response'))
    expect(proxy.requests.at(-1)?.lastEventId).toBe(String(whole.length))

    using other = await cuttingProxy(server.port, atEnd)
    const stopping = connect(other.url)
    expect(await turnOf(await sdk.streamTurnEvents({ ...stopping.on, path }))).toEqual(whole)
    expect(stopping.errors).toEqual([])
    expect(other.requests).toHaveLength(1)
  })
})

/** How many bytes the answer to streamTurnEvents has. */
async function lengthOf(path: { session_id: string; turn: number }): Promise<number> {
  using proxy = await cuttingProxy(server.port, [])
  await allOf(await sdk.streamTurnEvents({ ...connect(proxy.url).on, path }))
  return proxy.passed
}
