import type { SessionError } from './errors.ts'
import type { AgentEvent, AgentOutput } from './events.ts'
import { joined } from './host-cycle.ts'
import type { SessionTask } from './session-task.ts'
import type { Message } from './transcript.ts'
import type { TurnRecord } from './turn-record.ts'
import { ModelCall } from './turn-transcript.ts'
import { addSpent, addUsage, NO_USAGE, type Spent } from './usage.ts'

/** How a turn ends that no node runs any more. */
export interface TurnEnding {
  errorOf(turn: number): SessionError
  /** What the turn has said stays in the transcript. */
  readonly keepsSpeech: boolean
}

/**
 * Ends the turns that were running, as `ending` says; what they had taken from the inbox ends with them. Turns that were
 * queued are so again. Resolves with those that it ended.
 */
export async function recover(
  session: SessionTask,
  eventsAfter: (seq: number) => Promise<AgentEvent[]>,
  ending: TurnEnding,
): Promise<TurnRecord[]> {
  const lost: TurnRecord[] = []
  // Turns that were interrupted in line ended in between.
  const eventsOf = async ({ turn, firstSeq }: TurnRecord) =>
    (await eventsAfter(firstSeq - 1)).filter((event) => 'turn' in event && event.turn === turn)
  for (const record of session.turns) {
    if (record.status === 'queued') session.queue.add(record, false)
    else if (record.status === 'running') {
      if (ending.keepsSpeech) keepSpeech(session, record, await eventsOf(record))
      fail(session, record, ending.errorOf(record.turn))
      lost.push(record)
    }
  }
  return lost
}

function keepSpeech(session: SessionTask, record: TurnRecord, events: readonly AgentEvent[]): void {
  const { prompt, said } = lostRun(session, record, events)
  if (prompt === undefined) return
  const { messages, ...spent } = fold(said)
  const { usage, toolCalls } = spent
  session.commit({ messages: [{ role: 'user', content: prompt }, ...messages], usage, toolCalls, ranMs: 0 })
  record.spent = addSpent(record.spent, spent)
}

function fail(session: SessionTask, record: TurnRecord, failure: SessionError): void {
  record.status = 'failed'
  record.error = failure
  const { message: error, code } = failure
  session.inbox?.end(session.lostInteractions, record.turn, { error, code })
  session.lostInteractions = []
  record.messageEnd = session.messages.length
  record.endedAt = Date.now()
  session.updatedAt = record.endedAt
  record.lastSeq = session.log.lastSeq + 1
  session.log.append(record.terminalEvent(), record.turn)
}

/** The run that was under way. Before it a host may have had others, which are committed; or it waited for the next. */
function lostRun(session: SessionTask, record: TurnRecord, events: readonly AgentEvent[]) {
  if (record.runs === 0) return { prompt: record.prompt, said: events }
  const isEnd = ({ type }: AgentEvent) => type === 'interaction_complete' || type === 'interaction_failed'
  const since = events.slice(events.findLastIndex(isEnd) + 1)
  const begin = since.findIndex(({ type }) => type === 'interaction_started')
  if (begin === -1) return { prompt: undefined, said: [] }
  return { prompt: joined(session.lostInteractions), said: since.slice(begin) }
}

/** What the transcript would have kept, had the turn been interrupted, and what was spent. */
function fold(events: readonly AgentEvent[]): Spent & { messages: Message[] } {
  const messages: Message[] = []
  let usage = NO_USAGE
  let modelCalls = 0
  let toolCalls = 0
  let call: ModelCall | undefined
  for (const event of events) {
    if (event.type === 'turn_started') {
      modelCalls++
      call = new ModelCall()
    } else if (event.type === 'retrying') call = new ModelCall()
    else if (event.type === 'turn_completed') {
      if (call !== undefined) messages.push(...call.messages(event.stop_reason))
      usage = addUsage(usage, event.usage)
      call = undefined
    } else {
      if (event.type === 'tool_call_requested') toolCalls++
      call?.note(event as AgentOutput)
    }
  }
  if (call !== undefined) messages.push(...call.messages('cancelled'))
  return { messages, usage, modelCalls, toolCalls }
}
