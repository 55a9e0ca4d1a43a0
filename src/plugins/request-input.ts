import { isUtf8 } from 'node:buffer'
import type { IncomingHttpHeaders, IncomingMessage } from 'node:http'
import type { TSchema } from '@sinclair/typebox'
import type { FastifyInstance, FastifyReply, FastifyRequest, preValidationHookHandler, RouteOptions } from 'fastify'
import fp from 'fastify-plugin'
import secureJson from 'secure-json-parse'
import { InvalidParamsError } from '../core/errors.ts'
import { hasBody } from './connections.ts'
import { HttpError } from './problems.ts'
import { isDecodable } from './unroutable.ts'

/** Deeper than any request needs, and shallow enough for everything that walks a value. */
const MAX_DEPTH = 64

/** Of the whole, and of what stands between two slashes. */
const MAX_URL = 8_192
const MAX_PART = 128
/** Given by models and gateways, which put thousands of characters into it. */
const FOREIGN_PARAMS = new Set(['call_id'])

/** Of these a second one would leave it to each proxy which counts. */
const SINGLE_HEADERS = ['host', 'authorization', 'last-event-id', 'idempotency-key']
const SINGLE_LENGTHS = new Set(SINGLE_HEADERS.map((name) => name.length))

declare module 'fastify' {
  interface FastifyContextConfig {
    /** The route works without a body; a missing one counts as `{}`. */
    optionalBody?: boolean
  }
}

/**
 * Decides what a request may be made of before any schema looks at it: headers that are there once, JSON in UTF-8,
 * bounded nesting, no U+0000, no lone surrogates. Bodies are never coerced; numbers in a URL or a header are read as
 * what their schema says they are.
 */
export const requestInput = fp(
  async (app: FastifyInstance) => {
    app.addHook('onRequest', (request, _reply, done) => {
      refuseRepeatedHeaders(request.raw.rawHeaders)
      refuseUrl(request.originalUrl)
      const { headers } = request
      const encoding = headers['content-encoding'] ?? 'identity'
      if (encoding !== 'identity' && hasBody(request)) {
        throw new HttpError('UNSUPPORTED_MEDIA_TYPE', 'Send the body as it is, without Content-Encoding')
      }
      // Without a body its type says nothing, and chunks may be none. Not deleted: that would slow down later accesses.
      if (headers['content-type'] !== undefined && mayBeEmpty(headers)) headers['content-type'] = undefined
      done()
    })

    app.removeAllContentTypeParsers()
    app.addContentTypeParser(
      'application/json',
      { parseAs: 'buffer' },
      (request: FastifyRequest, body: Buffer, done: (error: Error | null, body?: unknown) => void) => {
        try {
          if (body.length > 0) refuseCharset(request.headers['content-type'])
          done(null, body.length === 0 ? undefined : parseBody(body))
        } catch (error) {
          done(error as Error)
        }
      },
    )
    // Chunks may be none: then there is no body that could be of a wrong type.
    app.addContentTypeParser('*', async ({ headers }: FastifyRequest, body: IncomingMessage) => {
      if (headers['content-length'] === undefined && (await isEmpty(body))) return undefined
      throw new HttpError('UNSUPPORTED_MEDIA_TYPE', 'Send JSON: Content-Type: application/json')
    })

    app.addHook('onRoute', (route) => {
      if (route.url.includes(':')) route.onRequest = [...[route.onRequest ?? []].flat(), refusePathParts]
      const reader = numbersReader(route)
      if (reader === undefined) return
      const hooks = [route.preValidation ?? []].flat()
      route.preValidation = [reader, ...hooks]
    })
  },
  { name: 'request-input' },
)

function refuseRepeatedHeaders(rawHeaders: readonly string[]): void {
  let seen: Set<string> | undefined
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const raw = rawHeaders[i] as string
    if (!SINGLE_LENGTHS.has(raw.length)) continue
    const name = raw.toLowerCase()
    if (!SINGLE_HEADERS.includes(name)) continue
    seen ??= new Set()
    if (seen.has(name)) throw new InvalidParamsError(`/${name}`, 'must not be sent twice')
    seen.add(name)
  }
}

function refuseUrl(url: string): void {
  if (url.length > MAX_URL) throw new HttpError('URI_TOO_LONG', `The URL is longer than ${MAX_URL} characters`)
  if (!isDecodable(url)) throw new InvalidParamsError('', 'The URL cannot be decoded')
  if (url.includes('%00')) throw new InvalidParamsError('', 'The URL must not contain U+0000')
}

/** `/sessions/` has no session in it: it is no more there for GET than for a method that it has no route for. */
function refusePathParts(request: FastifyRequest, _reply: FastifyReply, done: () => void): void {
  for (const [name, part] of Object.entries(request.params as Record<string, string>)) {
    if (part === '') throw new HttpError('ROUTE_NOT_FOUND', 'A part of the path is empty')
    if (part.length <= MAX_PART || FOREIGN_PARAMS.has(name)) continue
    throw new HttpError('URI_TOO_LONG', `${name} in the path is longer than ${MAX_PART} characters`)
  }
  done()
}

function mayBeEmpty(headers: IncomingHttpHeaders): boolean {
  if (headers['transfer-encoding'] === undefined) return !hasBody({ headers })
  return !/^application\/json\s*(;|$)/i.test(headers['content-type'] ?? '')
}

function isEmpty(body: IncomingMessage): Promise<boolean> {
  return new Promise((resolve) => {
    body.once('data', () => resolve(false))
    body.once('end', () => resolve(true))
    // Of a client that has left: whatever it is answered, nobody reads it.
    body.once('error', () => resolve(false))
  })
}

function refuseCharset(contentType: string | undefined): void {
  const charset = contentType === undefined ? undefined : /;\s*charset\s*=\s*"?([^\s;"]*)/i.exec(contentType)?.[1]
  if (charset === undefined || /^utf-?8$/i.test(charset)) return
  throw new HttpError('UNSUPPORTED_MEDIA_TYPE', 'Send JSON in UTF-8')
}

/** JSON from bytes. Throws an `InvalidParamsError` for all that is not JSON in UTF-8 within bounds. */
export function parseBody(body: Buffer): unknown {
  if (!isUtf8(body)) throw new InvalidParamsError('', 'The body is not valid UTF-8')
  const text = body.toString('utf8')
  if (depthOf(text) > MAX_DEPTH) throw new InvalidParamsError('', `The body is nested deeper than ${MAX_DEPTH}`)
  const value = parseJson(text)
  // Characters can be wrong only by an escape, since the bytes are valid UTF-8 and JSON allows no raw control character.
  // A number beyond 1e308 has three digits in its exponent, or with two at least 210 before it.
  return /\\u(?:0000|d[89a-f])|\de\+?\d{3}|\d{210}/i.test(text) ? clean(value, '') : value
}

function parseJson(text: string): unknown {
  try {
    return secureJson.parse(text, undefined, { protoAction: 'error', constructorAction: 'error' })
  } catch (error) {
    throw new InvalidParamsError('', `The body is not valid JSON: ${(error as Error).message}`)
  }
}

/** How deep arrays and objects are nested, without building them. */
function depthOf(text: string): number {
  let depth = 0
  let deepest = 0
  let inString = false
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if (inString) {
      if (code === 0x5c) i++
      else if (code === 0x22) inString = false
    } else if (code === 0x22) inString = true
    else if (code === 0x5b || code === 0x7b) deepest = Math.max(deepest, ++depth)
    else if (code === 0x5d || code === 0x7d) depth--
  }
  return deepest
}

/** Refuses U+0000 and numbers beyond any, and turns lone surrogates into U+FFFD, in names as in values. */
function clean(value: unknown, path: string): unknown {
  if (typeof value === 'string') {
    if (value.includes('\0')) throw new InvalidParamsError(path, 'must not contain U+0000')
    return toWellFormed(value)
  }
  if (typeof value === 'number' && !Number.isFinite(value)) throw new InvalidParamsError(path, 'is too large a number')
  if (Array.isArray(value)) return value.map((item, index) => clean(item, `${path}/${index}`))
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [clean(key, path), clean(item, `${path}/${key}`)]),
  )
}

/** ES2024's method, which the type library of our target does not know yet. */
function toWellFormed(text: string): string {
  return (text as string & { toWellFormed(): string }).toWellFormed()
}

/** Clients that have had no event yet send these empty. */
const CURSORS = new Set(['last-event-id', 'lastEventId'])

type Parts = 'params' | 'querystring' | 'headers'

/** Reads numbers, booleans and repeated members of a URL or header by the route's schema; digits only, no coercion. */
function numbersReader({ schema, config }: RouteOptions): preValidationHookHandler | undefined {
  const typed = (['params', 'querystring', 'headers'] as Parts[]).flatMap((part) => {
    const properties = (schema?.[part] as { properties?: Record<string, TSchema> } | undefined)?.properties ?? {}
    return Object.entries(properties)
      .filter(([, property]) => ['integer', 'boolean', 'array'].includes(property.type) || property.format === 'uuid')
      .map(([name, property]) => ({
        part: part === 'querystring' ? 'query' : part,
        name,
        type: (property.format === 'uuid' ? 'uuid' : property.type) as string,
      }))
  })
  if (typed.length === 0 && !config?.optionalBody) return undefined
  return (request, _reply, done) => {
    if (config?.optionalBody && request.body === undefined) request.body = {}
    for (const { part, name, type } of typed) {
      const values = request[part as 'params' | 'query' | 'headers'] as Record<string, unknown>
      if (values[name] === '' && CURSORS.has(name)) values[name] = undefined
      else if (typeof values[name] === 'string') values[name] = readAs(type, values[name])
    }
    done()
  }
}

function readAs(type: string, text: string): unknown {
  if (type === 'array') return [text]
  if (type === 'uuid') return text.toLowerCase()
  if (type === 'integer') return /^-?\d{1,20}$/.test(text) ? Number(text) : text
  return text === 'true' ? true : text === 'false' ? false : text
}
