import { describe, expect, test } from 'vitest'
import { createIdle, expectInvalid, type RunResult } from '../helpers/contract.ts'
import { gatedAgent } from '../helpers/gate.ts'
import { useServer } from '../helpers/suite.ts'

const gate = gatedAgent()
const server = useServer({ STREAM_HEARTBEAT_MS: 20 }, { gates: [gate] })
const { api } = server

/** A session with one finished turn of seven events. */
async function finished() {
  const { body } = await api.post<RunResult>('/sessions', { agent: 'echo', prompt: 'hello world' })
  return { session: `/sessions/${body.session_id}`, turn: `/sessions/${body.session_id}/turns/1/events` }
}

const ids = (text: string) => [...text.matchAll(/^id: (\d+)$/gm)].map(([, id]) => Number(id))

describe('a frame on the wire', () => {
  test('has its id last, so that a client that is cut off within it asks for the same event again', async () => {
    const { turn } = await finished()
    const { text } = await api.get(turn)
    expect(text).toMatch(/^retry: 1000\n(event: [a-z_]+\ndata: \{[^\n]*\}\nid: \d+\n\n){7}$/)
    expect(ids(text)).toEqual([1, 2, 3, 4, 5, 6, 7])
  })

  test.each(['\u0085', '\u2028', '\u2029'])('escapes %j in whatever an event says', async (char) => {
    const said = `a${char}id: 9${char}${char}b`
    const { text } = await api.post<RunResult>('/sessions/stream', { agent: 'echo', prompt: said, labels: { x: said } })
    expect(text).not.toContain(char)
    const data = [...text.matchAll(/^data: (.*)$/gm)].map(([, json]) => JSON.parse(String(json)))
    expect(data[0]).toMatchObject({ type: 'run_started', prompt: said })
    expect(data.at(-1)).toMatchObject({ type: 'run_completed', result: { text: said } })
    const deltas = data.filter(({ type }) => type === 'text_delta').map(({ delta }) => delta)
    expect(deltas.join('')).toBe(said)
  })

  test('that is a heartbeat has the retry time when it is the first one', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const waiting = api.post(`/sessions/${id}/turns`, { prompt: 'quiet' })
    const run = await gate.run('quiet')
    const stream = await server.stream(`/sessions/${id}/turns/1/events?after=1&heartbeat=event`)
    expect((await stream.next())?.raw).toBe('retry: 1000\nevent: heartbeat\ndata: {"type":"heartbeat"}')
    expect((await stream.next())?.raw).toBe('event: heartbeat\ndata: {"type":"heartbeat"}')
    run.finish()
    await waiting
  })
})

describe('a cursor', () => {
  test.each([
    ['?after=3', {}, [4, 5, 6, 7]],
    ['?lastEventId=3', {}, [4, 5, 6, 7]],
    // A client that cannot set headers adds its cursor to the address that it was given.
    ['?after=0&lastEventId=5', {}, [6, 7]],
    ['?lastEventId=5&after=0', {}, [6, 7]],
    ['?after=1&lastEventId=2', { 'last-event-id': '5' }, [6, 7]],
    ['', { 'last-event-id': '' }, [1, 2, 3, 4, 5, 6, 7]],
    ['?after=5', { 'last-event-id': '' }, [6, 7]],
    ['?lastEventId=', {}, [1, 2, 3, 4, 5, 6, 7]],
    ['?after=5&lastEventId=', {}, [6, 7]],
  ])('%s with the headers %j', async (query, headers, expected) => {
    const { turn } = await finished()
    expect(ids((await api.get(turn + query, headers)).text)).toEqual(expected)
  })

  test('that is empty is none on a POST either: the turn runs', async () => {
    const id = await createIdle(api)
    const headers = { 'last-event-id': '', accept: 'text/event-stream' }
    for (const path of ['turns/stream', 'turns']) {
      const { status, text } = await api.send('POST', `/sessions/${id}/${path}`, {
        headers,
        json: { prompt: 'x' },
      })
      expect([status, text.match(/^event: run_completed$/m)?.length]).toEqual([200, 1])
    }
  })

  test.each(['?lastEventId=x', '?lastEventId=-1', '?lastEventId=8', '?after=8', '?after='])(
    '%s is 400, for GET as for HEAD',
    async (query) => {
      const { session, turn } = await finished()
      for (const path of [`${session}/events${query}`, turn + query]) {
        expectInvalid(await api.get(path))
        expect((await api.send('HEAD', path)).status).toBe(400)
      }
    },
  )

  test('that is wrong in Last-Event-ID is 400, that has seen the end is 204, for GET as for HEAD', async () => {
    const { turn } = await finished()
    for (const [cursor, status] of [
      ['8', 400],
      ['x', 400],
      ['7', 204],
    ] as const) {
      for (const method of ['GET', 'HEAD']) {
        const answer = await api.send(method, turn, { headers: { 'last-event-id': cursor } })
        expect([method, cursor, answer.status, method === 'HEAD' ? answer.text : '']).toEqual([
          method,
          cursor,
          status,
          '',
        ])
      }
    }
    for (const query of ['?after=6', '?lastEventId=6', '']) {
      const { status, headers } = await api.send('HEAD', turn + query)
      expect([status, headers['content-type']]).toEqual([200, 'text/event-stream'])
    }
  })
})
