import type { SessionAgent, TurnContext, TurnInput, TurnOutcome } from '../../core/agent.ts'
import { AgentError, BudgetExhaustedError } from '../../core/errors.ts'
import type { AgentOutput, AgentReport } from '../../core/events.ts'
import type { Block, BudgetLimits, Message, StopReason } from '../../core/transcript.ts'
import { addUsage, NO_USAGE, toUsage, type Usage } from '../../core/usage.ts'
import type { Hooks } from '../hooks/hook.ts'
import { inlineSkill, resolveSkills } from '../skills/resolve-skills.ts'
import type { SkillCatalog } from '../skills/skill.ts'
import { commsTools } from '../tools/comms-tools.ts'
import { runTools, type ToolCall } from '../tools/run-tools.ts'
import type { Tool, ToolAnswer, ToolSource } from '../tools/tool.ts'
import { TurnBudget } from './budget.ts'
import type { ModelEvent, ModelRequest } from './model.ts'
import type { OutputSchema } from './output-schema.ts'
import { overflowBehind } from './overflow.ts'
import { type RetryPolicy, withRetries } from './retry.ts'
import { type HistoryLimits, reasonOf, ShownHistory } from './shown-history.ts'
import { reasoningOf, textOf } from './text.ts'
import { type Adjustable, TurnHooks } from './turn-hooks.ts'

/** What the turns of a session have in common. */
export interface TurnSetup extends Adjustable, HistoryLimits {
  readonly output: { readonly schema: OutputSchema; readonly retries: number } | undefined
  readonly budgetLimits: BudgetLimits
  /** Limits of each turn by itself; 0 is none. */
  readonly turnLimits: BudgetLimits
  readonly skills: SkillCatalog
  readonly hooks: Hooks
  readonly toolSources: readonly ToolSource[]
  readonly maxModelCalls: number
  readonly approvalTimeoutMs: number
  readonly retry: RetryPolicy
}

type Finish = Extract<ModelEvent, { type: 'finish' }>
type Outputs<T> = AsyncGenerator<AgentOutput, T, undefined>

/** One turn of the agent: the loop of model calls and tool rounds, and all that stands around it. */
export class LlmTurn {
  readonly #setup: TurnSetup
  readonly #input: TurnInput
  readonly #context: TurnContext
  readonly #budget: TurnBudget
  readonly #timeUp = new AbortController()
  /** Aborts with the turn, and when its time is up. */
  readonly #signal: AbortSignal
  readonly #hooks: TurnHooks
  readonly #history: ShownHistory
  /** This turn's part of the transcript, as the engine keeps it. */
  readonly #added: Message[] = []
  #usage: Usage = NO_USAGE
  #calls = 0

  constructor(setup: TurnSetup, input: TurnInput, context: TurnContext) {
    this.#setup = setup
    this.#input = input
    this.#context = context
    this.#budget = new TurnBudget(setup.budgetLimits, context.session.spent, setup.turnLimits)
    this.#signal = AbortSignal.any([context.signal, this.#timeUp.signal])
    this.#hooks = new TurnHooks(setup.hooks, context.session.id, this.#signal)
    this.#history = new ShownHistory({
      limits: setup,
      signal: this.#signal,
      transcript: () => [...context.session.messages, ...this.#added],
      add: (message) => this.#added.push(message),
      tools: () => this.#tools(),
      ask: (request) => this.#call(request, true),
    })
  }

  async *run(): ReturnType<SessionAgent['run']> {
    const { remainingMs } = this.#budget
    const timer = remainingMs === undefined ? undefined : setTimeout(() => this.#timeUp.abort(), remainingMs)
    try {
      return yield* this.#run()
    } catch (error) {
      if (this.#context.signal.aborted) return { usage: this.#usage }
      const failure = this.#timeUp.signal.aborted ? yield* this.#outOfTime() : error
      yield* this.#tellHooks(failure)
      throw failure
    } finally {
      clearTimeout(timer)
    }
  }

  async *#run(): Outputs<TurnOutcome> {
    yield* this.#takePrompt()
    yield* this.#hooks.pass('run_started', { prompt: this.#input.prompt })
    for (;;) {
      this.#takeInjected()
      if (this.#calls >= this.#setup.maxModelCalls) {
        throw new BudgetExhaustedError(`The turn has made ${this.#calls} model calls, which is its limit`)
      }
      yield* this.#budget.check()
      yield* this.#history.compact()
      const finish = yield* this.#step()
      if (finish.stopReason !== 'tool_use') return yield* this.#conclude(finish)
      yield* this.#hooks.pass('turn_boundary', { turn_number: this.#calls - 1 })
    }
  }

  /** Puts the skills that were asked for in front of the prompt. */
  async *#takePrompt(): Outputs<void> {
    const { prompt, skillReferences = [], injected } = this.#input
    const inline = inlineSkill(prompt)
    const isKnown = inline !== undefined && (await this.#setup.skills.list()).some(({ id }) => id === inline.id)
    const references = isKnown ? [...skillReferences, inline.id] : skillReferences
    const rest = isKnown ? inline.rest : prompt
    const blocks = references.length === 0 ? '' : yield* resolveSkills(this.#setup.skills, references)
    const content = blocks === '' ? rest : `${blocks}\n\n${rest}`
    if (content !== prompt) yield { type: 'prompt_rendered', content }
    this.#added.push({ role: 'user', content })
    if (injected !== undefined) this.#added.push({ role: 'user', content: injected })
  }

  #takeInjected(): void {
    const injected = this.#context.takeInjected()
    if (injected !== undefined) this.#added.push({ role: 'user', content: injected })
  }

  /** One model call and, if it asked for tools, their round. */
  async *#step(): Outputs<Finish> {
    const tools = await this.#tools()
    yield { type: 'turn_started' }
    const number = this.#calls++
    const { maxTokens, temperature, providerParams } = this.#setup
    const standard = { maxTokens, temperature, providerParams } as Adjustable
    const adjusted = yield* this.#hooks.request(standard, () => this.#history.all().length, number)
    const finish = yield* this.#callFitting({ tools, ...adjusted })
    const blocks = yield* this.#hooks.answer(finish, number)
    yield* this.#tell(blocks)
    const calls = blocks.flatMap((block): ToolCall[] => (block.block_type === 'tool_use' ? [block.data] : []))
    // What the model did counts, not what the provider calls it.
    const stopReason = calls.length > 0 ? 'tool_use' : finish.stopReason === 'tool_use' ? 'end_turn' : finish.stopReason
    this.#added.push({ role: 'block_assistant', blocks, stop_reason: stopReason })
    if (calls.length > 0) yield* this.#toolRound(calls, tools)
    yield { type: 'turn_completed', stop_reason: stopReason, usage: toUsage(finish.usage) }
    return { ...finish, stopReason, blocks }
  }

  async *#toolRound(calls: readonly ToolCall[], tools: readonly Tool[]): Outputs<void> {
    for (const { id, name, args } of calls) yield { type: 'tool_call_requested', id, name, args }
    this.#budget.toolCalls += calls.length
    const answers = yield* runTools({
      calls,
      tools: new Map(tools.map((tool) => [tool.name, tool])),
      guard: this.#hooks.guard(),
      context: { signal: this.#signal, approve: (call) => this.#context.approve(call) },
      approvalTimeoutMs: this.#setup.approvalTimeoutMs,
    })
    const results = calls.map(({ id }, i) => {
      const { content, isError } = answers[i] as ToolAnswer
      return { tool_use_id: id, content, is_error: isError }
    })
    this.#added.push({ role: 'tool_results', results })
  }

  async #tools(): Promise<readonly Tool[]> {
    const lists = await Promise.all(this.#setup.toolSources.map((source) => source.tools(this.#signal)))
    const { comms } = this.#context
    return comms === undefined ? lists.flat() : [...lists.flat(), ...commsTools(comms)]
  }

  /** What the answer said as a whole, and the form in which the transcript keeps it. */
  async *#tell(blocks: Block[]): Outputs<void> {
    const [reasoning, text] = [reasoningOf(blocks), textOf(blocks)]
    if (reasoning !== '') yield { type: 'reasoning_complete', content: reasoning }
    if (text !== '') yield { type: 'text_complete', content: text }
    yield { type: 'assistant_blocks', blocks }
  }

  /** Calls the model, again where that helps, and counts what it cost. What a quiet call says is not for the stream. */
  async *#call(request: Omit<ModelRequest, 'signal'>, quiet = false): Outputs<Finish> {
    const { model, retry } = this.#setup
    const signal = this.#signal
    const attempt = async function* (): AsyncGenerator<AgentReport, Finish, undefined> {
      let finish: Finish | undefined
      for await (const event of model.call({ ...request, signal })) {
        signal.throwIfAborted()
        if (event.type === 'finish') finish = event
        else if (!quiet) yield { type: event.type === 'text' ? 'text_delta' : 'reasoning_delta', delta: event.delta }
      }
      return finish as Finish
    }
    const finish = yield* withRetries(attempt, signal, retry)
    this.#usage = addUsage(this.#usage, toUsage(finish.usage))
    this.#budget.tokens += finish.usage.input_tokens + finish.usage.output_tokens
    if (!quiet) this.#history.lastInputTokens = finish.usage.input_tokens
    return finish
  }

  /** Calls with the history as it is; where that is too long for the model, once more with one that is not. */
  async *#callFitting(request: Omit<ModelRequest, 'signal' | 'messages'>, quiet = false): Outputs<Finish> {
    const messages = this.#history.fitting(request)
    try {
      return yield* this.#call({ ...request, messages }, quiet)
    } catch (error) {
      const overflow = overflowBehind(error)
      if (overflow === undefined) throw error
      this.#history.learn({ ...request, messages }, overflow)
      yield* this.#history.compact(true)
      return yield* this.#call({ ...request, messages: this.#history.fitting(request) }, quiet)
    }
  }

  // The end of the turn

  async *#conclude(finish: Finish): Outputs<TurnOutcome> {
    const outcome: { -readonly [K in keyof TurnOutcome]: TurnOutcome[K] } = {}
    let text = textOf(finish.blocks)
    const { output } = this.#setup
    if (output !== undefined) {
      const extracted = yield* this.#extract(output.schema, output.retries)
      text = extracted.text
      outcome.structured_output = extracted.value
      if (output.schema.warnings.length > 0) outcome.schema_warnings = output.schema.warnings
    }
    outcome.text = yield* this.#hooks.result(text)
    // What was rewritten must not stand there still in its other form.
    if (outcome.text !== text) delete outcome.structured_output
    outcome.stop_reason = turnEnd(finish.stopReason)
    outcome.usage = this.#usage
    return outcome
  }

  /** Asks for the answer in the schema's form until it fits; question and answers stay in the transcript. */
  async *#extract(schema: OutputSchema, retries: number): Outputs<{ text: string; value: unknown }> {
    let question = `Give your answer as JSON that fits this JSON Schema, and nothing else:\n${JSON.stringify(schema.schema)}`
    const { maxTokens, temperature, providerParams } = this.#setup
    const standard = { maxTokens, temperature, providerParams } as Adjustable
    // Declared still: providers refuse a history with calls of tools that they are not told of.
    const request = { ...standard, tools: await this.#tools(), mayCall: false, output: schema.format }
    for (let tries = 1; ; tries++) {
      yield* this.#budget.check()
      const message = { role: 'user' as const, content: question }
      this.#added.push(message)
      yield { type: 'message_added', message }
      yield { type: 'turn_started' }
      this.#calls++
      const { blocks: given, stopReason, usage } = yield* this.#callFitting(request, true)
      // A call that nobody answers would make the history one that no provider takes.
      const blocks = given.filter(({ block_type }) => block_type !== 'tool_use')
      const stop_reason = turnEnd(stopReason)
      yield { type: 'assistant_blocks', blocks }
      yield { type: 'turn_completed', stop_reason, usage: toUsage(usage) }
      this.#added.push({ role: 'block_assistant', blocks, stop_reason })
      const text = textOf(blocks)
      const read = schema.read(text)
      if ('value' in read) return { text, value: read.value }
      if (tries > retries) {
        throw new AgentError(`The model's answer did not fit output_schema in ${tries} attempts: ${read.fault}`)
      }
      question = `That does not fit: ${read.fault}. Answer with the corrected JSON alone.`
    }
  }

  async *#tellHooks(failure: unknown): Outputs<void> {
    const { hooks } = this.#setup
    // With the turn's own signal: a turn whose time is up still tells why it failed.
    yield* new TurnHooks(hooks, this.#context.session.id, this.#context.signal).failure(reasonOf(failure))
  }

  /** The error of a turn that was cut off since its time is up, after its warning. */
  async *#outOfTime(): Outputs<unknown> {
    try {
      yield* this.#budget.check()
    } catch (exhausted) {
      return exhausted
    }
    return new BudgetExhaustedError('The time of the turn is up')
  }
}

function turnEnd(reason: StopReason): Exclude<StopReason, 'tool_use' | 'cancelled'> {
  return reason === 'tool_use' || reason === 'cancelled' ? 'end_turn' : reason
}
