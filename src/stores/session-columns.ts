import type { SessionRow } from '../core/durable-store.ts'

/** The columns that every durable store has alike; what a store tells in a way of its own comes beside them. */
export function sessionOf(row: Record<string, unknown>, own: Pick<SessionRow, 'isActive' | 'isArchived'>): SessionRow {
  return {
    ...own,
    id: String(row.id),
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
