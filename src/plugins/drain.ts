import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'

/** Sockets that are still busy this long after the last turn and stream are over get cut. */
const LAST_ANSWERS_MS = 500
const LOOK_MS = 20

/**
 * Closes what is left of the connections once turns and streams are over. The framework alone would either wait for
 * every keep-alive socket to time out or cut answers that are under way.
 */
export const drain = fp(
  async (app: FastifyInstance) => {
    let timer: NodeJS.Timeout | undefined
    app.addHook('preClose', async () => {
      const deadline = performance.now() + LAST_ANSWERS_MS
      timer = setInterval(() => {
        app.server.closeIdleConnections()
        if (performance.now() > deadline) app.server.closeAllConnections()
      }, LOOK_MS)
    })
    app.addHook('onClose', async () => clearInterval(timer))
  },
  { name: 'drain', dependencies: ['sessions', 'sse'] },
)
