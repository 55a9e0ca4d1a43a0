import type { SpentRow } from '../core/durable-store.ts'
import type { Usage } from '../core/usage.ts'
import type { UsageSum } from '../core/usage-counts.ts'

/** In minutes. What turns came to is summed up over each of them, so that a long time is read from few rows. */
export const USAGE_SPANS = [1, 60, 1_440] as const
const DAY_MS = 86_400_000

/** Spans that follow one another: minutes, hours or days, by the minutes since the epoch in which they begin. */
export interface Stretch {
  readonly span: number
  readonly first: number
  readonly end: number
}

/** The fewest spans that make up a range of minutes. */
export function stretchesOf(first: number, end: number, spans: readonly number[] = USAGE_SPANS): Stretch[] {
  const span = spans.at(-1)
  if (span === undefined || first >= end) return []
  const finer = spans.slice(0, -1)
  const from = Math.ceil(first / span) * span
  const to = Math.floor(end / span) * span
  if (from >= to) return stretchesOf(first, end, finer)
  return [...stretchesOf(first, from, finer), { span, first: from, end: to }, ...stretchesOf(to, end, finer)]
}

/** The minute in which the day of `ms` begins. */
export function dayOf(ms: number): number {
  return Math.floor(ms / DAY_MS) * 1_440
}

const COUNTS = ['input_tokens', 'output_tokens', 'tool_calls', 'model_calls', 'duration_ms'] as const
/** Null where no turn said anything of them. */
const CACHE_COUNTS = ['cache_creation_tokens', 'cache_read_tokens'] as const

/** What is counted of a turn, as columns of floating point numbers: the same that JavaScript adds up, and without an end. */
export const USAGE_COLUMNS = [...COUNTS, ...CACHE_COUNTS]
export const usageColumns = USAGE_COLUMNS.join(', ')
export const usageSums = USAGE_COLUMNS.map((name) => `sum(${name}) as ${name}`).join(', ')

/** Adds what is `excluded` from an insertion to the sums that are there. */
export const addedUsage = [
  ...['turns', ...COUNTS].map((name) => `${name} = usage_sum.${name} + excluded.${name}`),
  ...CACHE_COUNTS.map(
    (name) => `${name} = case when excluded.${name} is null then usage_sum.${name}
      else coalesce(usage_sum.${name}, 0) + excluded.${name} end`,
  ),
].join(', ')

export function usageValuesOf({
  usage,
  toolCalls,
  modelCalls,
  durationMs,
}: SpentRow): Record<UsageColumn, number | null> {
  return {
    input_tokens: usage.input_tokens,
    output_tokens: usage.output_tokens,
    tool_calls: toolCalls,
    model_calls: modelCalls,
    duration_ms: durationMs,
    cache_creation_tokens: usage.cache_creation_tokens ?? null,
    cache_read_tokens: usage.cache_read_tokens ?? null,
  }
}
type UsageColumn = (typeof USAGE_COLUMNS)[number]

export function toUsageSum(row: Record<string, unknown>): UsageSum {
  const [input_tokens, output_tokens] = [Number(row.input_tokens), Number(row.output_tokens)]
  const tokens: Usage = { input_tokens, output_tokens, total_tokens: input_tokens + output_tokens }
  for (const name of CACHE_COUNTS) if (row[name] !== null) tokens[name] = Number(row[name])
  return {
    keys: JSON.parse(String(row.keys)),
    turns: Number(row.turns),
    tokens,
    tool_calls: Number(row.tool_calls),
    model_calls: Number(row.model_calls),
    duration_ms: Number(row.duration_ms),
  }
}
