import { describe, expect, test } from 'vitest'
import { expectProblem } from '../helpers/contract.ts'
import { RawSocket } from '../helpers/http.ts'
import { useServer } from '../helpers/suite.ts'

const server = useServer({ HEADERS_TIMEOUT_MS: 200, REQUEST_TIMEOUT_MS: 400 })

/** Says `bytes`, then nothing more, and reads what comes. */
async function stall(bytes: string) {
  const socket = await RawSocket.connect(server.port)
  try {
    socket.write(bytes)
    const answer = await socket.response()
    await socket.closed()
    return answer
  } finally {
    socket.destroy()
  }
}

describe.concurrent('a request that does not arrive', () => {
  test('is 408 when its headers never end', async () => {
    expectProblem(await stall('GET /sessions HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half: '), 408, 'REQUEST_TIMEOUT')
  })

  test('is 408 when its body never ends', async () => {
    const head = ['POST /sessions HTTP/1.1', 'Host: 127.0.0.1', 'Content-Type: application/json', 'Content-Length: 100']
    expectProblem(await stall(`${head.join('\r\n')}\r\n\r\n{"prompt":"ha`), 408, 'REQUEST_TIMEOUT')
  })

  test('a stream that is open for longer than that is not cut', async () => {
    const created = await server.api.post<{ session_id: string }>('/sessions', { initial_turn: 'deferred' })
    const id = created.body.session_id
    const stream = await server.stream(`/sessions/${id}/events`)
    const head = ['POST /sessions HTTP/1.1', 'Host: 127.0.0.1', 'Content-Type: application/json', 'Content-Length: 100']
    expect((await stall(`${head.join('\r\n')}\r\n\r\n{`)).status).toBe(408)
    expect(stream.end).toBeUndefined()
    await server.api.delete(`/sessions/${id}`)
    expect((await stream.all()).at(-1)?.event).toBe('done')
  })
})
