import type { KeyRow, SessionRow } from '../../core/durable-store.ts'
import type { Chunk } from '../../core/memory-event-log.ts'

type Row = Record<string, unknown>

export function toSession(row: Row): SessionRow {
  return {
    id: String(row.id),
    isActive: row.is_active === true,
    isArchived: row.archived_at !== null,
    createdAt: Number(row.created_at),
    updatedAt: Number(row.updated_at),
    metadata: JSON.parse(String(row.metadata)),
    usage: JSON.parse(String(row.usage)),
    ranMs: Number(row.ran_ms),
    toolCalls: Number(row.tool_calls),
    messageCount: Number(row.message_count),
    turnCount: Number(row.turn_count),
    lastSeq: Number(row.last_seq),
    lastText: row.last_text === null ? undefined : JSON.parse(String(row.last_text)),
  }
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
