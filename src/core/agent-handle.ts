import type { AgentSession, Spending } from './agent.ts'
import type { AgentReport } from './events.ts'
import type { SessionTask } from './session-task.ts'
import type { Message } from './transcript.ts'

/** The session as one agent sees it. An agent that was abandoned keeps its handle, and is not heard through it. */
export class AgentHandle implements AgentSession {
  isHeard = true
  readonly #session: SessionTask

  constructor(session: SessionTask) {
    this.#session = session
  }

  get id(): string {
    return this.#session.id
  }

  get labels(): Readonly<Record<string, string>> {
    return this.#session.labels
  }

  get messages(): readonly Message[] {
    return this.#session.messages
  }

  get spent(): Spending {
    return this.#session.spent
  }

  emit(report: AgentReport): void {
    if (this.isHeard) this.#session.emit(report)
  }
}
