import type { FastifyInstance } from 'fastify'
import { type AppParts, buildApp } from './app.ts'
import { closeAtSignal } from './closing.ts'
import type { Config } from './config.ts'
import { LogOutput } from './log-output.ts'
import { createLogger } from './logger.ts'
import { VERSION } from './version.ts'

/** Past the drain: the last frames, the agents' disposal and the connections. */
const CLOSE_MARGIN_MS = 4_500
/** npm passes on a signal that the terminal has sent to the server as well. */
const NPM_REPEATS_MS = 1_000
/** For a reader of the log that is slow, at the end. */
const LOG_FLUSH_MS = 500

/**
 * Serves until a signal: then drains and exits with 0; a second signal exits at once.
 *
 * This is `suricate serve`, for a program that has settings and agents of its own. Resolves once the server listens.
 */
export async function serve(config: Config, parts: Omit<AppParts, 'logger'> = {}): Promise<FastifyInstance> {
  const output = new LogOutput((lines) =>
    logger.warn({ lines }, 'log lines were dropped: what reads the log is too slow'),
  )
  const logger = await createLogger(config, output)
  if (config.INSECURE_NO_AUTH && config.API_KEYS.length === 0) {
    logger.warn('authentication is off (--insecure-no-auth): whoever reaches this server can use it')
  }
  const app = await buildApp(config, { ...parts, logger })
  const repeatMs = config.environment.npm_lifecycle_event === 'start' ? NPM_REPEATS_MS : 0
  closeAtSignal({ logger, withinMs: config.DRAIN_MS + CLOSE_MARGIN_MS, repeatMs }, async () => {
    // While the server still listens: readiness answers 503, and streams are followed to their end.
    await app.sessions.close({ drainMs: config.DRAIN_MS })
    await app.close()
    logger.info('closed')
    await output.flushed(LOG_FLUSH_MS)
  })
  await app.listen({
    host: config.HOST,
    port: config.PORT,
    listenTextResolver: (address) => `Suricate ${VERSION} listens on ${address}, playground at ${address}/playground`,
  })
  return app
}
