import type { OutgoingHttpHeaders, ServerResponse } from 'node:http'
import { PassThrough } from 'node:stream'
import type { FastifyInstance, FastifyReply } from 'fastify'
import fp from 'fastify-plugin'
import { FastifySSEPlugin } from 'fastify-sse-v2'
import { StoreUnavailableError } from '../core/errors.ts'
import { encodeNotice } from '../core/event-frame.ts'
import type { EventStream } from '../core/event-stream.ts'
import { cut } from './connections.ts'
import { HttpError } from './problems.ts'
import { requestFields } from './request-log.ts'

declare module 'fastify' {
  interface FastifyReply {
    /** The answer is an event stream. */
    isStream: boolean
    /** Sends a stream's frames as they come, to the end of the stream or of the connection. Nothing may follow it. */
    stream(events: EventStream, options?: StreamOptions): void
    /** Turns an `EventSource` away for a while: it comes back after a 200 with `retry`, and never after a 503. */
    retryLater(): void
  }
  interface FastifyInstance {
    streams: StreamStats
    /** Throws while as many streams are open as may be. */
    refuseExcessStreams(): void
  }
}

export interface StreamOptions {
  /** What is sent when nothing else was: a comment, or an event for clients that cannot see comments. */
  heartbeat?: 'comment' | 'event'
  /** Called when the client left before the end. */
  onDisconnect?: () => void
}

export interface SseOptions {
  /** Writes a line when a stream closes. */
  logs?: boolean
  heartbeatMs: number
  stallMs: number
  maxStreams: number
}

/** Readings for metrics; counted here because no hook of the framework sees how a stream ends. */
export interface StreamStats {
  open: number
  events: number
  truncated: number
}

/** Stands inside the first event's block: several decoders make an empty event of a block without data. */
const RETRY = Buffer.from('retry: 1000\n')
/** One line, no blank line, for the same reason. */
const COMMENT = ': ping\n'
const HEARTBEAT = Buffer.from(encodeNotice({ type: 'heartbeat' }))
const SLICE_BYTES = 64 * 1024
/** Readers that are still open once every turn is over have this long before they are cut. */
const LAST_FRAMES_MS = 1_000

/**
 * Server-Sent Events over fastify-sse-v2: replies are opened its way, then whole frames are written straight from the
 * session's log, all that are there in one write. docs/decisions/ has the reasons and the measurements.
 */
export const sse = fp(
  async (app: FastifyInstance, options: SseOptions) => {
    await app.register(FastifySSEPlugin, { retryDelay: false })
    const connections = new Set<Connection>()
    const stats: StreamStats = { open: 0, events: 0, truncated: 0 }
    const hub: Hub = { connections, stats, logs: options.logs ?? false, tick: 0 }

    app.decorate('streams', stats)
    app.decorate('refuseExcessStreams', () => {
      if (connections.size < options.maxStreams) return
      throw new HttpError('RATE_LIMITED', `${options.maxStreams} event streams are open already`, {
        'retry-after': '1',
      })
    })

    app.decorateReply('isStream', false)
    app.decorateReply('stream', function (this: FastifyReply, events: EventStream, streamOptions: StreamOptions = {}) {
      new Connection(this, events, streamOptions, hub).start()
    })

    app.decorateReply('retryLater', function (this: FastifyReply) {
      open(this)
      if (hub.logs) this.request.log.info({ ...requestFields(this.request, this), stream: 'turned away' }, 'request')
      const wait = 1_000 + Math.floor(Math.random() * 2_000)
      // Not from within the callback: a reset that is asked for there goes out as a proper end.
      this.raw.write(`retry: ${wait}\n`, () => setImmediate(() => setImmediate(cut, this.raw)))
    })

    // One timer for all streams; a timer each would cost more than the streams themselves.
    const tickMs = Math.max(10, Math.min(1_000, Math.floor(Math.min(options.heartbeatMs, options.stallMs) / 5)))
    const heartbeatTicks = Math.max(1, Math.round(options.heartbeatMs / tickMs))
    const stallTicks = Math.max(1, Math.ceil(options.stallMs / tickMs))
    const timer = setInterval(() => {
      hub.tick++
      for (const connection of connections) connection.check(hub.tick, heartbeatTicks, stallTicks)
    }, tickMs).unref()

    // Runs after the sessions' own: by now every turn has its terminal event and is on its way out.
    app.addHook('preClose', async () => {
      const deadline = performance.now() + LAST_FRAMES_MS
      while (connections.size > 0 && performance.now() < deadline)
        await new Promise((resolve) => setTimeout(resolve, 5))
      clearInterval(timer)
      for (const connection of connections) connection.cut()
    })
  },
  { name: 'sse', dependencies: ['sessions'] },
)

interface Hub {
  readonly connections: Set<Connection>
  readonly stats: StreamStats
  readonly logs: boolean
  /** Coarse clock: rises with every look at the open streams. */
  tick: number
}

/** One reader's socket. It has no queue: what the socket does not take stays in the log. */
class Connection {
  readonly #reply: FastifyReply
  readonly #raw: ServerResponse
  readonly #events: EventStream
  readonly #options: StreamOptions
  readonly #hub: Hub
  #opened = false
  #begun = false
  /** What is left of the page that is being written: a view of the log's own bytes. */
  #rest: Buffer | undefined
  #blocked = false
  #finished = false
  #lastWrite: number

  constructor(reply: FastifyReply, events: EventStream, options: StreamOptions, hub: Hub) {
    this.#reply = reply
    this.#raw = reply.raw
    this.#events = events
    this.#options = options
    this.#hub = hub
    this.#lastWrite = hub.tick
  }

  start(): void {
    // A client that left before this never says so again.
    if (this.#raw.destroyed) {
      this.#reply.hijack()
      this.#events.close()
      this.#options.onDisconnect?.()
      return
    }
    this.#hub.connections.add(this)
    this.#hub.stats.open++
    this.#raw.on('close', this.#onClose)
    this.#events.onReadable(this.#pump)
    try {
      this.#writeAll()
    } catch (error) {
      if (this.#opened) this.#cutAfter(error)
      // Nothing was sent yet: it can still be a status.
      else this.#refuse(error)
    }
    // A turn that was just started commits its first events in a moment: the reply opens with them, in one write.
    if (!this.#opened) queueMicrotask(() => process.nextTick(openEmpty, this))
    // Fastify would otherwise answer for a handler that returned nothing.
    if (!this.#opened) this.#reply.hijack()
  }

  /** Heartbeat and stall, seen from the shared timer. */
  check(tick: number, heartbeatTicks: number, stallTicks: number): void {
    const quiet = tick - this.#lastWrite
    if (this.#blocked || this.#finished) {
      if (quiet >= stallTicks) this.cut()
    } else if (quiet >= heartbeatTicks && this.#opened) {
      if (this.#options.heartbeat === 'event') this.#write(HEARTBEAT)
      else {
        this.#lastWrite = tick
        if (!this.#raw.write(COMMENT)) this.#block()
      }
    }
  }

  /** Ends the connection so that nobody takes it for the end of the turn. */
  cut(): void {
    cut(this.#raw)
  }

  readonly #pump = (): void => {
    try {
      this.#writeAll()
    } catch (error) {
      this.#cutAfter(error)
    }
  }

  /** Cuts this reader alone: it can come back, and nobody else is held up by what its read ran into. */
  #cutAfter(error: unknown): void {
    // Where another server goes on with the session, that was said once, and is nobody's fault.
    if (!(error instanceof StoreUnavailableError)) {
      this.#reply.request.log.error({ err: error }, 'a stream could not be read')
    }
    this.#blocked = true
    // Not before what was written has left, or a reply that was just opened has no header.
    process.nextTick(cut, this.#raw)
  }

  #refuse(error: unknown): never {
    this.#raw.removeListener('close', this.#onClose)
    this.#events.close()
    this.#hub.connections.delete(this)
    this.#hub.stats.open--
    throw error
  }

  #writeAll(): void {
    while (!this.#blocked && this.#hasMore());
  }

  /** Writes what comes next. False when there is nothing, for now or for good. */
  #hasMore(): boolean {
    const rest = this.#rest
    if (rest !== undefined) {
      this.#write(rest)
      return true
    }
    const events = this.#events
    if (this.#finished) return false
    const before = events.position
    const truncations = events.truncations
    const frames = events.read()
    if (frames === undefined) return false
    const truncated = events.truncations - truncations
    if (truncated === 0) this.#hub.stats.events += events.position - before
    this.#hub.stats.truncated += truncated
    this.#finished = events.ended
    this.#write(frames)
    return true
  }

  #write(frames: Buffer): void {
    const raw = this.#raw
    this.#lastWrite = this.#hub.tick
    if (!this.#opened) this.#open()
    // In slices: a slow reader shows that it reads at the end of each, however large one event is.
    const slice = frames.length > SLICE_BYTES ? frames.subarray(0, SLICE_BYTES) : frames
    this.#rest = slice === frames ? undefined : frames.subarray(SLICE_BYTES)
    // Joined and not corked: Node 22 and later lose what a corked reply is ended with.
    const bytes = this.#begun ? slice : Buffer.concat([RETRY, slice])
    this.#begun = true
    if (this.#finished && this.#rest === undefined) raw.end(bytes)
    else if (!raw.write(bytes)) this.#block()
  }

  #open(): void {
    this.#opened = true
    open(this.#reply)
  }

  /** Opens a reply that has nothing to say yet; one hop later than a commit that is due. */
  openEmpty(): void {
    if (this.#opened || this.#raw.destroyed) return
    this.#pump()
    if (this.#opened) return
    this.#open()
    this.#raw.flushHeaders()
  }

  /** The socket took all it can for now: nothing is read until it has room. */
  #block(): void {
    this.#blocked = true
    this.#raw.once('drain', () => {
      this.#blocked = false
      this.#pump()
    })
  }

  readonly #onClose = (): void => {
    this.#events.close()
    this.#hub.connections.delete(this)
    this.#hub.stats.open--
    const complete = this.#finished && this.#raw.writableFinished
    if (!complete) this.#options.onDisconnect?.()
    if (!this.#hub.logs) return
    const reply = this.#reply
    const end = { stream: complete ? 'complete' : 'cut', position: this.#events.position }
    reply.request.log.info({ ...requestFields(reply.request, reply), ...end }, 'request')
  }
}

function openEmpty(connection: Connection): void {
  connection.openEmpty()
}

/** What fastify-sse-v2 opens a reply with: asked once, since its pipeline costs more than a short turn. */
let opening: Readonly<Record<string, string>> | undefined

/**
 * Opens the reply as fastify-sse-v2 does, with its headers put right, and without the pipeline that it makes for each
 * reply: two generators and two streams that are never ended. The header leaves with the first frames, in one packet.
 */
function open(reply: FastifyReply): void {
  opening ??= learnOpening(reply)
  reply.isStream = true
  reply.hijack()
  reply.raw.writeHead(200, { ...(reply.getHeaders() as OutgoingHttpHeaders), ...opening })
}

/** Lets the plugin open a stand-in, and keeps the headers that it set. */
function learnOpening(reply: FastifyReply): Record<string, string> {
  const headers = new Map<string, string>()
  const raw = Object.assign(new PassThrough(), {
    headersSent: false,
    setHeader: (name: string, value: string) => headers.set(name.toLowerCase(), String(value)),
    flushHeaders: () => {},
  })
  reply.sse.call({ raw, getHeaders: () => ({}), hijack: () => {} } as unknown as FastifyReply, {})
  raw.destroy()
  // The first leaks an implementation detail, the second is for the connection to decide.
  headers.delete('x-no-compression')
  headers.delete('connection')
  return {
    ...Object.fromEntries(headers),
    'content-type': 'text/event-stream',
    'cache-control': 'no-cache, no-transform',
    'x-accel-buffering': 'no',
  }
}
