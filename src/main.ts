import closeWithGrace from 'close-with-grace'
import type { FastifyInstance } from 'fastify'
import { type AppParts, buildApp, VERSION } from './app.ts'
import type { Config } from './config.ts'
import { createLogger } from './logger.ts'

/** Past the drain: the last frames, the agents' disposal and the connections. */
const CLOSE_MARGIN_MS = 5_000

/**
 * Serves until a signal: then drains and exits with 0; a second signal exits at once.
 *
 * This is `suricate serve`, for a program that has settings and agents of its own. Resolves once the server listens.
 */
export async function serve(config: Config, parts: Omit<AppParts, 'logger'> = {}): Promise<FastifyInstance> {
  const logger = createLogger(config)
  if (config.INSECURE_NO_AUTH && config.API_KEYS.length === 0) {
    logger.warn('authentication is off (--insecure-no-auth): whoever reaches this server can use it')
  }
  const app = await buildApp(config, { ...parts, logger })
  closeWithGrace({ delay: config.DRAIN_MS + CLOSE_MARGIN_MS, logger }, async ({ signal, err }) => {
    if (err !== undefined) logger.fatal({ err }, 'closing after an unexpected error')
    else logger.info({ signal }, 'closing: no new work; running turns may finish')
    // While the server still listens: readiness answers 503, and streams are followed to their end.
    await app.sessions.close({ drainMs: config.DRAIN_MS })
    await app.close()
    logger.info('closed')
  })
  await app.listen({
    host: config.HOST,
    port: config.PORT,
    listenTextResolver: (address) => `Suricate ${VERSION} listens on ${address}, playground at ${address}/playground`,
  })
  return app
}
