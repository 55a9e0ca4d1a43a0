import { StreamableHTTPError } from '@modelcontextprotocol/sdk/client/streamableHttp.js'
import { type CallToolResult, McpError } from '@modelcontextprotocol/sdk/types.js'
import type { McpServerConfig } from './mcp-config.ts'
import { McpConnection } from './mcp-connection.ts'
import { isLost, MessageTooLongError } from './mcp-fetch.ts'
import { redactor } from './redactor.ts'
import {
  type JsonObject,
  type Tool,
  type ToolAnswer,
  type ToolSource,
  type ToolSourceStatus,
  toolError,
} from './tool.ts'
import { toolName } from './tool-names.ts'
import { messageOf } from './tool-text.ts'
import { waitedFor } from './waiting.ts'

export interface McpServerOptions {
  /** Milliseconds that a call may take where the configuration does not say. */
  readonly toolTimeoutMs: number
  readonly version: string
  readonly log: { warn(message: string): void; debug(message: string): void }
}

const FIRST_PAUSE_MS = 500
const LONGEST_PAUSE_MS = 30_000
const MAX_LINE = 2_000
const NOT_YET: ToolSourceStatus = { state: 'connecting', tools: [] }
/** By the protocol it is the second; the SDK's own examples, and many who followed them, say the first. */
const FORGOTTEN = [400, 404]

/**
 * The tools of an MCP server. It is connected when they are first asked for, by one connection for all who ask; one that
 * broke is made again. A server that cannot be reached has no tools, and is left alone for a while that grows.
 */
export function openMcpServer(config: McpServerConfig, options: McpServerOptions): ToolSource {
  return new McpServer(config, options)
}

class McpServer implements ToolSource {
  readonly #config: McpServerConfig
  readonly #options: McpServerOptions
  #connecting: Promise<McpConnection> | undefined
  /** The last one that could be made, and did not list its tools. */
  #useless: McpConnection | undefined
  #status: ToolSourceStatus = NOT_YET
  /** The one that last listed its tools. */
  #connected: McpConnection | undefined
  /** What it wrote last to its standard error: often why it ended. */
  #lastLine = ''
  /** What was skipped, so that it is said once. */
  readonly #skipped = new Set<string>()
  #failures = 0
  #retryAt = 0
  readonly #closing = new AbortController()
  /** Takes out what nobody may see of the configuration. */
  readonly #clean: (text: string) => string

  constructor(config: McpServerConfig, options: McpServerOptions) {
    this.#config = config
    this.#options = options
    this.#clean = redactor(config.secrets)
  }

  get name(): string {
    return this.#config.name
  }

  status(): ToolSourceStatus {
    const isLost = this.#status.state === 'connected' && this.#connected?.isOpen !== true
    if (isLost) this.#status = NOT_YET
    const status = this.#status
    // It may have come back, or have other tools by now.
    void this.#tools().catch(() => {})
    return status
  }

  async tools(signal: AbortSignal): Promise<readonly Tool[]> {
    try {
      return await waitedFor(this.#tools(), signal)
    } catch {
      signal.throwIfAborted()
      return []
    }
  }

  async close(): Promise<void> {
    this.#closing.abort(new Error('The server is closing'))
    const connection = await this.#connecting?.catch(() => undefined)
    await connection?.close()
  }

  async #tools(): Promise<readonly Tool[]> {
    const connection = await this.#connect()
    try {
      const tools = await connection.tools()
      this.#failures = 0
      const own = tools.map(({ name, description = '', inputSchema }) => {
        const { requireApproval, timeoutMs = this.#options.toolTimeoutMs } = this.#config
        return {
          name: toolName(this.name, name),
          description: this.#clean(description),
          inputSchema: inputSchema as JsonObject,
          needsApproval: requireApproval === true || requireApproval.has(name),
          timeoutMs,
          execute: (args, { signal }) => this.#call(name, args as JsonObject, timeoutMs, signal),
        } satisfies Tool
      })
      this.#connected = connection
      this.#status = { state: 'connected', tools: own }
      return own
    } catch (error) {
      // Of all who wait for the same list the first says so.
      if (this.#useless !== connection) this.#failed(error)
      this.#useless = connection
      await connection.close()
      throw error
    }
  }

  async #call(name: string, args: JsonObject, timeoutMs: number, signal: AbortSignal): Promise<ToolAnswer> {
    for (let tries = 1; ; tries++) {
      let connection: McpConnection
      try {
        connection = await waitedFor(this.#connect(), signal)
      } catch {
        signal.throwIfAborted()
        return toolError('tool_unavailable', `The server ${this.name} cannot be reached`)
      }
      try {
        const { content, isError } = answerOf(await connection.call(name, args, timeoutMs, signal))
        return { content: this.#clean(content), isError }
      } catch (error) {
        signal.throwIfAborted()
        if (isLost(error)) return this.#brokeOff()
        // What the server itself says of the call, as opposed to there being none any more.
        if (error instanceof MessageTooLongError || (error instanceof McpError && connection.isOpen)) {
          return toolError('execution_failed', this.#said(error))
        }
        await connection.close()
        // The server has forgotten the session, and with it has not begun the call.
        const isForgotten = error instanceof StreamableHTTPError && FORGOTTEN.includes(error.code ?? 0)
        if (!isForgotten || tries > 1) return this.#brokeOff()
      }
    }
  }

  #brokeOff(): ToolAnswer {
    const message = `The server ${this.name} broke off; whether the call was done is not known`
    return toolError('tool_unavailable', message)
  }

  #connect(): Promise<McpConnection> {
    const { signal } = this.#closing
    if (signal.aborted) return Promise.reject(signal.reason)
    if (this.#connecting !== undefined) return this.#live(this.#connecting)
    if (performance.now() < this.#retryAt) return Promise.reject(new Error('It was not there a moment ago'))
    const { version, log } = this.#options
    this.#lastLine = ''
    const said = (line: string) => {
      if (line.trim() !== '') this.#lastLine = line
      log.debug(`MCP server ${this.name}: ${this.#clean(line).slice(0, MAX_LINE)}`)
    }
    const skipped = (tool: string, fault: string) => {
      const line = `MCP server ${this.name}: its tool ${tool} is skipped: ${fault}`
      if (this.#skipped.has(line)) return
      this.#skipped.add(line)
      log.warn(messageOf(this.#clean(line)))
    }
    const connecting = McpConnection.open(this.#config, { version, said, skipped, signal })
    this.#connecting = connecting
    connecting.then(
      async (connection) => {
        if (signal.aborted) await connection.close()
      },
      (error: unknown) => {
        if (this.#connecting === connecting) this.#connecting = undefined
        this.#failed(error)
      },
    )
    return connecting
  }

  /** What was connected, or a new connection in the place of one that has broken since. */
  async #live(connecting: Promise<McpConnection>): Promise<McpConnection> {
    const connection = await connecting
    if (connection.isOpen) return connection
    if (this.#connecting === connecting) this.#connecting = undefined
    return this.#connect()
  }

  #failed(error: unknown): void {
    const pause = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** this.#failures)
    this.#retryAt = performance.now() + pause
    const lastWords = this.#lastLine === '' ? '' : `; it wrote last: ${this.#clean(this.#lastLine)}`
    const reason = messageOf(this.#said(error) + lastWords)
    this.#status = { state: 'failed', reason, tools: [] }
    // Once for as long as it is away.
    if (this.#failures++ === 0 && !this.#closing.signal.aborted) {
      this.#options.log.warn(`MCP server ${this.name} cannot be reached: ${reason}`)
    }
  }

  /** An error in words, shortened after the secrets are gone: half of one would not be found. */
  #said(error: unknown): string {
    if (!(error instanceof Error)) return messageOf(this.#clean(String(error)))
    // Of a request that failed only this says why.
    const { code } = (error.cause ?? {}) as { code?: unknown }
    return messageOf(this.#clean(typeof code === 'string' ? `${error.message} (${code})` : error.message))
  }
}

function answerOf({ content = [], structuredContent, isError = false }: CallToolResult): ToolAnswer {
  const texts = content.map(textOf)
  const hasText = content.some((piece) => piece.type === 'text')
  if (!hasText && structuredContent !== undefined) texts.unshift(JSON.stringify(structuredContent))
  return { content: texts.join('\n'), isError }
}

/** What a model that reads can make of a piece of an answer. */
function textOf(piece: CallToolResult['content'][number]): string {
  switch (piece.type) {
    case 'text':
      return piece.text
    case 'image':
    case 'audio':
      return `[${piece.type} ${piece.mimeType}, ${Buffer.byteLength(piece.data, 'base64')} bytes]`
    case 'resource_link':
      return `[resource ${piece.uri}]`
    case 'resource':
      return 'text' in piece.resource ? piece.resource.text : `[resource ${piece.resource.uri}]`
  }
}
