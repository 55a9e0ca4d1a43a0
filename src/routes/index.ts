import type { FastifyInstance } from 'fastify'
import { approvalRoutes } from './approvals.ts'
import { commsRoutes } from './comms.ts'
import { eventRoutes } from './events.ts'
import { interactionRoutes } from './interactions.ts'
import { notAvailableRoutes } from './not-available.ts'
import { type PlaygroundOptions, playgroundRoutes } from './playground.ts'
import { addSharedSchemas } from './schemas.ts'
import { type ServerRoutesOptions, serverRoutes } from './server.ts'
import { sessionRoutes } from './sessions.ts'
import { skillRoutes } from './skills.ts'
import { type TranscriptRoutesOptions, transcriptRoutes } from './transcripts.ts'
import { turnRoutes } from './turns.ts'
import { usageRoutes } from './usage.ts'

/** The session API alone: what an application embeds. */
export async function registerSessionRoutes(app: FastifyInstance, options: TranscriptRoutesOptions): Promise<void> {
  addSharedSchemas(app)
  await app.register(sessionRoutes)
  await app.register(turnRoutes)
  await app.register(eventRoutes)
  await app.register(transcriptRoutes, options)
  await app.register(interactionRoutes)
  await app.register(commsRoutes)
  await app.register(approvalRoutes)
  await app.register(skillRoutes)
  await app.register(notAvailableRoutes)
}

/** Every route of the server. */
export async function registerRoutes(
  app: FastifyInstance,
  { version, playground, ...options }: ServerRoutesOptions & PlaygroundOptions & TranscriptRoutesOptions,
): Promise<void> {
  await registerSessionRoutes(app, options)
  await app.register(serverRoutes, { version })
  await app.register(usageRoutes)
  await app.register(playgroundRoutes, { playground })
}
