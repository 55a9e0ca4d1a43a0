import { describe, expect, test } from 'vitest'
import { client } from '../helpers/http.ts'
import { types } from '../helpers/sse.ts'
import { RemoteSession } from './session.ts'
import { serveInTerminal, withTerminal } from './terminal.ts'

describe.runIf(withTerminal)('in a terminal', () => {
  test.each(['pretty', 'json'])(
    'a server whose terminal is closed ends at once and with 0, log format %s',
    async (format) => {
      const server = await serveInTerminal({ LOG_FORMAT: format, DRAIN_MS: '20000' })
      const closed = performance.now()
      server.close()
      expect(await server.exited()).toBe(0)
      expect(performance.now() - closed).toBeLessThan(5_000)
    },
  )

  test('a turn that runs when the terminal is closed finishes, and then the server ends', async () => {
    const server = await serveInTerminal({ DRAIN_MS: '20000' })
    const stream = await (await RemoteSession.create(server.url)).run('wait 300\nsay done')
    server.close()
    expect(types(await stream.all()).at(-1)).toBe('run_completed')
    expect(stream.end).toBe('clean')
    expect(await server.exited()).toBe(0)
  })

  test('a terminal that takes no more output holds up no request and no end', async () => {
    const server = await serveInTerminal({ LOG_LEVEL: 'trace' })
    server.leave()
    const path = `/${'x'.repeat(5_000)}`
    for (let i = 0; i < 100; i++) expect((await client(() => server.url).get(path)).status).toBe(404)
    server.signal('SIGTERM')
    expect(await server.exited()).toBe(0)
  })
})
