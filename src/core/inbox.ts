import { InboxClosedError, InboxFullError, type SessionError } from './errors.ts'
import type { EventLog } from './event-log.ts'
import { type Ending, type Incoming, Interaction } from './interaction.ts'

/** So many interactions may wait in a session. */
export const INBOX_MAX = 1_024
/** Their texts, together, in characters. */
const INBOX_CHARS = 16 * 1024 * 1024
/** So many that are over can still be read. */
const KEPT_MAX = 1_024

/**
 * What waits in one session until a turn takes it, and what became of the rest. Whatever came in gets exactly one
 * terminal event. Made when the first interaction comes: most sessions have none.
 */
export class Inbox {
  readonly #sessionId: string
  readonly #log: EventLog
  readonly changed: (interaction: Interaction) => void
  #waiting: Interaction[] = []
  #chars = 0
  #isClosed = false
  /** By id, in the order in which they came. */
  readonly #open = new Map<string, Interaction>()
  /** By id, in the order in which they ended. */
  readonly #over = new Map<string, Interaction>()

  /** `changed` hears of everything that begins or ends. */
  constructor(sessionId: string, log: EventLog, changed: (interaction: Interaction) => void = () => {}) {
    this.#sessionId = sessionId
    this.#log = log
    this.changed = changed
  }

  get isEmpty(): boolean {
    return this.#waiting.length === 0
  }

  /** Throws an `InboxClosedError` or an `InboxFullError`. */
  put(incoming: Incoming, isSubscribed: boolean): Interaction {
    if (this.#isClosed) throw new InboxClosedError(this.#sessionId)
    const interaction = Interaction.of(incoming, isSubscribed)
    const chars = this.#chars + interaction.text.length
    if (this.#waiting.length >= INBOX_MAX || (chars > INBOX_CHARS && !this.isEmpty)) {
      throw new InboxFullError(this.#sessionId, this.#waiting.length)
    }
    this.#chars = chars
    this.#waiting.push(interaction)
    this.#open.set(interaction.id, interaction)
    return interaction
  }

  /** Takes back what a store kept. What a turn had begun with is returned: it is for the caller to end. */
  restore(interactions: readonly Interaction[]): Interaction[] {
    const begun: Interaction[] = []
    for (const interaction of interactions) {
      if (interaction.isOver) {
        this.#over.set(interaction.id, interaction)
        continue
      }
      this.#open.set(interaction.id, interaction)
      if (interaction.firstSeq > 0) {
        begun.push(interaction)
        continue
      }
      this.#waiting.push(interaction)
      this.#chars += interaction.text.length
    }
    return begun
  }

  /** Takes back what waits and what a store refused to persist: whoever sent it is told so. */
  refuse(interactions: readonly Interaction[], error: SessionError): void {
    for (const interaction of interactions) {
      interaction.refusal = error
      this.#open.delete(interaction.id)
      this.#chars -= interaction.text.length
    }
    this.#waiting = this.#waiting.filter(({ refusal }) => refusal === undefined)
  }

  /** All that wait, oldest first. Whoever takes them sees to it that they are ended. */
  take(): Interaction[] {
    const taken = this.#waiting
    this.#waiting = []
    this.#chars = 0
    return taken
  }

  /** What waits, and what is being dealt with. */
  get unfinished(): Interaction[] {
    return [...this.#open.values()]
  }

  /** One that waits, is being dealt with or is among the newest of those that are over. */
  find(interactionId: string): Interaction | undefined {
    return this.#open.get(interactionId) ?? this.#over.get(interactionId)
  }

  /** Ends what was taken, or never will be. */
  end(interactions: readonly Interaction[], turn: number, ending: Ending): void {
    for (const interaction of interactions) {
      this.#open.delete(interaction.id)
      this.#over.set(interaction.id, interaction)
      interaction.end(this.#log, turn, ending)
      this.changed(interaction)
    }
    for (const id of this.#over.keys()) {
      if (this.#over.size <= KEPT_MAX) break
      this.#over.delete(id)
    }
  }

  /** Takes nothing more, and ends what waits. */
  close(): void {
    this.#isClosed = true
    const error = 'The session was archived before this was taken up'
    this.end(this.take(), 0, { error, code: 'INBOX_CLOSED' })
  }
}
