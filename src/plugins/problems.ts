import { STATUS_CODES } from 'node:http'
import { Type } from '@sinclair/typebox'
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'
import { count } from '../core/count.ts'
import {
  type ErrorData,
  type FieldError,
  InternalError,
  SessionBusyError,
  SessionError,
  type SessionErrorCode,
} from '../core/errors.ts'
import { StringEnum } from '../core/string-enum.ts'
import { time } from '../core/time.ts'
import { toJsonBody } from './json-answers.ts'
import { methodOf } from './unroutable.ts'

/** What HTTP itself can refuse, beside what the service refuses. */
export type HttpErrorCode =
  | 'UNAUTHORIZED'
  | 'FORBIDDEN'
  | 'ROUTE_NOT_FOUND'
  | 'METHOD_NOT_ALLOWED'
  | 'REQUEST_TIMEOUT'
  | 'PAYLOAD_TOO_LARGE'
  | 'URI_TOO_LONG'
  | 'HEADERS_TOO_LARGE'
  | 'UNSUPPORTED_MEDIA_TYPE'
  | 'RATE_LIMITED'

export type ProblemCode = SessionErrorCode | HttpErrorCode

/** The one place where a code becomes a status. */
export const problemStatus = {
  INVALID_PARAMS: 400,
  UNAUTHORIZED: 401,
  FORBIDDEN: 403,
  HOOK_DENIED: 403,
  SESSION_NOT_FOUND: 404,
  TURN_NOT_FOUND: 404,
  INTERACTION_NOT_FOUND: 404,
  APPROVAL_NOT_FOUND: 404,
  PEER_NOT_FOUND: 404,
  SKILL_NOT_FOUND: 404,
  ROUTE_NOT_FOUND: 404,
  METHOD_NOT_ALLOWED: 405,
  REQUEST_TIMEOUT: 408,
  SESSION_BUSY: 409,
  SESSION_NOT_RUNNING: 409,
  SESSION_EXISTS: 409,
  INBOX_CLOSED: 410,
  PAYLOAD_TOO_LARGE: 413,
  URI_TOO_LONG: 414,
  UNSUPPORTED_MEDIA_TYPE: 415,
  IDEMPOTENCY_KEY_REUSED: 422,
  SKILL_RESOLUTION_FAILED: 422,
  BUDGET_EXHAUSTED: 429,
  RATE_LIMITED: 429,
  HEADERS_TOO_LARGE: 431,
  AGENT_ERROR: 500,
  INTERNAL_ERROR: 500,
  TURN_LOST: 500,
  CAPABILITY_UNAVAILABLE: 501,
  SESSION_PERSISTENCE_DISABLED: 501,
  PROVIDER_ERROR: 502,
  SESSION_CAPACITY_REACHED: 503,
  INBOX_FULL: 503,
  SHUTTING_DOWN: 503,
  STORE_UNAVAILABLE: 503,
  OUTCOME_UNKNOWN: 503,
} as const satisfies Record<ProblemCode, number>

const text = (description: string) => Type.String({ description })

export const Problem = Type.Object(
  {
    type: text('urn:suricate:problem:<code in lower case, with dashes>'),
    title: text('The status in words'),
    status: count('The status of the answer', { minimum: 400, maximum: 599, format: 'int32' }),
    detail: text('What happened, and where it helps, what to do next'),
    code: StringEnum(Object.keys(problemStatus) as ProblemCode[], 'What went wrong, for programs', 'ProblemCode'),
    session_id: Type.Optional(Type.String({ format: 'uuid', description: 'The session it concerns' })),
    turn: Type.Optional(count('The turn it concerns')),
    errors: Type.Optional(
      Type.Array(
        Type.Object(
          {
            path: text('JSON pointer to a member, parameter or header; empty for the whole'),
            message: text('What would be right'),
          },
          { title: 'FieldError', description: 'A part of the request that is wrong' },
        ),
        { description: 'Which members are wrong, as JSON pointers' },
      ),
    ),
    request_id: Type.Optional(text('The id of the request, as in `X-Request-Id`')),
    session_created: Type.Optional(
      Type.Boolean({ description: 'The session was created and stays, although its first turn failed' }),
    ),
    resumable: Type.Optional(Type.Boolean({ description: 'That session can go on with another turn' })),
    active_turn: Type.Optional(
      Type.Object(
        {
          turn: count('Its number', { minimum: 1 }),
          status: StringEnum(['queued', 'running'], 'How far it is'),
          started_at: Type.Optional(time('When it began to run')),
          last_seq: count("seq of the session's newest event"),
        },
        { title: 'ActiveTurn', description: 'With SESSION_BUSY: the turn that is in the way' },
      ),
    ),
    links: Type.Optional(
      Type.Object(
        { turn: text('GET reads it'), events: text('GET follows it'), interrupt: text('POST ends it') },
        { title: 'ActiveTurnLinks', description: 'With SESSION_BUSY: where to read, follow and interrupt that turn' },
      ),
    ),
  },
  { $id: 'Problem', description: 'What went wrong (RFC 9457)' },
)

export interface ProblemDetails extends ErrorData {
  type: string
  title: string
  status: number
  detail: string
  code: ProblemCode
  request_id?: string
  active_turn?: SessionBusyError['activeTurn']
  links?: { turn: string; events: string; interrupt: string }
}

declare module 'fastify' {
  interface FastifyInstance {
    toProblem(error: Error, requestId?: string): ProblemDetails
  }
  interface FastifyContextConfig {
    /** The problems that a route can answer beside those that any route can: they go into the OpenAPI document. */
    problems?: readonly ProblemCode[]
  }
}

/** A refusal by HTTP itself. */
export class HttpError extends Error {
  override readonly name = 'HttpError'
  readonly code: HttpErrorCode
  readonly headers: Readonly<Record<string, string>>

  constructor(code: HttpErrorCode, message: string, headers: Readonly<Record<string, string>> = {}) {
    super(message)
    this.code = code
    this.headers = headers
  }
}

export const JSON_TYPE = 'application/problem+json; charset=utf-8'

/** An error as problem details. An unexpected one says nothing of itself. */
export function toProblem(error: Error, requestId?: string, prefix = ''): ProblemDetails {
  const known = error instanceof SessionError || error instanceof HttpError ? error : fromFastify(error as FastifyError)
  const status = problemStatus[known.code]
  const problem: ProblemDetails = {
    type: `urn:suricate:problem:${known.code.toLowerCase().replaceAll('_', '-')}`,
    title: STATUS_CODES[status] ?? 'Error',
    status,
    detail: known.message,
    code: known.code,
    ...('data' in known ? known.data : {}),
  }
  if (requestId !== undefined) problem.request_id = requestId
  if (known instanceof SessionBusyError) {
    const session = `${prefix}/sessions/${known.sessionId}`
    const turn = `${session}/turns/${known.activeTurn.turn}`
    problem.active_turn = known.activeTurn
    problem.links = { turn, events: `${turn}/events`, interrupt: `${session}/interrupt` }
  }
  return problem
}

/** Headers that go with an error. */
function headersOf(error: Error, problem: ProblemDetails): Record<string, string> {
  if (error instanceof HttpError) return error.headers
  if (problem.links !== undefined) return { location: problem.links.turn }
  return 'retryAfter' in error ? { 'retry-after': String(error.retryAfter) } : {}
}

type ValidationError = {
  keyword: string
  instancePath: string
  message?: string
  params: Record<string, unknown>
  /** Of an object, the member whose name is wrong. */
  propertyName?: string
}

/** What Fastify and its parser raise, in our words. */
function fromFastify(error: FastifyError): SessionError | HttpError {
  if (error.validation !== undefined) return new InvalidRequest((error.validation as ValidationError[]).map(toField))
  switch (error.code) {
    case 'FST_ERR_CTP_BODY_TOO_LARGE':
      return new HttpError(
        'PAYLOAD_TOO_LARGE',
        'The body is larger than this server accepts (BODY_LIMIT, for an import UPLOAD_LIMIT)',
      )
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE':
      return new HttpError('UNSUPPORTED_MEDIA_TYPE', 'Send JSON: Content-Type: application/json')
  }
  const { statusCode = 500 } = error
  if (statusCode >= 400 && statusCode < 500) return new InvalidRequest([{ path: '', message: error.message }])
  return new InternalError(error)
}

/** The request does not fit its schema, or is no proper request at all. */
export class InvalidRequest extends SessionError {
  readonly code = 'INVALID_PARAMS'

  constructor(errors: FieldError[]) {
    super(errors.map(({ path, message }) => (path === '' ? message : `${path} ${message}`)).join('; '), { errors })
  }
}

function toField({ keyword, instancePath, message = 'is wrong', params, propertyName }: ValidationError): FieldError {
  if (propertyName !== undefined) {
    return { path: `${instancePath}/${escapePointer(propertyName)}`, message: `has a name that ${message}` }
  }
  switch (keyword) {
    case 'required':
      return { path: `${instancePath}/${escapePointer(String(params.missingProperty))}`, message: 'is required' }
    case 'additionalProperties':
      return {
        path: `${instancePath}/${escapePointer(String(params.additionalProperty))}`,
        message: 'is not a known member',
      }
    case 'enum':
      return { path: instancePath, message: `must be one of ${(params.allowedValues as string[]).join(', ')}` }
    case 'pattern':
      return { path: instancePath, message: params.pattern === '\\S' ? 'must not be blank' : message }
    default:
      return { path: instancePath, message: instancePath === '' ? 'The body must be a JSON object' : message }
  }
}

/** As a part of a JSON pointer, RFC 6901. */
function escapePointer(name: string): string {
  return name.replaceAll('~', '~0').replaceAll('/', '~1')
}

function sendProblem(error: Error, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const problem = toProblem(error, request.id, request.server.prefix)
  if (problem.status >= 500 && problem.code === 'INTERNAL_ERROR') {
    request.log.error({ err: error.cause ?? error }, 'unexpected error')
  }
  return reply
    .code(problem.status)
    .headers(headersOf(error, problem))
    .type(JSON_TYPE)
    .serializer(toJsonBody)
    .send(problem)
}

export interface RouteTable {
  /** The methods that a path would have answered to. */
  methodsOf(path: string): string[]
}

/** Every error there is becomes problem details, whoever raised it. */
export const problems = fp(
  async (app: FastifyInstance) => {
    const routes = collectRoutes(app)
    app.addSchema(Problem)
    app.decorate('toProblem', toProblem)
    app.setErrorHandler((error: Error, request, reply) => sendProblem(error, request, reply))
    app.setNotFoundHandler((request, reply) => {
      const path = request.url.split('?', 1)[0] ?? ''
      const allowed = routes.methodsOf(path)
      // An application that embeds the sessions may serve no document.
      const hint = routes.methodsOf('/openapi.json').length > 0 ? '; GET /openapi.json lists what there is' : ''
      const error =
        allowed.length === 0 || allowed.includes(request.method)
          ? new HttpError('ROUTE_NOT_FOUND', `There is nothing at ${path}${hint}`)
          : new HttpError('METHOD_NOT_ALLOWED', `${methodOf(request.raw)} is not possible here`, {
              allow: allowed.join(', '),
            })
      return sendProblem(error, request, reply)
    })
  },
  { name: 'problems' },
)

/** Fastify tells apart neither a wrong path from a wrong method nor lists methods; so the routes are noted as they come. */
function collectRoutes(app: FastifyInstance): RouteTable {
  const routes = new Map<string, { pattern: RegExp; methods: Set<string> }>()
  app.addHook('onRoute', ({ url, method }) => {
    // The one that answers preflights of any path.
    if (url === '*') return
    const known = routes.get(url) ?? { pattern: toPattern(url), methods: new Set<string>() }
    for (const name of [method].flat()) known.methods.add(name)
    routes.set(url, known)
  })
  return {
    methodsOf: (path) => {
      const methods = new Set<string>()
      for (const route of routes.values()) {
        if (route.pattern.test(path)) for (const method of route.methods) methods.add(method)
      }
      return [...methods].sort()
    },
  }
}

function toPattern(url: string): RegExp {
  const source = url
    .replace(/[.+?^${}()|[\]\\]/g, '\\$&')
    .replaceAll('*', '.*')
    .replace(/:\w+/g, '[^/]+')
  return new RegExp(`^${source}$`)
}
