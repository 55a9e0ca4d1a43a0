/**
 * The schema, as what was done to it, oldest first. One that has been released is never changed: what comes after it is a
 * new one.
 */
export const migrations: readonly { readonly name: string; readonly sql: string }[] = [
  {
    name: '2026-11-28-sessions',
    sql: `
      create table session (
        ordinal integer primary key autoincrement,
        id text not null unique,
        is_active integer not null,
        is_archived integer not null,
        created_at integer not null,
        updated_at integer not null,
        name text,
        metadata text not null,
        usage text not null,
        ran_ms integer not null,
        tool_calls integer not null,
        message_count integer not null,
        turn_count integer not null,
        last_seq integer not null,
        last_text text,
        first_seq integer not null default 1,
        retained_bytes integer not null default 0
      ) strict;
      create index session_listed on session (ordinal) where is_archived = 0;
      create index session_active on session (ordinal) where is_active = 1;
      create index session_archived on session (updated_at) where is_archived = 1;
      create unique index session_name on session (name) where name is not null and is_archived = 0;

      create table session_count (listed integer not null) strict;
      insert into session_count values (0);
      create trigger session_added after insert on session when new.is_archived = 0 begin
        update session_count set listed = listed + 1;
      end;
      create trigger session_hidden after update of is_archived on session
        when old.is_archived = 0 and new.is_archived = 1 begin
        update session_count set listed = listed - 1;
      end;
      create trigger session_removed after delete on session when old.is_archived = 0 begin
        update session_count set listed = listed - 1;
      end;

      create table label (
        key text not null,
        value text not null,
        ordinal integer not null,
        primary key (key, value, ordinal)
      ) strict, without rowid;
      create index label_session on label (ordinal);

      create table turn (
        session text not null,
        turn integer not null,
        data text not null,
        primary key (session, turn)
      ) strict, without rowid;

      create table message (
        session text not null,
        n integer not null,
        data text not null,
        primary key (session, n)
      ) strict, without rowid;

      create table chunk (
        session text not null,
        first integer not null,
        last integer not null,
        turn integer not null,
        frames blob not null,
        primary key (session, first)
      ) strict;

      create table interaction (
        n integer primary key autoincrement,
        session text not null,
        id text not null unique,
        data text not null
      ) strict;
      create index interaction_session on interaction (session, n);

      create table key (
        entry text primary key,
        fingerprint text not null,
        session text not null,
        handle text not null,
        created_at integer not null
      ) strict, without rowid;
      create index key_session on key (session);
      create index key_age on key (created_at);
    `,
  },
  {
    name: '2026-11-29-usage',
    sql: `
      -- What single turns came to, so that none is counted twice.
      create table spent_turn (
        n integer primary key autoincrement,
        session text not null,
        turn integer not null,
        ended_at integer not null,
        counted_at integer not null,
        keys text not null,
        input_tokens real not null,
        output_tokens real not null,
        tool_calls real not null,
        model_calls real not null,
        duration_ms real not null,
        cache_creation_tokens real,
        cache_read_tokens real,
        unique (session, turn, ended_at)
      ) strict;
      create index spent_turn_age on spent_turn (counted_at);

      -- What those came to that were counted longer ago, by minute, by hour and by day.
      create table usage_keys (
        id integer primary key autoincrement,
        keys text not null unique,
        last_minute integer not null
      ) strict;
      create table usage_sum (
        span integer not null,
        minute integer not null,
        keys integer not null,
        turns real not null,
        input_tokens real not null,
        output_tokens real not null,
        tool_calls real not null,
        model_calls real not null,
        duration_ms real not null,
        cache_creation_tokens real,
        cache_read_tokens real,
        primary key (span, minute, keys)
      ) strict;

      create table usage_state (complete_from integer not null, is_whole integer not null) strict;
      -- Of the minute at hand something may be missing, where there are sessions already.
      insert into usage_state select unixepoch() / 60 + exists (select 1 from session), 1;
    `,
  },
  {
    name: '2026-12-01-tombstones',
    sql: `
      -- Of sessions that are gone, so that no seq is given twice under an id.
      create table tombstone (id text primary key, last_seq integer not null) strict, without rowid;
    `,
  },
]
