import { randomUUID } from 'node:crypto'
import { createParser } from 'eventsource-parser'
import { expect, test } from 'vitest'
import { isTerminal } from '../../src/core/events.ts'
import { gatedAgent } from '../helpers/gate.ts'
import { events } from '../helpers/sse.ts'
import { useServer } from '../helpers/suite.ts'
import { cuttingProxy } from './cutting-proxy.ts'
import { generate, importTool, typeCheck } from './generated.ts'

/** openapi-fetch with the types that openapi-typescript makes of the document, against a server that really listens. */

await generate('types')
const { default: createClient } = await importTool('node_modules/openapi-fetch/dist/index.mjs')

const gate = gatedAgent()
const server = useServer({}, { gates: [gate] })
const connect = (baseUrl = server.url) => createClient({ baseUrl })

interface Received {
  id: string | undefined
  event: { type: string; seq?: number }
}

/** The events of a body that openapi-fetch was told not to read. */
async function* eventsOf(body: AsyncIterable<Uint8Array>): AsyncGenerator<Received> {
  const decoder = new TextDecoder()
  const received: Received[] = []
  const parser = createParser({ onEvent: ({ id, data }) => received.push({ id, event: JSON.parse(data) }) })
  for await (const bytes of body) {
    parser.feed(decoder.decode(bytes, { stream: true }))
    yield* received.splice(0)
  }
}

async function createIdle(agent = 'echo'): Promise<string> {
  const { data } = await connect().POST('/sessions', { body: { agent, initial_turn: 'deferred' } })
  return data.session_id
}

test('compiles against the generated types what is right, and nothing that is wrong', async () => {
  const { found, expected, output } = await typeCheck('fetch')
  expect(found, output).toEqual(expected)
  expect(expected.length).toBeGreaterThan(10)
}, 120_000)

test('creates, reads and lists', async () => {
  const client = connect()
  const { data, response } = await client.POST('/sessions', {
    body: { agent: 'echo', prompt: 'one two', labels: { by: 'openapi-fetch' } },
  })
  expect(response.status).toBe(201)
  expect(data).toMatchObject({ turn: 1, text: 'one two' })
  const params = { path: { session_id: data.session_id } }
  const session = await client.GET('/sessions/{session_id}', { params })
  expect(session.data.state).toMatchObject({ ...params.path, turn: 1, labels: { by: 'openapi-fetch' } })
  const turn = await client.GET('/sessions/{session_id}/turns/{turn}', {
    params: { path: { ...params.path, turn: 1 } },
  })
  expect(turn.data).toMatchObject({ status: 'completed', result: { text: 'one two' } })
  const query = { limit: 5, offset: 0, label: ['by=openapi-fetch'] }
  const sessions = await client.GET('/sessions', { params: { query } })
  expect(sessions.data).toMatchObject({ sessions: [params.path], total: 1, limit: 5 })
})

test('has a problem as its error', async () => {
  const client = connect()
  const missing = await client.GET('/sessions/{session_id}', { params: { path: { session_id: randomUUID() } } })
  expect(missing.data).toBeUndefined()
  expect(missing.error).toMatchObject({ status: 404, code: 'SESSION_NOT_FOUND' })

  const params = { path: { session_id: await createIdle('gated') } }
  const running = client.POST('/sessions/{session_id}/turns', { params, body: { prompt: 'busy' } })
  const run = await gate.run('busy')
  const stream = { params, body: { prompt: 'refused' }, parseAs: 'stream' }
  const refused = await client.POST('/sessions/{session_id}/turns/stream', stream)
  expect(refused.response.status).toBe(409)
  expect(refused.error).toMatchObject({ code: 'SESSION_BUSY', active_turn: { turn: 1 } })
  run.finish()
  expect((await running).data).toMatchObject({ turn: 1 })
})

test('streams a turn and resumes it after a cut, with every event exactly once', async () => {
  const path = { session_id: await createIdle() }
  using proxy = await cuttingProxy(server.port, [{ frames: 3, bytes: 25 }, { frames: 2 }])
  const client = connect(proxy.url)
  const read: Received['event'][] = []
  let lastEventId: string | undefined
  const follow = async (body: AsyncIterable<Uint8Array>) => {
    for await (const { id, event } of eventsOf(body)) {
      read.push(event)
      lastEventId = id
    }
  }

  const body = { prompt: 'a few words to be streamed' }
  const started = await client.POST('/sessions/{session_id}/turns/stream', {
    params: { path },
    body,
    parseAs: 'stream',
  })
  await expect(follow(started.data)).rejects.toThrow()
  expect(read).toHaveLength(3)
  // Location is the turn, and its events are there to be followed again: no key is needed for that.
  const turn = Number(started.response.headers.get('location').split('/').at(-1))
  const again = () =>
    client.GET('/sessions/{session_id}/turns/{turn}/events', {
      params: { path: { ...path, turn }, header: { 'last-event-id': lastEventId } },
      parseAs: 'stream',
    })
  await expect(follow((await again()).data)).rejects.toThrow()
  expect(read).toHaveLength(5)
  await follow((await again()).data)
  expect(read.at(-1)).toSatisfy(isTerminal)
  const whole = await (await server.stream(`/sessions/${path.session_id}/turns/${turn}/events`)).all()
  expect(read).toEqual(events(whole))

  const after = await again()
  expect(after.response.status).toBe(204)
  expect(after.data).toBeUndefined()
})
