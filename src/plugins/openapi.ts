import swagger from '@fastify/swagger'
import { type TSchema, Type } from '@sinclair/typebox'
import type { FastifyInstance, RouteOptions } from 'fastify'
import fp from 'fastify-plugin'
import { stringify as toYaml } from 'yaml'
import { count } from '../core/count.ts'
import { finished, type OpenApiDocument, toVersion32 } from './openapi-document.ts'
import { type ProblemCode, problemStatus } from './problems.ts'
import { reference } from './reference.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** The OpenAPI document, as served; for a version of the standard. */
    openapi(version?: '3.1' | '3.2'): OpenApiDocument
  }
}

const ANY_ROUTE: readonly ProblemCode[] = [
  'INVALID_PARAMS',
  'FORBIDDEN',
  'REQUEST_TIMEOUT',
  'URI_TOO_LONG',
  'HEADERS_TOO_LARGE',
  'INTERNAL_ERROR',
]
const ROUTE_WITH_BODY: readonly ProblemCode[] = ['PAYLOAD_TOO_LARGE', 'UNSUPPORTED_MEDIA_TYPE']

/** Operations on what the store has: it may be away, also after one that changes something has begun. */
const TAGS_WITH_STORE = new Set(['sessions', 'turns', 'interactions', 'transcripts'])

/** Headers that go with some problems, by the code that they go with. */
const retryAfter = {
  'Retry-After': count('Seconds after which another try makes sense', { title: 'RetryAfter' }),
}
const PROBLEM_HEADERS: Partial<Record<ProblemCode, Record<string, TSchema>>> = {
  UNAUTHORIZED: {
    'WWW-Authenticate': Type.String({ title: 'WWWAuthenticate', description: 'How to authenticate: Bearer' }),
  },
  SESSION_BUSY: {
    Location: Type.String({ title: 'ActiveTurnLocation', description: 'The turn that is in the way' }),
  },
  RATE_LIMITED: retryAfter,
  SESSION_CAPACITY_REACHED: retryAfter,
  INBOX_FULL: retryAfter,
  SHUTTING_DOWN: retryAfter,
  STORE_UNAVAILABLE: retryAfter,
}

/** The document that the routes' schemas make, its pages, and a reference that a person can read and try. */
export const openapi = fp(
  async (app: FastifyInstance, { version }: { version: string }) => {
    const optionalBodies = new Set<string>()
    app.addHook('onRoute', (route) => {
      describeProblems(route)
      const { operationId } = (route.schema ?? {}) as { operationId?: string }
      if (operationId === undefined) return
      if (route.config?.optionalBody) optionalBodies.add(operationId)
      if (route.config?.public) route.schema = { ...route.schema, security: [] }
    })

    await app.register(swagger, {
      openapi: {
        openapi: '3.1.1',
        info: {
          title: 'Suricate',
          version,
          description:
            'Sessions for LLM agents: one turn at a time, interrupt, history, and event streams that never lose an event.',
          license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
        },
        servers: [{ url: '/', description: 'This server' }],
        tags: [
          { name: 'sessions', description: 'Create, list, read and archive' },
          { name: 'turns', description: 'Start, read and interrupt' },
          { name: 'streams', description: 'Follow and resume' },
          { name: 'interactions', description: 'What comes into a session from outside, and from its peers' },
          { name: 'transcripts', description: 'Messages, export, import and fork' },
          { name: 'server', description: 'What this server is and how it is' },
          { name: 'not available', description: 'Part of the contract, but not of this server' },
        ],
        components: {
          securitySchemes: {
            bearer: { type: 'http', scheme: 'bearer', description: 'A key of API_KEYS, where those are set' },
          },
        },
        security: [{ bearer: [] }, {}],
      },
      refResolver: { buildLocalReference: (json, _base, _fragment, index) => String(json.$id ?? `def-${index}`) },
    })

    await app.register(reference)

    let document: OpenApiDocument | undefined
    app.decorate('openapi', (wanted: '3.1' | '3.2' = '3.1') => {
      document ??= finished(app.swagger(), optionalBodies)
      return wanted === '3.1' ? document : toVersion32(document)
    })

    const open = { schema: { hide: true }, config: { public: true } }
    app.get('/openapi.json', open, async () => app.openapi())
    app.get('/openapi-3.2.json', open, async () => app.openapi('3.2'))
    app.get('/openapi.yaml', open, async (_, reply) =>
      reply.type('application/yaml; charset=utf-8').send(toYaml(app.openapi())),
    )
  },
  { name: 'openapi', dependencies: ['problems'] },
)

/** Adds the problems that a route can answer to its responses, one a status. */
function describeProblems(route: RouteOptions): void {
  const { schema, config } = route
  if (schema === undefined || schema.hide || schema.response === undefined) return
  const codes: ProblemCode[] = [...ANY_ROUTE, ...(config?.problems ?? [])]
  if (schema.body !== undefined) codes.push(...ROUTE_WITH_BODY)
  if (!config?.public) codes.push('UNAUTHORIZED')
  if (schema.tags?.some((tag) => TAGS_WITH_STORE.has(tag))) {
    codes.push('STORE_UNAVAILABLE')
    if (route.method !== 'GET') codes.push('OUTCOME_UNKNOWN')
  }
  const byStatus = new Map<number, ProblemCode[]>()
  for (const code of new Set(codes)) {
    const status = problemStatus[code]
    byStatus.set(status, [...(byStatus.get(status) ?? []), code])
  }
  const responses = schema.response as Record<string, unknown>
  for (const [status, names] of [...byStatus].sort(([a], [b]) => a - b)) {
    responses[status] = {
      description: names.join(', '),
      headers: Object.assign({}, ...names.map((name) => PROBLEM_HEADERS[name])),
      content: { 'application/problem+json': { schema: Type.Ref('Problem') } },
    }
  }
}
