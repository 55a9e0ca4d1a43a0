import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { type Static, Type } from '@sinclair/typebox'
import { count } from '../core/count.ts'
import { InvalidParamsError } from '../core/errors.ts'
import { PAGE_BYTES } from '../core/page.ts'
import type { StartTurnRequest } from '../core/session-service.ts'
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
  TurnParams,
  toListedTurn,
  toTurn,
} from './schemas.ts'
import {
  answer,
  StartHeaders,
  StartQuery,
  StartStreamHeaders,
  startMode,
  startProblems,
  varyByAccept,
} from './start.ts'

const StartTurn = Type.Object(
  {
    prompt: PromptSchema,
    on_busy: Type.Optional(
      Type.Unsafe<'reject' | 'enqueue' | 'interrupt'>({
        type: 'string',
        enum: ['reject', 'enqueue', 'interrupt'],
        description: 'While a turn is in flight: refuse (the default), wait in line, or end that turn and go next',
      }),
    ),
    skill_references: SkillReferences,
    host_mode: HostMode,
  },
  { $id: 'StartTurnRequest', description: 'A turn of a session', additionalProperties: false },
)

const InterruptTurn = Type.Object(
  {
    turn: Type.Optional(count('This turn, whether it runs or waits in line', { minimum: 1 })),
    scope: Type.Optional(
      Type.Unsafe<'all'>({
        type: 'string',
        enum: ['all'],
        description: 'The running turn and all that wait in line; not together with `turn`',
      }),
    ),
  },
  {
    $id: 'InterruptTurnRequest',
    description: 'Which turn to interrupt; the one in flight where nothing is said',
    additionalProperties: false,
  },
)

export const turnRoutes: FastifyPluginAsyncTypebox = async (app) => {
  app.addSchema(StartTurn)
  app.addSchema(InterruptTurn)

  const start = async (
    request: Parameters<typeof startMode>[1],
    reply: Parameters<typeof answer>[2],
    twin: boolean,
  ) => {
    const body = request.body as Static<typeof StartTurn>
    const { session_id } = request.params as Static<typeof SessionParams>
    const { stream, options } = startMode(app, request, body, twin)
    const handle = await app.sessions.startTurn(session_id, body as StartTurnRequest, options)
    return answer(app, request, reply, handle, { stream, created: false, isHost: body.host_mode })
  }

  app.post(
    '/sessions/:session_id/turns',
    {
      schema: {
        operationId: 'startTurn',
        tags: ['turns'],
        summary: 'Start a turn and wait for its result',
        description: 'With `Accept: text/event-stream` it answers as startTurnStream does.',
        params: SessionParams,
        headers: StartHeaders,
        querystring: StartQuery,
        body: Type.Ref('StartTurnRequest'),
        response: {
          200: json(Type.Ref('RunResult'), 'The turn is over; stop_reason is cancelled if it was interrupted', {
            preference: true,
          }),
          202: json(Type.Ref('Turn'), 'The turn is running (Prefer: respond-async, host_mode, or wait=N ran out)', {
            location: 'turn',
            preference: true,
          }),
        },
      },
      config: { problems: ['SESSION_NOT_FOUND', 'TURN_NOT_FOUND', 'SESSION_BUSY', ...startProblems] },
    },
    async (request, reply) => start(request, varyByAccept(reply), false),
  )

  app.post(
    '/sessions/:session_id/turns/stream',
    {
      schema: {
        operationId: 'startTurnStream',
        tags: ['turns'],
        summary: 'Start a turn and stream its events',
        description:
          'The turn goes on when the client leaves, unless `on_disconnect` says otherwise; its events can be followed again.',
        params: SessionParams,
        headers: StartStreamHeaders,
        querystring: StartQuery,
        body: Type.Ref('StartTurnRequest'),
        response: startedStream(),
      },
      config: { problems: ['SESSION_NOT_FOUND', 'TURN_NOT_FOUND', 'SESSION_BUSY', ...startProblems] },
    },
    async (request, reply) => start(request, reply, true),
  )

  app.get(
    '/sessions/:session_id/turns',
    {
      schema: {
        operationId: 'listTurns',
        tags: ['turns'],
        summary: 'List the turns so far, oldest first',
        description:
          'Those that ran, the one that runs, and those in line. A page ends early where it would have more than about ' +
          '1 MiB; the next one begins after the last turn that is there.',
        params: SessionParams,
        querystring: PageQuery,
        response: {
          200: pageOf('TurnPage', 'turns', Type.Ref('Turn'), 'A page of turns'),
        },
      },
      config: { problems: ['SESSION_NOT_FOUND'] },
    },
    async ({ params, query }) => {
      const { turns, total } = await app.sessions.turns(params.session_id, { ...query, maxBytes: PAGE_BYTES })
      return { turns: turns.map((turn) => toListedTurn(turn, app.toProblem)), total, ...query }
    },
  )

  app.get(
    '/sessions/:session_id/turns/:turn',
    {
      schema: {
        operationId: 'readTurn',
        tags: ['turns'],
        summary: 'Read a turn: its status and, once it is over, its result or error',
        description: 'Answers at once, whatever the turn does.',
        params: TurnParams,
        response: { 200: json(Type.Ref('Turn'), 'The turn') },
      },
      config: { problems: ['SESSION_NOT_FOUND', 'TURN_NOT_FOUND'] },
    },
    async ({ params }) => toTurn(await app.sessions.turn(params.session_id, params.turn), app.toProblem),
  )

  app.post(
    '/sessions/:session_id/interrupt',
    {
      schema: {
        operationId: 'interruptTurn',
        tags: ['turns'],
        summary: 'Interrupt a turn',
        description:
          'Or one that waits in line, or all of them. Whoever waits for it gets its text so far, and its stream ends with ' +
          'run_interrupted. Works on an archived session, too, as long as its last turn runs.',
        params: SessionParams,
        body: Type.Ref('InterruptTurnRequest'),
        response: {
          200: json(
            Type.Object(
              {
                session_id: SessionId,
                turn: count('The turn that was interrupted; with `scope`, the one that ran', { minimum: 1 }),
                interrupted: Type.Literal(true, { description: 'It is' }),
              },
              { title: 'Interrupted', description: 'The turn is interrupted' },
            ),
            'It ends with run_interrupted',
          ),
        },
      },
      config: { problems: ['SESSION_NOT_FOUND', 'SESSION_NOT_RUNNING'], optionalBody: true },
    },
    async ({ params: { session_id }, body }) => {
      const { turn: named, scope } = body as Static<typeof InterruptTurn>
      if (named !== undefined && scope !== undefined) {
        throw new InvalidParamsError('/scope', 'must not be given together with turn: leave one of the two out')
      }
      const { turn } = await app.sessions.interrupt(session_id, scope ?? named)
      return { session_id, turn, interrupted: true as const }
    },
  )
}
