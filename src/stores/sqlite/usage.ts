import type { SpentRow, SweepLimits } from '../../core/durable-store.ts'
import { MINUTE_MS, type MinuteRange, type UsageCounts } from '../../core/usage-counts.ts'
import {
  addedUsage,
  dayOf,
  stretchesOf,
  toUsageSum,
  USAGE_COLUMNS,
  USAGE_SPANS,
  usageColumns,
  usageSums,
  usageValuesOf,
} from '../usage-sums.ts'
import type { Row } from './database-file.ts'
import type { Statements } from './statements.ts'

/** So many turns are summed up, or sums forgotten, in one go. */
const SLICE = 500

/** A turn that is counted already, of a commit that is repeated, is left as it is. */
export function countTurns(db: Statements, session: string, spent: readonly SpentRow[]): void {
  for (const row of spent) {
    const values = usageValuesOf(row)
    db.run(
      `insert into spent_turn (session, turn, ended_at, counted_at, keys, ${usageColumns})
      values (?, ?, ?, ?, ?, ${USAGE_COLUMNS.map(() => '?').join(', ')}) on conflict do nothing`,
      ...[session, row.turn, row.endedAt, Date.now(), JSON.stringify(row.keys)],
      ...USAGE_COLUMNS.map((name) => values[name]),
    )
  }
}

/** Sums up turns that were counted long ago, and forgets old sums; says if there is more. */
export function tidyUsage(db: Statements, { spent, usage }: SweepLimits): boolean {
  const old = `select n from spent_turn where counted_at < ?1 order by counted_at, n limit ${SLICE}`
  db.run(
    `insert into usage_keys (keys, last_minute)
    select keys, max(ended_at / ${MINUTE_MS}) from spent_turn where n in (${old}) group by keys
    on conflict (keys) do update set last_minute = max(last_minute, excluded.last_minute)`,
    spent,
  )
  db.run(
    `with spans (span) as (values ${USAGE_SPANS.map((span) => `(${span})`).join(', ')})
    insert into usage_sum (span, minute, keys, turns, ${usageColumns})
    select span, ended_at / ${MINUTE_MS} / span * span as first, k.id, count(*), ${usageSums}
    from spent_turn t join usage_keys k on k.keys = t.keys, spans
    where t.n in (${old}) group by span, first, k.id
    on conflict (span, minute, keys) do update set ${addedUsage}`,
    spent,
  )
  const summedUp = db.run(`delete from spent_turn where n in (${old})`, spent)
  return forgetSums(db, dayOf(usage)) || summedUp === SLICE
}

function forgetSums(db: Statements, before: number): boolean {
  const forgotten = db.run(
    `delete from usage_sum where rowid in (
      select rowid from usage_sum where span in (${USAGE_SPANS.join(', ')}) and minute < ? limit ${SLICE}
    )`,
    before,
  )
  if (forgotten > 0) db.run('update usage_state set complete_from = max(complete_from, ?), is_whole = 0', before)
  if (forgotten > 0 && forgotten < SLICE) db.run('delete from usage_keys where last_minute < ?', before)
  return forgotten === SLICE
}

export function usageOf(db: Statements, { first, end }: MinuteRange): UsageCounts {
  const { oldest, complete_from, is_whole } = db.get(
    `select complete_from, is_whole, (select min(minute) from (
      select min(minute) as minute from usage_sum where span = 1
      union all select min(ended_at) / ${MINUTE_MS} from spent_turn
    )) as oldest from usage_state`,
  ) as Row
  const [from, to] = [first ?? 0, end ?? Math.floor(Number.MAX_SAFE_INTEGER / MINUTE_MS)]
  const rows = db.all(
    `select k.keys, turns, ${usageColumns} from (
      select keys as id, sum(turns) as turns, ${usageSums}
      from json_each(?1) stretch cross join usage_sum
      where span = stretch.value ->> 'span' and minute >= stretch.value ->> 'first' and minute < stretch.value ->> 'end'
      group by keys
    ) join usage_keys k using (id)
    union all
    select keys, count(*), ${usageSums} from spent_turn where ended_at >= ?2 and ended_at < ?3 group by keys`,
    JSON.stringify(stretchesOf(from, to)),
    from * MINUTE_MS,
    to * MINUTE_MS,
  )
  return {
    sums: rows.map(toUsageSum),
    oldest: oldest === null ? undefined : Number(oldest),
    completeFrom: Number(complete_from),
    isWhole: is_whole === 1,
  }
}
