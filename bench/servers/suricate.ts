/** Suricate as it is built, with the bench agent beside its own, its limits raised, and its log off unless asked for. */
import type { AddressInfo } from 'node:net'
import type { buildApp } from '../../src/app.ts'
import type { loadConfig } from '../../src/config.ts'
import type { createLogger } from '../../src/logger.ts'
import bench, { running } from '../agent.ts'
import { serve } from '../control.ts'

const [dist = '', settings = '{}'] = process.argv.slice(2)
const app: { buildApp: typeof buildApp } = await import(`${dist}/app.js`)
const config: { loadConfig: typeof loadConfig } = await import(`${dist}/config.js`)
const logger: { createLogger: typeof createLogger } = await import(`${dist}/logger.js`)

const given = JSON.parse(settings) as Record<string, string>
const settled = config.loadConfig({
  env: {
    LOG_LEVEL: 'silent',
    MAX_SESSIONS: '50000',
    MAX_ACTIVE_TURNS: '2000',
    MAX_STREAMS: '20000',
    ...given,
  },
})
const logs = settled.LOG_LEVEL !== 'silent'
const server = await app.buildApp(settled, {
  agents: [bench],
  ...(logs ? { logger: await logger.createLogger(settled) } : {}),
})

await server.listen({ port: 0, host: '127.0.0.1' })
serve((server.server.address() as AddressInfo).port, () => running.count)
