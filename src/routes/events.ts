import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { type Static, type TObject, Type } from '@sinclair/typebox'
import type { FastifyContextConfig, FastifyReply } from 'fastify'
import { count } from '../core/count.ts'
import { CapabilityUnavailableError } from '../core/errors.ts'
import type { EventStream } from '../core/event-stream.ts'
import type { Awaitable } from '../core/session-service.ts'
import { fromHeader } from './cursor.ts'
import { eventStream, InteractionParams, SessionParams, TurnParams } from './schemas.ts'
import { unavailable } from './unavailable.ts'

const StreamHeaders = Type.Object({
  'last-event-id': Type.Optional(count('Continue after this event; wins over the query; an empty one is none')),
})

const StreamQuery = Type.Object(
  {
    after: Type.Optional(count('Continue after this event; 0 replays all that is retained')),
    lastEventId: Type.Optional(count('The same, as clients add it that cannot set headers; wins over `after`')),
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

const STREAM_HEADERS = {
  'content-type': 'text/event-stream',
  'cache-control': 'no-cache, no-transform',
  'x-accel-buffering': 'no',
}

interface StreamRoute<P extends TObject> {
  url: string
  operationId: string
  summary: string
  description: string
  params: P
  problems: NonNullable<FastifyContextConfig['problems']>
  find(params: Static<P>, after: number | undefined): Awaitable<EventStream | undefined>
}

export const eventRoutes: FastifyPluginAsyncTypebox = async (app) => {
  /** The events that a GET asks for; a HEAD is judged alike, and starts nothing. */
  const route = <P extends TObject>({ url, params, problems, find, ...documented }: StreamRoute<P>) => {
    const input = { params, headers: StreamHeaders, querystring: StreamQuery }

    /** What there is to follow. Nothing, when the reader has seen the end. */
    const open = async (request: { params: unknown; query: unknown; headers: object }) => {
      const { after, lastEventId, access_token } = request.query as Static<typeof StreamQuery>
      if (access_token !== undefined) {
        throw new CapabilityUnavailableError('access_token', unavailable.stream_tokens, '/access_token')
      }
      const header = (request.headers as Static<typeof StreamHeaders>)['last-event-id']
      const given = request.params as Static<P>
      const events = await (header === undefined
        ? find(given, lastEventId ?? after)
        : fromHeader(() => find(given, header)))
      if (events !== undefined) app.refuseExcessStreams()
      return events
    }
    // 204 is what stops an EventSource.
    const nothingMore = (reply: FastifyReply) => reply.code(204).send()

    app.get(
      url,
      {
        exposeHeadRoute: false,
        schema: { ...documented, tags: ['streams'], ...input, response: eventStream() },
        config: { problems },
      },
      async (request, reply) => {
        let events: EventStream | undefined
        try {
          events = await open(request)
        } catch (error) {
          if (!PASSING.has((error as { code?: string }).code ?? '')) throw error
          reply.retryLater()
          return reply
        }
        if (events === undefined) return nothingMore(reply)
        reply.stream(events, { heartbeat: (request.query as Static<typeof StreamQuery>).heartbeat ?? 'comment' })
        return reply
      },
    )

    app.head(url, { schema: { hide: true, ...input } }, async (request, reply) => {
      const events = await open(request)
      events?.close()
      return events === undefined ? nothingMore(reply) : reply.headers(STREAM_HEADERS).send()
    })
  }

  route({
    url: '/sessions/:session_id/events',
    operationId: 'streamSessionEvents',
    summary: 'Follow a session across turns',
    description:
      'Begins with session_loaded. Without a cursor it starts with the running turn, or else with the next event; it ends with done when the session is archived. 204 when a cursor says that all of it was seen.',
    params: SessionParams,
    problems: ['SESSION_NOT_FOUND', 'CAPABILITY_UNAVAILABLE'],
    find: ({ session_id }, after) => app.sessions.streamSession(session_id, { after }),
  })

  route({
    url: '/sessions/:session_id/turns/:turn/events',
    operationId: 'streamTurnEvents',
    summary: 'Replay and follow one turn',
    description: "Ends after the turn's terminal event. 204 when a cursor says that it was seen.",
    params: TurnParams,
    problems: ['SESSION_NOT_FOUND', 'TURN_NOT_FOUND', 'CAPABILITY_UNAVAILABLE'],
    find: ({ session_id, turn }, after) => app.sessions.streamTurn(session_id, turn, { after }),
  })

  route({
    url: '/sessions/:session_id/interactions/:interaction_id/events',
    operationId: 'streamInteractionEvents',
    summary: 'Replay and follow one interaction',
    description:
      'From interaction_started to interaction_complete or interaction_failed. 204 when a cursor says that the end was seen.',
    params: InteractionParams,
    problems: ['SESSION_NOT_FOUND', 'INTERACTION_NOT_FOUND', 'CAPABILITY_UNAVAILABLE'],
    find: ({ session_id, interaction_id }, after) =>
      app.sessions.streamInteraction(session_id, interaction_id, { after }),
  })
}
