import { createHash } from 'node:crypto'
import type { KeyRow, SessionRow, SessionWrite } from '../../core/durable-store.ts'
import { USAGE_COLUMNS, usageColumns, usageValuesOf } from '../usage-sums.ts'
import { tidyUsage } from './usage.ts'

/** Interactions that are over and can still be read, for each session. */
const INTERACTIONS_KEPT = 1_024
/** "Sweeping" in ASCII. */
const SWEEP_LOCK = BigInt(`0x${Buffer.from('Sweeping').toString('hex')}`).toString()

const usageNames = USAGE_COLUMNS.map((name) => `spent_${name}` as const)
const usageParameters = Object.fromEntries(usageNames.map((name) => [name, 'float8[]'])) as Record<
  (typeof usageNames)[number],
  'float8[]'
>

/** What a commit is called with: arrays of the same length for each group. The order is that of the parameters. */
const parameters = {
  id: 'text[]',
  is_new: 'bigint[]',
  epoch: 'bigint[]',
  is_active: 'bigint[]',
  last_seq: 'bigint[]',
  first_chunk: 'bigint[]',
  chunk_bytes: 'bigint[]',
  retain_events: 'bigint[]',
  retain_bytes: 'bigint[]',
  // The rest of those rows that have changed.
  row_id: 'text[]',
  created_at: 'bigint[]',
  updated_at: 'bigint[]',
  archived_at: 'bigint[]',
  name: 'text[]',
  metadata: 'text[]',
  usage: 'text[]',
  ran_ms: 'bigint[]',
  tool_calls: 'bigint[]',
  message_count: 'bigint[]',
  turn_count: 'bigint[]',
  last_text: 'text[]',
  label_session: 'text[]',
  label_digest: 'text[]',
  turn_session: 'text[]',
  turn_n: 'bigint[]',
  turn_data: 'text[]',
  spent_session: 'text[]',
  spent_turn: 'bigint[]',
  spent_ended_at: 'bigint[]',
  spent_digest: 'text[]',
  spent_keys: 'text[]',
  ...usageParameters,
  message_session: 'text[]',
  message_n: 'bigint[]',
  message_data: 'text[]',
  chunk_session: 'text[]',
  chunk_first: 'bigint[]',
  chunk_last: 'bigint[]',
  chunk_turn: 'bigint[]',
  chunk_at: 'bigint[]',
  chunk_size: 'bigint[]',
  interaction_session: 'text[]',
  interaction_id: 'text[]',
  interaction_is_over: 'bigint[]',
  interaction_data: 'text[]',
  key_entry: 'text[]',
  key_fingerprint: 'text[]',
  key_session: 'text[]',
  key_handle: 'text[]',
  key_created_at: 'bigint[]',
} as const

type ParameterName = keyof typeof parameters
type Columns = Record<ParameterName, (string | number | null)[]>

const names = Object.keys(parameters) as ParameterName[]
const group = (...columns: ParameterName[]) =>
  `unnest(${columns.map((name) => `p_${name}`).join(', ')}) with ordinality`

/** What servers tell one another: `e`, who says it and whose events are new, or see postgres-cluster.ts. */
export const CHANNEL = 'suricate'
/** So many ids go into one notice: PostgreSQL takes 8,000 bytes. */
const NOTICE_IDS = 150

/**
 * A commit and a sweep as one call each: that is one round trip, and all or nothing by itself.
 *
 * They are made in the temporary schema of the connection that writes, so that servers of different versions each have
 * their own.
 */
export const writerFunctions = `
  create function pg_temp.remove_sessions(p_id text[]) returns void language plpgsql as $$
  begin
    insert into tombstone select id, last_seq from session where id = any (p_id) and last_seq > 0
      on conflict (id) do update set last_seq = greatest(tombstone.last_seq, excluded.last_seq);
    delete from label where ordinal in (select ordinal from session where id = any (p_id));
    delete from turn where session = any (p_id);
    delete from message where session = any (p_id);
    delete from chunk where session = any (p_id);
    delete from interaction where session = any (p_id);
    delete from key where session = any (p_id);
    delete from session where id = any (p_id);
  end $$;

  create function pg_temp.commit_sessions(${names.map((name) => `p_${name} ${parameters[name]}`).join(', ')}, p_frames bytea, p_node uuid, p_notify boolean)
  returns text[] language plpgsql as $$
  declare
    refused text[];
    earlier text[];
    grown record;
    oldest record;
    bytes_left bigint;
    new_first bigint;
  begin
    -- In one order for everybody, so that nobody waits in a circle.
    perform from session where id = any (p_id) order by id for update;
    refused := array(
      select w.id from unnest(p_id, p_is_new, p_epoch) as w (id, is_new, epoch)
      left join session s on s.id = w.id
      where case when w.is_new = 0 then s.epoch is distinct from w.epoch
        -- One that is there already may be this very one, of a commit whose answer was lost.
        else s.id is not null and (s.epoch <> w.epoch or s.maker is distinct from p_node)
          and (s.archived_at is null or s.is_active) end
    );
    earlier := array(
      select s.id from unnest(p_id, p_is_new) as w (id, is_new) join session s on s.id = w.id
      where w.is_new = 1 and w.id <> all (refused)
    );
    if earlier <> '{}' then
      perform pg_temp.remove_sessions(earlier);
    end if;

    -- Before the new ones: an archived session gives its name away. Who is idle has no owner.
    update session s set is_active = w.is_active = 1, last_seq = w.last_seq,
      owner = case when w.is_active = 1 then p_node end,
      updated_at = coalesce(r.updated_at, s.updated_at),
      archived_at = case when r.id is null then s.archived_at else r.archived_at end,
      usage = coalesce(r.usage, s.usage), ran_ms = coalesce(r.ran_ms, s.ran_ms),
      tool_calls = coalesce(r.tool_calls, s.tool_calls),
      message_count = coalesce(r.message_count, s.message_count), turn_count = coalesce(r.turn_count, s.turn_count),
      last_text = case when r.id is null then s.last_text else r.last_text end,
      -- Of a commit that is repeated, chunks are counted already.
      retained_bytes = s.retained_bytes + case when w.first_chunk is null then 0
        when w.first_chunk > s.last_seq then w.chunk_bytes
        else coalesce((
          select sum(c.size) from unnest(p_chunk_session, p_chunk_first, p_chunk_size) as c (session, first, size)
          where c.session = s.id and c.first > s.last_seq
        ), 0) end
    from ${group('id', 'is_new', 'is_active', 'last_seq', 'first_chunk', 'chunk_bytes')}
      as w (id, is_new, is_active, last_seq, first_chunk, chunk_bytes, n)
    left join ${group('row_id', 'updated_at', 'archived_at', 'usage', 'ran_ms', 'tool_calls', 'message_count', 'turn_count', 'last_text')}
      as r (id, updated_at, archived_at, usage, ran_ms, tool_calls, message_count, turn_count, last_text, n) on r.id = w.id
    where s.id = w.id and w.is_new = 0 and w.id <> all (refused);

    -- A name that somebody else has taken meanwhile refuses the whole session.
    with inserted as (
      insert into session (id, is_active, created_at, updated_at, archived_at, name, metadata, usage, ran_ms, tool_calls,
        message_count, turn_count, last_seq, last_text, epoch, retained_bytes, maker, owner, first_seq)
      select w.id, w.is_active = 1, r.created_at, r.updated_at, r.archived_at, r.name, r.metadata, r.usage, r.ran_ms,
        r.tool_calls, r.message_count, r.turn_count, w.last_seq, r.last_text, w.epoch, w.chunk_bytes, p_node,
        case when w.is_active = 1 then p_node end, coalesce(w.first_chunk, w.last_seq + 1)
      from ${group('id', 'is_new', 'epoch', 'is_active', 'last_seq', 'first_chunk', 'chunk_bytes')}
        as w (id, is_new, epoch, is_active, last_seq, first_chunk, chunk_bytes, n)
      join ${group('row_id', 'created_at', 'updated_at', 'archived_at', 'name', 'metadata', 'usage', 'ran_ms', 'tool_calls', 'message_count', 'turn_count', 'last_text')}
        as r (id, created_at, updated_at, archived_at, name, metadata, usage, ran_ms, tool_calls, message_count, turn_count,
          last_text, n) on r.id = w.id
      where w.is_new = 1 and w.id <> all (refused) order by w.n
      on conflict do nothing
      returning id
    )
    select refused || array(
      select w.id from unnest(p_id, p_is_new) as w (id, is_new)
      where w.is_new = 1 and w.id <> all (refused) and w.id not in (select id from inserted)
    ) into refused;

    insert into label (digest, ordinal)
    select w.digest, s.ordinal from ${group('label_session', 'label_digest')} as w (session, digest, n)
    join session s on s.id = w.session
    where w.session <> all (refused);

    insert into turn (session, turn, data)
    select w.session, w.turn, w.data from ${group('turn_session', 'turn_n', 'turn_data')} as w (session, turn, data, n)
    where w.session <> all (refused)
    on conflict (session, turn) do update set data = excluded.data;

    insert into spent_turn (session, turn, ended_at, digest, keys, ${usageColumns})
    select w.session, w.turn, w.ended_at, w.digest, w.keys, ${usageColumns}
    from ${group('spent_session', 'spent_turn', 'spent_ended_at', 'spent_digest', 'spent_keys', ...usageNames)}
      as w (session, turn, ended_at, digest, keys, ${usageColumns}, n)
    where w.session <> all (refused)
    on conflict (session, turn, ended_at) do nothing;

    insert into message (session, n, data)
    select w.session, w.n, w.data from ${group('message_session', 'message_n', 'message_data')} as w (session, n, data, i)
    where w.session <> all (refused)
    on conflict (session, n) do update set data = excluded.data;

    -- Of a commit that is repeated, chunks may be here, or have gone again.
    insert into chunk (session, first, last, turn, size, frames)
    select w.session, w.first, w.last, w.turn, w.size, substring(p_frames from w.at::int for w.size::int)
    from ${group('chunk_session', 'chunk_first', 'chunk_last', 'chunk_turn', 'chunk_at', 'chunk_size')}
      as w (session, first, last, turn, at, size, n)
    join session s on s.id = w.session
    where w.last >= s.first_seq and w.session <> all (refused)
    on conflict (session, first) do nothing;

    -- Whole chunks go, the oldest first, and never the newest.
    for grown in
      select s.id, s.retained_bytes, s.first_seq, s.last_seq, w.events, w.bytes
      from ${group('id', 'retain_events', 'retain_bytes')} as w (id, events, bytes, n)
      join session s on s.id = w.id
      where w.id = any (p_chunk_session) and w.id <> all (refused)
        and (s.retained_bytes > w.bytes or s.last_seq - s.first_seq + 1 > w.events)
    loop
      bytes_left := grown.retained_bytes;
      new_first := grown.first_seq;
      for oldest in select last, size from chunk where session = grown.id order by first loop
        exit when (bytes_left <= grown.bytes and grown.last_seq - new_first + 1 <= grown.events)
          or oldest.last = grown.last_seq;
        bytes_left := bytes_left - oldest.size;
        new_first := oldest.last + 1;
      end loop;
      delete from chunk where session = grown.id and first < new_first;
      update session set retained_bytes = bytes_left, first_seq = new_first where id = grown.id;
    end loop;

    insert into interaction (session, id, is_over, data)
    select w.session, w.id, w.is_over = 1, w.data
    from ${group('interaction_session', 'interaction_id', 'interaction_is_over', 'interaction_data')}
      as w (session, id, is_over, data, n)
    where w.session <> all (refused)
    order by w.n
    on conflict (id) do update set is_over = excluded.is_over, data = excluded.data;

    delete from interaction i
    using (select distinct unnest(p_interaction_session) as session) as w
    where i.session = w.session and w.session <> all (refused) and i.is_over and i.n <= (
      select n from interaction where session = w.session order by n desc limit 1 offset ${INTERACTIONS_KEPT}
    );

    insert into key (entry, fingerprint, session, handle, created_at)
    select w.entry, w.fingerprint, w.session, w.handle, w.created_at
    from ${group('key_entry', 'key_fingerprint', 'key_session', 'key_handle', 'key_created_at')}
      as w (entry, fingerprint, session, handle, created_at, n)
    where w.session <> all (refused)
    on conflict (entry) do update set fingerprint = excluded.fingerprint, session = excluded.session,
      handle = excluded.handle, created_at = excluded.created_at;

    delete from key using unnest(p_row_id, p_archived_at) as w (id, archived_at)
    where key.session = w.id and w.archived_at is not null and w.id <> all (refused);

    if p_notify then
      perform pg_notify('${CHANNEL}', 'e ' || p_node || ' ' || string_agg(slice.id, ' '))
      from (select w.id, (w.n - 1) / ${NOTICE_IDS} as i from unnest(p_id) with ordinality as w (id, n)) as slice
      group by slice.i;
    end if;
    return refused;
  end $$;

  -- Takes sessions that nobody has whose lease runs. One row for each that is there.
  create function pg_temp.claim_sessions(p_id text[], p_node uuid)
  returns table (id text, before bigint, epoch bigint, owner uuid) language sql as $$
    with locked as (
      select s.id, s.epoch, s.owner from session s where s.id = any (p_id) order by s.id for update
    ), taken as (
      update session s set owner = p_node, epoch = s.epoch + 1 from locked l
      where s.id = l.id and (l.owner is null or l.owner = p_node or not exists (
        select from node n where n.id = l.owner and n.lease_until > clock_timestamp()
      ))
      returning s.id, s.epoch
    )
    select l.id, l.epoch, t.epoch, l.owner from locked l left join taken t on t.id = l.id
  $$;

  ${tidyUsage}

  create function pg_temp.sweep_sessions(p_archived bigint, p_keys bigint, p_spent bigint, p_usage bigint, p_slice int)
  returns boolean language plpgsql as $$
  declare
    gone text[];
    old text[];
    is_more boolean;
  begin
    -- One server at a time, or they would wait for one another.
    if not pg_try_advisory_xact_lock(${SWEEP_LOCK}) then
      return false;
    end if;
    gone := array(select id from session where archived_at < p_archived and not is_active limit p_slice);
    if gone <> '{}' then
      perform pg_temp.remove_sessions(gone);
    end if;
    old := array(select entry from key where created_at < p_keys limit p_slice);
    delete from key where entry = any (old);
    delete from node where lease_until < clock_timestamp() - interval '1 hour'
      and not exists (select from session where owner = node.id);
    delete from command where created_at < clock_timestamp() - interval '10 minutes';
    is_more := pg_temp.tidy_usage(p_spent, p_usage, 10 * p_slice);
    return is_more or cardinality(gone) = p_slice or cardinality(old) = p_slice;
  end $$;
`

const given = [...names, 'frames', 'node', 'notify']
export const commitCall = `select to_json(pg_temp.commit_sessions(${given.map((_, i) => `$${i + 1}`).join(', ')})) as refused`

/** What `commitCall` is called with. `node` writes; without one, what is active has no owner. */
export function commitArguments(
  writes: readonly SessionWrite[],
  node: string | undefined,
  isHeard: boolean,
): unknown[] {
  const columns = Object.fromEntries(names.map((name) => [name, []])) as unknown as Columns
  const add = (values: Partial<Record<ParameterName, string | number | null>>) => {
    for (const [name, value] of Object.entries(values)) columns[name as ParameterName].push(value)
  }
  const frames: Buffer[] = []
  let at = 1
  // A key that was given twice is the later one; one statement may not change a row twice.
  const keys = new Map<string, { session: string; key: KeyRow }>()
  for (const write of writes) {
    const { isNew, epoch, retain, row, turns, spent, messages, chunks, interactions, keys: added } = write
    const { id } = row
    add({ id, is_new: isNew ? 1 : 0, epoch, is_active: row.isActive ? 1 : 0, last_seq: row.lastSeq })
    add({
      first_chunk: chunks[0]?.first ?? null,
      chunk_bytes: chunks.reduce((sum, { bytes }) => sum + bytes.length, 0),
    })
    add({ retain_events: retain.events, retain_bytes: retain.bytes })
    if (!write.hasOnlyGrown) add(columnsOf(row))
    for (const label of isNew ? Object.entries(row.metadata.labels ?? {}) : []) {
      add({ label_session: id, label_digest: digestOf(label) })
    }
    for (const turn of turns) add({ turn_session: id, turn_n: turn.turn, turn_data: JSON.stringify(turn) })
    for (const one of spent) {
      add({ spent_session: id, spent_turn: one.turn, spent_ended_at: one.endedAt })
      add({ spent_digest: digestOf(one.keys), spent_keys: JSON.stringify(one.keys) })
      const values = usageValuesOf(one)
      for (const name of USAGE_COLUMNS) add({ [`spent_${name}`]: values[name] })
    }
    for (const [i, message] of messages.added.entries()) {
      add({ message_session: id, message_n: messages.from + i, message_data: JSON.stringify(message) })
    }
    for (const { first, last, turn, bytes } of chunks) {
      add({ chunk_session: id, chunk_first: first, chunk_last: last, chunk_turn: turn, chunk_at: at })
      add({ chunk_size: bytes.length })
      at += bytes.length
      frames.push(bytes)
    }
    for (const { id: interaction, state } of interactions) {
      add({ interaction_session: id, interaction_id: interaction, interaction_data: JSON.stringify(state) })
      add({ interaction_is_over: state.terminal === undefined ? 0 : 1 })
    }
    for (const key of added) keys.set(key.entryKey, { session: id, key })
  }
  for (const { session, key } of keys.values()) {
    add({ key_entry: digestOf(key.entryKey), key_session: session, key_fingerprint: JSON.stringify(key.fingerprint) })
    add({ key_handle: JSON.stringify(key.handle), key_created_at: key.createdAt })
  }
  return [...names.map((name) => columns[name]), Buffer.concat(frames), node ?? null, isHeard && node !== undefined]
}

/** Of what is looked up and may be long: an index takes no more than 2,704 bytes. */
export function digestOf(value: unknown): string {
  return createHash('sha256').update(JSON.stringify(value)).digest('base64')
}

function columnsOf(row: SessionRow): Partial<Record<ParameterName, string | number | null>> {
  const { comms_name: name } = row.metadata
  return {
    row_id: row.id,
    created_at: row.createdAt,
    updated_at: row.updatedAt,
    archived_at: row.isArchived ? row.updatedAt : null,
    name: name === undefined ? null : JSON.stringify(name),
    metadata: JSON.stringify(row.metadata),
    usage: JSON.stringify(row.usage),
    ran_ms: row.ranMs,
    tool_calls: row.toolCalls,
    message_count: row.messageCount,
    turn_count: row.turnCount,
    last_text: row.lastText === undefined ? null : JSON.stringify(row.lastText),
  }
}
