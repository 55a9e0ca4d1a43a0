import swagger from '@fastify/swagger'
import { type TSchema, Type } from '@sinclair/typebox'
import Fastify, { type FastifySchema, type RouteOptions } from 'fastify'
import { count } from '../core/count.ts'
import { finished, type OpenApiDocument } from './openapi-document.ts'
import { type ProblemCode, problemStatus } from './problems.ts'
import { schemaController } from './request-validators.ts'

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

/**
 * The document of these routes, and of the schemas that they refer to. The generator collects routes while they are
 * registered: it has a server of its own for that, so that nothing of it is loaded before the document is asked for.
 */
export async function generateDocument(
  routes: readonly RouteOptions[],
  schemas: Readonly<Record<string, unknown>>,
  version: string,
): Promise<OpenApiDocument> {
  const generator = Fastify({ schemaController })
  for (const schema of Object.values(schemas)) generator.addSchema(schema)
  await generator.register(swagger, {
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
  const optionalBodies = new Set<string>()
  for (const route of routes) {
    const { operationId } = route.schema as { operationId?: string }
    if (route.config?.optionalBody && operationId !== undefined) optionalBodies.add(operationId)
    generator.route({ method: route.method, url: route.url, schema: described(route), handler: () => undefined })
  }
  await generator.ready()
  return finished(generator.swagger(), optionalBodies)
}

/** A route's schema with the problems that it can answer among its responses, one a status. */
function described({ schema = {}, config, method }: RouteOptions): FastifySchema {
  const codes: ProblemCode[] = [...ANY_ROUTE, ...(config?.problems ?? [])]
  if (schema.body !== undefined) codes.push(...ROUTE_WITH_BODY)
  if (!config?.public) codes.push('UNAUTHORIZED')
  if (schema.tags?.some((tag) => TAGS_WITH_STORE.has(tag))) {
    codes.push('STORE_UNAVAILABLE')
    if (method !== 'GET') codes.push('OUTCOME_UNKNOWN')
  }
  const byStatus = new Map<number, ProblemCode[]>()
  for (const code of new Set(codes)) {
    const status = problemStatus[code]
    byStatus.set(status, [...(byStatus.get(status) ?? []), code])
  }
  const problems = [...byStatus]
    .sort(([a], [b]) => a - b)
    .map(([status, names]) => [
      status,
      {
        description: names.join(', '),
        headers: Object.assign({}, ...names.map((name) => PROBLEM_HEADERS[name])),
        content: { 'application/problem+json': { schema: Type.Ref('Problem') } },
      },
    ])
  return {
    ...schema,
    response: { ...(schema.response as object), ...Object.fromEntries(problems) },
    ...(config?.public ? { security: [] } : {}),
  }
}
