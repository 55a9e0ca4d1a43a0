import { setTimeout as sleep } from 'node:timers/promises'
import type { SessionAgentBuilder, TurnContext, TurnInput, TurnOutcome } from '../../core/agent.ts'
import { AgentError } from '../../core/errors.ts'
import type { AgentOutput } from '../../core/events.ts'
import { toUsage, type Usage } from '../../core/usage.ts'
import { pause } from '../pause.ts'
import { countWords, splitWords } from '../words.ts'
import { type Directive, parseScript } from './directives.ts'
import { runTool, tools } from './tools.ts'

const DEAF_MS = 600_000

/** Plays the prompt as a script, one directive a line, so that any turn can be had without a model. */
export const scripted: SessionAgentBuilder = {
  name: 'scripted',
  description:
    'Plays the prompt as a script: say, deltas, wait, think, tool, usage, fail, throw, hang, deaf; other lines are said.',
  accepts: ['system_prompt', 'max_tokens', 'provider_params'],
  tools: Object.entries(tools).map(([name, { description }]) => ({ name, description })),
  buildAgent: (request) => ({
    run: ({ prompt }: TurnInput, context: TurnContext) => new Play(prompt, context, request.max_tokens).run(),
  }),
}

/** One performance of a script. A `tool` line ends a model call; so does the script. */
class Play {
  readonly #directives: Directive[]
  readonly #signal: AbortSignal
  readonly #maxTokens: number
  readonly #promptWords: number
  #usage: Usage | undefined
  #spoken = 0
  #toolRounds = 0

  constructor(prompt: string, { signal }: TurnContext, maxTokens = Number.POSITIVE_INFINITY) {
    this.#directives = parseScript(prompt)
    this.#signal = signal
    this.#maxTokens = maxTokens
    this.#promptWords = countWords(prompt)
  }

  async *run(): AsyncGenerator<AgentOutput, TurnOutcome, undefined> {
    yield { type: 'turn_started' }
    for (const directive of this.#directives) {
      yield* this.#perform(directive)
      if (this.#spoken >= this.#maxTokens) {
        yield this.#completed('max_tokens')
        return { stop_reason: 'max_tokens' }
      }
    }
    yield this.#completed('end_turn')
    return {}
  }

  async *#perform(directive: Directive): AsyncGenerator<AgentOutput, void, undefined> {
    switch (directive.do) {
      case 'say':
        return yield* this.#say(splitWords(directive.text))
      case 'deltas':
        return yield* this.#say(repeat('x'.repeat(directive.bytes), directive.count))
      case 'wait':
        return await pause(directive.ms, this.#signal)
      case 'think':
        for (const delta of splitWords(directive.text)) yield { type: 'reasoning_delta', delta }
        yield { type: 'reasoning_complete', content: directive.text }
        return
      case 'tool':
        return yield* this.#toolRound(directive.name, directive.args)
      case 'usage':
        this.#usage = toUsage({ input_tokens: directive.input, output_tokens: directive.output })
        return
      case 'fail':
        throw new AgentError(directive.message)
      case 'throw':
        throw 'a string, which is no Error'
      case 'hang':
        return await untilAborted(this.#signal)
      case 'deaf':
        await sleep(DEAF_MS, undefined, { ref: false })
    }
  }

  *#say(deltas: Iterable<string>): Generator<AgentOutput, void, undefined> {
    for (const delta of deltas) {
      if (this.#spoken >= this.#maxTokens) return
      this.#spoken++
      yield { type: 'text_delta', delta }
    }
  }

  async *#toolRound(name: string, text: string): AsyncGenerator<AgentOutput, void, undefined> {
    const id = `call_${++this.#toolRounds}`
    const args = parseArguments(text)
    yield { type: 'tool_call_requested', id, name, args }
    yield { type: 'tool_execution_started', id, name }
    const startedAt = performance.now()
    const { result, isError } = await runTool(name, args, this.#signal)
    const duration_ms = Math.round(performance.now() - startedAt)
    yield { type: 'tool_execution_completed', id, name, result, is_error: isError, duration_ms }
    yield { type: 'tool_result_received', id, name, is_error: isError }
    yield this.#completed('tool_use')
    yield { type: 'turn_started' }
  }

  /** A model call's usage: what the script said it was, else words in and deltas out. */
  #completed(stop_reason: 'end_turn' | 'max_tokens' | 'tool_use'): AgentOutput {
    const usage = this.#usage ?? toUsage({ input_tokens: this.#promptWords, output_tokens: this.#spoken })
    this.#usage = undefined
    this.#spoken = 0
    return { type: 'turn_completed', stop_reason, usage }
  }
}

function* repeat(text: string, times: number): Generator<string> {
  for (let i = 0; i < times; i++) yield text
}

/** JSON; the text itself where it is none, as a model may write it. */
function parseArguments(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}

function untilAborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    const abort = () => reject(signal.reason)
    if (signal.aborted) abort()
    else signal.addEventListener('abort', abort, { once: true })
  })
}
