import type { DurableStore } from './durable-store.ts'
import { decodeFrames } from './event-frame.ts'
import type { EventLog } from './event-log.ts'
import type { AgentEvent } from './events.ts'
import type { MemoryEventLog } from './memory-event-log.ts'

/** So much is read from the store at a time. */
const READ_BYTES = 1024 * 1024

/** Brings into a log what is older than what it has, when somebody wants to read that. */
export class LogFiller {
  readonly #store: DurableStore

  constructor(store: DurableStore) {
    this.#store = store
  }

  /** Reads what comes after `after`, as far as it is kept and not here. */
  async fill(sessionId: string, kept: EventLog, after: number): Promise<void> {
    const log = kept as MemoryEventLog
    while (log.firstSeq > after + 1) {
      const before = log.firstSeq
      const chunks = await this.#store.chunks(sessionId, { after, before, maxBytes: READ_BYTES })
      // Somebody else may have read the same meanwhile.
      for (const chunk of chunks) if (chunk.last === log.firstSeq - 1) log.prepend(chunk)
      if (log.firstSeq === before) return
    }
  }

  /** The events after `after`, parsed. */
  async events(sessionId: string, log: EventLog, after: number): Promise<AgentEvent[]> {
    await this.fill(sessionId, log, after)
    const events: AgentEvent[] = []
    let position = Math.max(after, log.firstSeq - 1)
    for (let page = log.read(position); page !== undefined; page = log.read(position)) {
      events.push(...decodeFrames(page.bytes))
      position = page.last
    }
    return events
  }
}
