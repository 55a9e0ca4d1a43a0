import { createHash } from 'node:crypto'
import { type Static, Type } from '@sinclair/typebox'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import Negotiator from 'negotiator'
import stringify from 'safe-stable-stringify'
import { count } from '../core/count.ts'
import {
  FirstTurnFailedError,
  InvalidParamsError,
  onceBegun,
  type SessionError,
  SessionNotRunningError,
} from '../core/errors.ts'
import type { RunResult, StartOptions, TurnHandle, TurnView } from '../core/session-service.ts'
import { NO_USAGE } from '../core/usage.ts'
import { fromHeader, lastEventId } from './cursor.ts'
import { toTurn } from './schemas.ts'

/** What every route that starts a turn takes beside its body. */
export const StartHeaders = Type.Object({
  'idempotency-key': Type.Optional(
    Type.String({
      minLength: 1,
      maxLength: 255,
      pattern: '^[\\x20-\\x7e]+$',
      description: 'The same key with the same body attaches to the turn that the first request started',
    }),
  ),
  prefer: Type.Optional(
    Type.String({ description: 'respond-async answers 202 at once; wait=N waits up to N seconds before that' }),
  ),
})

export const StartStreamHeaders = Type.Object({
  'idempotency-key': StartHeaders.properties['idempotency-key'],
  'last-event-id': Type.Optional(count('With Idempotency-Key: resume the turn that it started after this event')),
})

export const StartQuery = Type.Object(
  {
    on_disconnect: Type.Optional(
      Type.Unsafe<'interrupt'>({
        type: 'string',
        enum: ['interrupt'],
        description: 'Interrupt the turn, running or in line, when this client leaves; without it the turn goes on',
      }),
    ),
    heartbeat: Type.Optional(
      Type.Unsafe<'event'>({
        type: 'string',
        enum: ['event'],
        description: 'Send an event instead of a comment on a quiet stream',
      }),
    ),
  },
  { additionalProperties: false },
)

/** What a request that starts a turn can be refused with: its turn's own errors too, where it waits for the result. */
export const startProblems = [
  'AGENT_ERROR',
  'PROVIDER_ERROR',
  'BUDGET_EXHAUSTED',
  'HOOK_DENIED',
  'SKILL_NOT_FOUND',
  'SKILL_RESOLUTION_FAILED',
  'TURN_LOST',
  'CAPABILITY_UNAVAILABLE',
  'IDEMPOTENCY_KEY_REUSED',
  'SESSION_CAPACITY_REACHED',
  'SHUTTING_DOWN',
  'RATE_LIMITED',
] as const

type Headers = Static<typeof StartHeaders>
type Query = Static<typeof StartQuery>

/** How one request wants its turn: as JSON or as a stream, attached to an earlier one or not. */
export interface StartMode {
  stream: boolean
  options: StartOptions
}

/** Decides all that can be a status before anything starts. `twin` is true on routes that always stream. */
export function startMode(app: FastifyInstance, request: FastifyRequest, body: unknown, twin: boolean): StartMode {
  const headers = request.headers as Headers
  const stream = twin || prefersEvents(request.headers.accept)
  if (stream) app.refuseExcessStreams()
  const options: StartOptions = {}
  const key = headers['idempotency-key']
  if (key !== undefined) {
    options.idempotency = { key, fingerprint: fingerprintOf(body) }
    if (request.keyName !== undefined) options.idempotency.caller = request.keyName
  }
  // A cursor means that the client has seen part of this turn: it wants the rest, never a second turn.
  if (stream && lastEventId(request.headers) !== undefined) options.attachOnly = true
  return { stream, options }
}

export function prefersEvents(accept: string | undefined): boolean {
  if (accept === undefined || !/text\/event-stream/i.test(accept)) return false
  const types = new Negotiator({ headers: { accept: accept.toLowerCase() } }).mediaTypes([
    'application/json',
    'text/event-stream',
  ])
  return types[0] === 'text/event-stream'
}

/** Says that the answer depends on `Accept`, beside whatever it depends on already. */
export function varyByAccept(reply: FastifyReply): FastifyReply {
  const known = reply.getHeader('vary')
  return reply.header('vary', known === undefined ? 'accept' : `${known}, accept`)
}

function fingerprintOf(body: unknown): string {
  return createHash('sha256')
    .update(stringify(body) ?? '')
    .digest('base64')
}

/** Answers with the turn as it was asked for. `created` is true where the request also made the session. */
export function answer(...args: Parameters<typeof answerBegun>): Promise<unknown> {
  return onceBegun(answerBegun(...args))
}

async function answerBegun(
  app: FastifyInstance,
  request: FastifyRequest,
  reply: FastifyReply,
  handle: TurnHandle,
  { stream, created, isHost = false }: { stream: boolean; created: boolean; isHost?: boolean | undefined },
): Promise<unknown> {
  if (stream) return answerWithStream(app, request, reply, handle)
  if (handle.turn === 0) {
    return reply
      .code(201)
      .header('location', `${app.prefix}/sessions/${handle.sessionId}`)
      .send(nothingRun(handle.sessionId))
  }
  const preference = parsePrefer((request.headers as Headers).prefer)
  // Nobody knows when a host ends: it is never waited for unless somebody says how long.
  const isAsync = preference.async || isHost
  const turn = await waitFor(app, request, reply, handle, { ...preference, async: isAsync })
  // Who does not want to wait gets the same answer whether or not the turn was quicker.
  const isOver = turn.endedAt !== undefined && !(isAsync && preference.waitSeconds === undefined)
  const applied = [
    ...(isOver || (isHost && !preference.async) ? [] : ['respond-async']),
    ...(preference.waitSeconds === undefined ? [] : [`wait=${preference.waitSeconds}`]),
  ]
  if (applied.length > 0) reply.header('preference-applied', applied.join(', '))
  if (!isOver) return reply.code(202).header('location', urlOf(app, handle)).send(toTurn(turn, app.toProblem))
  if (turn.error !== undefined) throw created ? new FirstTurnFailedError(turn.error) : turn.error
  if (created) reply.code(201).header('location', `${app.prefix}/sessions/${handle.sessionId}`)
  return turn.result
}

async function answerWithStream(
  app: FastifyInstance,
  request: FastifyRequest,
  reply: FastifyReply,
  handle: TurnHandle,
): Promise<FastifyReply> {
  const { sessionId, turn } = handle
  const after = lastEventId(request.headers)
  const events = await fromHeader(() => app.sessions.streamTurn(sessionId, turn, { after }))
  const url = urlOf(app, handle)
  reply.headers({ location: url, 'content-location': url })
  if (events === undefined) return reply.code(204).send()
  const { heartbeat = 'comment', on_disconnect } = request.query as Query
  const onDisconnect = on_disconnect === 'interrupt' ? () => void interruptQuietly(app, handle) : undefined
  reply.stream(events, onDisconnect === undefined ? { heartbeat } : { heartbeat, onDisconnect })
  return reply
}

/** The turn, once it is over or the caller's patience is. */
async function waitFor(
  app: FastifyInstance,
  request: FastifyRequest,
  reply: FastifyReply,
  handle: TurnHandle,
  { async, waitSeconds }: Preference,
): Promise<TurnView> {
  const { sessionId, turn } = handle
  if (async && waitSeconds === undefined) return app.sessions.turn(sessionId, turn)
  const patience = new AbortController()
  const timer = waitSeconds === undefined ? undefined : setTimeout(() => patience.abort(), waitSeconds * 1_000)
  const left = () => {
    patience.abort()
    if ((request.query as Query).on_disconnect === 'interrupt') void interruptQuietly(app, handle)
  }
  // A client that left before this never says so again.
  if (reply.raw.destroyed) left()
  else reply.raw.once('close', left)
  try {
    return await app.sessions.turnEnded(sessionId, turn, patience.signal)
  } catch (error) {
    if (patience.signal.aborted) return app.sessions.turn(sessionId, turn)
    throw error
  } finally {
    clearTimeout(timer)
    reply.raw.removeListener('close', left)
  }
}

async function interruptQuietly(app: FastifyInstance, { sessionId, turn }: TurnHandle): Promise<void> {
  try {
    await app.sessions.interrupt(sessionId, turn)
  } catch (error) {
    if (!(error instanceof SessionNotRunningError) && (error as SessionError).code !== 'SESSION_NOT_FOUND') {
      app.log.error(
        { err: error, session_id: sessionId, turn },
        'the turn of a client that left could not be interrupted',
      )
    }
  }
}

interface Preference {
  async: boolean
  waitSeconds: number | undefined
}

/** `Prefer` as far as it concerns us; what is not understood is ignored, as RFC 7240 demands. */
export function parsePrefer(header: string | undefined): Preference {
  const preferences = header?.split(',').map((part) => (part.split(';', 1)[0] ?? '').trim().toLowerCase()) ?? []
  const wait = preferences.map((part) => /^wait\s*=\s*"?(\d{1,5})"?$/.exec(part)?.[1]).find((seconds) => seconds)
  return { async: preferences.includes('respond-async'), waitSeconds: wait === undefined ? undefined : Number(wait) }
}

function urlOf(app: FastifyInstance, { sessionId, turn }: TurnHandle): string {
  return `${app.prefix}/sessions/${sessionId}/turns/${turn}`
}

function nothingRun(session_id: string): RunResult {
  return {
    session_id,
    turn: 0,
    text: '',
    stop_reason: 'end_turn',
    turns: 0,
    tool_calls: 0,
    usage: NO_USAGE,
    session_usage: NO_USAGE,
  }
}

/** A stream of a session that runs nothing would never have an event. */
export function refuseDeferredStream(stream: boolean, initialTurn: string | undefined): void {
  if (stream && initialTurn === 'deferred') {
    throw new InvalidParamsError('/initial_turn', 'must not be "deferred" where the first turn is streamed')
  }
}
