import { type Static, Type } from '@sinclair/typebox'

/** Tokens spent. `total_tokens` is input plus output; cache counters are reported beside it and are not part of it. */
export const Usage = Type.Object(
  {
    input_tokens: Type.Integer({ minimum: 0, description: 'What models were given' }),
    output_tokens: Type.Integer({ minimum: 0, description: 'What models wrote' }),
    total_tokens: Type.Integer({ minimum: 0, description: 'The two together' }),
    cache_creation_tokens: Type.Optional(Type.Integer({ minimum: 0, description: "Written to the provider's cache" })),
    cache_read_tokens: Type.Optional(Type.Integer({ minimum: 0, description: "Read from the provider's cache" })),
  },
  { $id: 'Usage', additionalProperties: false, description: 'Tokens spent; cache counters are not part of the total' },
)
export type Usage = Static<typeof Usage>

/** What an agent reports; the total follows from it. */
export type TokenCounts = Omit<Usage, 'total_tokens'>

export const NO_USAGE: Usage = Object.freeze({ input_tokens: 0, output_tokens: 0, total_tokens: 0 })

export function toUsage(counts: TokenCounts): Usage {
  const usage: Usage = {
    input_tokens: counts.input_tokens,
    output_tokens: counts.output_tokens,
    total_tokens: counts.input_tokens + counts.output_tokens,
  }
  if (counts.cache_creation_tokens !== undefined) usage.cache_creation_tokens = counts.cache_creation_tokens
  if (counts.cache_read_tokens !== undefined) usage.cache_read_tokens = counts.cache_read_tokens
  return usage
}

export function addUsage(a: Usage, b: Usage): Usage {
  if (a.total_tokens === 0 && a.cache_read_tokens === undefined && a.cache_creation_tokens === undefined) return b
  const sum: TokenCounts = {
    input_tokens: a.input_tokens + b.input_tokens,
    output_tokens: a.output_tokens + b.output_tokens,
  }
  const created = sumIfAny(a.cache_creation_tokens, b.cache_creation_tokens)
  const read = sumIfAny(a.cache_read_tokens, b.cache_read_tokens)
  if (created !== undefined) sum.cache_creation_tokens = created
  if (read !== undefined) sum.cache_read_tokens = read
  return toUsage(sum)
}

/** What was spent on something. */
export interface Spent {
  readonly usage: Usage
  readonly modelCalls: number
  readonly toolCalls: number
}

export const NOTHING_SPENT: Spent = Object.freeze({ usage: NO_USAGE, modelCalls: 0, toolCalls: 0 })

export function addSpent(a: Spent, b: Spent): Spent {
  return {
    usage: addUsage(a.usage, b.usage),
    modelCalls: a.modelCalls + b.modelCalls,
    toolCalls: a.toolCalls + b.toolCalls,
  }
}

function sumIfAny(a: number | undefined, b: number | undefined): number | undefined {
  return a === undefined && b === undefined ? undefined : (a ?? 0) + (b ?? 0)
}

/** What turns are counted under: what their session was created with. */
export interface UsageKeys {
  readonly agent: string
  readonly model?: string | undefined
  readonly labels?: Readonly<Record<string, string>> | undefined
}

/** What usage is asked for. Times are milliseconds since the epoch; `from` is part of it, `to` is not. */
export interface UsageQuery {
  groupBy: 'agent' | 'model' | `label.${string}`
  from?: number | undefined
  to?: number | undefined
}

/** What the turns of one group came to, whatever became of them. */
export interface UsageGroup {
  /** `null` for turns whose session has no such model or label. */
  readonly key: string | null
  turns: number
  tokens: Usage
  tool_calls: number
  model_calls: number
  /** Milliseconds that they ran. */
  duration_ms: number
}

/** Groups with the most tokens first. `from` and `to` are whole minutes that hold what was asked for. */
export interface UsageReport {
  groups: UsageGroup[]
  from: number
  to: number
  groupBy: UsageQuery['groupBy']
  /** False where turns were asked for that are no longer counted, or were before counting began. */
  complete: boolean
}
