import type { CommsCommand, CommsReceipt, Peer } from './comms.ts'
import type { AgentOutput, AgentReport } from './events.ts'
import type { CreateSessionRequest } from './session-service.ts'
import type { Message, StopReason } from './transcript.ts'
import type { TokenCounts } from './usage.ts'

/**
 * Makes agents of one kind. This and `SessionAgent` are all that a team writes to bring its own.
 *
 * ```ts
 * export default {
 *   name: 'shout',
 *   buildAgent: () => ({
 *     async *run({ prompt }) {
 *       yield { type: 'text_delta', delta: prompt.toUpperCase() }
 *       return { text: prompt.toUpperCase() }
 *     },
 *   }),
 * } satisfies SessionAgentBuilder
 * ```
 */
export interface SessionAgentBuilder {
  /** What `agent` in a request names: letters, digits, `-` and `_`. */
  readonly name: string
  readonly description?: string
  /** The model that is used when a request names none. */
  readonly defaultModel?: string
  readonly tools?: readonly { name: string; description: string }[]
  /** The MCP servers that its tools come from, as they are now. */
  readonly mcpServers?: readonly ToolServer[]
  /**
   * The optional members of a create request that this agent honours; the others are refused with
   * `CAPABILITY_UNAVAILABLE` rather than ignored. Without it: `system_prompt`, `model`, `provider`, `max_tokens`,
   * `provider_params`.
   */
  readonly accepts?: readonly AgentOption[]
  /**
   * Called once for a session, before it becomes visible, and again when its agent had to be abandoned. Throw an
   * `InvalidParamsError` for a request that cannot be served; any throw leaves no session behind.
   */
  buildAgent(request: CreateSessionRequest, session: AgentSession): SessionAgent | Promise<SessionAgent>
}

/** A server that tools come from. */
export interface ToolServer {
  readonly name: string
  readonly state: 'connected' | 'connecting' | 'failed'
  /** Why it failed. */
  readonly reason?: string
  /** How many tools it has. */
  readonly tool_count: number
}

/** Members of a request that are for the agent. */
export const AGENT_OPTIONS = [
  'system_prompt',
  'model',
  'provider',
  'max_tokens',
  'provider_params',
  'output_schema',
  'structured_output_retries',
  'budget_limits',
  'skill_references',
  'preload_skills',
  'hooks_override',
] as const
export type AgentOption = (typeof AGENT_OPTIONS)[number]

/** What a function returns that returns nothing. */
export type Nothing = ReturnType<() => void>

/** What `run` makes. An agent that returns nothing has said all there is to say. */
export type AgentRun = AsyncGenerator<AgentOutput, TurnOutcome | undefined | Nothing, undefined>

export interface SessionAgent {
  /**
   * Runs one turn: yields what happens and returns the outcome. Never called twice at a time; in host mode once for the
   * prompt of a turn and then for what comes into the inbox.
   *
   * Only `text_delta` is needed: the engine brackets a model call with `turn_started` and, where the agent does not say
   * so itself, `text_complete` and `turn_completed`. Throwing fails the turn: an `AgentError`'s text reaches the caller,
   * anything else only the log. When `context.signal` aborts, stop soon; what comes later is not heard.
   */
  run(input: TurnInput, context: TurnContext): AgentRun
  /** Called once when the session is over or the agent was abandoned. Must not throw. */
  dispose?(): void | Promise<void>
}

/** The session as its agent sees it. */
export interface AgentSession {
  readonly id: string
  readonly labels: Readonly<Record<string, string>>
  /** The committed transcript, oldest first, without the run that is under way. */
  readonly messages: readonly Message[]
  /** What earlier turns spent. */
  readonly spent: Spending
  /** Reports something outside of `run`. It belongs to the turn that is running, or to none (turn 0). */
  emit(report: AgentReport): void
}

/** What turns cost, in the units in which budgets are set. */
export interface Spending {
  /** Input and output tokens. */
  readonly tokens: number
  /** Milliseconds that turns ran; the time between them does not count. */
  readonly durationMs: number
  readonly toolCalls: number
}

export interface TurnInput {
  readonly prompt: string
  /** Skills that the caller wants in front of the prompt; only where the builder accepts `skill_references`. */
  readonly skillReferences?: readonly string[]
  /** What came into the session's inbox since the last turn, as one text; it stands behind the prompt in the transcript. */
  readonly injected?: string
}

export interface TurnContext {
  /** Aborts when the turn is interrupted. Pass it to everything that waits. */
  readonly signal: AbortSignal
  readonly session: AgentSession
  readonly turn: number
  /**
   * What came into the inbox meanwhile, as one text for the model, or nothing. Call it between model calls: the engine
   * puts the text into the transcript as a user message, and tells whoever sent it how the turn ended.
   */
  takeInjected(): string | undefined
  /**
   * Asks whoever watches the session to allow a tool call, and waits. Resolves with a refusal when nobody answers within
   * `timeoutMs`; rejects with the signal's reason when the turn is interrupted.
   */
  approve(call: ApprovalRequest): Promise<Approval>
  /** Other sessions, for one that has a `comms_name`. */
  readonly comms?: Comms
}

/** What a session can do with its peers. Rejects with what the service throws, and what happened by then stays. */
export interface Comms {
  peers(): Promise<Peer[]>
  /** Rejects with the signal's reason, too, once the turn is interrupted. */
  send(command: CommsCommand): Promise<CommsReceipt>
}

export interface ApprovalRequest {
  readonly id: string
  readonly name: string
  readonly args?: unknown
  /** Default: five minutes. `Infinity` waits until somebody answers or the turn is over. */
  readonly timeoutMs?: number
}

export interface Approval {
  readonly approved: boolean
  readonly reason?: string
}

export interface TurnOutcome {
  /** The answer. Default: what was said since the last tool round. */
  readonly text?: string
  readonly stop_reason?: Exclude<StopReason, 'tool_use' | 'cancelled'>
  /** Tokens of the whole turn. Default: the sum of what `turn_completed` events report. */
  readonly usage?: TokenCounts
  readonly structured_output?: unknown
  readonly schema_warnings?: readonly { provider: string; path: string; message: string }[]
}
