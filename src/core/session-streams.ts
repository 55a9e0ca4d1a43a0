import { encodeNotice } from './event-frame.ts'
import type { EventLog } from './event-log.ts'
import { type EventStream, LogStream, type TurnScope } from './event-stream.ts'
import type { SessionTask } from './session-task.ts'

/** A reader of a turn, or of an interaction. Nothing, when the cursor says that it has seen the end. */
export function streamPart(
  { id, log }: { id: string; log: EventLog },
  scope: TurnScope & { readonly isOver: boolean },
  after: number | undefined,
): EventStream | undefined {
  if (scope.isOver && after !== undefined && after >= scope.lastSeq) return undefined
  return new LogStream({ sessionId: id, log, scope, position: Math.max(after ?? 0, scope.firstSeq - 1) })
}

/** A session as a reader of all of it finds it. */
export interface Readable {
  id: string
  log: EventLog
  activeRecord?: TurnScope | undefined
  messageCount: number
  turnCount: number
  isActive: boolean
  isOver: boolean
}

export function readableOf(session: SessionTask): Readable {
  const { id, log, activeRecord, messages, turns, isActive, isOver } = session
  return { id, log, activeRecord, messageCount: messages.length, turnCount: turns.length, isActive, isOver }
}

/** A reader of all of a session. Nothing, when it is over and the cursor says that all of it was seen. */
export function streamAll(session: Readable, after: number | undefined): EventStream | undefined {
  const { id, log, activeRecord, messageCount, turnCount, isActive, isOver } = session
  if (isOver && after !== undefined && after >= log.lastSeq) return undefined
  const position = after ?? (activeRecord === undefined ? log.lastSeq : activeRecord.firstSeq - 1)
  const preface = encodeNotice({
    type: 'session_loaded',
    session_id: id,
    message_count: messageCount,
    turn: turnCount,
    is_active: isActive,
  })
  return new LogStream({ sessionId: id, log, position, preface })
}
