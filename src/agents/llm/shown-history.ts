import { AgentError, SessionError } from '../../core/errors.ts'
import type { AgentOutput } from '../../core/events.ts'
import type { Message } from '../../core/transcript.ts'
import { NO_USAGE, type TokenCounts } from '../../core/usage.ts'
import type { ContextSizes } from './context-sizes.ts'
import { estimateTokens, shownTo, summaryEnd } from './history.ts'
import type { Model, ModelEvent, ModelRequest, ToolSpec } from './model.ts'
import { type Overflow, overflowBehind } from './overflow.ts'
import { shortened, withBoundedResults } from './shorten.ts'
import { pieceQuestion, piecesOf, SUMMARISE } from './summary.ts'
import { textOf } from './text.ts'

/** What of a setup says how much the model is shown. */
export interface HistoryLimits {
  readonly model: Model
  /** Skills that are part of the system prompt. */
  readonly preloaded: string
  /** History longer than this is summarised; 0 never. */
  readonly compactAtTokens: number
  readonly maxToolResultTokens: number
  readonly contextSizes: ContextSizes
  readonly maxTokens?: number
}

interface HistoryParts {
  readonly limits: HistoryLimits
  /** Interrupts the turn. */
  readonly signal: AbortSignal
  transcript(): Message[]
  add(message: Message): void
  /** Declared wherever the history has calls of them. */
  tools(): Promise<readonly ToolSpec[]>
  /** A model call of which nothing reaches the stream. */
  ask(request: Omit<ModelRequest, 'signal'>): Outputs<Extract<ModelEvent, { type: 'finish' }>>
}

type Outputs<T> = AsyncGenerator<AgentOutput, T, undefined>
type Summary = { text: string; usage: TokenCounts }

const SUMMARY_MAX_TOKENS = 4_096
/** A piece of a history that is summarised has at least so many tokens. */
const SMALLEST_PIECE = 100

/** What the model is shown of a session's transcript: summarised where it is long, shortened where it must fit. */
export class ShownHistory {
  /** What the provider counted for the newest request. */
  lastInputTokens = 0
  readonly #limits: HistoryLimits
  readonly #parts: HistoryParts

  constructor(parts: HistoryParts) {
    this.#limits = parts.limits
    this.#parts = parts
  }

  /** All of it, but for the middle of very long tool results. */
  all(): Message[] {
    return this.#bounded(shownTo(this.#parts.transcript(), this.#limits.preloaded))
  }

  /** The same, cut to what the model can be told beside its tools. */
  fitting({ tools, maxTokens }: Pick<ModelRequest, 'tools' | 'maxTokens'>): Message[] {
    const room = this.#limits.contextSizes.room(this.#modelName, maxTokens)
    const shown = this.all()
    return room === undefined ? shown : shortened(shown, room - estimateTokens(tools))
  }

  /** A request was too long: from now on this model is told less. */
  learn({ messages, tools }: Pick<ModelRequest, 'messages' | 'tools'>, overflow: Overflow): void {
    this.#limits.contextSizes.learn(this.#modelName, estimateTokens([...messages, ...tools]), overflow)
  }

  /** Puts a summary in place of older history, for the model alone: who reads the messages still has them all. */
  async *compact(isUrgent = false): Outputs<void> {
    const { compactAtTokens, contextSizes, maxTokens } = this.#limits
    if (compactAtTokens === 0) return
    const shown = this.all()
    const estimate = estimateTokens(shown)
    const room = contextSizes.room(this.#modelName, maxTokens) ?? estimate
    const isLong = Math.max(estimate, this.lastInputTokens) >= compactAtTokens || estimate > room
    if (!isLong && !isUrgent) return
    const transcript = this.#parts.transcript()
    const end = summaryEnd(transcript, isUrgent)
    if (end === undefined) return
    yield {
      type: 'compaction_started',
      input_tokens: this.lastInputTokens,
      estimated_history_tokens: estimate,
      message_count: shown.length,
    }
    try {
      const { text, usage } = yield* this.#summarise(this.#bounded(shownTo(transcript.slice(0, end))))
      if (text.trim() === '') throw new AgentError('The model summarised nothing')
      const content = `Summary of the conversation so far:\n${text}`
      const message = { role: 'user' as const, content, summarises: end }
      this.#parts.add(message)
      yield { type: 'message_added', message }
      this.lastInputTokens = 0
      const messages_after = this.all().length
      yield {
        type: 'compaction_completed',
        summary_tokens: usage.output_tokens,
        messages_before: shown.length,
        messages_after,
      }
    } catch (error) {
      this.#parts.signal.throwIfAborted()
      yield { type: 'compaction_failed', error: reasonOf(error) }
    }
  }

  get #modelName(): string {
    const { provider, name } = this.#limits.model
    return `${provider}/${name}`
  }

  #bounded(messages: readonly Message[]): Message[] {
    return withBoundedResults(messages, this.#limits.maxToolResultTokens)
  }

  /** In one request where that fits the model, else piece by piece. */
  async *#summarise(history: Message[]): Outputs<Summary> {
    const messages = [...history, { role: 'user' as const, content: SUMMARISE }]
    const room = () => this.#limits.contextSizes.room(this.#modelName, SUMMARY_MAX_TOKENS)
    const tools = await this.#parts.tools()
    const estimate = estimateTokens([...messages, ...tools])
    if (estimate <= (room() ?? estimate)) {
      try {
        return yield* this.#ask(messages, tools)
      } catch (error) {
        const overflow = overflowBehind(error)
        if (overflow === undefined) throw error
        this.learn({ messages, tools }, overflow)
      }
    }
    // The other half is for the summary of what came before, and for the question.
    return yield* this.#summariseInPieces(history, (room() ?? estimate) / 2)
  }

  async *#summariseInPieces(history: Message[], size: number): Outputs<Summary> {
    let summary: Summary = { text: '', usage: NO_USAGE }
    try {
      for (const piece of piecesOf(history, Math.max(SMALLEST_PIECE, size))) {
        summary = yield* this.#ask([{ role: 'user', content: pieceQuestion(piece, summary.text) }])
      }
      return summary
    } catch (error) {
      if (overflowBehind(error) === undefined || size <= SMALLEST_PIECE) throw error
      return yield* this.#summariseInPieces(history, size / 2)
    }
  }

  async *#ask(messages: Message[], tools: readonly ToolSpec[] = []): Outputs<Summary> {
    const request = { messages, tools, mayCall: false, maxTokens: SUMMARY_MAX_TOKENS }
    const { blocks, usage } = yield* this.#parts.ask(request)
    return { text: textOf(blocks), usage }
  }
}

/** For whoever watches: only what was written for them. */
export function reasonOf(error: unknown): string {
  return error instanceof SessionError ? error.message : 'an unexpected error occurred'
}
