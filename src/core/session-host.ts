import type { Comms, SessionAgent } from './agent.ts'
import { InternalError, SessionError, TurnFailedError } from './errors.ts'
import type { Interaction } from './interaction.ts'
import type { ServiceObserver } from './session-service.ts'
import type { SessionTask } from './session-task.ts'
import type { Message, SessionMetadata } from './transcript.ts'
import type { TurnRecord } from './turn-record.ts'
import type { Usage } from './usage.ts'

/** What a session begins with. */
export interface SessionInit {
  id: string
  createdAt: number
  /** Default: when it was created. */
  updatedAt?: number
  metadata: SessionMetadata & { agent: string }
  messages: Message[]
  usage: Usage
  /** Of a session that comes back from a store. */
  turns?: TurnRecord[]
  ranMs?: number
  toolCalls?: number
}

/** What one run of an agent adds to its session. */
export interface RunCommit {
  messages: Message[]
  usage: Usage
  toolCalls: number
  ranMs: number
}

/** What a session needs of the service around it. */
export interface SessionHost {
  readonly observer: ServiceObserver
  readonly maxQueuedTurns: number
  readonly archiveDrainMs: number
  buildAgent(session: SessionTask): SessionAgent | Promise<SessionAgent>
  /** What this session can do with its peers. */
  commsOf(session: SessionTask): Comms
  /** Called when something changed that a store has to know. */
  changed(session: SessionTask, interaction?: Interaction): void
  /** Calls `then` once all that has happened in the session is kept: at once where nothing outlives the process. */
  settled(session: SessionTask, then: () => void): void
  /** Called when a turn is over and says all there is to say. `durationMs` is missing where it never ran. */
  turnEnded(session: SessionTask, record: TurnRecord, durationMs: number | undefined): void
  /** Called when a turn is over and none follows it. */
  turnsEnded(session: SessionTask): void
  /** Called when the agent is disposed: the session's permit is free. */
  retired(session: SessionTask): void
}

/** Disposes an agent; what goes wrong with that is for the log. */
export async function disposeOf({ observer }: SessionHost, session_id: string, agent: SessionAgent): Promise<void> {
  try {
    await agent.dispose?.()
  } catch (error) {
    observer.fault?.(error, { session_id })
  }
}

/** What a turn failed with, as its caller is told; what is unexpected goes to the log whole. */
export function turnError({ observer }: SessionHost, { sessionId, turn }: TurnRecord, error: unknown): SessionError {
  const where = { session_id: sessionId, turn }
  if (error instanceof SessionError) return new TurnFailedError(error, where)
  observer.fault?.(error, where)
  return new InternalError(error, where)
}
