import { createHash, timingSafeEqual } from 'node:crypto'
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { HttpError } from './problems.ts'

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Wants one of the webhook secrets, where those are set. */
    webhook?: boolean
  }
  interface FastifyRequest {
    /** Has shown one of the webhook secrets, and needs no other key. */
    hasWebhookSecret: boolean
  }
}

/**
 * Lets events in by a shared secret, before a body is read: senders of webhooks have no key of this server. Without
 * secrets these routes are as open as all others.
 */
export const webhookAuth = fp(
  async (app: FastifyInstance, { secrets }: { secrets: readonly string[] }) => {
    const digests = secrets.map(digestOf)
    app.decorateRequest('hasWebhookSecret', false)
    if (digests.length === 0) return
    app.addHook('onRequest', (request, _reply, done) => {
      if (request.routeOptions.config?.webhook) {
        refuseWrongSecret(request.headers['x-webhook-secret'], digests)
        request.hasWebhookSecret = true
      }
      done()
    })
  },
  { name: 'webhook-auth' },
)

function digestOf(text: string): Buffer {
  return createHash('sha256').update(text).digest()
}

/** Compares digests of equal length with every secret, so that neither time nor order tells anything. */
function refuseWrongSecret(header: string | string[] | undefined, digests: readonly Buffer[]): void {
  const digest = digestOf(String(header ?? ''))
  let isKnown = false
  for (const known of digests) if (timingSafeEqual(known, digest)) isKnown = true
  if (header !== undefined && isKnown) return
  throw new HttpError('UNAUTHORIZED', 'Send one of the webhook secrets of this server: X-Webhook-Secret: <secret>', {
    'www-authenticate': 'X-Webhook-Secret',
  })
}
