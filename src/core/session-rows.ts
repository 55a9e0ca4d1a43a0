import type { SessionRow, TurnRow } from './durable-store.ts'
import { KeptError } from './errors.ts'
import type { SessionTask } from './session-task.ts'
import { lastAssistantText } from './transcript.ts'
import { TurnRecord } from './turn-record.ts'
import { NOTHING_SPENT } from './usage.ts'
import type { SpentTurn } from './usage-counts.ts'

/** A session as it is now. */
export function rowOf(session: SessionTask): SessionRow {
  const { tokens: _, durationMs: ranMs, toolCalls } = session.spent
  return {
    id: session.id,
    isActive: session.isActive || !session.queue.isEmpty,
    isArchived: session.isArchived,
    createdAt: session.createdAt,
    updatedAt: session.updatedAt,
    metadata: session.metadata,
    usage: session.usage,
    ranMs,
    toolCalls,
    messageCount: session.messages.length,
    turnCount: session.turns.length,
    lastSeq: session.log.lastSeq,
    lastText: lastAssistantText(session.messages),
  }
}

export function turnRowOf(record: TurnRecord): TurnRow {
  const { turn, status, prompt, skillReferences, isHost, createdAt, startedAt, endedAt, durationMs } = record
  const { firstSeq, lastSeq, messageEnd, runs, spent, result, error } = record
  return {
    turn,
    status,
    prompt,
    skillReferences,
    isHost,
    createdAt,
    startedAt,
    endedAt,
    durationMs,
    firstSeq,
    lastSeq,
    messageEnd,
    runs,
    spent,
    result,
    error: error === undefined ? undefined : { code: error.code, message: error.message, data: error.data },
  }
}

/** What a turn that is over came to. */
export function spentTurnOf({ endedAt = 0, durationMs, spent }: TurnRecord): SpentTurn {
  return { endedAt, durationMs, ...spent }
}

export function recordOf(sessionId: string, row: TurnRow): TurnRecord {
  const { turn, prompt, skillReferences, isHost, createdAt } = row
  const request = {
    prompt,
    host_mode: isHost,
    ...(skillReferences === undefined ? {} : { skill_references: skillReferences }),
  }
  return refreshed(new TurnRecord(sessionId, turn, request, createdAt), row)
}

/** The record as the store has it. */
export function refreshed(record: TurnRecord, row: TurnRow): TurnRecord {
  const { error } = row
  record.status = row.status
  record.startedAt = row.startedAt
  record.endedAt = row.endedAt
  record.durationMs = row.durationMs
  record.firstSeq = row.firstSeq
  record.lastSeq = row.lastSeq
  record.messageEnd = row.messageEnd
  record.runs = row.runs
  record.spent = row.spent ?? NOTHING_SPENT
  record.result = row.result
  record.error = error === undefined ? undefined : new KeptError(error.code, error.message, error.data)
  return record
}
