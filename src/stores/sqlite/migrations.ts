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
]
