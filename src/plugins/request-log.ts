import { randomUUID } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import { methodOf } from './unroutable.ts'

/** What a caller may call a request: printable, and short enough for a log line. */
const REQUEST_ID = /^[\x21-\x7e]{1,128}$/

/** The caller's `x-request-id`, or a new one. */
export function requestIdOf(request: IncomingMessage): string {
  const given = request.headers['x-request-id']
  return typeof given === 'string' && REQUEST_ID.test(given) ? given : randomUUID()
}

/** What a log line says of a request. No header, no body and no query: they may hold secrets. */
export function requestFields(request: FastifyRequest, reply: FastifyReply): Record<string, unknown> {
  const { session_id, turn } = (request.params ?? {}) as { session_id?: string; turn?: number }
  return {
    method: methodOf(request.raw),
    path: request.originalUrl.split('?', 1)[0],
    ...(session_id === undefined ? {} : { session_id }),
    ...(turn === undefined ? {} : { turn }),
    ...(request.keyName === undefined ? {} : { key: request.keyName }),
    status: reply.statusCode,
    duration_ms: Math.round(reply.elapsedTime * 10) / 10,
  }
}

/** Echoes the request id and writes one line a request; streams write theirs when they close. */
export const requestLog = fp(
  async (app: FastifyInstance, { enabled }: { enabled: boolean }) => {
    app.addHook('onRequest', (request, reply, done) => {
      reply.header('x-request-id', request.id)
      reply.header('x-content-type-options', 'nosniff')
      done()
    })
    // Its hook costs something even where nothing is written.
    if (!enabled) return
    app.addHook('onResponse', (request, reply, done) => {
      // A stream's end is seen here only when nobody broke it off; `plugins/sse.ts` sees them all.
      if (!reply.isStream) request.log.info(requestFields(request, reply), 'request')
      done()
    })
  },
  { name: 'request-log' },
)
