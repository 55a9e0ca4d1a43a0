import { type Static, type TProperties, type TSchema, Type } from '@sinclair/typebox'
import type { FastifyInstance } from 'fastify'
import { count } from '../core/count.ts'
import { AgentEvent, eventSchemas } from '../core/events.ts'
import {
  type RunResult,
  RunResult as RunResultSchema,
  SessionInfo,
  SessionSummary,
  SessionUsage,
  SessionView,
  TurnStatus,
  type TurnView,
} from '../core/session-service.ts'
import { isListed } from '../core/session-views.ts'
import { time, timeOf } from '../core/time.ts'
import { Block, ExportedSession, Message, SessionMetadata, ToolResult } from '../core/transcript.ts'
import { Usage } from '../core/usage.ts'
import { Uuid } from '../core/uuid.ts'

const text = (description: string) => Type.String({ description })

export const SessionId = Type.String({ format: 'uuid', description: 'The session' })
export const SessionParams = Type.Object({ session_id: Uuid('The session') })
export const TurnParams = Type.Object({
  session_id: Uuid('The session'),
  turn: count('Number of the turn in its session', { minimum: 1 }),
})

export const InteractionParams = Type.Object({
  session_id: Uuid('The session'),
  interaction_id: Uuid('The interaction, as it was answered when it came'),
})

export const PageQuery = Type.Object(
  {
    limit: count('How many at most', { maximum: 1000, default: 100 }),
    offset: count('How many to skip', { default: 0 }),
  },
  { additionalProperties: false },
)

/** A page of a list, called `title` in the OpenAPI document, as a route's answer. */
export function pageOf(title: string, member: string, item: TSchema, description: string, more: TProperties = {}) {
  const properties = {
    [member]: Type.Array(item, { description: 'Those of this page' }),
    total: count('How many there are on all pages'),
    limit: count('As asked for'),
    offset: count('As asked for'),
    ...more,
  }
  return json(Type.Object(properties, { title, description }), description)
}

export const PromptSchema = Type.String({ pattern: '\\S', description: 'What is said to the agent; not blank' })

export const SkillReferences = Type.Optional(
  Type.Array(Type.String({ minLength: 1, maxLength: 256 }), {
    maxItems: 32,
    description: 'Skills to put before the prompt, by their ids in GET /skills',
  }),
)
export const HostMode = Type.Optional(
  Type.Boolean({
    description:
      'The turn goes on with what comes into the inbox; it is answered at once, as with Prefer: respond-async',
  }),
)

/** Of a turn in a list the text may be missing. */
const TurnResult = Type.Object(
  { ...RunResultSchema.properties, text: Type.Optional(RunResultSchema.properties.text) },
  {
    $id: 'TurnResult',
    additionalProperties: false,
    description: 'What a turn came to; `text` is there unless truncated',
  },
)

/** Wire form of a turn. */
export const Turn = Type.Object(
  {
    session_id: SessionId,
    turn: count('Its number in the session', { minimum: 1 }),
    status: TurnStatus,
    prompt: text('What the agent was told'),
    created_at: time('When it was asked for'),
    started_at: Type.Optional(time('When it began to run')),
    ended_at: Type.Optional(time('When it was over')),
    result: Type.Optional(Type.Ref('TurnResult')),
    truncated: Type.Optional(
      Type.Literal(true, {
        description: 'In a list: the text of the result, over 4 KiB, is left out; readTurn has it',
      }),
    ),
    error: Type.Optional(Type.Ref('Problem')),
  },
  { $id: 'Turn', additionalProperties: false, description: 'One run of the agent' },
)
export type Turn = Omit<Static<typeof Turn>, 'result' | 'error'> & {
  result?: Omit<RunResult, 'text'> & { text?: string }
  error?: object
}

export const header = (title: string, description: string) => Type.String({ title, description })
/** Headers of answers, by what they are called in the OpenAPI document. */
const locations = {
  session: { Location: header('SessionLocation', 'The session: GET reads it') },
  turn: { Location: header('TurnLocation', 'The turn: GET reads it, and `/events` below it follows it') },
}
const preference = {
  'Preference-Applied': header('PreferenceApplied', 'What of `Prefer` was heeded: respond-async, wait=N or both'),
}

/** What an answer has beside its body: where the thing is that was made, and what was heeded of `Prefer`. */
export interface AnswerHeaders {
  location?: keyof typeof locations
  preference?: boolean
}

/** A success in JSON, for a route's `response`. */
export function json(schema: TSchema, description: string, has: AnswerHeaders = {}) {
  const headers = {
    ...(has.location === undefined ? {} : locations[has.location]),
    ...(has.preference ? preference : {}),
  }
  return { description, headers, content: { 'application/json': { schema } } }
}

/**
 * A stream, described by the schema of one event's `data`: what generators of typed clients expect. Or nothing, where the
 * cursor says that the reader has seen the end. The 204 names the type of the stream that it ends: of one without a type
 * generators make every event `void | AgentEvent`.
 */
export function eventStream(headers: Record<string, TSchema> = {}) {
  const content = { 'text/event-stream': { schema: Type.Ref('AgentEvent') } }
  return {
    200: { description: 'Server-Sent Events; the schema is that of one event', headers, content },
    204: { description: 'No content: the cursor has seen the end, nothing will follow', headers, content },
  }
}
/** The same where the request started the turn. */
export function startedStream() {
  return eventStream({
    ...locations.turn,
    'Content-Location': header('TurnContentLocation', 'The turn whose events these are'),
  })
}

export function toTurn(view: TurnView, problemOf: (error: Error) => object): Turn {
  const turn: Turn = {
    session_id: view.sessionId,
    turn: view.turn,
    status: view.status,
    prompt: view.prompt,
    created_at: timeOf(view.createdAt),
  }
  if (view.startedAt !== undefined) turn.started_at = timeOf(view.startedAt)
  if (view.endedAt !== undefined) turn.ended_at = timeOf(view.endedAt)
  if (view.result !== undefined) turn.result = view.result
  if (view.error !== undefined) turn.error = problemOf(view.error)
  return turn
}

/** Without a long text: a list of turns is not their transcript. */
export function toListedTurn(view: TurnView, problemOf: (error: Error) => object): Turn {
  const turn = toTurn(view, problemOf)
  if (turn.result === undefined || isListed(turn.result.text ?? '')) return turn
  const { text: _, ...result } = turn.result
  return { ...turn, result, truncated: true }
}

/** Everything that other schemas, and the OpenAPI document, refer to by name. */
export function addSharedSchemas(app: FastifyInstance): void {
  const shared = [
    Usage,
    RunResultSchema,
    SessionSummary,
    SessionInfo,
    SessionUsage,
    SessionView,
    Block,
    ToolResult,
    Message,
    SessionMetadata,
    ExportedSession,
    Turn,
    TurnResult,
    ...eventSchemas,
    AgentEvent,
  ]
  for (const schema of shared) app.addSchema(schema)
}
