import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { type Static, Type } from '@sinclair/typebox'
import type { CreateSessionRequest } from '../core/session-service.ts'
import {
  BudgetLimits,
  HooksOverride,
  labelKeys,
  MaxTokens,
  PeerMeta,
  StructuredOutputRetries,
} from '../core/transcript.ts'
import {
  HostMode,
  json,
  PageQuery,
  PromptSchema,
  pageOf,
  SessionId,
  SessionParams,
  SkillReferences,
  startedStream,
} from './schemas.ts'
import {
  answer,
  refuseDeferredStream,
  StartHeaders,
  StartQuery,
  StartStreamHeaders,
  startMode,
  startProblems,
  varyByAccept,
} from './start.ts'
import { refuseMissingModel } from './unavailable.ts'

const MAX_LABELS = 64

const CreateSession = Type.Object(
  {
    prompt: Type.Optional(PromptSchema),
    agent: Type.Optional(Type.String({ minLength: 1, maxLength: 128, description: 'One of GET /agents' })),
    model: Type.Optional(Type.String({ minLength: 1, maxLength: 256, description: 'provider/name' })),
    system_prompt: Type.Optional(Type.String({ description: "Replaces the agent's own" })),
    max_tokens: Type.Optional(MaxTokens),
    labels: Type.Optional(
      Type.Record(Type.String(), Type.String({ maxLength: 1024 }), {
        propertyNames: labelKeys,
        maxProperties: MAX_LABELS,
        description: "Free key-value pairs of the session's owner",
      }),
    ),
    initial_turn: Type.Optional(
      Type.Unsafe<'run' | 'deferred'>({
        type: 'string',
        enum: ['run', 'deferred'],
        description: 'run (the default), or deferred: an idle session that has run nothing, whatever the prompt',
      }),
    ),
    provider: Type.Optional(Type.String({ minLength: 1, maxLength: 64, description: "The model's provider" })),
    provider_params: Type.Optional(Type.Record(Type.String(), Type.Unknown(), { description: 'Handed to the agent' })),
    skill_references: SkillReferences,
    output_schema: Type.Optional(
      Type.Record(Type.String(), Type.Unknown(), { description: 'JSON Schema that the answer has to fit' }),
    ),
    structured_output_retries: Type.Optional(StructuredOutputRetries),
    budget_limits: Type.Optional(BudgetLimits),
    preload_skills: Type.Optional(
      Type.Array(Type.String({ minLength: 1, maxLength: 256 }), {
        maxItems: 32,
        description: 'Skills that become part of the system prompt',
      }),
    ),
    hooks_override: Type.Optional(HooksOverride),
    host_mode: HostMode,
    comms_name: Type.Optional(
      Type.String({
        minLength: 1,
        maxLength: 128,
        description: 'Its name among its peers, which no other live session may have; required with host_mode',
      }),
    ),
    peer_meta: Type.Optional(PeerMeta),
  },
  { $id: 'CreateSessionRequest', description: 'A new session, and its first turn', additionalProperties: false },
)

const ListQuery = Type.Object(
  {
    ...PageQuery.properties,
    label: Type.Array(Type.String({ pattern: '^[^=]+=' }), {
      default: [],
      description: 'key=value; repeat it, all must match',
    }),
    active: Type.Optional(Type.Boolean({ description: 'Only sessions that do, or do not, run a turn' })),
  },
  { additionalProperties: false },
)

export const sessionRoutes: FastifyPluginAsyncTypebox = async (app) => {
  app.addSchema(CreateSession)

  const create = async (
    request: Parameters<typeof startMode>[1],
    reply: Parameters<typeof answer>[2],
    twin: boolean,
  ) => {
    const body = request.body as Static<typeof CreateSession>
    refuseMissingModel(body.agent, app.agents.builders)
    const { stream, options } = startMode(app, request, body, twin)
    refuseDeferredStream(stream, body.initial_turn)
    const handle = await app.sessions.createSession(body as CreateSessionRequest, options)
    return answer(app, request, reply, handle, { stream, created: true, isHost: body.host_mode })
  }

  app.post(
    '/sessions',
    {
      schema: {
        operationId: 'createSession',
        tags: ['sessions'],
        summary: 'Create a session and run its first turn',
        description: 'With `Accept: text/event-stream` it answers as createSessionStream does.',
        headers: StartHeaders,
        querystring: StartQuery,
        body: Type.Ref('CreateSessionRequest'),
        response: {
          201: json(Type.Ref('RunResult'), 'The first turn is over', { location: 'session', preference: true }),
          202: json(
            Type.Ref('Turn'),
            'The first turn is running (Prefer: respond-async, host_mode, or wait=N ran out)',
            {
              location: 'turn',
              preference: true,
            },
          ),
        },
      },
      config: { problems: startProblems },
    },
    async (request, reply) => create(request, varyByAccept(reply), false),
  )

  app.post(
    '/sessions/stream',
    {
      schema: {
        operationId: 'createSessionStream',
        tags: ['sessions'],
        summary: 'Create a session and stream its first turn',
        description:
          'The turn goes on when the client leaves, unless `on_disconnect` says otherwise; its events can be followed again.',
        headers: StartStreamHeaders,
        querystring: StartQuery,
        body: Type.Ref('CreateSessionRequest'),
        response: startedStream(),
      },
      config: { problems: startProblems },
    },
    async (request, reply) => create(request, reply, true),
  )

  app.get(
    '/sessions',
    {
      schema: {
        operationId: 'listSessions',
        tags: ['sessions'],
        summary: 'List sessions, oldest first',
        description: 'Sessions that are not archived, in the order in which they were made.',
        querystring: ListQuery,
        response: {
          200: pageOf('SessionPage', 'sessions', Type.Ref('SessionSummary'), 'A page of sessions'),
        },
      },
    },
    async ({ query: { limit, offset, label, active } }) => {
      const filter = active === undefined ? {} : { active }
      return { ...(await app.sessions.list({ limit, offset, labels: label.map(toPair), ...filter })), limit, offset }
    },
  )

  app.get(
    '/sessions/:session_id',
    {
      schema: {
        operationId: 'readSession',
        tags: ['sessions'],
        summary: "Read a session's state and usage",
        description: 'Answers at once, during a turn too.',
        params: SessionParams,
        response: { 200: json(Type.Ref('SessionView'), 'As last committed; is_active is live') },
      },
      config: { problems: ['SESSION_NOT_FOUND'] },
    },
    async ({ params }) => app.sessions.read(params.session_id),
  )

  app.delete(
    '/sessions/:session_id',
    {
      schema: {
        operationId: 'archiveSession',
        tags: ['sessions'],
        summary: 'Archive a session',
        description:
          'It is hidden at once, and turns in line end as interrupted. A running turn finishes, and its caller gets the result.',
        params: SessionParams,
        querystring: Type.Object(
          {
            mode: Type.Optional(
              Type.Unsafe<'drain' | 'cancel'>({
                type: 'string',
                enum: ['drain', 'cancel'],
                description: 'cancel interrupts a running turn first, also of a session that was archived before',
              }),
            ),
          },
          { additionalProperties: false },
        ),
        response: {
          200: json(
            Type.Object(
              { session_id: SessionId, archived: Type.Literal(true, { description: 'It is' }) },
              { title: 'Archived', description: 'The session is archived' },
            ),
            'Archived',
          ),
        },
      },
      config: { problems: ['SESSION_NOT_FOUND'] },
    },
    async ({ params: { session_id }, query }) => {
      await app.sessions.archive(session_id, query.mode)
      return { session_id, archived: true as const }
    },
  )
}

/** `colour=blue` as key and value; the value may itself contain `=`. */
function toPair(label: string): [string, string] {
  const at = label.indexOf('=')
  return [label.slice(0, at), label.slice(at + 1)]
}
