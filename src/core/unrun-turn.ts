import type { SessionTask } from './session-task.ts'
import type { TurnRecord } from './turn-record.ts'
import { NO_USAGE } from './usage.ts'

/**
 * Ends a turn that never came to run: its two events say so, and it leaves nothing in the transcript. Another turn may be
 * running meanwhile, whose own events and inbox are not touched.
 */
export function endUnrun(record: TurnRecord, { id, log, messages, usage }: SessionTask): void {
  const { turn, prompt } = record
  record.startedAt = record.endedAt = Date.now()
  record.messageEnd = messages.length
  record.status = 'interrupted'
  record.result = {
    session_id: id,
    turn,
    text: '',
    stop_reason: 'cancelled',
    turns: 0,
    tool_calls: 0,
    usage: NO_USAGE,
    session_usage: usage,
  }
  // Known before the events are there: they may be read while they are being appended.
  record.firstSeq = log.lastSeq + 1
  record.lastSeq = record.firstSeq + 1
  log.append({ type: 'run_started', session_id: id, prompt }, turn)
  log.append(record.terminalEvent(), turn)
}
