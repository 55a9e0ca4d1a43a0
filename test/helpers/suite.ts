import { afterAll, beforeAll, onTestFinished } from 'vitest'
import type { AppParts } from '../../src/app.ts'
import type { SessionAgentBuilder } from '../../src/core/agent.ts'
import type { Gate } from './gate.ts'
import { type Client, client, RawSocket } from './http.ts'
import { startServer } from './server.ts'
import { type EventStream, type OpenStream, openStream } from './sse.ts'

export interface Suite {
  readonly url: string
  readonly port: number
  readonly api: Client
  /** Opens a stream that is left at the end of the test, at the latest. */
  stream(path: string, options?: OpenStream): Promise<EventStream>
  /** A bare connection that is destroyed at the end of the test, at the latest. */
  socket(): Promise<RawSocket>
}

export interface SuiteParts {
  gates?: readonly Gate[]
  agents?: readonly SessionAgentBuilder[]
  hooks?: AppParts['hooks']
}

/** Closing a server must not wait for turns that a failed test left behind. */
const DEFAULTS = { DRAIN_MS: 300 }

/** One server for all tests of a file. */
export function useServer(settings: Record<string, string | number> = {}, parts: SuiteParts = {}): Suite {
  let server: Awaited<ReturnType<typeof startServer>> | undefined
  beforeAll(async () => {
    server = await startServer({ ...DEFAULTS, ...settings }, appParts(parts))
  })
  afterAll(async () => {
    for (const gate of parts.gates ?? []) gate.open()
    await server?.close()
  })
  return suite(() => {
    if (server === undefined) throw new Error('The server has not been started')
    return server
  })
}

/** A server of its own for one test. */
export async function ownServer(settings: Record<string, string | number> = {}, parts: SuiteParts = {}) {
  const server = await startServer({ ...DEFAULTS, ...settings }, appParts(parts))
  let closing: Promise<void> | undefined
  const close = () => (closing ??= Promise.resolve(server.close()).then(() => undefined))
  onTestFinished(async () => {
    for (const gate of parts.gates ?? []) gate.open()
    await close()
  })
  return { ...suite(() => server), url: server.url, port: server.port, close }
}

function appParts({ gates = [], agents = [], hooks = {} }: SuiteParts): AppParts {
  return { agents: [...gates.map((gate) => gate.agent), ...agents], hooks }
}

function suite(server: () => { url: string; port: number }): Suite {
  return {
    get url() {
      return server().url
    },
    get port() {
      return server().port
    },
    api: client(() => server().url),
    async stream(path, options) {
      const stream = await openStream(server().url + path, options)
      onTestFinished(() => stream.leave())
      return stream
    },
    async socket() {
      const socket = await RawSocket.connect(server().port)
      onTestFinished(() => socket.destroy())
      return socket
    },
  }
}
