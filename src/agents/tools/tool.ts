import type { ToolServer } from '../../core/agent.ts'

export type JsonObject = Record<string, unknown>

/** Something that a model may call. */
export interface Tool {
  /** What the model calls it: letters, digits, `_` and `-`, 64 at most, unique among the tools of a session. */
  readonly name: string
  readonly description: string
  /** JSON Schema of the arguments; they are held against it before `execute` sees them. */
  readonly inputSchema: JsonObject
  /** Somebody must allow each call. */
  readonly needsApproval: boolean
  /** Milliseconds that a call may take. */
  readonly timeoutMs: number
  /** May throw: the model is told `execution_failed` and the error's message. */
  execute(args: unknown, options: { signal: AbortSignal }): Promise<ToolAnswer>
}

export interface ToolAnswer {
  /** For the model; JSON as text when it is structured. */
  readonly content: string
  readonly isError: boolean
}

/** Where tools come from: an MCP server, the team's own module. */
export interface ToolSource {
  readonly name: string
  /** The tools that are there now; connects if need be. A source that cannot be reached has none, and is tried again. */
  tools(signal: AbortSignal): Promise<readonly Tool[]>
  /** How a server is now, without waiting. One that is not connected is tried again by and by. */
  status?(): ToolSourceStatus
  close(): Promise<void>
}

export interface ToolSourceStatus {
  readonly state: ToolServer['state']
  /** Why it failed. */
  readonly reason?: string
  readonly tools: readonly Tool[]
}

/** What went wrong with a tool call, as the model is told: `{"error": code, "message": text}`. */
export type ToolErrorCode =
  | 'tool_not_found'
  | 'tool_unavailable'
  | 'invalid_arguments'
  | 'execution_failed'
  | 'timeout'
  | 'access_denied'
  | 'hook_denied'

export function toolError(error: ToolErrorCode, message: string, more: JsonObject = {}): ToolAnswer {
  return { content: JSON.stringify({ error, message, ...more }), isError: true }
}
