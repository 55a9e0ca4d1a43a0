import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { SessionAgentBuilder } from '../../src/core/agent.ts'
import { createIdle, expectInvalid, expectProblem, NOBODY } from '../helpers/contract.ts'
import { useServer } from '../helpers/suite.ts'
import { type BrokenNetwork, brokenNetwork, type Cut, lyingProxy } from './broken-network.ts'
import { type Follower, followers, ownReader, type Seen, streamFaults } from './followers.ts'
import { between, pooled, SEED, scale, seeded } from './support.ts'

/** Says numbered words of different lengths, some at once and some apart, so that readers come before, amid and after. */
const paced: SessionAgentBuilder = {
  name: 'paced',
  buildAgent: () => ({
    async *run({ prompt }) {
      const random = seeded(Number(prompt))
      const words = between(random, 90, 140)
      for (let i = 0; i < words; i++) {
        yield { type: 'text_delta', delta: ` ${i}${'ü😀\r\n\u2028x'.repeat(between(random, 0, 12))}` }
        if (random() < 0.3) await new Promise((resolve) => setTimeout(resolve, between(random, 0, 12)))
      }
      return undefined
    },
  }),
}

const server = useServer({}, { agents: [paced] })

const SESSIONS = scale(6, 50)
/** An `EventSource` waits a second before it comes back: it is not cut as often as the others. */
const CUTS: Record<keyof typeof followers, number> = {
  ownReader: scale(30, 40),
  fetchParser: scale(30, 40),
  eventSource: scale(4, 8),
}

/** So many random cuts, one a connection, and then a network that holds. */
function randomCuts(random: () => number, count: number): () => Cut | undefined {
  let left = count
  return () => {
    if (left-- <= 0) return undefined
    const how = random() < 0.5 ? 'reset' : 'end'
    return random() < 0.5
      ? { unit: 'frames', after: between(random, 1, 20), how }
      : { unit: 'bytes', after: between(random, 1, 4_000), how }
  }
}

interface Played {
  id: string
  truth: Seen[]
}

/** A session of two turns that is followed by `follow` while it happens, and then archived. */
async function play(seed: number, follow: (id: string) => Promise<unknown>): Promise<Played> {
  const id = await createIdle(server.api, { agent: 'paced' })
  const following = follow(id)
  following.catch(() => {})
  for (const turn of [1, 2]) await server.api.post(`/sessions/${id}/turns`, { prompt: String(seed + turn) })
  await server.api.delete(`/sessions/${id}`)
  await following
  const { seen } = await ownReader(`${server.url}/sessions/${id}/events?after=0`)
  return { id, truth: seen.filter((event) => event.id !== '') }
}

/** One reader over a network that breaks again and again. Resolves with what it did wrong. */
async function followed(name: keyof typeof followers, path: string, seed: number, cuts = CUTS[name]) {
  using network = await brokenNetwork(server.port, randomCuts(seeded(seed), cuts))
  const follower: Follower = followers[name]
  const result = await follower(network.url + path)
  return { result, cuts: network.cuts }
}

describe(`a reader that is cut off again and again (SEED=${SEED})`, () => {
  let faults: Record<string, string[]>
  let disconnects = 0
  let events = 0

  beforeAll(
    async () => {
      faults = {}
      await pooled(SESSIONS, 6, async (index) => {
        const seed = SEED + index * 1_000
        const results = new Map<string, ReturnType<typeof followed>>()
        const { truth } = await play(seed, async (id) => {
          for (const [i, name] of (Object.keys(followers) as (keyof typeof followers)[]).entries()) {
            const whole = `/sessions/${id}/events?after=0`
            results.set(`${name} on session ${index}`, followed(name, whole, seed + 10 + i))
          }
          await Promise.all(results.values())
        })
        for (const [name, following] of results) {
          const { result, cuts } = await following
          disconnects += cuts
          events += truth.length
          const wrong = streamFaults(result, truth)
          if (wrong.length > 0) faults[name] = wrong
        }
      })
    },
    scale(60_000, 900_000),
  )

  test('gets every event of its session once, in order and byte by byte the same', () => {
    expect(faults).toEqual({})
  })

  test('was cut off often enough to mean something', () => {
    expect(disconnects).toBeGreaterThan(scale(150, 2_000))
    expect(events).toBeGreaterThan(SESSIONS * 3 * 180)
  })
})

test('a reader of one turn that is cut off again and again gets every event of it', async () => {
  const results: Record<string, string[]> = {}
  await pooled(scale(2, 20), 2, async (index) => {
    const seed = SEED + 500_000 + index * 1_000
    const streams = new Map<string, ReturnType<typeof followed>>()
    const id = await createIdle(server.api, { agent: 'paced' })
    const turn = server.api.post(`/sessions/${id}/turns`, { prompt: String(seed) }, { prefer: 'respond-async' })
    await turn
    const path = `/sessions/${id}/turns/1/events`
    for (const [i, name] of (['ownReader', 'fetchParser', 'eventSource'] as const).entries()) {
      streams.set(`${name} of turn ${index}`, followed(name, path, seed + i, Math.ceil(CUTS[name] / 2)))
    }
    await Promise.all(streams.values())
    const { seen: truth } = await ownReader(server.url + path)
    for (const [name, stream] of streams) results[name] = streamFaults((await stream).result, truth)
  })
  expect(Object.values(results).flat()).toEqual([])
})

test('a POST stream that is cut off goes on when it is sent again with its key and its last event', async () => {
  const id = await createIdle(server.api, { agent: 'paced' })
  const seen: Seen[] = []
  let last: string | undefined
  let clean = false
  using network: BrokenNetwork = await brokenNetwork(server.port, randomCuts(seeded(SEED + 9), 25))
  for (let i = 0; i < 200 && !clean; i++) {
    const headers: Record<string, string> = { 'idempotency-key': 'once', 'content-type': 'application/json' }
    if (last !== undefined) headers['last-event-id'] = last
    try {
      const body = JSON.stringify({ prompt: String(SEED) })
      const response = await fetch(`${network.url}/sessions/${id}/turns/stream`, { method: 'POST', headers, body })
      if (response.status === 204) break
      expect(response.status).toBe(200)
      let text = ''
      const decoder = new TextDecoder()
      for await (const bytes of response.body as AsyncIterable<Uint8Array>) {
        text += decoder.decode(bytes, { stream: true })
        const end = text.lastIndexOf('\n\n')
        if (end === -1) continue
        for (const block of text.slice(0, end).split('\n\n')) {
          const [, event = '', data = '', n = ''] = /event: (\w+)\ndata: ([^\n]*)\nid: (\d+)$/.exec(block) ?? []
          seen.push({ id: n, event, data })
          last = n
        }
        text = text.slice(end + 2)
      }
      clean = true
    } catch (error) {
      if (!(error instanceof TypeError)) throw error
    }
  }
  const { seen: truth } = await ownReader(`${server.url}/sessions/${id}/turns/1/events`)
  expect(streamFaults({ seen, end: clean ? 'clean' : 'seen' }, truth)).toEqual([])
  expect((await server.api.get<{ total: number }>(`/sessions/${id}/turns`)).body.total).toBe(1)
  expect(network.cuts).toBeGreaterThan(3)
})

describe('a cursor', () => {
  let id: string
  let last: number
  const all = () => ownReader(`${server.url}/sessions/${id}/turns/1/events`)

  beforeAll(async () => {
    id = await createIdle(server.api)
    await server.api.post(`/sessions/${id}/turns`, { prompt: 'one two three' })
    last = (await all()).seen.length
    // Of another session, and longer.
    await server.api.post('/sessions', { prompt: 'x '.repeat(200) })
  })

  /** Each way to say it, on each kind of stream. */
  function ask(cursor: string) {
    return ['events', 'turns/1/events'].flatMap((stream) => [
      () => server.stream(`/sessions/${id}/${stream}`, { headers: { 'last-event-id': cursor } }),
      () => server.stream(`/sessions/${id}/${stream}?after=${encodeURIComponent(cursor)}`),
    ])
  }

  test('of 0 replays all', async () => {
    for (const open of ask('0')) {
      const stream = await open()
      const frame = await stream.upTo(({ event }) => event !== 'session_loaded')
      expect(frame).toMatchObject({ id: '1', event: 'run_started' })
      expect(await stream.upTo('run_completed')).toMatchObject({ id: String(last) })
      stream.leave()
    }
  })

  test('of the last event but one gives the last', async () => {
    for (const open of ask(String(last - 1))) {
      const stream = await open()
      const frame = await stream.upTo(({ event }) => event !== 'session_loaded')
      expect(frame).toMatchObject({ id: String(last), event: 'run_completed' })
      stream.leave()
    }
  })

  test('of the last event stops the reader of a turn with 204, and lets the reader of a live session wait', async () => {
    const [headerSession, querySession, headerTurn, queryTurn] = ask(String(last))
    for (const open of [headerTurn, queryTurn]) expect((await open?.())?.status).toBe(204)
    const waiting = await Promise.all([headerSession, querySession].map(async (open) => open?.()))
    const turn = server.api.post(`/sessions/${id}/turns`, { prompt: 'more' })
    for (const stream of waiting) {
      expect(await stream?.upTo('run_started')).toMatchObject({ id: String(last + 1) })
      stream?.leave()
    }
    await turn
  })

  test.each([
    ['one beyond the last', () => String(last + 100)],
    ['of a longer session', () => '190'],
    ['that is empty', () => ''],
    ['of 10^15', () => '1000000000000000'],
    ['of more digits than a number has', () => '9'.repeat(40)],
    ['below 0', () => '-1'],
    ['that is a fraction', () => '1.5'],
    ['in another notation', () => '1e0'],
    ['in hexadecimal', () => '0x1'],
    ['of other digits', () => '١'],
    ['that is an id of something else', () => NOBODY],
  ])('%s is refused with 400', async (_, cursor) => {
    for (const stream of ['events', 'turns/1/events']) {
      const path = `/sessions/${id}/${stream}`
      expectInvalid(await server.api.get(`${path}?after=${encodeURIComponent(cursor())}`))
      // An empty header is none.
      if (/^[\x20-\x7e]+$/.test(cursor())) expectInvalid(await server.api.get(path, { 'last-event-id': cursor() }))
    }
  })

  test('in two headers, or twice in the query, is refused with 400', async () => {
    for (const stream of ['events', 'turns/1/events']) {
      const path = `/sessions/${id}/${stream}`
      expectInvalid(await server.api.send('GET', path, { headers: { 'last-event-id': ['1', '2'] } }))
      expectInvalid(await server.api.get(`${path}?after=1&after=2`))
    }
  })

  test('of a session or a turn that is not there is 404, whatever it says', async () => {
    for (const cursor of ['0', '1', '10']) {
      expectProblem(await server.api.get(`/sessions/${NOBODY}/events?after=${cursor}`), 404, 'SESSION_NOT_FOUND')
      expectProblem(await server.api.get(`/sessions/${id}/turns/99/events?after=${cursor}`), 404, 'TURN_NOT_FOUND')
    }
  })
})

describe('the checker of resuming notices', () => {
  let id: string
  let truth: Seen[]
  const proxies: BrokenNetwork[] = []

  beforeAll(async () => {
    const answer = await server.api.post<{ session_id: string }>('/sessions', { prompt: 'a b c d e f g h' })
    id = answer.body.session_id
    truth = (await ownReader(`${server.url}/sessions/${id}/turns/1/events`)).seen
  })
  afterAll(() => {
    for (const proxy of proxies) proxy[Symbol.dispose]()
  })

  /** What the checker says of a network that changes a stream, by a client that believes what it is told. */
  async function faultsOf(lie: (blocks: string[]) => string[]): Promise<string[]> {
    const proxy = await lyingProxy(server.port, lie)
    proxies.push(proxy)
    return streamFaults(await followers.fetchParser(`${proxy.url}/sessions/${id}/turns/1/events`), truth)
  }

  test('nothing, where nothing is wrong', async () => {
    expect(await faultsOf((blocks) => blocks)).toEqual([])
  })

  test('an event that is lost', async () => {
    expect(await faultsOf((blocks) => blocks.toSpliced(4, 1))).toEqual(['lost 5'])
  })

  test('an event that comes twice', async () => {
    expect(await faultsOf((blocks) => blocks.toSpliced(4, 0, blocks[4] ?? ''))).toEqual(['doubled 5'])
  })

  test('two events that come in the wrong order', async () => {
    expect(await faultsOf((blocks) => blocks.toSpliced(4, 2, blocks[5] ?? '', blocks[4] ?? ''))).toEqual([
      'reordered 5 after 6',
    ])
  })

  test('an event that says something else', async () => {
    expect(
      await faultsOf((blocks) => blocks.with(4, String(blocks[4]).replace(/"delta":"[^"]*"/, '"delta":""'))),
    ).toEqual(['changed 5'])
  })

  test('an event that never was', async () => {
    const invented = 'event: text_delta\ndata: {}\nid: 99\n\n'
    expect(await faultsOf((blocks) => [...blocks.slice(0, -1), invented, blocks.at(-1) ?? ''])).toContain('invented 99')
  })

  test('a proper end before the end', async () => {
    const faults = await faultsOf((blocks) => blocks.slice(0, 5))
    expect(faults).toContain('ended properly after text_delta')
    expect(faults).toContain(`lost ${truth.length}`)
  })
})
