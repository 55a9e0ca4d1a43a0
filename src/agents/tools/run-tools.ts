import { setMaxListeners } from 'node:events'
import type { TurnContext } from '../../core/agent.ts'
import type { AgentOutput } from '../../core/events.ts'
import { MAX_TIMER_MS } from '../pause.ts'
import { Outbox } from './outbox.ts'
import { type Tool, type ToolAnswer, toolError } from './tool.ts'
import { readArguments } from './tool-args.ts'
import { limitedResult, messageOf } from './tool-text.ts'

/** A call as the model asked for it. */
export interface ToolCall {
  readonly id: string
  readonly name: string
  /** Parsed JSON, or the raw text where the model wrote none. */
  readonly args: unknown
}

/** What may stand before and after each call. Generators, so that their own events reach the stream in place. */
export interface ToolGuard {
  /** Returns the arguments to call with, or the answer that the model gets without a call. */
  before(call: ToolCall): AsyncGenerator<AgentOutput, { args: unknown } | { answer: ToolAnswer }, undefined>
  after(call: ToolCall, answer: ToolAnswer): AsyncGenerator<AgentOutput, ToolAnswer, undefined>
}

export interface ToolRound {
  readonly calls: readonly ToolCall[]
  readonly tools: ReadonlyMap<string, Tool>
  readonly guard: ToolGuard
  readonly context: Pick<TurnContext, 'signal' | 'approve'>
  readonly approvalTimeoutMs: number
}

/**
 * Runs the calls of one model answer side by side, after their `tool_call_requested`. Each is reported when it is done;
 * the answers that are returned are in the model's order. What goes wrong with a tool is an answer; what a guard throws
 * ends the round, and so does the turn's signal, at once, whatever a tool still does.
 */
export async function* runTools(round: ToolRound): AsyncGenerator<AgentOutput, ToolAnswer[], undefined> {
  const { signal } = round.context
  signal.throwIfAborted()
  const outbox = new Outbox<AgentOutput>()
  const work = new AbortController()
  // One for each call, and there may be many.
  setMaxListeners(0, work.signal)
  const interrupted = () => {
    outbox.cut(signal.reason)
    work.abort(signal.reason)
  }
  signal.addEventListener('abort', interrupted, { once: true })
  try {
    const running = new RoundInProgress(round, outbox, work.signal)
    const answers = Promise.all(round.calls.map((call) => running.answer(call)))
    answers.then(
      () => outbox.end(),
      (error) => outbox.fail(error),
    )
    yield* outbox.read()
    return await answers
  } finally {
    signal.removeEventListener('abort', interrupted)
    outbox.end()
    work.abort(new Error('The round of tool calls is over'))
  }
}

class RoundInProgress {
  readonly #round: ToolRound
  readonly #outbox: Outbox<AgentOutput>
  readonly #signal: AbortSignal

  constructor(round: ToolRound, outbox: Outbox<AgentOutput>, signal: AbortSignal) {
    this.#round = round
    this.#outbox = outbox
    this.#signal = signal
  }

  async answer(call: ToolCall): Promise<ToolAnswer> {
    const { guard, tools } = this.#round
    const verdict = await this.#pass(guard.before(call))
    if ('answer' in verdict) return this.#report(call, verdict.answer, 0)
    const tool = tools.get(call.name)
    if (tool === undefined) {
      return this.#report(call, toolError('tool_not_found', `There is no tool ${call.name}`), 0)
    }
    const read = readArguments(tool, verdict.args)
    if ('fault' in read) return this.#report(call, toolError('invalid_arguments', read.fault), 0)
    if (tool.needsApproval) {
      const refusal = await this.#ask(call, read.args)
      if (refusal !== undefined) return this.#report(call, refusal, 0)
    }
    this.#signal.throwIfAborted()
    this.#outbox.put({ type: 'tool_execution_started', id: call.id, name: call.name })
    const startedAt = performance.now()
    const result = await this.#execute(tool, call, read.args)
    const durationMs = Math.round(performance.now() - startedAt)
    return this.#report(call, await this.#pass(guard.after({ ...call, args: read.args }, result)), durationMs)
  }

  /** Lets a guard speak, and returns what it came to. */
  async #pass<T>(outputs: AsyncGenerator<AgentOutput, T, undefined>): Promise<T> {
    for (;;) {
      const next = await outputs.next()
      this.#signal.throwIfAborted()
      if (next.done) return next.value
      this.#outbox.put(next.value)
    }
  }

  async #ask({ id, name }: ToolCall, args: unknown): Promise<ToolAnswer | undefined> {
    const { context, approvalTimeoutMs } = this.#round
    const { approved, reason } = await context.approve({ id, name, args, timeoutMs: approvalTimeoutMs })
    return approved ? undefined : toolError('access_denied', reason ?? 'the call was refused')
  }

  /** The tool's answer, or what stands for it: after the tool's time, or when it throws. Rejects when the round ends. */
  #execute(tool: Tool, { id, name }: ToolCall, args: unknown): Promise<ToolAnswer> {
    const round = this.#signal
    const own = new AbortController()
    return new Promise((resolve, reject) => {
      const settle = (act: () => void) => {
        clearTimeout(timer)
        round.removeEventListener('abort', ended)
        act()
      }
      const ended = () => {
        settle(() => reject(round.reason))
        own.abort(round.reason)
      }
      const late = () => {
        const { timeoutMs } = tool
        const message = `The tool did not answer within ${timeoutMs} ms`
        this.#outbox.put({ type: 'tool_execution_timed_out', id, name, timeout_ms: timeoutMs })
        settle(() => resolve(toolError('timeout', message, { timeout_ms: timeoutMs })))
        own.abort(new DOMException(message, 'TimeoutError'))
      }
      const timer = setTimeout(late, Math.min(tool.timeoutMs, MAX_TIMER_MS))
      round.addEventListener('abort', ended, { once: true })
      void answerOf(tool, args, own.signal).then((answer) => settle(() => resolve(answer)))
    })
  }

  #report({ id, name }: ToolCall, given: ToolAnswer, duration_ms: number): ToolAnswer {
    this.#signal.throwIfAborted()
    const { isError } = given
    const content = limitedResult(given.content)
    this.#outbox.put({ type: 'tool_execution_completed', id, name, result: content, is_error: isError, duration_ms })
    this.#outbox.put({ type: 'tool_result_received', id, name, is_error: isError })
    return { content, isError }
  }
}

/** Never rejects. */
async function answerOf(tool: Tool, args: unknown, signal: AbortSignal): Promise<ToolAnswer> {
  try {
    const answer = await tool.execute(args, { signal })
    if (typeof answer?.content !== 'string') return toolError('execution_failed', 'The tool answered with no text')
    return { content: limitedResult(answer.content), isError: answer.isError === true }
  } catch (error) {
    return toolError('execution_failed', messageOf(error))
  }
}
