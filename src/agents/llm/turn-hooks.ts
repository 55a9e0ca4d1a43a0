import { HookDeniedError } from '../../core/errors.ts'
import type { AgentOutput, AgentReport, HookPoint } from '../../core/events.ts'
import type { Block } from '../../core/transcript.ts'
import type { HookInvocation, HookOutcome, HookPatch, Hooks } from '../hooks/hook.ts'
import type { ToolGuard } from '../tools/run-tools.ts'
import { type ToolAnswer, toolError } from '../tools/tool.ts'
import type { ModelEvent, ModelRequest } from './model.ts'
import { textOf } from './text.ts'

type Outputs<T> = AsyncGenerator<AgentOutput, T, undefined>
type Facts = Omit<HookInvocation, 'point' | 'session_id'>

/** What of a model request hooks may see and change. */
export type Adjustable = Pick<ModelRequest, 'maxTokens' | 'temperature' | 'providerParams'>

/** The hooks of one turn, at the eight points where they may look, forbid and change. */
export class TurnHooks {
  readonly #hooks: Hooks
  readonly #sessionId: string
  readonly #signal: AbortSignal

  constructor(hooks: Hooks, sessionId: string, signal: AbortSignal) {
    this.#hooks = hooks
    this.#sessionId = sessionId
    this.#signal = signal
  }

  /** At points that a hook can only forbid. */
  async *pass(point: 'run_started' | 'turn_boundary', facts: Facts): Outputs<void> {
    allow(yield* this.#run(point, facts))
  }

  async *request(request: Adjustable, messageCount: () => number, turn_number: number): Outputs<Adjustable> {
    if (!this.#hooks.has('pre_llm_request')) return request
    const llm_request = {
      ...(request.maxTokens === undefined ? {} : { max_tokens: request.maxTokens }),
      ...(request.temperature === undefined ? {} : { temperature: request.temperature }),
      ...(request.providerParams === undefined ? {} : { provider_params: request.providerParams }),
      message_count: messageCount(),
    }
    const { patches } = allow(yield* this.#run('pre_llm_request', { turn_number, llm_request }))
    const changed: { -readonly [K in keyof Adjustable]: Adjustable[K] } = { ...request }
    for (const { hook_id, patch } of patches) {
      if (patch.patch_type !== 'llm_request') continue
      if (patch.max_tokens !== undefined) changed.maxTokens = patch.max_tokens
      if (patch.temperature !== undefined) changed.temperature = patch.temperature
      if (patch.provider_params !== undefined) changed.providerParams = patch.provider_params
      yield rewritten(hook_id, 'pre_llm_request', patch)
    }
    return changed
  }

  async *answer(
    { blocks, stopReason, usage }: Extract<ModelEvent, { type: 'finish' }>,
    turn_number: number,
  ): Outputs<Block[]> {
    if (!this.#hooks.has('post_llm_response')) return blocks
    const tool_call_names = blocks.flatMap((block) => (block.block_type === 'tool_use' ? [block.data.name] : []))
    const llm_response = { assistant_text: textOf(blocks), tool_call_names, stop_reason: stopReason, usage }
    const outcome = yield* this.#run('post_llm_response', { turn_number, llm_response })
    // What was forbidden is not for the next call to read.
    if (outcome.denied !== undefined) yield { type: 'assistant_blocks', blocks: [] }
    const { patches } = allow(outcome)
    let kept = blocks
    for (const { hook_id, patch } of patches) {
      if (patch.patch_type !== 'assistant_text') continue
      // One text block in place of all: what was signed by the provider is no longer what is said.
      const text: Block = { block_type: 'text', data: { text: patch.text } }
      kept = [text, ...kept.filter((block) => block.block_type === 'tool_use')]
      yield rewritten(hook_id, 'post_llm_response', patch)
    }
    return kept
  }

  async *result(text: string): Outputs<string> {
    const { patches } = allow(yield* this.#run('run_completed', { result: text }))
    let result = text
    for (const { hook_id, patch } of patches) {
      if (patch.patch_type !== 'run_result') continue
      result = patch.text
      yield rewritten(hook_id, 'run_completed', patch)
    }
    return result
  }

  /** What they decide of a failure comes too late to change anything. */
  async *failure(error: string): Outputs<void> {
    yield* this.#run('run_failed', { error })
  }

  /** Around each tool call; a denial is an answer that the model sees. */
  guard(): ToolGuard {
    const run = (point: HookPoint, facts: Facts) => this.#run(point, facts)
    return {
      async *before({ id, name, args }) {
        const outcome = yield* run('pre_tool_execution', { tool_call: { tool_use_id: id, name, args } })
        if (outcome.denied !== undefined) return { answer: deniedAnswer(outcome.denied) }
        let patched = args
        for (const { hook_id, patch } of outcome.patches) {
          if (patch.patch_type !== 'tool_args') continue
          patched = patch.args
          yield rewritten(hook_id, 'pre_tool_execution', patch)
        }
        return { args: patched }
      },
      async *after({ id, name }, answer) {
        const tool_result = { tool_use_id: id, name, content: answer.content, is_error: answer.isError }
        const outcome = yield* run('post_tool_execution', { tool_result })
        if (outcome.denied !== undefined) return deniedAnswer(outcome.denied)
        let patched = answer
        for (const { hook_id, patch } of outcome.patches) {
          if (patch.patch_type !== 'tool_result') continue
          patched = { content: patch.content, isError: patch.is_error ?? patched.isError }
          yield rewritten(hook_id, 'post_tool_execution', patch)
        }
        return patched
      },
    }
  }

  async *#run(point: HookPoint, facts: Facts): Outputs<HookOutcome> {
    if (!this.#hooks.has(point)) return { patches: [] }
    return yield* this.#hooks.run({ point, session_id: this.#sessionId, ...facts }, this.#signal)
  }
}

function allow(outcome: HookOutcome): HookOutcome {
  const { denied } = outcome
  if (denied === undefined) return outcome
  throw new HookDeniedError(`The hook ${denied.hook_id} forbade it: ${denied.message}`)
}

function rewritten(hook_id: string, point: HookPoint, patch: HookPatch): AgentReport {
  return { type: 'hook_rewrite_applied', hook_id, point, patch }
}

function deniedAnswer({ reason_code, message, payload }: NonNullable<HookOutcome['denied']>): ToolAnswer {
  return toolError('hook_denied', message, { reason_code, payload: payload ?? null })
}
