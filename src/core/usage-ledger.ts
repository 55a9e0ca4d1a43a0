import { addUsage, NO_USAGE, type Usage, type UsageGroup, type UsageQuery, type UsageReport } from './usage.ts'

const MINUTE_MS = 60_000
const MAX_ROWS = 50_000
/** Labels are as long as their owners like: characters that rows may be told apart by, all together. */
const MAX_CHARACTERS = 32 * 1024 * 1024

/** What turns are counted under: what their session was created with. */
export interface UsageKeys {
  readonly agent: string
  readonly model?: string | undefined
  readonly labels?: Readonly<Record<string, string>> | undefined
}

/** What a turn that is over came to, whatever became of it. */
export interface SpentTurn {
  /** Milliseconds since the epoch. */
  readonly endedAt: number
  readonly durationMs: number
  readonly usage: Usage
  readonly modelCalls: number
  readonly toolCalls: number
}

type Sums = Omit<UsageGroup, 'key'>

/** All turns of one minute that have agent, model and labels in common. */
interface Row extends Sums {
  readonly minute: number
  readonly keys: UsageKeys
}

export interface UsageLedgerLimits {
  maxRows?: number
  maxCharacters?: number
}

/**
 * What turns cost, over all sessions that there are and were, by the minute in which they ended.
 *
 * Bounded: the oldest rows are dropped first, and a report that would have needed them says so. A turn costs one look-up,
 * whatever there is already.
 */
export class UsageLedger {
  /** In the order in which they were begun. */
  readonly #rows = new Map<string, Row>()
  readonly #maxRows: number
  readonly #maxCharacters: number
  #characters = 0
  /** Every turn from this minute on is here. */
  #completeFrom: number
  readonly #begun: number
  #hasDropped = false

  constructor({ maxRows = MAX_ROWS, maxCharacters = MAX_CHARACTERS }: UsageLedgerLimits = {}) {
    this.#maxRows = maxRows
    this.#maxCharacters = maxCharacters
    this.#completeFrom = this.#begun = minuteOf(Date.now())
  }

  add({ agent, model, labels }: UsageKeys, turn: SpentTurn): void {
    const minute = minuteOf(turn.endedAt)
    const key = keyOf(minute, { agent, model, labels })
    let row = this.#rows.get(key)
    if (row === undefined) {
      row = { minute, keys: { agent, model, labels }, ...nothing() }
      this.#rows.set(key, row)
      this.#characters += key.length
      this.#dropOldest()
    }
    row.turns++
    row.tokens = addUsage(row.tokens, turn.usage)
    row.tool_calls += turn.toolCalls
    row.model_calls += turn.modelCalls
    row.duration_ms += turn.durationMs
  }

  /** Sums over the minutes from that of `from` up to, and without, the first that begins at `to` or later. */
  report({ groupBy, from, to }: UsageQuery): UsageReport {
    const first = from === undefined ? this.#oldest() : minuteOf(from)
    const end = Math.ceil((to ?? Date.now() + 1) / MINUTE_MS)
    const groups = new Map<string | null, UsageGroup>()
    for (const row of this.#rows.values()) {
      if (row.minute < first || (to !== undefined && row.minute >= end)) continue
      const key = groupKey(row.keys, groupBy)
      let group = groups.get(key)
      if (group === undefined) {
        group = { key, ...nothing() }
        groups.set(key, group)
      }
      group.turns += row.turns
      group.tokens = addUsage(group.tokens, row.tokens)
      group.tool_calls += row.tool_calls
      group.model_calls += row.model_calls
      group.duration_ms += row.duration_ms
    }
    return {
      groups: [...groups.values()].sort(byTokensThenKey),
      from: first * MINUTE_MS,
      to: end * MINUTE_MS,
      groupBy,
      complete: from === undefined ? !this.#hasDropped : first >= this.#completeFrom,
    }
  }

  #oldest(): number {
    let oldest = this.#hasDropped ? Number.POSITIVE_INFINITY : this.#begun
    for (const { minute } of this.#rows.values()) if (minute < oldest) oldest = minute
    return oldest
  }

  #dropOldest(): void {
    for (const [key, { minute }] of this.#rows) {
      // The newest stays, however large it is: its turn is still to be counted.
      const isFull = this.#rows.size > this.#maxRows || this.#characters > this.#maxCharacters
      if (!isFull || this.#rows.size === 1) return
      this.#rows.delete(key)
      this.#characters -= key.length
      this.#hasDropped = true
      this.#completeFrom = Math.max(this.#completeFrom, minute + 1)
    }
  }
}

function nothing(): Sums {
  return { turns: 0, tokens: NO_USAGE, tool_calls: 0, model_calls: 0, duration_ms: 0 }
}

function minuteOf(ms: number): number {
  return Math.floor(ms / MINUTE_MS)
}

/** What rows are told apart by; the order in which labels were given is nothing. */
function keyOf(minute: number, { agent, model, labels = {} }: UsageKeys): string {
  const names = Object.keys(labels).sort()
  return JSON.stringify([minute, agent, model, ...names.flatMap((name) => [name, labels[name]])])
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
