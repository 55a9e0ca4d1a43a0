import type { AgentEvent } from '../../src/core/events.ts'

/** One letter for each type, so that the order of a turn's events can be held against a regular expression. */
const letters: Record<string, string> = {
  run_started: 's',
  turn_started: 't',
  text_delta: 'd',
  text_complete: 'D',
  reasoning_delta: 'r',
  reasoning_complete: 'R',
  tool_call_requested: 'q',
  tool_execution_started: 'x',
  tool_execution_completed: 'c',
  tool_execution_timed_out: 'o',
  tool_result_received: 'g',
  turn_completed: 'u',
  run_completed: 'E',
  run_failed: 'F',
  run_interrupted: 'I',
}

/** A model call: what was thought and said, the whole text, tools that were asked for and ran, its end. */
const call = 't[drRn]*D?(?:q+[xcogn]*)*u'
const cutOff = '(?:t[drRn]*D?(?:q+[xcogn]*)*)?'
const turn = new RegExp(`^sn*(?:(?:${call})+E|(?:${call})*${cutOff}[FI])$`)

/**
 * What is wrong with the events of one turn that is over, or nothing: run_started, model calls, one terminal. Within a
 * call the deltas add up to the whole text, and every tool that ran was asked for and answered once, in that order.
 */
export function turnGrammarFault(events: readonly AgentEvent[]): string | undefined {
  const shape = events.map(({ type }) => letters[type] ?? 'n').join('')
  if (!turn.test(shape)) return `the order ${shape}`
  let said = ''
  let number = 0
  let open = new Map<string, string>()
  for (const event of events) {
    switch (event.type) {
      case 'turn_started':
        if (event.turn_number !== number++) return `model call ${event.turn_number} after ${number - 1}`
        said = ''
        open = new Map()
        break
      case 'text_delta':
        said += event.delta
        break
      case 'text_complete':
        if (event.content !== said || said === '') return `the whole "${event.content}" after "${said}"`
        break
      case 'tool_call_requested':
        if (open.has(event.id)) return `tool call ${event.id} twice`
        open.set(event.id, 'asked')
        break
      case 'tool_execution_started':
        if (open.get(event.id) !== 'asked') return `tool ${event.id} began when it was ${open.get(event.id)}`
        open.set(event.id, 'begun')
        break
      case 'tool_execution_completed':
        if (open.get(event.id) !== 'begun') return `tool ${event.id} ended when it was ${open.get(event.id)}`
        open.set(event.id, 'done')
        break
      case 'tool_result_received':
        if (open.get(event.id) !== 'done') return `tool ${event.id} was received when it was ${open.get(event.id)}`
        open.set(event.id, 'received')
        break
      case 'turn_completed':
        for (const [id, state] of open) if (state !== 'received') return `tool ${id} was left ${state}`
        break
    }
  }
  return undefined
}
