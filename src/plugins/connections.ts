import { randomUUID } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { Socket } from 'node:net'
import type { ConnectionError, FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { toJsonBody } from './json-answers.ts'
import { HttpError, InvalidRequest, JSON_TYPE, toProblem } from './problems.ts'
import { requestIdOf } from './request-log.ts'

const MAX_REQUEST_LINE = 8_192
/** A client that the parser gave up on has this long to read why. */
const REFUSED_LINGER_MS = 1_000

/**
 * A request has one answer. One that was answered before its body arrived closes its connection with that answer, since
 * what still comes of the body must not be taken for a request; whatever goes wrong there is answered no more.
 */
export const connections = fp(
  async (app: FastifyInstance) => {
    app.addHook('onRequest', (request, reply, done) => {
      // It came after the last answer of its connection: nothing it asks for could be answered.
      if (request.raw.socket.writableEnded) {
        reply.hijack()
        request.raw.socket.destroy()
        return
      }
      done()
    })
    app.addHook('onSend', (request, reply, _payload, done) => {
      if (request.raw.complete !== false || !hasBody(request.raw)) return done()
      // What came together with the headers has been parsed by then.
      setImmediate(() => {
        if (!request.raw.complete) closeAfter(reply.raw)
        done()
      })
    })
  },
  { name: 'connections' },
)

/** By its headers; one in chunks may still turn out to be empty. */
export function hasBody({ headers }: Pick<IncomingMessage, 'headers'>): boolean {
  const length = headers['content-length']
  return headers['transfer-encoding'] !== undefined || (length !== undefined && length !== '0')
}

/**
 * Makes this the last answer of its connection. The client may still be sending, and reads only then: what it sends is
 * thrown away until all of it came or the request's time is up. A socket that is closed at once would be reset by what is
 * unread, and take the answer with it.
 */
function closeAfter(raw: ServerResponse): void {
  raw.setHeader('connection', 'close')
  const { socket, req } = raw
  if (socket === null) return
  const close = () => Socket.prototype.destroySoon.call(socket)
  // What Node calls when the last answer has been written.
  socket.destroySoon = () => {
    socket.end()
    if (req.complete) close()
    else req.once('end', close).resume()
  }
}

/**
 * Ends an answer as broken: by a missing last chunk where the connection is kept. Where it is not, there may be no chunks,
 * or clients take the end of the connection for that of the answer, so only a reset says it.
 */
export function cut(raw: ServerResponse): void {
  if (raw.req.httpVersionMinor === 0 || !raw.shouldKeepAlive) raw.socket?.resetAndDestroy()
  else raw.destroy()
}

const refused = new WeakSet<Socket>()

/** Answers on a socket that never became a request: Node's parser gave up on it. */
export function refuseConnection(error: ConnectionError, socket: Socket): void {
  // Its parser says so again for all that still comes.
  if (socket.destroyed || refused.has(socket)) return
  const { _httpMessage: answer } = socket as Socket & { _httpMessage?: ServerResponse }
  // Never into the middle of an answer: what is written now would be taken for a part of it.
  if (answer?.headersSent) {
    cut(answer)
    return
  }
  // Nobody waits for an answer who has asked nothing, or was answered already.
  if (error.code === 'ECONNRESET' || socket.bytesRead === 0 || !socket.writable) {
    socket.destroy()
    return
  }
  refused.add(socket)
  // There is no request to take an id from; one of its own still tells two such answers apart.
  const problem = toProblem(connectionError(error), randomUUID())
  const body = toJsonBody(problem)
  socket.end(
    `HTTP/1.1 ${problem.status} ${problem.title}\r\nContent-Type: ${JSON_TYPE}\r\n` +
      `X-Request-Id: ${problem.request_id}\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
  )
  const timer = setTimeout(() => socket.destroy(), REFUSED_LINGER_MS).unref()
  socket.once('close', () => clearTimeout(timer))
}

function connectionError(error: ConnectionError): Error {
  switch (error.code) {
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return new HttpError('REQUEST_TIMEOUT', 'The request did not arrive in time')
    case 'HPE_HEADER_OVERFLOW':
      if (isRequestLineTooLong(error.rawPacket)) return new HttpError('URI_TOO_LONG', 'The URL is too long')
      return new HttpError('HEADERS_TOO_LARGE', 'The request line and headers are larger than this server accepts')
    default:
      return new InvalidRequest([{ path: '', message: 'The request is not valid HTTP' }])
  }
}

/** Node's parser has one limit for request line and headers together; which of the two broke it shows in the bytes. */
function isRequestLineTooLong(packet: unknown): boolean {
  if (!Buffer.isBuffer(packet) || !/^[A-Z]+ \S/.test(packet.toString('latin1', 0, 16))) return false
  const end = packet.indexOf('\r\n')
  return end === -1 || end > MAX_REQUEST_LINE
}

/** For an `Expect` header that cannot be met. */
export function refuseExpectation(request: IncomingMessage, response: ServerResponse): void {
  const problem = toProblem(
    new InvalidRequest([{ path: '/expect', message: 'can only be 100-continue' }]),
    requestIdOf(request),
  )
  closeAfter(response)
  response
    .writeHead(problem.status, { 'content-type': JSON_TYPE, 'x-request-id': problem.request_id })
    .end(toJsonBody(problem))
}
