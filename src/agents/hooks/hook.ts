import type { Nothing } from '../../core/agent.ts'
import type { AgentOutput, HookPoint } from '../../core/events.ts'
import type { JsonObject } from '../tools/tool.ts'

/** What a hook is told; members that do not concern its point are absent. */
export interface HookInvocation {
  readonly point: HookPoint
  readonly session_id: string
  readonly turn_number?: number
  readonly prompt?: string
  readonly error?: string
  /** The text that the turn ends with. */
  readonly result?: string
  readonly llm_request?: {
    max_tokens?: number
    temperature?: number
    provider_params?: JsonObject
    message_count: number
  }
  readonly llm_response?: { assistant_text: string; tool_call_names: string[]; stop_reason?: string; usage?: object }
  readonly tool_call?: { tool_use_id: string; name: string; args: unknown }
  readonly tool_result?: { tool_use_id: string; name: string; content: string; is_error: boolean }
}

/** What a hook wants changed; each is honoured at its own point alone. */
export type HookPatch =
  | { patch_type: 'llm_request'; max_tokens?: number; temperature?: number; provider_params?: JsonObject }
  | { patch_type: 'assistant_text'; text: string }
  | { patch_type: 'tool_args'; args: unknown }
  | { patch_type: 'tool_result'; content: string; is_error?: boolean }
  | { patch_type: 'run_result'; text: string }

export interface HookResponse {
  readonly decision?:
    | { decision: 'allow' }
    | { decision: 'deny'; reason_code: string; message: string; payload?: unknown }
  readonly patches?: readonly HookPatch[]
}

/** A hook of the team's own module. One that answers nothing allows, and changes nothing. */
export type HookHandler = (
  invocation: HookInvocation,
  options: { signal: AbortSignal },
) => HookAnswer | Promise<HookAnswer>
export type HookAnswer = HookResponse | undefined | Nothing

/** What the hooks of a point came to: forbidden, or allowed with these changes, in their order. */
export interface HookOutcome {
  readonly denied?: { hook_id: string; reason_code: string; message: string; payload?: unknown }
  readonly patches: readonly { readonly hook_id: string; readonly patch: HookPatch }[]
}

/** The hooks that one session has. */
export interface Hooks {
  /** False where no hook is registered for the point: nothing needs to be put together for it then. */
  has(point: HookPoint): boolean
  /** Runs the hooks of a point, lowest priority first, and yields what they do; the first that denies ends it. */
  run(invocation: HookInvocation, signal: AbortSignal): AsyncGenerator<AgentOutput, HookOutcome, undefined>
}

/** The hooks that this server has. */
export interface HookRegistry {
  /**
   * Those of one session, without the ones that it disables. Throws an `InvalidParamsError` for an id that is not there
   * or that the configuration does not let anybody disable.
   */
  forSession(disable: readonly string[]): Hooks
}
