import http from 'node:http'
import { describe, expect, test } from 'vitest'
import {
  createIdle,
  expectInvalid,
  expectProblem,
  expectProblemDocument,
  NOBODY,
  type Problem,
  type RunResult,
  readSession,
  readTurn,
  type SessionList,
} from '../helpers/contract.ts'
import { gatedAgent } from '../helpers/gate.ts'
import { exchange, send } from '../helpers/http.ts'
import { useServer } from '../helpers/suite.ts'

const SECRET = 'postgres://admin:hunter2@10.0.0.1/prod'
const gate = gatedAgent()
const server = useServer(
  {},
  {
    gates: [gate],
    agents: [
      {
        name: 'unbuildable',
        buildAgent() {
          throw new Error(SECRET)
        },
      },
    ],
  },
)
const { api } = server
const small = useServer({ BODY_LIMIT: 1024 })

function post(path: string, headers: string[], body: string | Buffer = ''): Buffer {
  const head = [`POST ${path} HTTP/1.1`, ...headers, '', ''].join('\r\n')
  return Buffer.concat([Buffer.from(head), Buffer.from(body)])
}

const HOST = 'Host: 127.0.0.1'
const JSON_TYPE = 'Content-Type: application/json'
const length = (body: string | Buffer) => `Content-Length: ${Buffer.byteLength(body)}`

async function sessionCount(): Promise<number> {
  return (await api.get<SessionList>('/sessions?limit=0')).body.total
}

describe('an address that is none', () => {
  test.each([
    '/nope',
    '/sessions/',
    '/session',
    '//',
    '/sessions//turns',
    `/sessions/${NOBODY}/nothing`,
    '/sessions%2f',
  ])('GET %s is ROUTE_NOT_FOUND or a bad parameter, as a problem document', async (path) => {
    const problem = expectProblemDocument(await api.get(path))
    expect(['ROUTE_NOT_FOUND', 'INVALID_PARAMS', 'SESSION_NOT_FOUND']).toContain(problem.code)
  })

  test('is 404 ROUTE_NOT_FOUND for every method', async () => {
    for (const method of ['GET', 'POST', 'PUT', 'PATCH', 'DELETE']) {
      expectProblem(await api.send(method, '/nope', {}), 404, 'ROUTE_NOT_FOUND')
    }
    expectProblem(await api.post('/nope', { some: 'body' }), 404, 'ROUTE_NOT_FOUND')
    expectProblem(await api.get('/nope?q=1'), 404, 'ROUTE_NOT_FOUND')
  })

  test('with a method that it does not have is 405 and says which it has', async () => {
    const allowed = async (method: string, path: string) => {
      const answer = await api.send(method, path)
      expectProblem(answer, 405, 'METHOD_NOT_ALLOWED')
      return String(answer.headers.allow).split(/, */)
    }
    expect(await allowed('PUT', '/sessions')).toEqual(expect.arrayContaining(['GET', 'POST']))
    expect(await allowed('DELETE', '/sessions')).not.toContain('DELETE')
    expect(await allowed('PATCH', `/sessions/${NOBODY}`)).toEqual(expect.arrayContaining(['GET', 'DELETE']))
    expect(await allowed('POST', `/sessions/${NOBODY}`)).not.toContain('POST')
    expect(await allowed('GET', `/sessions/${NOBODY}/interrupt`)).toEqual(expect.arrayContaining(['POST']))
    expect(await allowed('GET', `/sessions/${NOBODY}/fork`)).not.toContain('GET')
    expect(await allowed('DELETE', `/sessions/${NOBODY}/turns`)).toEqual(expect.arrayContaining(['GET', 'POST']))
    expect(await allowed('POST', `/sessions/${NOBODY}/messages`)).toEqual(expect.arrayContaining(['GET']))
    expect(await allowed('POST', '/health')).toEqual(expect.arrayContaining(['GET']))
    expect(await allowed('PROPFIND', '/sessions')).toEqual(expect.arrayContaining(['GET', 'POST']))
  })

  test.each([
    '/sessions/%ZZ',
    '/sessions/%',
    '/%E0%A4%A',
    '/sessions/%c0%af/turns',
    '/%00',
    `/sessions/${NOBODY}/turns/%FF`,
  ])('with an encoding that is none, like %s, is a problem document with a 4xx status', async (path) => {
    const answer = await exchange(server.port, `GET ${path} HTTP/1.1\r\n${HOST}\r\n\r\n`)
    const problem = expectProblemDocument(answer)
    expect([400, 404]).toContain(problem.status)
  })

  test('that cannot be decoded is 400', async () => {
    expectInvalid(await exchange(server.port, `GET /sessions/%ZZ HTTP/1.1\r\n${HOST}\r\n\r\n`))
    expectInvalid(await exchange(server.port, `GET /sessions/%E0%A4%A HTTP/1.1\r\n${HOST}\r\n\r\n`))
  })

  test('of 20,000 characters is 414, headers of 20,000 are 431', async () => {
    const long = 'a'.repeat(20_000)
    expectProblem(await exchange(server.port, `GET /sessions/${long} HTTP/1.1\r\n${HOST}\r\n\r\n`), 414, 'URI_TOO_LONG')
    expectProblem(await exchange(server.port, `GET /nope?q=${long} HTTP/1.1\r\n${HOST}\r\n\r\n`), 414, 'URI_TOO_LONG')
    expectProblem(
      await exchange(server.port, `GET /sessions HTTP/1.1\r\n${HOST}\r\nX-Long: ${long}\r\n\r\n`),
      431,
      'HEADERS_TOO_LARGE',
    )
    const many = Array.from({ length: 900 }, (_, n) => `X-Many-${n}: ${'v'.repeat(20)}`).join('\r\n')
    expectProblem(
      await exchange(server.port, `GET /sessions HTTP/1.1\r\n${HOST}\r\n${many}\r\n\r\n`),
      431,
      'HEADERS_TOO_LARGE',
    )
  })
})

describe('a body that is no JSON', () => {
  test.each([
    '',
    ' ',
    '{',
    '{"prompt":"x"',
    '{"prompt":"x"} trailing',
    '{"prompt":"x"}{}',
    "{'prompt':'x'}",
    '{"prompt":"x",}',
    '{prompt:"x"}',
    '{"prompt":"\n"}',
    '{"prompt":"\\x"}',
    '{"prompt":"\\ud8"}',
    '{"prompt":NaN}',
    'undefined',
    'prompt=x',
    '[',
    '[{"prompt":"x"}',
    '"',
    '/* c */{"prompt":"x"}',
  ])('%j is 400', async (bytes) => {
    expectInvalid(
      await send(`${server.url}/sessions`, 'POST', { bytes, headers: { 'content-type': 'application/json' } }),
    )
  })

  test.each(['null', 'true', '0', '"prompt"', '[]', '[{"prompt":"x"}]', '[["prompt","x"]]'])(
    '%s is JSON but no object: 400',
    async (bytes) => {
      const headers = { 'content-type': 'application/json' }
      const id = await createIdle(api)
      for (const path of ['/sessions', '/sessions/stream', `/sessions/${id}/turns`, '/sessions/import']) {
        expectInvalid(await send(server.url + path, 'POST', { bytes, headers }))
      }
    },
  )

  test.each<[string, number[]]>([
    ['a lone continuation byte', [0x80]],
    ['0xFF', [0xff]],
    ['an overlong slash', [0xc0, 0xaf]],
    ['an encoded surrogate', [0xed, 0xa0, 0x80]],
    ['a code point above U+10FFFF', [0xf4, 0x90, 0x80, 0x80]],
    ['a character that is cut off', [0xf0, 0x9f, 0xa6]],
    ['Latin-1', [0xe9]],
  ])('with invalid UTF-8 (%s) is 400', async (_, bad) => {
    const body = Buffer.concat([Buffer.from('{"prompt":"a'), Buffer.from(bad), Buffer.from('b"}')])
    const before = await sessionCount()
    expectInvalid(await exchange(server.port, post('/sessions', [HOST, JSON_TYPE, length(body)], body)))
    expect(await sessionCount()).toBe(before)
  })

  test('in UTF-8 is good wherever the bytes are cut into chunks', async () => {
    const body = Buffer.from('{"prompt":"a🦦é漢"}')
    const chunks = [...body].map((byte) =>
      Buffer.concat([Buffer.from('1\r\n'), Buffer.from([byte]), Buffer.from('\r\n')]),
    )
    const answer = await exchange<RunResult>(
      server.port,
      Buffer.concat([
        post('/sessions', [HOST, JSON_TYPE, 'Transfer-Encoding: chunked']),
        ...chunks,
        Buffer.from('0\r\n\r\n'),
      ]),
    )
    expect(answer.status).toBe(201)
    expect(answer.body.text).toBe('a🦦é漢')
  })

  test('because there is none is refused as a bad request', async () => {
    for (const path of ['/sessions', '/sessions/stream', '/sessions/import']) {
      const answer = await api.post(path)
      expectProblemDocument(answer)
      expect([400, 415]).toContain(answer.status)
    }
  })
})

describe('the media type of a body', () => {
  const body = '{"prompt":"x"}'

  test.each([
    'text/plain',
    'application/x-www-form-urlencoded',
    'multipart/form-data; boundary=x',
    'application/xml',
    'application/jsonp',
    'text/json5',
    'application/json; charset=utf-16',
    'application/json; charset=iso-8859-1',
    'application/json;charset=utf-7',
    'application/json; charset="latin1"',
  ])('%s is 415', async (type) => {
    const answer = await send(`${server.url}/sessions`, 'POST', { bytes: body, headers: { 'content-type': type } })
    expectProblem(answer, 415, 'UNSUPPORTED_MEDIA_TYPE')
  })

  test.each([
    'application/json',
    'Application/JSON',
    'application/json; charset=utf-8',
    'application/json;charset=UTF-8',
    'application/json; charset="utf-8"',
  ])('%s is good', async (type) => {
    const answer = await send<RunResult>(`${server.url}/sessions`, 'POST', {
      bytes: body,
      headers: { 'content-type': type },
    })
    expect(answer.status, answer.text).toBe(201)
  })

  test('missing beside a body is 415', async () => {
    expectProblem(await send(`${server.url}/sessions`, 'POST', { bytes: body }), 415, 'UNSUPPORTED_MEDIA_TYPE')
  })

  test.each(['gzip', 'deflate', 'br', 'x-unknown'])('a content encoding of %s is 415', async (encoding) => {
    const headers = { 'content-type': 'application/json', 'content-encoding': encoding }
    const answer = await send(`${server.url}/sessions`, 'POST', { bytes: body, headers })
    expectProblem(answer, 415, 'UNSUPPORTED_MEDIA_TYPE')
  })
})

describe('the size of a body (BODY_LIMIT=1024)', () => {
  const headers = { 'content-type': 'application/json' }
  const ofSize = (bytes: number) => `{"prompt":"${'x'.repeat(bytes - '{"prompt":""}'.length)}"}`

  test('may be the limit and not one byte more', async () => {
    const fits = await send<RunResult>(`${small.url}/sessions`, 'POST', { bytes: ofSize(1024), headers })
    expect(fits.status).toBe(201)
    expectProblem(
      await send(`${small.url}/sessions`, 'POST', { bytes: ofSize(1025), headers }),
      413,
      'PAYLOAD_TOO_LARGE',
    )
  })

  test('is counted in bytes, not characters', async () => {
    const bytes = `{"prompt":"${'é'.repeat(600)}"}`
    expectProblem(await send(`${small.url}/sessions`, 'POST', { bytes, headers }), 413, 'PAYLOAD_TOO_LARGE')
  })

  test('is known before the body is sent', async () => {
    const answer = await exchange(small.port, post('/sessions', [HOST, JSON_TYPE, 'Content-Length: 9999999']))
    expectProblem(answer, 413, 'PAYLOAD_TOO_LARGE')
  })

  test('is found out when a chunked body grows too large', async () => {
    const chunk = `400\r\n${' '.repeat(1024)}\r\n`
    const answer = await exchange(
      small.port,
      post('/sessions', [HOST, JSON_TYPE, 'Transfer-Encoding: chunked'], chunk + chunk),
    )
    expectProblem(answer, 413, 'PAYLOAD_TOO_LARGE')
  })

  test('holds for every route with a body but import', async () => {
    const id = await createIdle(small.api)
    for (const path of ['/sessions/stream', `/sessions/${id}/turns`, `/sessions/${id}/interrupt`]) {
      const answer = await send(small.url + path, 'POST', { bytes: ofSize(2000), headers })
      expectProblem(answer, 413, 'PAYLOAD_TOO_LARGE')
    }
  })

  test('is 1 MiB unless set', async () => {
    const url = `${server.url}/sessions`
    const fits = await send<RunResult>(url, 'POST', { bytes: ofSize(1_048_576), headers })
    expect(fits.status).toBe(201)
    expectProblem(await send(url, 'POST', { bytes: ofSize(1_048_577), headers }), 413, 'PAYLOAD_TOO_LARGE')
  })
})

describe('headers that must come once', () => {
  const path = `/sessions/${NOBODY}/events`

  test.each([
    ['Host', [HOST, 'Host: evil.example']],
    ['Host, twice the same', [HOST, HOST]],
    ['Authorization', [HOST, 'Authorization: Bearer a', 'Authorization: Bearer b']],
    ['Authorization, twice the same', [HOST, 'Authorization: Bearer a', 'authorization: Bearer a']],
    ['Last-Event-ID', [HOST, 'Last-Event-ID: 1', 'Last-Event-ID: 2']],
    ['Idempotency-Key', [HOST, 'Idempotency-Key: a', 'Idempotency-Key: b']],
  ])('two of %s are 400', async (_, headers) => {
    expectInvalid(await exchange(server.port, `GET ${path} HTTP/1.1\r\n${headers.join('\r\n')}\r\n\r\n`))
  })

  test('two Idempotency-Key headers on a good turn run nothing', async () => {
    const id = await createIdle(api)
    const body = '{"prompt":"x"}'
    const headers = [HOST, JSON_TYPE, length(body), 'Idempotency-Key: a', 'Idempotency-Key: a']
    expectInvalid(await exchange(server.port, post(`/sessions/${id}/turns`, headers, body)))
    expect((await readSession(api, id)).state.turn).toBe(0)
  })
})

describe('what is no HTTP', () => {
  const body = '{"prompt":"x"}'

  test.each<[string, string | Buffer]>([
    ['garbage', 'garbage\r\n\r\n'],
    ['a TLS hello', Buffer.from('16030100750100007103034f', 'hex')],
    ['a method that nobody knows', `BREW /sessions HTTP/1.1\r\n${HOST}\r\n\r\n`],
    ['another protocol version', `GET /sessions HTTP/9.9\r\n${HOST}\r\n\r\n`],
    ['no Host', 'GET /sessions HTTP/1.1\r\n\r\n'],
    ['a space before a colon', `GET /sessions HTTP/1.1\r\n${HOST}\r\nX-Bad : 1\r\n\r\n`],
    ['NUL in a header', `GET /sessions HTTP/1.1\r\n${HOST}\r\nX-Bad: a\0b\r\n\r\n`],
    ['a folded header', `GET /sessions HTTP/1.1\r\n${HOST}\r\nX-Bad: a\r\n b: c\r\n\r\n`],
    ['two lengths', post('/sessions', [HOST, JSON_TYPE, length(body), 'Content-Length: 5'], body)],
    [
      'a length and chunks',
      post('/sessions', [HOST, JSON_TYPE, length(body), 'Transfer-Encoding: chunked'], '0\r\n\r\n'),
    ],
    ['a length that is no number', post('/sessions', [HOST, JSON_TYPE, 'Content-Length: ten'], body)],
    ['a negative length', post('/sessions', [HOST, JSON_TYPE, 'Content-Length: -1'], body)],
    ['a chunk of no size', post('/sessions', [HOST, JSON_TYPE, 'Transfer-Encoding: chunked'], 'zz\r\nx\r\n0\r\n\r\n')],
    ['an unknown transfer encoding', post('/sessions', [HOST, JSON_TYPE, 'Transfer-Encoding: gibberish'], body)],
  ])('%s is answered with 400 as a problem document', async (_, bytes) => {
    expectInvalid(await exchange(server.port, bytes))
  })

  test('an expectation that cannot be met is a problem document', async () => {
    const answer = await exchange(
      server.port,
      post('/sessions', [HOST, JSON_TYPE, length(body), 'Expect: a-miracle'], body),
    )
    const problem = expectProblemDocument(answer)
    expect([400, 417]).toContain(problem.status)
  })

  test('half a body and no more leaves the server well', async () => {
    const before = await sessionCount()
    for (let i = 0; i < 20; i++) {
      const socket = await server.socket()
      socket.write(post('/sessions', [HOST, JSON_TYPE, 'Content-Length: 1000'], '{"prompt":"ha'))
      socket.destroy()
    }
    expect((await api.post<RunResult>('/sessions', { prompt: 'well' })).body.text).toBe('well')
    expect(await sessionCount()).toBe(before + 1)
  })

  test('Expect: 100-continue is honoured', async () => {
    const socket = await server.socket()
    socket.write(post('/sessions', [HOST, JSON_TYPE, length(body), 'Expect: 100-continue']))
    await socket.seen((received) => received.startsWith('HTTP/1.1 100 '))
    socket.write(body)
    expect((await socket.response()).status).toBe(201)
  })

  test('two requests in one packet get two answers, in order', async () => {
    const socket = await server.socket()
    socket.write(`GET /nope HTTP/1.1\r\n${HOST}\r\n\r\nGET /health HTTP/1.1\r\n${HOST}\r\n\r\n`)
    expectProblem(await socket.response(), 404, 'ROUTE_NOT_FOUND')
    expect((await socket.response()).status).toBe(200)
  })
})

describe('what an error tells', () => {
  test('an agent that throws something unexpected is INTERNAL_ERROR, and no word of it gets out', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const stream = await server.stream(`/sessions/${id}/events`)
    const call = api.post(`/sessions/${id}/turns`, { prompt: 'boom' })
    const run = await gate.run('boom')
    await run.say('before')
    run.fail(Object.assign(new Error(SECRET), { code: 'ECONNREFUSED', status: 418, statusCode: 418 }))
    const answer = await call
    expect(expectProblem(answer, 500, 'INTERNAL_ERROR')).toMatchObject({ session_id: id, turn: 1 })
    await stream.upTo('run_failed')
    expect(stream.frames.at(-1)?.json).toMatchObject({ type: 'run_failed', code: 'INTERNAL_ERROR' })
    const turn = await api.get(`/sessions/${id}/turns/1`)
    expect(turn.body).toMatchObject({ status: 'failed', error: { code: 'INTERNAL_ERROR', status: 500 } })
    for (const text of [answer.text, stream.text, turn.text]) {
      expect(text).not.toContain('hunter2')
      expect(text).not.toContain('ECONNREFUSED')
    }
    expect((await readSession(api, id)).state.is_active).toBe(false)
  })

  test('throwing what is no Error is INTERNAL_ERROR too, and the session serves the next turn', async () => {
    const answer = await api.post('/sessions', { agent: 'scripted', prompt: 'say a\nthrow' })
    const problem = expectProblem(answer, 500, 'INTERNAL_ERROR')
    expect(problem).toMatchObject({ turn: 1, session_created: true })
    const id = String(problem.session_id)
    expect((await readTurn(api, id, 1)).status).toBe('failed')
    expect((await api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'say b' })).body.text).toBe('b')
  })

  test.each([undefined, null, 0, '', false, 'a string', { message: SECRET }, Symbol('s')])(
    'a thrown %s is INTERNAL_ERROR',
    async (thrown) => {
      const id = await createIdle(api, { agent: 'gated' })
      const call = api.post(`/sessions/${id}/turns`, { prompt: 'odd' })
      ;(await gate.run('odd')).fail(thrown)
      const answer = await call
      expectProblem(answer, 500, 'INTERNAL_ERROR')
      expect(answer.text).not.toContain('hunter2')
    },
  )

  test('an agent that cannot be built is a 500 without its reason, and leaves no session', async () => {
    const before = await sessionCount()
    const answer = await api.post('/sessions', { agent: 'unbuildable', prompt: 'x' })
    expect(answer.status).toBe(500)
    expectProblemDocument(answer)
    expect(answer.text).not.toContain('hunter2')
    expect(await sessionCount()).toBe(before)
  })

  test('a problem names its request: a given X-Request-Id comes back in header and body, else there is a new one', async () => {
    const given = await api.get<Problem>('/nope', { 'x-request-id': 'abc-123' })
    expect(given.headers['x-request-id']).toBe('abc-123')
    expect(given.body.request_id).toBe('abc-123')
    const made = [await api.get<Problem>('/nope'), await api.get<Problem>('/nope')]
    expect(made.map((answer) => answer.body.request_id)).toEqual(made.map((answer) => answer.headers['x-request-id']))
    expect(made[0]?.body.request_id).not.toBe(made[1]?.body.request_id)
    const good = await api.get('/health', { 'x-request-id': 'abc-456' })
    expect(good.headers['x-request-id']).toBe('abc-456')
  })

  test('a refused request leaves a kept connection usable', async () => {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
    try {
      for (const path of ['/nope', `/sessions/${NOBODY}`, '/sessions?limit=x', '/health']) {
        const answer = await send(server.url + path, 'GET', { agent })
        expect(answer.status).toBeGreaterThanOrEqual(200)
      }
      expect(Object.values(agent.freeSockets).flat()).toHaveLength(1)
    } finally {
      agent.destroy()
    }
  })
})
