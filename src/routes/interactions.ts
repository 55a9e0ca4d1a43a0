import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { type Static, Type } from '@sinclair/typebox'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { count } from '../core/count.ts'
import { onceBegun } from '../core/errors.ts'
import { fromHeader, lastEventId } from './cursor.ts'
import { eventStream, header, json, SessionParams } from './schemas.ts'
import { StartHeaders, StartQuery, startMode, varyByAccept } from './start.ts'

const InjectInteraction = Type.Object(
  {
    body: Type.Unknown({ description: 'Text, or any JSON, which the agent sees as text' }),
    source: Type.Optional(
      Type.String({
        minLength: 1,
        maxLength: 128,
        description: 'Who it comes from, as the agent is told; webhook is the default',
      }),
    ),
  },
  { $id: 'InjectInteraction', description: 'An event from outside', additionalProperties: false },
)

const Queued = Type.Object(
  {
    interaction_id: Type.String({ format: 'uuid', description: 'Its events tell what becomes of it' }),
    queued: Type.Literal(true, { description: 'It waits for a turn' }),
  },
  { title: 'InteractionQueued', description: 'It is in the inbox' },
)

const secret = Type.Optional(
  Type.String({ description: 'One of WEBHOOK_SECRETS, where those are set; then no key is' }),
)
const key = Type.Optional({
  ...StartHeaders.properties['idempotency-key'],
  description: 'The same key with the same body attaches to the interaction that the first request made',
})
const InjectHeaders = Type.Object({ 'idempotency-key': key, 'x-webhook-secret': secret })
const InjectStreamHeaders = Type.Object({
  'idempotency-key': key,
  'last-event-id': Type.Optional(count('With Idempotency-Key: resume that interaction after this event')),
  'x-webhook-secret': secret,
})
const InjectQuery = Type.Pick(StartQuery, ['heartbeat'], { additionalProperties: false })

const injectedStream = eventStream({
  Location: header('InteractionLocation', 'The events of the interaction: GET follows them again'),
  'Content-Location': header('InteractionContentLocation', 'The same'),
})

const injectProblems = [
  'SESSION_NOT_FOUND',
  'IDEMPOTENCY_KEY_REUSED',
  'INBOX_CLOSED',
  'INBOX_FULL',
  'SHUTTING_DOWN',
  'INTERACTION_NOT_FOUND',
  'RATE_LIMITED',
] as const

/** What comes into a session's inbox from outside. */
export const interactionRoutes: FastifyPluginAsyncTypebox = async (app) => {
  app.addSchema(InjectInteraction)

  const inject = async (request: FastifyRequest, reply: FastifyReply, twin: boolean) => {
    const body = request.body as Static<typeof InjectInteraction>
    const { session_id } = request.params as Static<typeof SessionParams>
    const { stream, options } = startMode(app, request, body, twin)
    const handle = await app.sessions.inject(session_id, body, { ...options, subscribe: stream })
    const { interactionId } = handle
    if (!stream) return reply.code(202).send({ interaction_id: interactionId, queued: true })
    const after = lastEventId(request.headers)
    const events = await onceBegun(
      fromHeader(async () => app.sessions.streamInteraction(session_id, interactionId, { after })),
    )
    const url = `${app.prefix}/sessions/${session_id}/interactions/${interactionId}/events`
    reply.headers({ location: url, 'content-location': url })
    if (events === undefined) return reply.code(204).send()
    const { heartbeat = 'comment' } = request.query as Static<typeof InjectQuery>
    reply.stream(events, { heartbeat })
    return reply
  }

  app.post(
    '/sessions/:session_id/interactions',
    {
      schema: {
        operationId: 'injectInteraction',
        tags: ['interactions'],
        summary: "Push an external event into the session's inbox",
        description:
          'A turn takes it: the one that runs, between two model calls, or the next. With `Accept: text/event-stream` it answers as injectInteractionStream does.',
        params: SessionParams,
        headers: InjectHeaders,
        querystring: InjectQuery,
        body: Type.Ref('InjectInteraction'),
        response: { 202: json(Queued, 'It waits in the inbox') },
      },
      config: { problems: injectProblems, webhook: true },
    },
    async (request, reply) => inject(request, varyByAccept(reply), false),
  )

  app.post(
    '/sessions/:session_id/interactions/stream',
    {
      schema: {
        operationId: 'injectInteractionStream',
        tags: ['interactions'],
        summary: 'The same, and stream the events of the run that handles it',
        description:
          'From interaction_started to interaction_complete or interaction_failed. In host mode it gets a run of its own.',
        params: SessionParams,
        headers: InjectStreamHeaders,
        querystring: InjectQuery,
        body: Type.Ref('InjectInteraction'),
        response: injectedStream,
      },
      config: { problems: injectProblems, webhook: true },
    },
    async (request, reply) => inject(request, reply, true),
  )
}
