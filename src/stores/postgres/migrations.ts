/**
 * The schema, as what was done to it, oldest first. One that has been released is never changed: what comes after it is a
 * new one.
 *
 * What a client may have chosen is kept as JSON text: that has no U+0000, which PostgreSQL refuses, and keeps lone
 * surrogates.
 */
export const migrations: readonly { readonly name: string; readonly sql: string }[] = [
  {
    name: '2026-11-28-sessions',
    sql: `
      -- No index is over what changes with every commit, and pages have room: so most updates touch no index.
      create table session (
        ordinal bigint generated always as identity primary key,
        id text not null unique,
        is_active boolean not null,
        created_at bigint not null,
        updated_at bigint not null,
        -- Its last change, once it is archived.
        archived_at bigint,
        name text,
        metadata text not null,
        usage text not null,
        ran_ms bigint not null,
        tool_calls bigint not null,
        message_count bigint not null,
        turn_count bigint not null,
        last_seq bigint not null,
        last_text text,
        first_seq bigint not null default 1,
        retained_bytes bigint not null default 0
      ) with (fillfactor = 70);
      create index session_listed on session (ordinal) where archived_at is null;
      create index session_active on session (ordinal) where is_active;
      create index session_archived on session (archived_at) where archived_at is not null;
      create unique index session_name on session (name) where name is not null and archived_at is null;

      create table session_count (listed bigint not null);
      insert into session_count values (0);
      create function session_added() returns trigger language plpgsql as $$ begin
        update session_count set listed = listed + (select count(*) from added where archived_at is null);
        return null;
      end $$;
      create trigger session_added after insert on session referencing new table as added
        for each statement execute function session_added();
      create function session_changed() returns trigger language plpgsql as $$
      declare difference bigint;
      begin
        difference := (select count(*) from new_rows where archived_at is null)
          - (select count(*) from old_rows where archived_at is null);
        if difference <> 0 then
          update session_count set listed = listed + difference;
        end if;
        return null;
      end $$;
      create trigger session_changed after update on session referencing old table as old_rows new table as new_rows
        for each statement execute function session_changed();
      create function session_removed() returns trigger language plpgsql as $$ begin
        update session_count set listed = listed - (select count(*) from removed where archived_at is null);
        return null;
      end $$;
      create trigger session_removed after delete on session referencing old table as removed
        for each statement execute function session_removed();

      create table label (
        -- Of the pair: together they may be longer than an index takes.
        digest text not null,
        ordinal bigint not null,
        primary key (digest, ordinal)
      );
      create index label_session on label (ordinal);

      create table turn (
        session text not null,
        turn bigint not null,
        data text not null,
        primary key (session, turn)
      );

      create table message (
        session text not null,
        n bigint not null,
        data text not null,
        primary key (session, n)
      );

      create table chunk (
        session text not null,
        first bigint not null,
        last bigint not null,
        turn bigint not null,
        size bigint not null,
        frames bytea not null,
        primary key (session, first)
      );

      create table interaction (
        n bigint generated always as identity primary key,
        session text not null,
        id text not null unique,
        is_over boolean not null,
        data text not null
      );
      create index interaction_session on interaction (session, n);

      create table key (
        -- Its digest.
        entry text primary key,
        fingerprint text not null,
        session text not null,
        handle text not null,
        created_at bigint not null
      );
      create index key_session on key (session);
      create index key_age on key (created_at);
    `,
  },
  {
    name: '2026-11-29-nodes',
    sql: `
      -- A session is written by its owner alone. Whoever takes it over raises the epoch, which every commit compares.
      -- Who has made it tells a commit that is repeated from one that makes another under the same id.
      alter table session add column owner uuid, add column epoch bigint not null default 0, add column maker uuid;
      create index session_owner on session (owner) where owner is not null;

      -- For each row that is archived, and not for each statement that might have done so.
      drop trigger session_changed on session;
      create or replace function session_changed() returns trigger language plpgsql as $$ begin
        update session_count set listed = listed + case when new.archived_at is null then 1 else -1 end;
        return null;
      end $$;
      create trigger session_changed after update on session for each row
        when ((old.archived_at is null) <> (new.archived_at is null)) execute function session_changed();

      create table node (
        id uuid primary key,
        lease_until timestamptz not null
      );

      -- What a server asks the owner of a session to do.
      create table command (
        n bigint generated always as identity primary key,
        owner uuid not null,
        session text not null,
        operation text not null,
        args text not null,
        created_at timestamptz not null default clock_timestamp(),
        is_taken boolean not null default false,
        reply text
      );
      create index command_waiting on command (owner) where not is_taken;

      -- Idempotency keys whose request is under way.
      create table reservation (
        entry text primary key,
        fingerprint text not null,
        owner uuid not null
      );

      -- A place for each turn that may run at a time, over all servers.
      create table slot (
        i bigint primary key,
        owner uuid
      );
    `,
  },
  {
    name: '2026-11-29-usage',
    sql: `
      -- What single turns came to, so that none is counted twice.
      create table spent_turn (
        n bigint generated always as identity primary key,
        session text not null,
        turn bigint not null,
        ended_at bigint not null,
        counted_at bigint not null default extract(epoch from clock_timestamp()) * 1000,
        -- Of the keys: they may be longer than an index takes.
        digest text not null,
        keys text not null,
        input_tokens float8 not null,
        output_tokens float8 not null,
        tool_calls float8 not null,
        model_calls float8 not null,
        duration_ms float8 not null,
        cache_creation_tokens float8,
        cache_read_tokens float8,
        unique (session, turn, ended_at)
      );
      create index spent_turn_age on spent_turn (counted_at);

      -- What those came to that were counted longer ago, by minute, by hour and by day.
      create table usage_keys (
        id bigint generated always as identity primary key,
        digest text not null unique,
        keys text not null,
        last_minute bigint not null
      );
      create table usage_sum (
        span bigint not null,
        minute bigint not null,
        keys bigint not null,
        turns float8 not null,
        input_tokens float8 not null,
        output_tokens float8 not null,
        tool_calls float8 not null,
        model_calls float8 not null,
        duration_ms float8 not null,
        cache_creation_tokens float8,
        cache_read_tokens float8,
        primary key (span, minute, keys)
      );

      create table usage_state (complete_from bigint not null, is_whole boolean not null);
      -- Of the minute at hand something may be missing, where there are sessions already.
      insert into usage_state
      select floor(extract(epoch from clock_timestamp()) / 60) + exists (select from session)::int, true;
    `,
  },
  {
    // What is long is compressed as it is written, which by default takes as long as all the rest of a turn's end.
    name: '2026-11-29-compression',
    sql: `
      do $$ begin
        alter table chunk alter column frames set compression lz4;
        alter table turn alter column data set compression lz4;
        alter table message alter column data set compression lz4;
        alter table session alter column last_text set compression lz4;
      exception when feature_not_supported then
        -- A server that was built without it.
      end $$;
    `,
  },
  {
    name: '2026-12-01-tombstones',
    sql: `
      -- Of sessions that are gone, so that no seq is given twice under an id.
      create table tombstone (id text primary key, last_seq bigint not null);
    `,
  },
]
