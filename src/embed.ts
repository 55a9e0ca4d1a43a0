import type { FastifyPluginAsync } from 'fastify'
import { connections } from './plugins/connections.ts'
import { jsonAnswers } from './plugins/json-answers.ts'
import { problems } from './plugins/problems.ts'
import { requestInput } from './plugins/request-input.ts'
import { type SessionsOptions, sessions } from './plugins/sessions.ts'
import { type SseOptions, sse } from './plugins/sse.ts'
import { faultLog } from './plugins/turn-log.ts'
import { registerSessionRoutes } from './routes/index.ts'
import type { TranscriptRoutesOptions } from './routes/transcripts.ts'

/**
 * Limits have the defaults of the settings of those names; `logs` (true) writes a line when a stream ends. Without an
 * `observer`, what an agent fails of unexpectedly is logged.
 */
export interface SuricateOptions extends SessionsOptions, Partial<SseOptions & TranscriptRoutesOptions> {}

/**
 * The session API as a plugin for an existing application: `app.register(suricate, { prefix: '/agents-api' })`.
 *
 * It brings sessions, streams and problem details, and leaves authentication, CORS, logging and metrics to the
 * application. Everything it registers, error handler included, stays within its prefix.
 */
export const suricate: FastifyPluginAsync<SuricateOptions> = async (app, options) => {
  await app.register(problems)
  await app.register(connections)
  await app.register(jsonAnswers)
  await app.register(requestInput)
  await app.register(sessions, { ...options, observer: options.observer ?? faultLog(app.log) })
  await app.register(sse, {
    // Fastify's own lines do not say how a stream ended.
    logs: options.logs ?? true,
    heartbeatMs: options.heartbeatMs ?? 5_000,
    stallMs: options.stallMs ?? 60_000,
    maxStreams: options.maxStreams ?? 20_000,
  })
  await registerSessionRoutes(app, { uploadLimit: options.uploadLimit ?? 32 * 1024 * 1024 })
}
