import type { SessionRow } from '../../core/durable-store.ts'
import type { Chunk } from '../../core/memory-event-log.ts'
import { sessionOf } from '../session-columns.ts'
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
  return sessionOf(row, { isActive: row.is_active === 1, isArchived: row.is_archived === 1 })
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
