import type { SessionRow } from '../../core/durable-store.ts'
import type { Chunk } from '../../core/memory-event-log.ts'
import type { Row } from './database-file.ts'

/** As JSON, which has no U+0000, where the driver would end the text, and keeps lone surrogates. */
export function encoded(text: string | undefined): string | null {
  return text === undefined ? null : JSON.stringify(text)
}

export function countsOf(row: SessionRow): unknown[] {
  const { usage, ranMs, toolCalls, messageCount, turnCount, lastSeq, lastText } = row
  return [JSON.stringify(usage), ranMs, toolCalls, messageCount, turnCount, lastSeq, encoded(lastText)]
}

export function toSession(row: Row): SessionRow {
  return {
    id: String(row.id),
    isActive: row.is_active === 1,
    isArchived: row.is_archived === 1,
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
  const bytes = frames as Buffer
  return {
    first: Number(first),
    last: Number(last),
    turn: Number(turn),
    bytes: Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes as ArrayBuffer),
  }
}
