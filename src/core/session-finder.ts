import { PersistenceDisabledError, SessionNotFoundError, TurnNotFoundError } from './errors.ts'
import type { SessionRegistry } from './session-registry.ts'
import type { SessionTask } from './session-task.ts'
import type { TurnRecord } from './turn-record.ts'

/** Finds the session that a request names, or throws what its caller is told. */
export class SessionFinder {
  readonly #registry: SessionRegistry

  constructor(registry: SessionRegistry) {
    this.#registry = registry
  }

  /** One that is not archived. */
  live(sessionId: string): SessionTask {
    return found(sessionId, this.#registry.get(sessionId))
  }

  /** One that is live, or archived with its last turn still running. */
  unfinished(sessionId: string): SessionTask {
    const session = this.#registry.getReadable(sessionId)
    return found(sessionId, session?.isOver === true ? undefined : session)
  }

  /** One that is live, or archived and kept. */
  readable(sessionId: string): SessionTask {
    return found(sessionId, this.#registry.getReadable(sessionId))
  }

  /** One whose transcript can be read. */
  withHistory(sessionId: string): SessionTask {
    const session = this.readable(sessionId)
    if (this.#registry.get(sessionId) !== session) throw new PersistenceDisabledError(sessionId)
    return session
  }
}

export function turnOf(session: SessionTask, turn: number): TurnRecord {
  const record = session.turns[turn - 1]
  if (record === undefined) throw new TurnNotFoundError(session.id, turn)
  return record
}

function found(sessionId: string, session: SessionTask | undefined): SessionTask {
  if (session === undefined) throw new SessionNotFoundError(sessionId)
  return session
}
