import type { FastifyInstance } from 'fastify'
import { describe, expect, test } from 'vitest'
import { buildApp } from '../../src/app.ts'
import { loadConfig } from '../../src/config.ts'
import { createIdle, expectProblem, expectProblemDocument, NOBODY } from '../helpers/contract.ts'
import { RawSocket, send } from '../helpers/http.ts'
import { startServer } from '../helpers/server.ts'
import { useServer } from '../helpers/suite.ts'
import { type Route, routesOf, urlOf } from './routes.ts'

const KEYS = [
  { key: 'first-key-3f2a', name: 'first' },
  { key: 'second-key-9c1d', name: 'second' },
]
const server = useServer({ API_KEYS: JSON.stringify(KEYS), CORS_ORIGINS: 'https://app.example' })
const bearer = (key: string) => ({ authorization: `Bearer ${key}` })

/** Open to everyone, and why that is right. Every other route wants a key; a new one does unless it is added here. */
const OPEN = [
  /^\/health$/, // for whoever watches the process
  /^\/ready$/,
  /^\/$/, // leads to the playground
  /^\/playground(\/.*)?$/, // pages that hold nothing secret and ask for the key
  /^\/docs(\/.*)?$/,
  /^\/openapi(-3\.2)?\.(json|yaml)$/,
]
const isOpen = ({ path }: Route) => OPEN.some((pattern) => pattern.test(path))

// The router is asked before there is a test to ask it in: one test for each of its routes.
const app = await buildApp(loadConfig({ env: { LOG_LEVEL: 'silent' } }))
await app.ready()
const routes = routesOf(app)
const operations = Object.entries((await app.openapi()).paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({
    method: method.toUpperCase(),
    path: path.replace(/\{(\w+)\}/g, ':$1'),
    operation,
  })),
)
await app.close()
const closed = routes.filter((route) => !isOpen(route))
const open = routes.filter(isOpen)

describe('the list of routes', () => {
  test('has every operation of the OpenAPI document', () => {
    const known = routes.map(({ method, path }) => `${method} ${path}`)
    expect(operations.length).toBeGreaterThan(20)
    for (const { method, path } of operations) expect(known).toContain(`${method} ${path}`)
  })

  test('has, beside them, only what is hidden for a reason', () => {
    const described = new Set(operations.map(({ method, path }) => `${method} ${path}`))
    const hidden = closed.filter(({ method, path }) => method !== 'HEAD' && !described.has(`${method} ${path}`))
    expect(hidden).toEqual([{ method: 'GET', path: '/metrics' }])
  })

  test('agrees with the document about who may come in', () => {
    for (const { method, path, operation } of operations) {
      expect(Object.hasOwn(operation.responses, '401'), `${method} ${path}`).toBe(!isOpen({ method, path }))
    }
  })
})

describe('without a right key', () => {
  const credentials: [string, Record<string, string>, string][] = [
    ['no header', {}, ''],
    ['an empty header', { authorization: '' }, ''],
    ['a scheme alone', { authorization: 'Bearer' }, ''],
    ['a scheme and a space', { authorization: 'Bearer ' }, ''],
    ['another scheme', { authorization: `Basic ${Buffer.from('user:first-key-3f2a').toString('base64')}` }, ''],
    ['the key alone', { authorization: 'first-key-3f2a' }, ''],
    ['a wrong key', bearer('third-key'), ''],
    ['the beginning of a key', bearer('first-key-3f2'), ''],
    ['a key and more', bearer('first-key-3f2ab'), ''],
    ['a key in other letters', bearer('FIRST-KEY-3F2A'), ''],
    ['two keys in one header', bearer('first-key-3f2a second-key-9c1d'), ''],
    ['two keys and a comma', bearer('first-key-3f2a, Bearer first-key-3f2a'), ''],
    ['the name of a key', bearer('first'), ''],
    ['the key in the query', {}, '?access_token=first-key-3f2a&api_key=first-key-3f2a&key=first-key-3f2a'],
    ['the key in another header', { 'x-api-key': 'first-key-3f2a', cookie: 'token=first-key-3f2a' }, ''],
  ]

  test.each(closed)('$method $path is 401, whatever else is sent', async (route) => {
    for (const [name, headers, query] of credentials) {
      const answer = await send(server.url + urlOf(route, NOBODY) + query, route.method, { headers })
      expect({ name, status: answer.status }).toEqual({ name, status: 401 })
      expect(answer.headers['www-authenticate'], name).toMatch(/^Bearer\b/)
      if (route.method === 'HEAD') continue
      expectProblem(answer, 401, 'UNAUTHORIZED')
      expect(answer.text).not.toMatch(/first|second|third/)
    }
  })

  test.each(open)('$method $path is open', async (route) => {
    expect((await send(server.url + urlOf(route, NOBODY), route.method)).status).not.toBe(401)
  })

  test('the answer comes before the body has, and nothing of the body is waited for', async () => {
    for (const { method, path } of closed.filter(({ method }) => method === 'POST')) {
      const socket = await RawSocket.connect(server.port)
      const url = urlOf({ method, path }, NOBODY)
      socket.write(
        `POST ${url} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n`,
      )
      expect({ path, status: (await socket.response()).status }).toEqual({ path, status: 401 })
      socket.destroy()
    }
  })

  test('a path where nothing is tells no more than one where something is', async () => {
    for (const path of ['/nothing', '/sessions/x/y/z', '/admin', '/metrics/']) {
      expect((await server.api.get(path)).status).toBe(401)
      expectProblem(await server.api.get(path, bearer('first-key-3f2a')), 404, 'ROUTE_NOT_FOUND')
    }
  })
})

describe('a route that is added', () => {
  /** Routes, beside those that are meant to be open, that answer without a key. */
  async function unguarded(extend: (app: FastifyInstance) => void): Promise<string[]> {
    const extended = await buildApp(loadConfig({ env: { API_KEYS: JSON.stringify(KEYS), LOG_LEVEL: 'silent' } }))
    extend(extended)
    await extended.ready()
    const found: string[] = []
    for (const route of routesOf(extended).filter((candidate) => !isOpen(candidate))) {
      const method = route.method as 'GET'
      const { statusCode } = await extended.inject({
        method,
        url: urlOf(route, NOBODY),
        headers: { host: 'localhost' },
      })
      if (statusCode !== 401) found.push(`${route.method} ${route.path}`)
    }
    await extended.close()
    return found
  }

  test('wants a key without having to say so', async () => {
    expect(await unguarded((extended) => extended.get('/added', async () => 'let in'))).toEqual([])
  })

  test('is noticed here if it is open and not on the list', async () => {
    const added = await unguarded((extended) => {
      extended.get('/forgotten', { config: { public: true } }, async () => 'let in')
    })
    expect(added.toSorted()).toEqual(['GET /forgotten', 'HEAD /forgotten'])
  })
})

describe('with a right key', () => {
  test.each(closed)('$method $path lets in', async (route) => {
    for (const { key } of KEYS) {
      const answer = await send(server.url + urlOf(route, NOBODY), route.method, { headers: bearer(key) })
      expect(answer.status).not.toBe(401)
      expect(answer.status).not.toBe(403)
    }
  })

  test.each(['bearer', 'BEARER', 'Bearer', 'bEaReR', 'Bearer  '])('the scheme may be written "%s"', async (scheme) => {
    const headers = { authorization: `${scheme} first-key-3f2a` }
    expect((await server.api.get('/sessions', headers)).status).toBe(200)
  })

  test('a key is as good as the other for sessions that were made with it', async () => {
    const { body } = await server.api.post<{ session_id: string }>(
      '/sessions',
      { prompt: 'x' },
      bearer('first-key-3f2a'),
    )
    expect((await server.api.get(`/sessions/${body.session_id}`, bearer('second-key-9c1d'))).status).toBe(200)
  })
})

describe('two Authorization headers', () => {
  test.each([
    ['a right and a wrong one', ['Bearer first-key-3f2a', 'Bearer wrong']],
    ['a wrong and a right one', ['Bearer wrong', 'Bearer first-key-3f2a']],
    ['twice the right one', ['Bearer first-key-3f2a', 'Bearer first-key-3f2a']],
  ])('are 400: %s', async (_, authorization) => {
    const answer = await server.api.send('GET', '/sessions', { headers: { authorization } })
    expectProblem(answer, 400, 'INVALID_PARAMS')
  })
})

describe('a browser', () => {
  const preflight = {
    origin: 'https://app.example',
    'access-control-request-method': 'POST',
    'access-control-request-headers': 'authorization,content-type,idempotency-key,last-event-id,prefer',
  }

  test('may ask without a key whether it may ask', async () => {
    const answer = await server.api.send('OPTIONS', '/sessions', { headers: preflight })
    expect(answer.status).toBe(204)
    expect(answer.headers['access-control-allow-origin']).toBe('https://app.example')
    for (const name of ['authorization', 'idempotency-key', 'last-event-id', 'prefer']) {
      expect(answer.headers['access-control-allow-headers']?.toLowerCase()).toContain(name)
    }
  })

  test('of another origin is told nothing that would let it', async () => {
    const headers = { ...preflight, origin: 'https://evil.example' }
    const answer = await server.api.send('OPTIONS', '/sessions', { headers })
    expect(answer.headers['access-control-allow-origin']).toBeUndefined()
    const read = await server.api.get('/health', { origin: 'https://evil.example' })
    expect(read.headers['access-control-allow-origin']).toBeUndefined()
  })

  test('can read why it was refused, and the headers that the contract exposes', async () => {
    const answer = await server.api.get('/sessions', { origin: 'https://app.example' })
    expectProblem(answer, 401, 'UNAUTHORIZED')
    expect(answer.headers['access-control-allow-origin']).toBe('https://app.example')
    const exposed = answer.headers['access-control-expose-headers']?.toLowerCase() ?? ''
    for (const name of ['location', 'retry-after', 'preference-applied']) expect(exposed).toContain(name)
  })
})

describe('without keys and without origins', () => {
  const plain = useServer()

  test('everything is open, and a key that is sent all the same does no harm', async () => {
    await createIdle(plain.api)
    expect((await plain.api.get('/sessions', bearer('anything'))).status).toBe(200)
  })

  test('no page of another origin is let in', async () => {
    const answer = await plain.api.get('/sessions', { origin: 'https://app.example' })
    expect(answer.headers).not.toHaveProperty('access-control-allow-origin')
    const preflight = await plain.api.send('OPTIONS', '/sessions', {
      headers: { origin: 'https://app.example', 'access-control-request-method': 'POST' },
    })
    expect(preflight.status).toBeGreaterThanOrEqual(400)
    expectProblemDocument(preflight)
  })
})

test('a key that is asked for in vain is not part of what the server says of itself', async () => {
  const other = await startServer({ API_KEYS: JSON.stringify(KEYS) })
  const pages = ['/openapi.json', '/openapi.yaml', '/docs', '/playground', '/capabilities', '/agents', '/metrics']
  for (const path of pages) {
    const { text } = await send(other.url + path, 'GET', { headers: bearer('second-key-9c1d') })
    expect(text).not.toMatch(/first-key|second-key/)
  }
  await other.close()
})
