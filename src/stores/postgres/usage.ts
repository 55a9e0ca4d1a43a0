import { MINUTE_MS, type MinuteRange, type UsageCounts } from '../../core/usage-counts.ts'
import { addedUsage, stretchesOf, toUsageSum, USAGE_SPANS, usageColumns, usageSums } from '../usage-sums.ts'

type Row = Record<string, unknown>

/** Sums up turns that were counted before `p_spent`, and forgets sums of minutes before `p_usage`; says if there is more. */
export const tidyUsage = `
  create function pg_temp.tidy_usage(p_spent bigint, p_usage bigint, p_slice int) returns boolean language plpgsql as $$
  declare
    old bigint[];
    forgotten bigint;
  begin
    old := array(select n from spent_turn where counted_at < p_spent order by counted_at, n limit p_slice);
    insert into usage_keys (digest, keys, last_minute)
    select digest, min(keys), max(ended_at / ${MINUTE_MS}) from spent_turn where n = any (old) group by digest
    on conflict (digest) do update set last_minute = greatest(usage_keys.last_minute, excluded.last_minute);
    insert into usage_sum (span, minute, keys, turns, ${usageColumns})
    select span, ended_at / ${MINUTE_MS} / span * span as first, k.id, count(*), ${usageSums}
    from spent_turn t join usage_keys k on k.digest = t.digest, unnest(array[${USAGE_SPANS}]::bigint[]) as span
    where t.n = any (old) group by span, first, k.id
    on conflict (span, minute, keys) do update set ${addedUsage};
    delete from spent_turn where n = any (old);

    delete from usage_sum where ctid = any (array(
      select ctid from usage_sum where span = any (array[${USAGE_SPANS}]::bigint[]) and minute < p_usage limit p_slice
    ));
    get diagnostics forgotten = row_count;
    if forgotten > 0 then
      update usage_state set complete_from = greatest(complete_from, p_usage), is_whole = false;
      if forgotten < p_slice then
        delete from usage_keys where last_minute < p_usage;
      end if;
    end if;
    return cardinality(old) = p_slice or forgotten = p_slice;
  end $$;
`

/** Everything in one statement: a sweep moves turns from one table to the other meanwhile. */
const query = `
  with counted as (
    select k.keys, turns, ${usageColumns} from (
      select s.keys as id, sum(turns) as turns, ${usageSums}
      from unnest($1::bigint[], $2::bigint[], $3::bigint[]) as stretch (span, first, "end")
      join usage_sum s on s.span = stretch.span and s.minute >= stretch.first and s.minute < stretch."end"
      group by s.keys
    ) as sums join usage_keys k using (id)
    union all
    select min(keys), count(*), ${usageSums} from spent_turn where ended_at >= $4 and ended_at < $5 group by digest
  ), oldest as (
    select least(
      (select min(minute) from usage_sum where span = 1), (select min(ended_at) / ${MINUTE_MS} from spent_turn)
    ) as minute
  )
  select complete_from, is_whole, oldest.minute as oldest, counted.*
  from usage_state cross join oldest left join counted on true`

export async function usageOf(
  read: (sql: string, values: unknown[]) => Promise<Row[]>,
  { first, end }: MinuteRange,
): Promise<UsageCounts> {
  const [from, to] = [first ?? 0, end ?? Math.floor(Number.MAX_SAFE_INTEGER / MINUTE_MS)]
  const stretches = stretchesOf(from, to)
  const rows = await read(query, [
    stretches.map(({ span }) => span),
    stretches.map((stretch) => stretch.first),
    stretches.map((stretch) => stretch.end),
    from * MINUTE_MS,
    to * MINUTE_MS,
  ])
  const { complete_from, is_whole, oldest } = rows[0] as Row
  return {
    sums: rows.filter(({ keys }) => keys !== null).map(toUsageSum),
    oldest: oldest === null ? undefined : Number(oldest),
    completeFrom: Number(complete_from),
    isWhole: is_whole === true,
  }
}
