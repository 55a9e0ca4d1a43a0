import type { Comms, SessionAgentBuilder } from './agent.ts'
import type { Journal } from './journal.ts'
import type { ServiceObserver } from './session-service.ts'
import type { SessionStore } from './session-store.ts'
import type { SessionTask } from './session-task.ts'

/** What an engine is made of, and its limits. */
export interface EphemeralSessionServiceOptions {
  store: SessionStore
  agents: readonly SessionAgentBuilder[]
  /** Name of the agent for requests that name none. */
  defaultAgent: string
  /** Sessions that may have an agent at a time. */
  maxSessions: number
  /** Turns that may run at a time, over all sessions. */
  maxActiveTurns: number
  /** Turns that may wait in line in one session. */
  maxQueuedTurns: number
  /** A turn that is running when its session is archived has this long to finish. */
  archiveDrainMs: number
  /** Carries everything into a store that outlives the process. */
  journal?: Journal
  /** What a session can do with its peers, where they may be on other servers. Default: what is in this process. */
  commsOf?: (session: SessionTask) => Comms
  observer?: ServiceObserver
}
