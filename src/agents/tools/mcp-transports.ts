import { Readable } from 'node:stream'
import { SSEClientTransport, SseError } from '@modelcontextprotocol/sdk/client/sse.js'
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js'
import { StreamableHTTPClientTransport, StreamableHTTPError } from '@modelcontextprotocol/sdk/client/streamableHttp.js'
import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js'
import { eachLine } from './lines.ts'
import type { HttpTransport, McpServerConfig } from './mcp-config.ts'
import { MAX_MESSAGE_BYTES, MAX_RESUMES, mcpFetch, sseFetch } from './mcp-fetch.ts'

/** Characters of a line of standard error. */
const MAX_LINE = 16_384
const RESUMES = {
  maxRetries: MAX_RESUMES,
  initialReconnectionDelay: 1_000,
  reconnectionDelayGrowFactor: 1.5,
  maxReconnectionDelay: 30_000,
}
/** Answers that say nothing about which transport a server speaks. */
const NO_REFUSAL = [401, 403, 408, 429]

export interface TransportOptions {
  /** Hears each line that a server writes to its standard error. */
  readonly said: (line: string) => void
  /** Called when the connection is known to be broken, where the transport itself does not notice. */
  readonly gone: () => void
}

/** Makes a new transport each time. */
export type MakeTransport = (options: TransportOptions) => Transport

/** The transports that a server may speak, in the order in which to try them: the next where one `isRefused`. */
export function transportsTo(config: McpServerConfig): readonly MakeTransport[] {
  if (config.kind === 'stdio') return [(options) => stdioTransport(config, options)]
  const order: HttpTransport[] = config.transport === 'sse' ? ['sse', 'streamable'] : ['streamable', 'sse']
  return order.map((transport) => (options) => httpTransport(config, transport, options))
}

/** Whether a server does not speak the transport, as opposed to being away or not letting anybody in. */
export function isRefused(error: unknown): boolean {
  if (!(error instanceof StreamableHTTPError || error instanceof SseError)) return false
  const { code = 0 } = error
  const isContentType = code === -1
  return isContentType || code === 501 || (code >= 400 && code < 500 && !NO_REFUSAL.includes(code))
}

function httpTransport(
  { url, headers }: McpServerConfig & { kind: 'http' },
  transport: HttpTransport,
  { gone }: TransportOptions,
): Transport {
  const requestInit = { headers: { ...headers } }
  if (transport === 'sse') return new SSEClientTransport(url, { requestInit, fetch: sseFetch(gone) })
  const fetch = mcpFetch(gone)
  // Its class and its interface disagree about what may be undefined.
  return new StreamableHTTPClientTransport(url, { requestInit, fetch, reconnectionOptions: RESUMES }) as Transport
}

function stdioTransport(
  { command, args, env, cwd }: McpServerConfig & { kind: 'stdio' },
  { said }: TransportOptions,
): Transport {
  const transport = new StdioClientTransport({
    command,
    args: [...args],
    // What every program needs comes to this; none of our own variables does.
    env: { ...env },
    stderr: 'pipe',
    maxBufferSize: MAX_MESSAGE_BYTES,
    ...(cwd === undefined ? {} : { cwd }),
  })
  // Read in any case: a server whose standard error is full stands still.
  if (transport.stderr instanceof Readable) eachLine(transport.stderr, MAX_LINE, said)
  return transport
}
