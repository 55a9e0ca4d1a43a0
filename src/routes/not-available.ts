import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Type } from '@sinclair/typebox'
import { CapabilityUnavailableError } from '../core/errors.ts'
import { json } from './schemas.ts'
import { type Unavailable, unavailable } from './unavailable.ts'

const anything = json(
  Type.Object({}, { title: 'NotAvailable', description: 'Not available here' }),
  'Not available here',
)
const AnyBody = Type.Object({}, { title: 'AnyBody', description: 'Not available here' })

const routes = [
  {
    method: 'POST',
    url: '/stream-tokens',
    operationId: 'createStreamToken',
    summary: 'Make a short-lived token for EventSource',
    capability: 'stream_tokens',
    body: AnyBody,
    success: 201,
  },
] as const satisfies readonly {
  method: 'GET' | 'POST'
  url: string
  operationId: string
  summary: string
  capability: Unavailable
  success: number
  body?: unknown
}[]

/** The routes of the contract that this server cannot serve: they say so instead of being absent. */
export const notAvailableRoutes: FastifyPluginAsyncTypebox = async (app) => {
  for (const { method, url, operationId, summary, capability, success, ...rest } of routes) {
    app.route({
      method,
      url,
      schema: {
        operationId,
        tags: ['not available'],
        summary: `${summary} (not available: ${unavailable[capability]})`,
        description: 'Part of the contract, but not of this server: it always answers 501.',
        ...('body' in rest ? { body: rest.body } : {}),
        response: { [success]: anything },
      },
      config: { problems: ['CAPABILITY_UNAVAILABLE'] },
      handler: async () => {
        throw new CapabilityUnavailableError(operationId, unavailable[capability])
      },
    })
  }
}
