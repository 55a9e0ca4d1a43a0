import { randomUUID } from 'node:crypto'
import type { FetchLike } from '@modelcontextprotocol/sdk/shared/transport.js'
import { ErrorCode, McpError } from '@modelcontextprotocol/sdk/types.js'
import { patientFetch } from '../patient-fetch.ts'

/** Largest message of a server, in bytes. */
export const MAX_MESSAGE_BYTES = 10 * 1024 * 1024
/** So often a stream that broke off is taken up again. */
export const MAX_RESUMES = 2

/** Marks an answer that no server gave. */
const LOST = randomUUID()

/** A server said more at once than is kept of it. */
export class MessageTooLongError extends Error {
  constructor() {
    super(`The server's answer is longer than ${MAX_MESSAGE_BYTES} bytes`)
  }
}

/** The stream on which an answer was to come has ended without it. */
export function isLost(error: unknown): boolean {
  return error instanceof McpError && error.data === LOST
}

type MessageId = string | number

interface Sent {
  id?: MessageId
  method?: string
  params?: { requestId?: MessageId }
}

/**
 * `fetch` for one connection over streamable HTTP, for what the SDK leaves open: a request whose stream breaks off without
 * an answer gets an error for one, instead of none ever; a request that was cancelled gives up its stream; and no message
 * is kept beyond `MAX_MESSAGE_BYTES`. A stream with event ids is left to the SDK, which takes it up again; `gone` is
 * called when that has failed `MAX_RESUMES` times.
 */
export function mcpFetch(gone: () => void): FetchLike {
  const running = new Map<MessageId, AbortController>()
  let failedResumes = 0
  const resumed = (isSuccess: boolean) => {
    failedResumes = isSuccess ? 0 : failedResumes + 1
    if (failedResumes >= MAX_RESUMES) gone()
  }
  return async (url, init) => {
    const { id, method, params }: Sent = typeof init?.body === 'string' ? JSON.parse(init.body) : {}
    if (id === undefined || method === undefined) {
      const isResume = new Headers(init?.headers).has('last-event-id')
      try {
        const response = await patientFetch(url, init)
        if (isResume) resumed(response.ok)
        return withBody(response, (body) => bounded(body, isEventStream(response)))
      } catch (error) {
        if (isResume) resumed(false)
        throw error
      } finally {
        if (method === 'notifications/cancelled') running.get(params?.requestId ?? '')?.abort()
      }
    }
    const cancelled = new AbortController()
    running.set(id, cancelled)
    const done = () => running.delete(id)
    const signals = [cancelled.signal, ...(init?.signal ? [init.signal] : [])]
    try {
      const response = await patientFetch(url, { ...init, signal: AbortSignal.any(signals) })
      if (response.body === null) done()
      return withBody(response, (body) =>
        isEventStream(response) ? answered(body, id, done) : ended(bounded(body, false), done),
      )
    } catch (error) {
      done()
      throw error
    }
  }
}

/**
 * `fetch` for one connection over the older transport, where one stream has the answers to all requests: `gone` is called
 * when it ends. Opened again it would be another session, in which nobody was introduced.
 */
export function sseFetch(gone: () => void): FetchLike {
  return async (url, init) => {
    const response = await patientFetch(url, init)
    if (!response.ok || !isEventStream(response)) return response
    return withBody(response, (body) => ended(bounded(body, true), gone))
  }
}

type Body = AsyncIterable<Uint8Array>

function isEventStream(response: Response): boolean {
  return /^text\/event-stream\b/i.test(response.headers.get('content-type') ?? '')
}

/** A redirect is left as it is: the SDK decides about it, and does not read it. */
function withBody(response: Response, wrap: (body: Body) => AsyncGenerator<Uint8Array>): Response {
  const { body, status, statusText, headers } = response
  if (body === null || (status >= 300 && status < 400)) return response
  return new Response(ReadableStream.from(wrap(body)), { status, statusText, headers })
}

async function* bounded(body: Body, inEvents: boolean): AsyncGenerator<Uint8Array> {
  let length = 0
  for await (const chunk of body) {
    const begins = inEvents ? newestEvent(chunk) : 0
    length = begins === 0 ? length + chunk.length : chunk.length - begins
    if (length > MAX_MESSAGE_BYTES) throw new MessageTooLongError()
    yield chunk
  }
}

/** Where the newest event of a chunk begins, after a blank line. 0: it is that of the chunk before. */
function newestEvent(chunk: Uint8Array): number {
  const bytes = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength)
  return Math.max(bytes.lastIndexOf('\n\n') + 1, bytes.lastIndexOf('\r\n\r\n') + 1)
}

async function* ended(body: AsyncGenerator<Uint8Array>, done: () => void): AsyncGenerator<Uint8Array> {
  try {
    yield* body
  } finally {
    done()
  }
}

/** A stream of events that ends with an answer in any case. Where the true one came before, another is for nobody. */
async function* answered(body: Body, id: MessageId, done: () => void): AsyncGenerator<Uint8Array> {
  let hasEventIds = false
  let error: object = { code: ErrorCode.ConnectionClosed, message: 'The stream broke off', data: LOST }
  let tail = '\n'
  try {
    for await (const chunk of bounded(body, true)) {
      const text = tail + Buffer.from(chunk).toString('latin1')
      hasEventIds ||= /[\r\n]id:/.test(text)
      tail = text.slice(-3)
      yield chunk
    }
  } catch (fault) {
    if (fault instanceof MessageTooLongError) {
      error = { code: ErrorCode.InternalError, message: fault.message }
      hasEventIds = false
    }
    if (hasEventIds) throw fault
  } finally {
    done()
  }
  if (!hasEventIds) yield Buffer.from(`\n\ndata: ${JSON.stringify({ jsonrpc: '2.0', id, error })}\n\n`)
}
