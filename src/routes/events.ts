import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { type Static, Type } from '@sinclair/typebox'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { CapabilityUnavailableError } from '../core/errors.ts'
import type { EventStream } from '../core/event-stream.ts'
import type { Awaitable } from '../core/session-service.ts'
import { fromHeader } from './cursor.ts'
import { eventStream, InteractionParams, SessionParams, TurnParams } from './schemas.ts'
import { unavailable } from './unavailable.ts'

const StreamHeaders = Type.Object({
  'last-event-id': Type.Optional(
    Type.Integer({ minimum: 0, description: 'Continue after this event; wins over `after`' }),
  ),
})

const StreamQuery = Type.Object(
  {
    after: Type.Optional(
      Type.Integer({ minimum: 0, description: 'Continue after this event; 0 replays all that is retained' }),
    ),
    heartbeat: Type.Optional(
      Type.Unsafe<'event'>({
        type: 'string',
        enum: ['event'],
        description: 'Send an event instead of a comment on a quiet stream',
      }),
    ),
    access_token: Type.Optional(Type.String({ description: `Not available: ${unavailable.stream_tokens}` })),
  },
  { additionalProperties: false },
)

/** Refusals that pass: an `EventSource` gives up for good after a status, and comes back after a stream that breaks. */
const PASSING = new Set(['SHUTTING_DOWN', 'STORE_UNAVAILABLE', 'RATE_LIMITED'])

type StreamRequest = FastifyRequest<{ Querystring: Static<typeof StreamQuery> }>

export const eventRoutes: FastifyPluginAsyncTypebox = async (app) => {
  const follow = async (
    request: StreamRequest,
    reply: FastifyReply,
    find: (after?: number) => Awaitable<EventStream | undefined>,
  ) => {
    const { after, heartbeat = 'comment', access_token } = request.query
    if (access_token !== undefined) {
      throw new CapabilityUnavailableError('access_token', unavailable.stream_tokens, '/access_token')
    }
    const lastEventId = (request.headers as Static<typeof StreamHeaders>)['last-event-id']
    let events: EventStream | undefined
    try {
      events = await (lastEventId === undefined ? find(after) : fromHeader(() => find(lastEventId)))
      if (events !== undefined) app.refuseExcessStreams()
    } catch (error) {
      if (!PASSING.has((error as { code?: string }).code ?? '')) throw error
      reply.retryLater()
      return reply
    }
    // The reader has seen the end: 204 is what stops an EventSource.
    if (events === undefined) return reply.code(204).send()
    reply.stream(events, { heartbeat })
    return reply
  }

  /** Says what a GET would say, and starts nothing. */
  const headOf = (reply: FastifyReply) =>
    reply
      .headers({
        'content-type': 'text/event-stream',
        'cache-control': 'no-cache, no-transform',
        'x-accel-buffering': 'no',
      })
      .send()

  app.get(
    '/sessions/:session_id/events',
    {
      exposeHeadRoute: false,
      schema: {
        operationId: 'streamSessionEvents',
        tags: ['streams'],
        summary: 'Follow a session across turns',
        description:
          'Begins with session_loaded. Without a cursor it starts with the running turn, or else with the next event; it ends with done when the session is archived. 204 when a cursor says that all of it was seen.',
        params: SessionParams,
        headers: StreamHeaders,
        querystring: StreamQuery,
        response: { 200: eventStream },
      },
      config: { problems: ['SESSION_NOT_FOUND', 'CAPABILITY_UNAVAILABLE'] },
    },
    async (request, reply) => {
      const { session_id } = request.params
      return follow(request, reply, (after) => app.sessions.streamSession(session_id, { after }))
    },
  )

  app.get(
    '/sessions/:session_id/turns/:turn/events',
    {
      exposeHeadRoute: false,
      schema: {
        operationId: 'streamTurnEvents',
        tags: ['streams'],
        summary: 'Replay and follow one turn',
        description: "Ends after the turn's terminal event. 204 when a cursor says that it was seen.",
        params: TurnParams,
        headers: StreamHeaders,
        querystring: StreamQuery,
        response: { 200: eventStream },
      },
      config: { problems: ['SESSION_NOT_FOUND', 'TURN_NOT_FOUND', 'CAPABILITY_UNAVAILABLE'] },
    },
    async (request, reply) => {
      const { session_id, turn } = request.params
      return follow(request, reply, (after) => app.sessions.streamTurn(session_id, turn, { after }))
    },
  )

  app.get(
    '/sessions/:session_id/interactions/:interaction_id/events',
    {
      exposeHeadRoute: false,
      schema: {
        operationId: 'streamInteractionEvents',
        tags: ['streams'],
        summary: 'Replay and follow one interaction',
        description:
          'From interaction_started to interaction_complete or interaction_failed. 204 when a cursor says that the end was seen.',
        params: InteractionParams,
        headers: StreamHeaders,
        querystring: StreamQuery,
        response: { 200: eventStream },
      },
      config: { problems: ['SESSION_NOT_FOUND', 'INTERACTION_NOT_FOUND', 'CAPABILITY_UNAVAILABLE'] },
    },
    async (request, reply) => {
      const { session_id, interaction_id } = request.params
      return follow(request, reply, (after) => app.sessions.streamInteraction(session_id, interaction_id, { after }))
    },
  )

  app.head(
    '/sessions/:session_id/events',
    { schema: { hide: true, params: SessionParams } },
    async ({ params }, reply) => {
      await app.sessions.read(params.session_id)
      return headOf(reply)
    },
  )

  app.head(
    '/sessions/:session_id/turns/:turn/events',
    { schema: { hide: true, params: TurnParams } },
    async ({ params }, reply) => {
      await app.sessions.turn(params.session_id, params.turn)
      return headOf(reply)
    },
  )

  app.head(
    '/sessions/:session_id/interactions/:interaction_id/events',
    { schema: { hide: true, params: InteractionParams } },
    async ({ params }, reply) => {
      const events = await app.sessions.streamInteraction(params.session_id, params.interaction_id)
      events?.close()
      return headOf(reply)
    },
  )
}
