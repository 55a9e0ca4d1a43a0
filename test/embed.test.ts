import { Writable } from 'node:stream'
import Fastify from 'fastify'
import { describe, expect, onTestFinished, test } from 'vitest'
import { type SessionAgentBuilder, type SuricateOptions, suricate } from '../src/index.ts'
import { expectProblem } from './helpers/contract.ts'
import { client, send, until } from './helpers/http.ts'
import { startServer } from './helpers/server.ts'
import { openStream } from './helpers/sse.ts'

/** An application of somebody else's with the sessions under /s, and the lines that it logs. */
async function application(options: SuricateOptions = {}) {
  const lines: Record<string, unknown>[] = []
  const stream = new Writable({
    write: (chunk, _, done) => {
      lines.push(JSON.parse(String(chunk)))
      done()
    },
  })
  const app = Fastify({ logger: { level: 'info', stream } })
  await app.register(suricate, { prefix: '/s', drainMs: 0, ...options })
  const url = await app.listen({ host: '127.0.0.1', port: 0 })
  onTestFinished(() => app.close())
  return { url, lines, api: client(() => url) }
}

describe('the session API in an application of its own', () => {
  test('logs how a stream ended, with the logger of the application', async () => {
    const { url, lines } = await application()
    await (await openStream(`${url}/s/sessions/stream`, { json: { prompt: 'hi' } })).all()
    const line = await until('the stream has its line', () => lines.find((line) => 'stream' in line))
    expect(line).toMatchObject({ method: 'POST', path: '/s/sessions/stream', status: 200, stream: 'complete' })
  })

  test('keeps quiet about streams where logs are off', async () => {
    const { url, lines } = await application({ logs: false })
    await (await openStream(`${url}/s/sessions/stream`, { json: { prompt: 'hi' } })).all()
    await until('the request has its line', () => lines.find((line) => line.msg === 'request completed'))
    expect(lines.filter((line) => 'stream' in line)).toEqual([])
  })

  test('logs what an agent failed of unexpectedly, although nobody waits for the turn', async () => {
    const broken: SessionAgentBuilder = {
      name: 'broken',
      buildAgent: () => ({
        async *run() {
          throw new TypeError('a bug of theirs')
        },
      }),
    }
    const { api, lines } = await application({ agents: [broken] })
    await api.post('/s/sessions', { agent: 'broken', prompt: 'x' }, { prefer: 'respond-async' })
    const line = await until('the failure has its line', () => lines.find((line) => 'err' in line))
    expect(line).toMatchObject({ session_id: expect.any(String), turn: 1, err: { message: 'a bug of theirs' } })
  })

  test('names the OpenAPI document to those who are lost only where there is one', async () => {
    const { api } = await application()
    const { body } = await api.get('/s/nowhere')
    expect(body).toMatchObject({ code: 'ROUTE_NOT_FOUND', detail: 'There is nothing at /s/nowhere' })
    const server = await startServer()
    onTestFinished(() => server.close())
    const { detail } = expectProblem(await send(`${server.url}/nowhere`, 'GET'), 404, 'ROUTE_NOT_FOUND')
    expect(detail).toBe('There is nothing at /nowhere; GET /openapi.json lists what there is')
  })
})
