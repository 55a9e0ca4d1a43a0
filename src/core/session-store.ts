import type { EventLog } from './event-log.ts'

/** Where sessions keep their events: what a store author implements beside `EventLog`. */
export interface SessionStore {
  /** A new, empty log for a new session. */
  openLog(sessionId: string): EventLog
}
