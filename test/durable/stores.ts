import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import type { AppParts } from '../../src/app.ts'
import { type Client, client } from '../helpers/http.ts'
import { newDatabase } from '../helpers/postgres.ts'
import { startServer, type TestServer } from '../helpers/server.ts'

/** Every store that outlives the process, and a place in it that is there until the end of the test. */
export const durableStores: Record<string, () => Promise<string>> = {
  sqlite: async () => {
    const folder = mkdtempSync(join(tmpdir(), 'suricate-durable-'))
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
    return `sqlite:${join(folder, 'test.db')}`
  },
  postgres: newDatabase,
}

/**
 * Those on which the tests that take long run each time. On the others they run with `npm run test:promises`; what is
 * theirs alone is in their own tests.
 */
export const quickStores = Object.fromEntries(
  Object.entries(durableStores).filter(([name]) => name === 'sqlite' || process.env.PROMISES === 'full'),
)

export interface Node {
  readonly server: TestServer
  readonly api: Client
  close(): Promise<void>
}

/** A server over a store, until the end of the test at the latest. */
export async function startNode(
  storeUrl: string,
  settings: Record<string, string | number> = {},
  parts: AppParts = {},
): Promise<Node> {
  const server = await startServer({ STORE_URL: storeUrl, DRAIN_MS: 0, ...settings }, parts)
  let closing: Promise<void> | undefined
  const close = () => (closing ??= Promise.resolve(server.close()).then(() => undefined))
  onTestFinished(close)
  return { server, api: client(() => server.url), close }
}
