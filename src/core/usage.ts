import { type Static, Type } from '@sinclair/typebox'
import { count } from './count.ts'

/** Tokens spent. `total_tokens` is input plus output; cache counters are reported beside it and are not part of it. */
export const Usage = Type.Object(
  {
    input_tokens: count('What models were given'),
    output_tokens: count('What models wrote'),
    total_tokens: count('The two together'),
    cache_creation_tokens: Type.Optional(count("Written to the provider's cache")),
    cache_read_tokens: Type.Optional(count("Read from the provider's cache")),
    estimated: Type.Optional(
      Type.Literal(true, {
        description: 'A provider did not count: what is missing was estimated, four bytes a token',
      }),
    ),
  },
  { $id: 'Usage', additionalProperties: false, description: 'Tokens spent; cache counters are not part of the total' },
)
export type Usage = Static<typeof Usage>

/** What an agent reports; the total follows from it. */
export type TokenCounts = Omit<Usage, 'total_tokens'>

const MAX_TOKENS = Number.MAX_SAFE_INTEGER

export const NO_USAGE: Usage = Object.freeze({ input_tokens: 0, output_tokens: 0, total_tokens: 0 })

/** What an agent claims to have spent has no limit: counting stops where numbers are no longer exact. */
export function toUsage(counts: TokenCounts): Usage {
  const input_tokens = Math.min(counts.input_tokens, MAX_TOKENS)
  const output_tokens = Math.min(counts.output_tokens, MAX_TOKENS - input_tokens)
  const usage: Usage = { input_tokens, output_tokens, total_tokens: input_tokens + output_tokens }
  const { cache_creation_tokens: created, cache_read_tokens: read } = counts
  if (created !== undefined) usage.cache_creation_tokens = Math.min(created, MAX_TOKENS)
  if (read !== undefined) usage.cache_read_tokens = Math.min(read, MAX_TOKENS)
  if (counts.estimated) usage.estimated = true
  return usage
}

/** Whether the two can be added up exactly. */
export function isExact({ input_tokens, output_tokens }: TokenCounts): boolean {
  return input_tokens + output_tokens <= MAX_TOKENS
}

export function addUsage(a: Usage, b: Usage): Usage {
  const sum: TokenCounts = {
    input_tokens: a.input_tokens + b.input_tokens,
    output_tokens: a.output_tokens + b.output_tokens,
  }
  const created = sumIfAny(a.cache_creation_tokens, b.cache_creation_tokens)
  const read = sumIfAny(a.cache_read_tokens, b.cache_read_tokens)
  if (created !== undefined) sum.cache_creation_tokens = created
  if (read !== undefined) sum.cache_read_tokens = read
  if (a.estimated || b.estimated) sum.estimated = true
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
