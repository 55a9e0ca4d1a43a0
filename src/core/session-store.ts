import type { EventLog } from './event-log.ts'

/** Where sessions keep their events: what a store author implements beside `EventLog`. */
export interface SessionStore {
  /** A new, empty log for a new session. `lastSeq` is the last that was given under its id before; by default 0. */
  openLog(sessionId: string, lastSeq?: number): EventLog
}
