import { Client } from '@modelcontextprotocol/sdk/client/index.js'
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js'
import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js'
import {
  type CallToolResult,
  CallToolResultSchema,
  ErrorCode,
  McpError,
  type Tool as McpTool,
  ResultSchema,
  ToolListChangedNotificationSchema,
  ToolSchema,
} from '@modelcontextprotocol/sdk/types.js'
import { MAX_TIMER_MS } from '../pause.ts'
import { isObject } from './json.ts'
import type { McpServerConfig } from './mcp-config.ts'
import { isRefused, type MakeTransport, transportsTo } from './mcp-transports.ts'
import { waitedFor, withinTime } from './waiting.ts'

/** A call's own time-out comes before the client's by this time. */
const CALL_MARGIN_MS = 10_000
/** A server is asked for so many pages of tools. */
const MAX_PAGES = 100
/** Nobody waits longer than this for a server to say goodbye. */
const FAREWELL_MS = 1_000

export interface McpConnectionOptions {
  /** What the client calls itself. */
  readonly version: string
  /** Hears each line that a server writes to its standard error. */
  readonly said: (line: string) => void
  /** Hears of each tool that is left out of the list since it does not fit the protocol. */
  readonly skipped: (tool: string, fault: string) => void
  /** Gives the attempt to connect up. */
  readonly signal: AbortSignal
}

/** One connection to one server, from its handshake until it breaks. */
export class McpConnection {
  readonly #client: Client
  readonly #transport: Transport
  readonly #startTimeoutMs: number
  readonly #skipped: McpConnectionOptions['skipped']
  #tools: Promise<readonly McpTool[]> | undefined
  #isOpen = true
  #closing: Promise<void> | undefined

  private constructor(make: MakeTransport, startTimeoutMs: number, { version, said, skipped }: McpConnectionOptions) {
    this.#client = new Client({ name: 'suricate', version })
    this.#transport = make({ said, gone: () => void this.#client.close().catch(() => {}) })
    this.#startTimeoutMs = startTimeoutMs
    this.#skipped = skipped
    this.#client.setNotificationHandler(ToolListChangedNotificationSchema, () => {
      this.#tools = undefined
    })
    this.#client.onclose = () => {
      this.#isOpen = false
    }
  }

  /** Rejects when the server cannot be started or reached in its time, or does not speak the protocol. */
  static async open(config: McpServerConfig, options: McpConnectionOptions): Promise<McpConnection> {
    const { startTimeoutMs } = config
    const late = new AbortController()
    const message = `It did not start within ${startTimeoutMs} ms; start_timeout_ms sets another time`
    const timer = setTimeout(() => late.abort(new Error(message)), startTimeoutMs)
    const signal = AbortSignal.any([options.signal, late.signal])
    let refusal: unknown
    try {
      for (const make of transportsTo(config)) {
        const connection = new McpConnection(make, startTimeoutMs, options)
        try {
          await waitedFor(connection.#client.connect(connection.#transport, { timeout: MAX_TIMER_MS }), signal)
          return connection
        } catch (error) {
          await connection.close()
          // What the first transport says is why: the second is a guess.
          refusal ??= error
          if (!isRefused(error)) break
        }
      }
      throw refusal
    } finally {
      clearTimeout(timer)
    }
  }

  /** False once it is known to be broken. */
  get isOpen(): boolean {
    return this.#isOpen
  }

  /** All that the server has, asked for once and again after it said that they changed. */
  tools(): Promise<readonly McpTool[]> {
    if (this.#tools === undefined) {
      const tools = withinTime(this.#list(), this.#startTimeoutMs)
      this.#tools = tools
      tools.catch(() => {
        if (this.#tools === tools) this.#tools = undefined
      })
    }
    return this.#tools
  }

  /** `timeoutMs` is the caller's own: this waits a little longer, so that it is never first. */
  async call(
    name: string,
    args: Record<string, unknown>,
    timeoutMs: number,
    signal: AbortSignal,
  ): Promise<CallToolResult> {
    const timeout = Math.min(timeoutMs + CALL_MARGIN_MS, MAX_TIMER_MS)
    const request = { method: 'tools/call' as const, params: { name, arguments: args } }
    // Read here: an answer that does not fit is the fault of one call, not of the connection.
    const read = CallToolResultSchema.safeParse(await this.#client.request(request, ResultSchema, { signal, timeout }))
    if (read.success) return read.data
    throw new McpError(ErrorCode.InternalError, `the answer does not fit the protocol: ${faultOf(read.error.issues)}`)
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
      const params = cursor === undefined ? {} : { cursor }
      // Not `listTools`: one tool that does not fit would be the end of all.
      const answer = await this.#client.request({ method: 'tools/list', params }, ResultSchema, {
        timeout: this.#startTimeoutMs,
      })
      if (!Array.isArray(answer.tools)) throw new McpError(ErrorCode.InternalError, 'its list of tools is none')
      for (const given of answer.tools) {
        const read = ToolSchema.safeParse(given)
        if (!read.success) this.#skipped(nameOf(given), faultOf(read.error.issues))
        // What can only be called as a task, a simple call cannot.
        else if (read.data.execution?.taskSupport !== 'required') tools.set(read.data.name, read.data)
      }
      const { nextCursor } = answer
      if (typeof nextCursor !== 'string' || nextCursor === '') break
      cursor = nextCursor
    }
    return [...tools.values()]
  }
}

function nameOf(tool: unknown): string {
  return isObject(tool) && typeof tool.name === 'string' ? tool.name : 'without a name'
}

function faultOf(issues: readonly { path: readonly PropertyKey[]; message: string }[]): string {
  return issues.map(({ path, message }) => `${path.map(String).join('.') || 'it'}: ${message}`).join('; ')
}
