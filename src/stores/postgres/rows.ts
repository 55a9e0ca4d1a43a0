import type { KeyRow, SessionRow } from '../../core/durable-store.ts'
import type { Chunk } from '../../core/memory-event-log.ts'
import { sessionOf } from '../session-columns.ts'

type Row = Record<string, unknown>

export function toSession(row: Row): SessionRow {
  return sessionOf(row, { isActive: row.is_active === true, isArchived: row.archived_at !== null })
}

export function toChunk({ first, last, turn, frames }: Row): Chunk {
  return { first: Number(first), last: Number(last), turn: Number(turn), bytes: frames as Buffer }
}

export function toKey(entryKey: string, row: Row): KeyRow {
  return {
    entryKey,
    fingerprint: JSON.parse(String(row.fingerprint)),
    sessionId: String(row.session),
    handle: JSON.parse(String(row.handle)),
    createdAt: Number(row.created_at),
  }
}
