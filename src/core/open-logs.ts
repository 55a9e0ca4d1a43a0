import type { MemoryEventLog } from './memory-event-log.ts'

/** After so many that were opened, logs that nobody has any more are forgotten. */
const FORGET_EVERY = 1_000

/** The log of each session that somebody here writes or reads. */
export class OpenLogs {
  readonly #logs = new Map<string, WeakRef<MemoryEventLog>>()
  #opened = 0

  find(sessionId: string): MemoryEventLog | undefined {
    return this.#logs.get(sessionId)?.deref()
  }

  add(sessionId: string, log: MemoryEventLog): void {
    this.#logs.set(sessionId, new WeakRef(log))
    if (++this.#opened % FORGET_EVERY !== 0) return
    for (const [id, opened] of this.#logs) if (opened.deref() === undefined) this.#logs.delete(id)
  }

  /** Nothing more is said in this log, and its readers have to come again. */
  abandon(sessionId: string, log: MemoryEventLog): void {
    if (this.find(sessionId) === log) this.#logs.delete(sessionId)
    log.abandon()
  }
}
