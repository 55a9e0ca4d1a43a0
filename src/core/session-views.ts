import type { SessionRow } from './durable-store.ts'
import type { ActiveTurn } from './errors.ts'
import { bytesOfJson } from './page.ts'
import type { SessionInfo, SessionSummary, SessionView, TurnView } from './session-service.ts'
import { timeOf } from './time.ts'
import type { ExportedSession, Message } from './transcript.ts'

/** What callers are told of the turn that is in their way. */
export function activeTurnOf({ turn, startedAt }: Pick<TurnView, 'turn' | 'startedAt'>, lastSeq: number): ActiveTurn {
  const active: ActiveTurn = { turn, status: 'running', last_seq: lastSeq }
  return startedAt === undefined ? active : { ...active, started_at: timeOf(startedAt) }
}

/** A longer text of a result, in bytes, is left out of a list of turns. */
const LISTED_TEXT_BYTES = 4 * 1024

export function isListed(text: string): boolean {
  return Buffer.byteLength(text) <= LISTED_TEXT_BYTES
}

/** About how many bytes a turn has in a list. */
export function listedBytesOf({ prompt, result, error }: TurnView): number {
  const { text = '', ...rest } = result ?? {}
  return bytesOfJson([prompt, rest, isListed(text) ? text : '', error?.message, error?.data])
}

/** A session's state and usage. */
export function viewOf(row: SessionRow): SessionView {
  const state: SessionInfo = {
    session_id: row.id,
    created_at: timeOf(row.createdAt),
    updated_at: timeOf(row.updatedAt),
    message_count: row.messageCount,
    is_active: row.isActive,
    labels: row.metadata.labels ?? {},
    agent: row.metadata.agent,
    turn: row.turnCount,
  }
  if (row.metadata.model !== undefined) state.model = row.metadata.model
  if (row.lastText !== undefined) state.last_assistant_text = row.lastText
  return { state, billing: { total_tokens: row.usage.total_tokens, usage: row.usage } }
}

/** The same for a list. */
export function summaryOf(row: Omit<SessionRow, 'lastText'>): SessionSummary {
  return {
    session_id: row.id,
    created_at: timeOf(row.createdAt),
    updated_at: timeOf(row.updatedAt),
    message_count: row.messageCount,
    total_tokens: row.usage.total_tokens,
    is_active: row.isActive,
    labels: row.metadata.labels ?? {},
  }
}

/** The whole of it, as committed. */
export function exportOf(row: SessionRow, messages: readonly Message[]): ExportedSession {
  return {
    version: 1,
    id: row.id,
    messages: [...messages],
    created_at: timeOf(row.createdAt),
    updated_at: timeOf(row.updatedAt),
    metadata: { session_metadata: row.metadata },
    usage: row.usage,
  }
}
