import { describe, expect, test } from 'vitest'
import { createIdle, NOBODY, readSession, type TurnList } from '../helpers/contract.ts'
import { gatedAgent } from '../helpers/gate.ts'
import { useServer } from '../helpers/suite.ts'

const gate = gatedAgent()
const server = useServer({}, { gates: [gate] })
const { api } = server

/** Sends HEAD on a kept connection, then a GET: a body after the first answer would spoil the second. */
async function head(path: string) {
  const socket = await server.socket()
  socket.write(`HEAD ${path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n`)
  await socket.seen((received) => received.includes('\r\n\r\n'))
  const headEnd = socket.received.indexOf('\r\n\r\n') + 4
  socket.write('GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n')
  await socket.seen((received) => received.length > headEnd)
  expect(socket.received.slice(headEnd)).toMatch(/^HTTP\/1\.1 200 /)
  return Number(socket.received.slice(9, 12))
}

describe('HEAD', () => {
  test.each(['/health', '/ready', '/sessions', '/agents', '/metrics'])(
    'of %s has no body, and is what GET is or not allowed',
    async (path) => {
      expect([200, 405]).toContain(await head(path))
    },
  )

  test('of a session has no body, and is what GET is or not allowed', async () => {
    const id = await createIdle(api)
    for (const path of ['', '/turns', '/messages', '/export']) {
      expect([200, 405]).toContain(await head(`/sessions/${id}${path}`))
    }
    expect([404, 405]).toContain(await head(`/sessions/${NOBODY}`))
    expect(await head('/nope')).toBe(404)
  })

  test('of a stream is answered at once, without a body, and follows nothing', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const turn = api.post(`/sessions/${id}/turns`, { prompt: 'head' })
    const run = await gate.run('head')
    for (const path of [`/sessions/${id}/events`, `/sessions/${id}/turns/1/events`]) {
      expect([200, 405]).toContain(await head(path))
    }
    expect((await api.get('/metrics')).text).toMatch(/^suricate_stream_readers(\{.*\})? 0$/m)
    run.finish()
    await turn
  })

  test('starts and ends nothing', async () => {
    const id = await createIdle(api)
    for (const path of [`/sessions/${id}/turns/stream`, '/sessions/stream', `/sessions/${id}/interrupt`]) {
      expect([400, 404, 405]).toContain(await head(path))
    }
    expect((await readSession(api, id)).state.turn).toBe(0)
    expect((await api.get<TurnList>(`/sessions/${id}/turns`)).body.total).toBe(0)
  })
})
