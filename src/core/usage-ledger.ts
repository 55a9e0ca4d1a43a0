import type { UsageKeys, UsageQuery, UsageReport } from './usage.ts'
import {
  addSums,
  type MinuteRange,
  minuteOf,
  minutesOf,
  nothingSummed,
  reportOf,
  type SpentTurn,
  type UsageSum,
  usageKeysOf,
} from './usage-counts.ts'

const MAX_ROWS = 50_000
/** Labels are as long as their owners like: characters that rows may be told apart by, all together. */
const MAX_CHARACTERS = 32 * 1024 * 1024

/** All turns of one minute that have agent, model and labels in common. */
interface Row extends UsageSum {
  readonly minute: number
}

export interface UsageLedgerLimits {
  maxRows?: number
  maxCharacters?: number
}

/**
 * What turns cost, over all sessions that there are and were in this process, by the minute in which they ended.
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
  #completeFrom = minuteOf(Date.now())
  #isWhole = true

  constructor({ maxRows = MAX_ROWS, maxCharacters = MAX_CHARACTERS }: UsageLedgerLimits = {}) {
    this.#maxRows = maxRows
    this.#maxCharacters = maxCharacters
  }

  add(session: UsageKeys, { endedAt, durationMs, usage, modelCalls, toolCalls }: SpentTurn): void {
    const minute = minuteOf(endedAt)
    const keys = usageKeysOf(session)
    const key = `${minute} ${JSON.stringify(keys)}`
    let row = this.#rows.get(key)
    if (row === undefined) {
      row = { minute, keys, ...nothingSummed() }
      this.#rows.set(key, row)
      this.#characters += key.length
      this.#dropOldest()
    }
    const spent = { tokens: usage, tool_calls: toolCalls, model_calls: modelCalls, duration_ms: durationMs }
    addSums(row, { turns: 1, ...spent })
  }

  report(query: UsageQuery): UsageReport {
    return reportOf(query, {
      sums: this.#within(minutesOf(query)),
      oldest: this.#oldest(),
      completeFrom: this.#completeFrom,
      isWhole: this.#isWhole,
    })
  }

  *#within({ first = Number.NEGATIVE_INFINITY, end = Number.POSITIVE_INFINITY }: MinuteRange): Generator<UsageSum> {
    for (const row of this.#rows.values()) if (row.minute >= first && row.minute < end) yield row
  }

  #oldest(): number | undefined {
    let oldest: number | undefined
    for (const { minute } of this.#rows.values()) if (oldest === undefined || minute < oldest) oldest = minute
    return oldest
  }

  #dropOldest(): void {
    for (const [key, { minute }] of this.#rows) {
      // The newest stays, however large it is: its turn is still to be counted.
      const isFull = this.#rows.size > this.#maxRows || this.#characters > this.#maxCharacters
      if (!isFull || this.#rows.size === 1) return
      this.#rows.delete(key)
      this.#characters -= key.length
      this.#isWhole = false
      this.#completeFrom = Math.max(this.#completeFrom, minute + 1)
    }
  }
}
