import { describe, expect, test } from 'vitest'
import { buildApp } from '../../src/app.ts'
import { loadConfig } from '../../src/config.ts'
import { expectProblem } from '../helpers/contract.ts'
import { exchange } from '../helpers/http.ts'
import { useServer } from '../helpers/suite.ts'

/** A page on the web can point a name of its own at 127.0.0.1; what it cannot do is to send another name. */

const server = useServer({ ALLOWED_HOSTS: 'Box.example, other.example' })

const ask = (host: string, path = '/health') =>
  exchange(server.port, `GET ${path} HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`)

describe('on a loopback address', () => {
  test.each([
    'localhost',
    'localhost:8080',
    'LOCALHOST',
    '127.0.0.1',
    '127.0.0.1:1',
    '[::1]',
    '[::1]:8080',
    'box.example',
    'BOX.EXAMPLE:443',
    'other.example',
  ])('the server answers to the name %s', async (host) => {
    expect((await ask(host)).status).toBe(200)
  })

  test.each([
    'evil.example',
    'evil.example:8080',
    'localhost.evil.example',
    'evil-localhost',
    'localhost@evil.example',
    '127.0.0.1.evil.example',
    '127.0.0.2',
    '0.0.0.0',
    '2130706433',
    '[::ffff:127.0.0.1]',
    'sub.box.example',
    'box.example.evil.example',
  ])('and not to %s, on any route', async (host) => {
    for (const path of ['/health', '/sessions', '/playground', '/openapi.json', '/metrics', '/nothing']) {
      expectProblem(await ask(host, path), 403, 'FORBIDDEN')
    }
  })

  test('a refused name starts nothing', async () => {
    const body = '{"prompt":"x"}'
    const answer = await exchange(
      server.port,
      `POST /sessions HTTP/1.1\r\nHost: evil.example\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
    )
    expectProblem(answer, 403, 'FORBIDDEN')
    expect((await server.api.get<{ total: number }>('/sessions')).body.total).toBe(0)
  })

  test('a request of HTTP/1.1 without a name is 400, and one of HTTP/1.0 may go without', async () => {
    expectProblem(
      await exchange(server.port, 'GET /health HTTP/1.1\r\nConnection: close\r\n\r\n'),
      400,
      'INVALID_PARAMS',
    )
    expectProblem(
      await exchange(server.port, 'GET /health HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n'),
      400,
      'INVALID_PARAMS',
    )
    expect((await exchange(server.port, 'GET /health HTTP/1.0\r\n\r\n')).status).toBe(200)
  })

  test('two names are 400, also when they are the same', async () => {
    for (const second of ['localhost', 'evil.example']) {
      const answer = await exchange(
        server.port,
        `GET /health HTTP/1.1\r\nHost: localhost\r\nHost: ${second}\r\nConnection: close\r\n\r\n`,
      )
      expectProblem(answer, 400, 'INVALID_PARAMS')
    }
  })
})

test('on an address that others reach, any name will do: what it is called there, the server cannot know', async () => {
  // Asked without a socket: nothing here listens beyond loopback.
  const app = await buildApp(loadConfig({ env: { HOST: '0.0.0.0', INSECURE_NO_AUTH: true, LOG_LEVEL: 'silent' } }))
  const answer = await app.inject({ url: '/health', headers: { host: 'anything.example' } })
  expect(answer.statusCode).toBe(200)
  await app.close()
})
