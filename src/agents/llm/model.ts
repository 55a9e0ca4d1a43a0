import type { Block, Message, StopReason } from '../../core/transcript.ts'
import type { TokenCounts } from '../../core/usage.ts'
import type { JsonObject } from '../tools/tool.ts'
import type { Overflow } from './overflow.ts'

/** A model as the loop sees it: one call at a time, no retries, no loop of its own. */
export interface Model {
  /** `anthropic`, `openai`, `google` or `compatible`. */
  readonly provider: string
  /** Its name at the provider. */
  readonly name: string
  /**
   * Calls the model. Ends after its one `finish`. Throws a `ModelFault`; when `request.signal` aborts, it closes the
   * provider's connection and throws whatever it likes.
   */
  call(request: ModelRequest): AsyncIterable<ModelEvent>
}

export interface ModelRequest {
  /** The history for the model, a system message first if there is one; every tool use is answered. */
  readonly messages: readonly Message[]
  readonly tools: readonly ToolSpec[]
  /** False: the tools are declared for the history alone. Default: true. */
  readonly mayCall?: boolean
  readonly maxTokens?: number
  readonly temperature?: number
  /** For the provider as it is; no base URL, no header and no key can come from here. */
  readonly providerParams?: JsonObject
  /** The answer must be JSON of this form: said to providers that understand it. */
  readonly output?: OutputFormat
  readonly signal: AbortSignal
}

/** The form of an answer. */
export interface OutputFormat {
  readonly schema: JsonObject
  readonly name: string
  /** The provider is to hold the model to every word of the schema, which fits its strict mode. */
  readonly strict: boolean
}

/** What a model is told of a tool. */
export interface ToolSpec {
  readonly name: string
  readonly description: string
  readonly inputSchema: JsonObject
}

export type ModelEvent =
  | { type: 'text'; delta: string }
  | { type: 'reasoning'; delta: string }
  | {
      type: 'finish'
      stopReason: Exclude<StopReason, 'cancelled'>
      usage: TokenCounts
      /**
       * The whole answer in the provider's order. `meta` holds what must return to the provider unchanged. `args` of a
       * tool use is what the model wrote, parsed, or its text where it is no JSON.
       */
      blocks: Block[]
    }

export interface ModelFaultOptions extends ErrorOptions {
  retryAfterMs?: number | undefined
  overflow?: Overflow | undefined
}

/** A call that failed. The message is for the caller: no key, no header, no raw body. */
export class ModelFault extends Error {
  override readonly name = 'ModelFault'
  /** Another try may succeed: 408, 429, 500 and above, a connection that broke or went silent. */
  readonly retryable: boolean
  /** How long the provider asked to wait, in milliseconds. */
  readonly retryAfterMs: number | undefined
  /** The request was longer than the model's context. */
  readonly overflow: Overflow | undefined

  constructor(message: string, retryable: boolean, options: ModelFaultOptions = {}) {
    super(message, options)
    this.retryable = retryable
    this.retryAfterMs = options.retryAfterMs
    this.overflow = options.overflow
  }
}

/** The models that this server can call. */
export interface ModelProviders {
  /** `provider/name` for requests that name no model; `undefined` when none is configured. */
  readonly standard: string | undefined
  /**
   * The model of a name like `anthropic/claude-…`. Throws an `InvalidParamsError` for a name of no known provider and a
   * `ProviderError` that says which variable to set when the provider's key is missing.
   */
  model(name: string): Model
}
