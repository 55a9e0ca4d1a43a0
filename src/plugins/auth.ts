import { createHash, timingSafeEqual } from 'node:crypto'
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { type Config, hostName, isLoopback } from '../config.ts'
import { InvalidParamsError } from '../core/errors.ts'
import { HttpError } from './problems.ts'

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Open to everyone even when keys are required. */
    public?: boolean
  }
  interface FastifyRequest {
    /** Name of the key that the caller has, when keys are required. */
    keyName: string | undefined
  }
}

const LOOPBACK_HOSTS = ['localhost', '127.0.0.1', '[::1]']

/**
 * Lets in who may come in, before a body is read: by host name on loopback, where a web page could otherwise reach a
 * server that trusts its neighbours, and by bearer key where keys are set.
 */
export const auth = fp(
  async (app: FastifyInstance, config: Config) => {
    const allowedHosts = isLoopback(config.HOST)
      ? new Set([...LOOPBACK_HOSTS, hostName(config.HOST), ...config.ALLOWED_HOSTS])
      : undefined
    const keys = config.API_KEYS.map(({ key, name }) => ({ digest: digestOf(key), name }))

    app.decorateRequest('keyName', undefined)
    app.addHook('onRequest', (request, _reply, done) => {
      refuseHost(request.headers.host, request.raw.httpVersionMinor, allowedHosts)
      if (keys.length > 0 && !request.routeOptions.config?.public && !request.hasWebhookSecret) {
        request.keyName = keyNameOf(request.headers.authorization, keys)
      }
      done()
    })
  },
  { name: 'auth' },
)

function refuseHost(host: string | undefined, minorVersion: number, allowed: ReadonlySet<string> | undefined): void {
  if (host === undefined || host === '') {
    if (minorVersion === 0) return
    throw new InvalidParamsError('/host', 'is required')
  }
  if (allowed === undefined) return
  const name = hostName(host.replace(/:\d*$/, ''))
  if (allowed.has(name)) return
  throw new HttpError('FORBIDDEN', `This server does not answer to the host name ${name}; ALLOWED_HOSTS can add it`)
}

function digestOf(text: string): Buffer {
  return createHash('sha256').update(text).digest()
}

/** Compares digests of equal length with every key, so that neither time nor order tells anything. */
function keyNameOf(header: string | undefined, keys: readonly { digest: Buffer; name: string }[]): string {
  const token = header === undefined ? undefined : /^bearer +([\x21-\x7e]+)$/i.exec(header)?.[1]
  const digest = digestOf(token ?? '')
  let name: string | undefined
  for (const known of keys) if (timingSafeEqual(known.digest, digest)) name = known.name
  if (token === undefined || name === undefined) {
    throw new HttpError('UNAUTHORIZED', 'Send one of the keys of this server: Authorization: Bearer <key>', {
      'www-authenticate': 'Bearer',
    })
  }
  return name
}
