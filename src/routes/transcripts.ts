import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { type Static, Type } from '@sinclair/typebox'
import { count } from '../core/count.ts'
import { PAGE_BYTES } from '../core/page.ts'
import type { ExportedSession } from '../core/transcript.ts'
import { json, PageQuery, pageOf, SessionParams } from './schemas.ts'

const ForkSession = Type.Object(
  {
    turn: Type.Optional(count('The last turn to take along; by default the last committed one', { minimum: 1 })),
  },
  { $id: 'ForkSessionRequest', description: 'How much of a session to fork', additionalProperties: false },
)

const makingProblems = ['SESSION_CAPACITY_REACHED', 'SHUTTING_DOWN', 'AGENT_ERROR', 'CAPABILITY_UNAVAILABLE'] as const

export interface TranscriptRoutesOptions {
  /** Bytes of an imported session. */
  uploadLimit: number
}

export const transcriptRoutes: FastifyPluginAsyncTypebox<TranscriptRoutesOptions> = async (app, { uploadLimit }) => {
  app.addSchema(ForkSession)

  app.get(
    '/sessions/:session_id/messages',
    {
      schema: {
        operationId: 'listMessages',
        tags: ['transcripts'],
        summary: 'List the committed transcript, oldest first',
        description:
          'A turn that is in flight adds to it when it is over. A page ends early where it would have more than about 1 MiB.',
        params: SessionParams,
        querystring: PageQuery,
        response: {
          200: pageOf('MessagePage', 'messages', Type.Ref('Message'), 'A page of messages', {
            next: Type.Optional(count('The `offset` to go on with, where the page ended early')),
          }),
        },
      },
      config: { problems: ['SESSION_NOT_FOUND', 'SESSION_PERSISTENCE_DISABLED'] },
    },
    async ({ params, query }) => {
      const page = await app.sessions.messages(params.session_id, { ...query, maxBytes: PAGE_BYTES })
      const next = query.offset + page.messages.length
      const isCut = page.messages.length < query.limit && next < page.total
      return { ...page, ...query, ...(isCut ? { next } : {}) }
    },
  )

  app.get(
    '/sessions/:session_id/export',
    {
      schema: {
        operationId: 'exportSession',
        tags: ['transcripts'],
        summary: 'Export a session as last committed',
        description: 'What importSession takes, here or on another server.',
        params: SessionParams,
        response: { 200: json(Type.Ref('Session'), 'The whole session') },
      },
      config: { problems: ['SESSION_NOT_FOUND', 'SESSION_PERSISTENCE_DISABLED'] },
    },
    async ({ params }) => app.sessions.exportSession(params.session_id),
  )

  app.post(
    '/sessions/import',
    {
      bodyLimit: uploadLimit,
      schema: {
        operationId: 'importSession',
        tags: ['transcripts'],
        summary: 'Make a session from an exported one',
        description: 'It keeps its id and runs nothing.',
        body: Type.Ref('Session'),
        response: { 201: json(Type.Ref('SessionView'), 'Imported', { location: 'session' }) },
      },
      config: { problems: ['SESSION_EXISTS', ...makingProblems] },
    },
    async ({ body }, reply) => {
      const view = await app.sessions.importSession(body as ExportedSession)
      return reply.code(201).header('location', `${app.prefix}/sessions/${view.state.session_id}`).send(view)
    },
  )

  app.post(
    '/sessions/:session_id/fork',
    {
      schema: {
        operationId: 'forkSession',
        tags: ['transcripts'],
        summary: 'Make a new session from the transcript of this one',
        description: 'It has the same agent and options, an id of its own, and runs nothing.',
        params: SessionParams,
        body: Type.Ref('ForkSessionRequest'),
        response: { 201: json(Type.Ref('SessionView'), 'The new session', { location: 'session' }) },
      },
      config: {
        problems: ['SESSION_NOT_FOUND', 'TURN_NOT_FOUND', 'SESSION_BUSY', ...makingProblems],
        optionalBody: true,
      },
    },
    async ({ params, body }, reply) => {
      const view = await app.sessions.fork(params.session_id, (body as Static<typeof ForkSession>).turn)
      return reply.code(201).header('location', `${app.prefix}/sessions/${view.state.session_id}`).send(view)
    },
  )
}
