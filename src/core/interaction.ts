import { randomUUID } from 'node:crypto'
import { InvalidParamsError, type SessionError } from './errors.ts'
import { encodeEvent } from './event-frame.ts'
import type { EventLog } from './event-log.ts'
import type { TurnScope } from './event-stream.ts'
import type { NewEvent } from './events.ts'
import type { RunResult } from './session-service.ts'

/** What can come into an inbox. Bodies, params and results are text or any JSON. */
export type Incoming =
  | { kind: 'event'; source: string; body: unknown }
  | { kind: 'message'; source: string; body: string }
  | { kind: 'request'; source: string; intent: string; params: unknown }
  | { kind: 'response'; source: string; inReplyTo: string; status: string; result: unknown }

/** What became of an interaction. */
export type Ending = { result: RunResult } | { error: string; code: string }

/** All that there is to an interaction. */
export interface InteractionState {
  id: string
  kind: Incoming['kind']
  source: string
  isSubscribed: boolean
  isDismissal: boolean
  text: string
  turn: number
  firstSeq: number
  lastSeq: number
  terminal?: NewEvent
}

/**
 * Something that came into a session's inbox. Its stream is a part of the session's log: from `interaction_started` to
 * its one terminal event, or that event alone where it was never taken up.
 */
export class Interaction implements TurnScope {
  readonly id: string
  readonly kind: Incoming['kind']
  /** Who it came from. */
  readonly source: string
  /** Somebody follows it, so that in host mode it gets a run of its own. */
  readonly isSubscribed: boolean
  /** A peer asks for the end of host mode. */
  readonly isDismissal: boolean
  /** What the agent is told. Empty once it is over. */
  text: string
  /** Why it was taken back from the inbox. */
  refusal: SessionError | undefined
  turn = 0
  firstSeq = 0
  lastSeq = 0
  #terminal: NewEvent | undefined

  private constructor(
    state: Pick<InteractionState, 'id' | 'kind' | 'source' | 'isSubscribed' | 'isDismissal' | 'text'>,
  ) {
    this.id = state.id
    this.kind = state.kind
    this.source = state.source
    this.isSubscribed = state.isSubscribed
    this.isDismissal = state.isDismissal
    this.text = state.text
  }

  static of(incoming: Incoming, isSubscribed: boolean): Interaction {
    const { kind, source } = incoming
    const id = randomUUID()
    const isDismissal = kind === 'message' && incoming.body.trim().toLowerCase() === 'dismiss'
    return new Interaction({ id, kind, source, isSubscribed, isDismissal, text: render(incoming, id) })
  }

  /** One that a store has kept. */
  static restored(state: InteractionState): Interaction {
    const interaction = new Interaction(state)
    interaction.refresh(state)
    return interaction
  }

  /** As a store has it. */
  refresh({ text, turn, firstSeq, lastSeq, terminal }: InteractionState): void {
    this.text = text
    this.turn = turn
    this.firstSeq = firstSeq
    this.lastSeq = lastSeq
    this.#terminal = terminal
  }

  /** For a store: what `restored` takes. */
  toState(): InteractionState {
    const { id, kind, source, isSubscribed, isDismissal, text, turn, firstSeq, lastSeq } = this
    const state = { id, kind, source, isSubscribed, isDismissal, text, turn, firstSeq, lastSeq }
    return this.#terminal === undefined ? state : { ...state, terminal: this.#terminal }
  }

  /** It came out of the inbox. */
  start(log: EventLog, turn: number): void {
    this.turn = turn
    this.firstSeq = log.lastSeq + 1
    log.append({ type: 'interaction_started', interaction_id: this.id, source: this.source }, turn)
  }

  end(log: EventLog, turn: number, ending: Ending): void {
    const interaction_id = this.id
    this.#terminal =
      'result' in ending
        ? { type: 'interaction_complete', interaction_id, ...ending }
        : { type: 'interaction_failed', interaction_id, ...ending }
    this.turn = turn
    this.text = ''
    // Known before the event is there: it may be read while it is being appended.
    this.lastSeq = log.lastSeq + 1
    if (this.firstSeq === 0) this.firstSeq = this.lastSeq
    log.append(this.#terminal, turn)
  }

  get isOver(): boolean {
    return this.#terminal !== undefined
  }

  terminalFrame(): string {
    return encodeEvent(this.#terminal as NewEvent, this.lastSeq, this.turn)
  }
}

function render(incoming: Incoming, id: string): string {
  const { source } = incoming
  switch (incoming.kind) {
    case 'event':
      return `[EVENT via ${source}] ${pretty(incoming.body, '/body')}`
    case 'message':
      return `[COMMS MESSAGE from ${source}]\n${incoming.body}`
    case 'request':
      return [
        `[COMMS REQUEST from ${source}]`,
        `id: ${id}`,
        `intent: ${incoming.intent}`,
        `params: ${pretty(incoming.params, '/params')}`,
        `To answer, send a peer_response to "${source}" with in_reply_to "${id}".`,
      ].join('\n')
    case 'response':
      return [
        `[COMMS RESPONSE from ${source}]`,
        `in_reply_to: ${incoming.inReplyTo}`,
        `status: ${incoming.status}`,
        `result: ${pretty(incoming.result, '/result')}`,
      ].join('\n')
  }
}

/** Text as it is, anything else as JSON that people can read. */
function pretty(value: unknown, path: string): string {
  if (typeof value === 'string') return value
  let text: string | undefined
  try {
    text = JSON.stringify(value ?? null, null, 2)
  } catch {
    text = undefined
  }
  if (text === undefined) throw new InvalidParamsError(path, 'must be text or JSON')
  return text
}
