import type { EventLog, Retention } from '../../core/event-log.ts'
import { MemoryEventLog } from '../../core/memory-event-log.ts'
import type { SessionStore } from '../../core/session-store.ts'

/** Keeps events in this process: nothing to set up, and gone when it ends. */
export class MemorySessionStore implements SessionStore {
  readonly #retention: Retention

  constructor(retention: Retention) {
    this.#retention = retention
  }

  openLog(_sessionId: string, lastSeq = 0): EventLog {
    return new MemoryEventLog(this.#retention, { lastSeq })
  }
}
