import { Readable } from 'node:stream'
import { Client } from '@modelcontextprotocol/sdk/client/index.js'
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js'
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js'
import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js'
import {
  type CallToolResult,
  CallToolResultSchema,
  ListToolsResultSchema,
  type Tool as McpTool,
  ToolListChangedNotificationSchema,
} from '@modelcontextprotocol/sdk/types.js'
import { MAX_TIMER_MS } from '../pause.ts'
import { eachLine } from './lines.ts'
import type { McpServerConfig } from './mcp-config.ts'
import { MAX_MESSAGE_BYTES, MAX_RESUMES, mcpFetch } from './mcp-fetch.ts'
import { waitedFor, withinTime } from './waiting.ts'

/** A server that does not introduce itself, or list its tools, within this time is not there. */
const CONNECT_MS = 10_000
/** A server is asked for so many pages of tools. */
const MAX_PAGES = 100
/** Nobody waits longer than this for a server to say goodbye. */
const FAREWELL_MS = 1_000
/** Characters of a line of standard error. */
const MAX_LINE = 16_384
const RESUMES = {
  maxRetries: MAX_RESUMES,
  initialReconnectionDelay: 1_000,
  reconnectionDelayGrowFactor: 1.5,
  maxReconnectionDelay: 30_000,
}

export interface McpConnectionOptions {
  /** What the client calls itself. */
  readonly version: string
  /** Hears each line that a server writes to its standard error. */
  readonly said: (line: string) => void
  /** Gives the attempt to connect up. */
  readonly signal: AbortSignal
}

/** One connection to one server, from its handshake until it breaks. */
export class McpConnection {
  readonly #client: Client
  readonly #transport: Transport
  #tools: Promise<readonly McpTool[]> | undefined
  #isOpen = true
  #closing: Promise<void> | undefined

  private constructor(client: Client, transport: Transport) {
    this.#client = client
    this.#transport = transport
  }

  /** Rejects when the server cannot be started or reached, or does not speak the protocol. */
  static async open(config: McpServerConfig, { version, said, signal }: McpConnectionOptions): Promise<McpConnection> {
    const client = new Client({ name: 'suricate', version })
    const transport = transportTo(config, said, () => void client.close().catch(() => {}))
    const connection = new McpConnection(client, transport)
    client.setNotificationHandler(ToolListChangedNotificationSchema, () => {
      connection.#tools = undefined
    })
    client.onclose = () => {
      connection.#isOpen = false
    }
    try {
      await waitedFor(withinTime(client.connect(transport, { timeout: CONNECT_MS }), CONNECT_MS), signal)
      return connection
    } catch (error) {
      await connection.close()
      throw error
    }
  }

  /** False once it is known to be broken. */
  get isOpen(): boolean {
    return this.#isOpen
  }

  /** All that the server has, asked for once and again after it said that they changed. */
  tools(): Promise<readonly McpTool[]> {
    if (this.#tools === undefined) {
      const tools = withinTime(this.#list(), CONNECT_MS)
      this.#tools = tools
      tools.catch(() => {
        if (this.#tools === tools) this.#tools = undefined
      })
    }
    return this.#tools
  }

  /** `timeoutMs` is the caller's own: this waits a little longer, so that it is never first. */
  async call(name: string, args: Record<string, unknown>, timeoutMs: number, signal: AbortSignal) {
    const timeout = Math.min(timeoutMs + CONNECT_MS, MAX_TIMER_MS)
    const result = await this.#client.callTool({ name, arguments: args }, CallToolResultSchema, { signal, timeout })
    return result as CallToolResult
  }

  /** Resolves when a process that was started has been ended, for whoever asks. */
  close(): Promise<void> {
    this.#isOpen = false
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    if (this.#transport instanceof StreamableHTTPClientTransport) {
      await withinTime(this.#transport.terminateSession(), FAREWELL_MS).catch(() => {})
    }
    await this.#client.close().catch(() => {})
  }

  async #list(): Promise<readonly McpTool[]> {
    if (this.#client.getServerCapabilities()?.tools === undefined) return []
    // By name: of two with the same one, a provider would refuse both.
    const tools = new Map<string, McpTool>()
    let cursor: string | undefined
    for (let page = 0; page < MAX_PAGES; page++) {
      // Not `listTools`: it compiles every output schema, and one that is wrong would be the end of all tools.
      const { tools: more, nextCursor } = await this.#client.request(
        { method: 'tools/list', params: cursor === undefined ? {} : { cursor } },
        ListToolsResultSchema,
        { timeout: CONNECT_MS },
      )
      // What can only be called as a task, a simple call cannot.
      for (const tool of more) if (tool.execution?.taskSupport !== 'required') tools.set(tool.name, tool)
      if (nextCursor === undefined) break
      cursor = nextCursor
    }
    return [...tools.values()]
  }
}

function transportTo(config: McpServerConfig, said: (line: string) => void, gone: () => void): Transport {
  if (config.kind === 'http') {
    const transport = new StreamableHTTPClientTransport(config.url, {
      requestInit: { headers: { ...config.headers } },
      fetch: mcpFetch(gone),
      reconnectionOptions: RESUMES,
    })
    // Its class and its interface disagree about what may be undefined.
    return transport as Transport
  }
  const { command, args, env, cwd } = config
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
