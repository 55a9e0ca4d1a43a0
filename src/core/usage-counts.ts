import {
  addUsage,
  NO_USAGE,
  type Spent,
  type UsageGroup,
  type UsageKeys,
  type UsageQuery,
  type UsageReport,
} from './usage.ts'

export const MINUTE_MS = 60_000

/** What a turn that is over came to, whatever became of it. */
export interface SpentTurn extends Spent {
  /** Milliseconds since the epoch. */
  readonly endedAt: number
  readonly durationMs: number
}

export type Sums = Omit<UsageGroup, 'key'>

/** What all turns came to that have their keys in common. */
export interface UsageSum extends Sums {
  readonly keys: UsageKeys
}

/** Minutes since the epoch, from `first` up to, and without, `end`; without a bound where one is missing. */
export interface MinuteRange {
  readonly first: number | undefined
  readonly end: number | undefined
}

/** What was counted in a range, and how far back counting goes. */
export interface UsageCounts {
  /** Keys may stand there more than once. */
  readonly sums: Iterable<UsageSum>
  /** The first minute in which anything is counted, in the range or not. */
  readonly oldest: number | undefined
  /** Every turn that ended in this minute or later is counted. */
  readonly completeFrom: number
  /** Nothing that was counted has been forgotten since. */
  readonly isWhole: boolean
}

/** In one form, however the labels were ordered: what is counted together has the same JSON text. */
export function usageKeysOf({ agent, model, labels = {} }: UsageKeys): UsageKeys {
  const sorted = Object.entries(labels).sort(([a], [b]) => (a < b ? -1 : 1))
  return { agent, ...(model === undefined ? {} : { model }), labels: Object.fromEntries(sorted) }
}

export function nothingSummed(): Sums {
  return { turns: 0, tokens: NO_USAGE, tool_calls: 0, model_calls: 0, duration_ms: 0 }
}

export function addSums(sums: Sums, more: Sums): void {
  sums.turns += more.turns
  // Sums do not say which part of them was estimated: no store keeps it.
  const { estimated: _, ...tokens } = addUsage(sums.tokens, more.tokens)
  sums.tokens = tokens
  sums.tool_calls += more.tool_calls
  sums.model_calls += more.model_calls
  sums.duration_ms += more.duration_ms
}

export function minuteOf(ms: number): number {
  return Math.floor(ms / MINUTE_MS)
}

/** The whole minutes that hold what is asked for. */
export function minutesOf({ from, to }: UsageQuery): MinuteRange {
  return {
    first: from === undefined ? undefined : minuteOf(from),
    end: to === undefined ? undefined : Math.ceil(to / MINUTE_MS),
  }
}

/** The answer to a query, from what was counted in its minutes. */
export function reportOf(query: UsageQuery, { sums, oldest, completeFrom, isWhole }: UsageCounts): UsageReport {
  const { groupBy } = query
  const { first, end = minuteOf(Date.now()) + 1 } = minutesOf(query)
  const groups = new Map<string | null, UsageGroup>()
  for (const sum of sums) {
    const key = groupKey(sum.keys, groupBy)
    let group = groups.get(key)
    if (group === undefined) {
      group = { key, ...nothingSummed() }
      groups.set(key, group)
    }
    addSums(group, sum)
  }
  return {
    groups: [...groups.values()].sort(byTokensThenKey),
    from: (first ?? Math.min(completeFrom, oldest ?? completeFrom)) * MINUTE_MS,
    to: end * MINUTE_MS,
    groupBy,
    complete: first === undefined ? isWhole : first >= completeFrom,
  }
}

function groupKey({ agent, model, labels = {} }: UsageKeys, groupBy: UsageQuery['groupBy']): string | null {
  if (groupBy === 'agent') return agent
  if (groupBy === 'model') return model ?? null
  const label = groupBy.slice('label.'.length)
  return Object.hasOwn(labels, label) ? (labels[label] as string) : null
}

/** What has no key comes after what has one. */
function byTokensThenKey(a: UsageGroup, b: UsageGroup): number {
  const byTokens = b.tokens.total_tokens - a.tokens.total_tokens
  if (byTokens !== 0 || a.key === b.key) return byTokens
  if (a.key === null || b.key === null) return a.key === null ? 1 : -1
  return a.key < b.key ? -1 : 1
}
