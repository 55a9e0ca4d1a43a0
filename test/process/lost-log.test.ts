import { once } from 'node:events'
import { afterAll, expect, test } from 'vitest'
import { client, within } from '../helpers/http.ts'
import { killLeftovers, serve } from './child.ts'

afterAll(killLeftovers)

const LONG_PATH = `/${'x'.repeat(5_000)}`

test.each(['json', 'pretty'])(
  'a server whose log reader has gone serves on, and ends when it is told to: %s',
  async (format) => {
    const server = await serve({ LOG_LEVEL: 'trace', ...(format === 'pretty' ? { LOG_FORMAT: 'pretty' } : {}) })
    server.child.stdout?.destroy()
    server.child.stderr?.destroy()
    const exited = once(server.child, 'exit')
    for (let i = 0; i < 20; i++) expect((await client(() => server.url).get(LONG_PATH)).status).toBe(404)
    server.child.kill('SIGTERM')
    expect(await within('the server ends', exited)).toEqual([0, null])
  },
)

test('a server whose log reader reads nothing serves on, and ends when it is told to', async () => {
  const server = await serve({ LOG_LEVEL: 'trace' })
  server.child.stdout?.pause()
  const exited = once(server.child, 'exit')
  for (let i = 0; i < 200; i++) expect((await client(() => server.url).get(LONG_PATH)).status).toBe(404)
  server.child.kill('SIGTERM')
  expect(await within('the server ends', exited)).toEqual([0, null])
})
