import type { AgentEvent, NewEvent, StreamNotice } from './events.ts'

/**
 * An event's one serialized form: a block of the event stream format, `id`, `event`, `data` and an empty line, LF only.
 *
 * It is made once, kept by the log and handed to every reader as it is, so that neither replay nor fan-out serializes
 * again. `data` is one line of JSON, in which JSON itself escapes CR and LF: no text can forge a field or a block.
 * Format: https://html.spec.whatwg.org/multipage/server-sent-events.html
 */
export function encodeEvent(event: NewEvent, seq: number, turn: number): string {
  const { type } = event
  // Stamped last, so that whatever an agent wrote on its event the log's word counts, and first in the line.
  const stamped = Object.assign({ type, seq, turn }, event, { seq, turn })
  return `id: ${seq}\nevent: ${type}\ndata: ${JSON.stringify(stamped)}\n\n`
}

/** A frame that is not in the log: it has no `id`, so a client's cursor stays where it is. */
export function encodeNotice(notice: StreamNotice): string {
  return `event: ${notice.type}\ndata: ${JSON.stringify(notice)}\n\n`
}

/** The events in a run of whole blocks. */
export function decodeFrames(bytes: Buffer): AgentEvent[] {
  const events: AgentEvent[] = []
  for (const line of bytes.toString('utf8').split('\n')) {
    if (line.startsWith('data: ')) events.push(JSON.parse(line.slice(6)) as AgentEvent)
  }
  return events
}
