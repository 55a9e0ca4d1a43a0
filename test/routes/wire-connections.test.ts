import { connect } from 'node:net'
import { describe, expect, test } from 'vitest'
import { createIdle, expectProblem, type RunResult, type SessionList } from '../helpers/contract.ts'
import { send } from '../helpers/http.ts'
import { ownServer, useServer } from '../helpers/suite.ts'

const server = useServer({ HEADERS_TIMEOUT_MS: 200, REQUEST_TIMEOUT_MS: 400 })
const { api } = server
const patient = useServer()
const locked = useServer({ REQUEST_TIMEOUT_MS: 400, API_KEYS: '[{"key":"k-test-123456789012"}]' })

const head = (line: string, ...headers: string[]) =>
  [`${line} HTTP/1.1`, 'Host: 127.0.0.1', ...headers, '', ''].join('\r\n')
const JSON_TYPE = 'Content-Type: application/json'
const answers = (received: string) => received.match(/^HTTP\/1\.1 \d{3}/gm) ?? []

describe('a connection', () => {
  test('on which nothing was sent is closed without a word', async () => {
    const socket = await server.socket()
    await socket.closed()
    expect(socket.received).toBe('')
  })

  test('with half a request on it gets a 408, and only that', async () => {
    const socket = await server.socket()
    socket.write('GET /health HTTP/1.1\r\nHost: 12')
    await socket.closed()
    expect(answers(socket.received)).toEqual(['HTTP/1.1 408'])
  })

  test('is kept between requests for KEEP_ALIVE_TIMEOUT_MS, 75 seconds unless set', async () => {
    const socket = await server.socket()
    socket.write(head('GET /health'))
    expect((await socket.response()).headers['keep-alive']).toBe('timeout=75')
    const short = await ownServer({ KEEP_ALIVE_TIMEOUT_MS: 1_000 })
    const other = await short.socket()
    other.write(head('GET /health'))
    expect((await other.response()).headers['keep-alive']).toBe('timeout=1')
  })
})

describe('a request that is answered before its body arrived', () => {
  const early: [string, string, string][] = [
    ['an empty part of the path', head('POST /sessions//turns', JSON_TYPE, 'Content-Length: 5'), 'HTTP/1.1 404'],
    ['a wrong type', head('POST /sessions', 'Content-Type: text/plain', 'Content-Length: 5'), 'HTTP/1.1 415'],
    ['a body that is too large', head('POST /sessions', JSON_TYPE, 'Content-Length: 99999999'), 'HTTP/1.1 413'],
    ['an expectation', head('POST /sessions', JSON_TYPE, 'Content-Length: 5', 'Expect: magic'), 'HTTP/1.1 400'],
    ['a GET', head('GET /sessions', 'Content-Length: 5'), 'HTTP/1.1 200'],
    ['chunks', head('POST /sessions//turns', JSON_TYPE, 'Transfer-Encoding: chunked'), 'HTTP/1.1 404'],
  ]

  test.each(early)(
    '%s: closes its connection, and is not answered again when nothing comes',
    async (_, bytes, status) => {
      const socket = await server.socket()
      socket.write(bytes)
      await socket.closed()
      expect(answers(socket.received)).toEqual([status])
      expect(socket.received).toMatch(/^connection: close\r$/im)
    },
  )

  test('without a key: the same', async () => {
    const socket = await locked.socket()
    socket.write(head('POST /sessions', JSON_TYPE, 'Content-Length: 5'))
    await socket.closed()
    expect(answers(socket.received)).toEqual(['HTTP/1.1 401'])
  })

  test('nor when what comes is malformed, nor when it is another request', async () => {
    const before = (await api.get<SessionList>('/sessions')).body.total
    const create = '{"initial_turn":"deferred"}'
    const another = `${head('POST /sessions', JSON_TYPE, `Content-Length: ${create.length}`)}${create}`
    for (const rest of ['this is no chunk\r\n\r\n', `0\r\n\r\n${another}`]) {
      // One that goes on sending after the server has said that it has nothing more to say.
      const socket = connect({ port: server.port, host: '127.0.0.1', allowHalfOpen: true })
      let received = ''
      const closed = new Promise<void>((resolve) => socket.on('close', () => resolve()))
      socket.on('error', () => {})
      socket.on('data', (chunk) => {
        received += chunk
      })
      let more: NodeJS.Timeout | undefined
      socket.once('data', () => {
        socket.write(rest)
        // Until it is told that nobody takes that any more.
        more = setInterval(() => socket.write('x'), 5)
      })
      socket.write(head('POST /sessions//turns', JSON_TYPE, 'Transfer-Encoding: chunked'))
      await closed
      clearInterval(more)
      expect(answers(received)).toEqual(['HTTP/1.1 404'])
    }
    expect((await api.get<SessionList>('/sessions')).body.total).toBe(before)
  })

  test('keeps its connection where the body came along with it', async () => {
    const socket = await server.socket()
    for (let i = 0; i < 2; i++) {
      socket.write(`${head('POST /nope', JSON_TYPE, 'Content-Length: 2')}{}`)
      const answer = await socket.response()
      expectProblem(answer, 404, 'ROUTE_NOT_FOUND')
      expect(answer.headers.connection).toBe('keep-alive')
    }
  })
})

describe('a body over the limit', () => {
  const large = 'x'.repeat(12_000_000)

  test('is answered so that fetch can read it', async () => {
    for (const path of ['/sessions', '/sessions//turns']) {
      const response = await fetch(patient.url + path, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: large,
      })
      expect(await response.json()).toMatchObject({
        code: path !== '/sessions' ? 'ROUTE_NOT_FOUND' : 'PAYLOAD_TOO_LARGE',
      })
    }
  })

  test.each([
    ['of a known length', `Content-Length: ${large.length}`, large],
    ['in chunks', 'Transfer-Encoding: chunked', `${large.length.toString(16)}\r\n${large}\r\n0\r\n\r\n`],
  ])('%s is answered so that a client can read it that sends all of it first', async (_, header, body) => {
    const socket = connect({ port: patient.port, host: '127.0.0.1' })
    socket.pause()
    const sent = new Promise<void>((resolve, reject) => {
      socket.on('error', reject)
      socket.write(head('POST /sessions', JSON_TYPE, header) + body, () => resolve())
    })
    await sent
    let received = ''
    for await (const chunk of socket) received += chunk
    expect(answers(received)).toEqual(['HTTP/1.1 413'])
    expect(received).toMatch(/"code":"PAYLOAD_TOO_LARGE".*\}\n$/s)
  })

  test('and headers over theirs as well', async () => {
    const socket = connect({ port: patient.port, host: '127.0.0.1' })
    socket.pause()
    await new Promise<void>((resolve, reject) => {
      socket.on('error', reject)
      socket.write(head('GET /health', `X-Long: ${large.slice(0, 500_000)}`), () => resolve())
    })
    let received = ''
    for await (const chunk of socket) received += chunk
    expect(answers(received)).toEqual(['HTTP/1.1 431'])
  })
})

describe('an empty body', () => {
  const types = ['text/plain', 'application/json; charset=latin1', 'application/x-www-form-urlencoded', 'nonsense', '']

  test.each(types)('of the type %j is no body', async (type) => {
    const id = await createIdle(api)
    await api.post(`/sessions/${id}/turns`, { prompt: 'x' })
    const empty = async (method: string, path: string, framing: string) => {
      const socket = await server.socket()
      socket.write(head(`${method} /sessions/${path}`, `Content-Type: ${type}`, framing))
      if (framing.startsWith('Transfer')) socket.write('0\r\n\r\n')
      return (await socket.response<{ code?: string }>()).status
    }
    for (const framing of ['Content-Length: 0', 'Transfer-Encoding: chunked', 'X-None: x']) {
      expect(await empty('POST', `${id}/interrupt`, framing)).toBe(409)
      expect(await empty('POST', `${id}/fork`, framing)).toBe(201)
      expect(await empty('POST', `${id}/turns`, framing)).toBe(400)
      expect(await empty('GET', id, framing)).toBe(200)
      expect(await empty('DELETE', await createIdle(api), framing)).toBe(200)
    }
  })

  test('is none whatever its encoding, and a body of a wrong type is still refused', async () => {
    const id = await createIdle(api)
    const encoded = await api.send('POST', `/sessions/${id}/fork`, { headers: { 'content-encoding': 'gzip' } })
    expect(encoded.status).toBe(201)
    for (const body of ['Content-Length: 1\r\n\r\nx', 'Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n']) {
      for (const type of ['text/plain', 'nonsense']) {
        const socket = await server.socket()
        socket.write(`POST /sessions/${id}/fork HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: ${type}\r\n${body}`)
        expectProblem(await socket.response(), 415, 'UNSUPPORTED_MEDIA_TYPE')
      }
    }
  })
})

describe('a stream that breaks off', () => {
  const request = (path: string, version: string, connection: string) =>
    `GET ${path} HTTP/${version}\r\nHost: 127.0.0.1\r\nConnection: ${connection}\r\n\r\n`

  const manners: [string, string, 'fin' | 'reset'][] = [
    ['1.1', 'keep-alive', 'fin'],
    ['1.1', 'close', 'reset'],
    ['1.0', 'close', 'reset'],
    ['1.0', 'keep-alive', 'reset'],
  ]

  test.each(manners)(
    'on HTTP/%s with Connection: %s ends as no client takes for the end',
    async (version, kind, end) => {
      const node = await ownServer({ MAX_STREAMS: 1, DRAIN_MS: 0 })
      const path = `/sessions/${await createIdle(node.api)}/events`
      const open = async () => {
        const socket = await node.socket()
        socket.write(request(path, version, kind))
        await socket.seen((received) => received.includes('retry: '))
        return socket
      }
      const spoilt = await open()
      // Turned away.
      const refused = await open()
      await refused.closed()
      expect(refused.received).not.toContain('event: ')
      expect([refused.end, refused.received.endsWith('0\r\n\r\n')]).toEqual([end, false])
      // What comes behind its request is not HTTP.
      spoilt.write('nonsense\r\n\r\n')
      await spoilt.closed()
      expect([spoilt.end, spoilt.received.endsWith('0\r\n\r\n')]).toEqual([end, false])
    },
  )

  test('and one that came to its end is not reset', async () => {
    const { body } = await api.post<RunResult>('/sessions', { prompt: 'x' })
    for (const [version, kind] of manners) {
      const socket = await server.socket()
      socket.write(request(`/sessions/${body.session_id}/turns/1/events`, version, kind))
      await socket.seen((received) => received.includes('event: run_completed'))
      if (kind === 'keep-alive' && version === '1.1') continue
      await socket.closed()
      expect([version, kind, socket.end]).toEqual([version, kind, 'fin'])
    }
  })
})

test('a client of Node that sends on after it was refused gets its next answer on a connection of its own', async () => {
  const refused = await send(`${patient.url}/sessions`, 'POST', { bytes: 'x'.repeat(3_000_000) })
  expect([refused.status, refused.headers.connection]).toEqual([415, 'close'])
  expect((await patient.api.get('/health')).status).toBe(200)
})
