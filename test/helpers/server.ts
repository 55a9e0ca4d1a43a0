import { mkdtempSync, rmSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { FastifyInstance } from 'fastify'
import { type AppParts, buildApp } from '../../src/app.ts'
import { loadConfig } from '../../src/config.ts'
import { newDatabase } from './postgres.ts'

export interface TestServer {
  url: string
  port: number
  app: FastifyInstance
  close(): Promise<void>
}

/** The store that `TEST_STORE` names, so that whatever is tested over HTTP can be tested on every one. */
async function storeUnderTest(): Promise<Record<string, string>> {
  if (process.env.TEST_STORE === 'postgres') return { STORE_URL: await newDatabase() }
  if (process.env.TEST_STORE !== 'sqlite') return {}
  const folder = mkdtempSync(join(tmpdir(), 'suricate-store-'))
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }))
  return { STORE_URL: `sqlite:${join(folder, 'test.db')}` }
}

/** A server on a free loopback port. Settings are those of the environment; logs are off unless `LOG_LEVEL` says so. */
export async function startServer(
  settings: Record<string, string | number | boolean> = {},
  parts: AppParts = {},
): Promise<TestServer> {
  const store = settings.STORE_URL === undefined ? await storeUnderTest() : {}
  const config = loadConfig({ env: { PORT: 0, LOG_LEVEL: 'silent', DRAIN_MS: 0, ...store, ...settings } })
  const app = await buildApp(config, parts)
  await app.listen({ host: config.HOST, port: config.PORT })
  const { port } = app.server.address() as AddressInfo
  return { url: `http://127.0.0.1:${port}`, port, app, close: () => app.close() }
}
