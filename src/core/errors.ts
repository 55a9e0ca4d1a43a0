/**
 * Every way in which the session service refuses or fails.
 *
 * One class per code. A code never changes its meaning; what an error knows travels as data, never inside its text alone.
 * Which HTTP status a code gets is decided by `plugins/problems.ts`.
 */
export type SessionErrorCode =
  | 'INVALID_PARAMS'
  | 'SESSION_NOT_FOUND'
  | 'TURN_NOT_FOUND'
  | 'INTERACTION_NOT_FOUND'
  | 'APPROVAL_NOT_FOUND'
  | 'PEER_NOT_FOUND'
  | 'SKILL_NOT_FOUND'
  | 'SESSION_BUSY'
  | 'SESSION_NOT_RUNNING'
  | 'SESSION_EXISTS'
  | 'SESSION_PERSISTENCE_DISABLED'
  | 'IDEMPOTENCY_KEY_REUSED'
  | 'SKILL_RESOLUTION_FAILED'
  | 'HOOK_DENIED'
  | 'BUDGET_EXHAUSTED'
  | 'PROVIDER_ERROR'
  | 'INBOX_CLOSED'
  | 'INBOX_FULL'
  | 'AGENT_ERROR'
  | 'TURN_LOST'
  | 'INTERNAL_ERROR'
  | 'CAPABILITY_UNAVAILABLE'
  | 'SESSION_CAPACITY_REACHED'
  | 'SHUTTING_DOWN'
  | 'STORE_UNAVAILABLE'
  | 'OUTCOME_UNKNOWN'

/** Which request member is wrong (a JSON pointer, `""` for the whole) and what would be right. */
export interface FieldError {
  path: string
  message: string
}

/** What any error may carry beside its text. Members that are not known are absent. */
export interface ErrorData {
  session_id?: string
  turn?: number
  errors?: FieldError[]
  /** Set when a session was created and stays although its first turn failed. */
  session_created?: true
  resumable?: true
}

export abstract class SessionError extends Error {
  abstract readonly code: SessionErrorCode
  readonly data: ErrorData

  constructor(message: string, data: ErrorData = {}, options?: ErrorOptions) {
    super(message, options)
    this.name = new.target.name
    this.data = data
  }
}

/** A request that can never succeed as it stands. */
export class InvalidParamsError extends SessionError {
  readonly code = 'INVALID_PARAMS'

  /** `message` goes on from the path (`/prompt must not be blank`); without a path it is a sentence of its own. */
  constructor(path: string, message: string) {
    super(path === '' ? message : `${path} ${message}`, { errors: [{ path, message }] })
  }

  /** The same where the members stand below `path`. */
  below(path: string): InvalidParamsError {
    const [{ path: member, message }] = this.data.errors as [FieldError]
    return new InvalidParamsError(path + member, message)
  }
}

/** A cursor that nobody can have. The service calls it `after`; how it came in, the caller knows. */
export class InvalidCursorError extends InvalidParamsError {
  readonly complaint: string

  constructor(lastSeq: number) {
    const complaint = `is beyond the session's last event, which is ${lastSeq}`
    super('/after', complaint)
    this.complaint = complaint
  }
}

export class SessionNotFoundError extends SessionError {
  readonly code = 'SESSION_NOT_FOUND'

  constructor(sessionId: string) {
    super(`There is no session ${sessionId}`, { session_id: sessionId })
  }
}

export class TurnNotFoundError extends SessionError {
  readonly code = 'TURN_NOT_FOUND'

  constructor(sessionId: string, turn: number) {
    super(`Session ${sessionId} has no turn ${turn}`, { session_id: sessionId, turn })
  }
}

/** The turn that is in the way, so that a caller can attach to it from the refusal alone. */
export interface ActiveTurn {
  turn: number
  status: 'queued' | 'running'
  /** RFC 3339, absent while the turn is still being admitted. */
  started_at?: string
  /** `seq` of the session's newest event. */
  last_seq: number
}

export class SessionBusyError extends SessionError {
  readonly code = 'SESSION_BUSY'
  readonly sessionId: string
  readonly activeTurn: ActiveTurn

  constructor(sessionId: string, activeTurn: ActiveTurn, reason?: string) {
    super(reason ?? `Session ${sessionId} is running turn ${activeTurn.turn}`, {
      session_id: sessionId,
      turn: activeTurn.turn,
    })
    this.sessionId = sessionId
    this.activeTurn = activeTurn
  }
}

export class SessionNotRunningError extends SessionError {
  readonly code = 'SESSION_NOT_RUNNING'

  constructor(sessionId: string, turn?: number | 'all') {
    super(
      typeof turn === 'number'
        ? `Turn ${turn} of session ${sessionId} neither runs nor waits in line`
        : `Session ${sessionId} has no turn in flight`,
      typeof turn === 'number' ? { session_id: sessionId, turn } : { session_id: sessionId },
    )
  }
}

export class SessionExistsError extends SessionError {
  readonly code = 'SESSION_EXISTS'

  constructor(sessionId: string) {
    super(`Session ${sessionId} is live; archive it before importing it again`, { session_id: sessionId })
  }
}

/** The session was archived and this store keeps no transcript of archived sessions. */
export class PersistenceDisabledError extends SessionError {
  readonly code = 'SESSION_PERSISTENCE_DISABLED'

  constructor(sessionId: string) {
    super(`Session ${sessionId} is archived, and this server keeps no transcript of archived sessions`, {
      session_id: sessionId,
    })
  }
}

export class IdempotencyKeyReusedError extends SessionError {
  readonly code = 'IDEMPOTENCY_KEY_REUSED'

  constructor() {
    super('This Idempotency-Key was used before with another body; send a new key for a new request')
  }
}

/** An agent says that it failed. Its text is meant for the caller; anything else thrown by an agent is kept from them. */
export class AgentError extends SessionError {
  readonly code = 'AGENT_ERROR'
}

/**
 * The model's provider failed, or cannot be called as this server is set up. The text is for the caller: it never holds
 * a key, a header or what the provider's answer looked like beyond its own message.
 */
export class ProviderError extends SessionError {
  readonly code = 'PROVIDER_ERROR'
}

/** A limit of the session or of the turn is used up; the message names it. */
export class BudgetExhaustedError extends SessionError {
  readonly code = 'BUDGET_EXHAUSTED'
}

/** A hook forbade what was about to happen. */
export class HookDeniedError extends SessionError {
  readonly code = 'HOOK_DENIED'
}

export class SkillNotFoundError extends SessionError {
  readonly code = 'SKILL_NOT_FOUND'

  constructor(skill: string, path: string) {
    const message = `names a skill that is not here: ${skill}; GET /skills lists them`
    super(`${path} ${message}`, { errors: [{ path, message }] })
  }
}

export class SkillResolutionError extends SessionError {
  readonly code = 'SKILL_RESOLUTION_FAILED'
}

export class InteractionNotFoundError extends SessionError {
  readonly code = 'INTERACTION_NOT_FOUND'

  constructor(sessionId: string, interactionId: string) {
    super(`Session ${sessionId} has no interaction ${interactionId}`, { session_id: sessionId })
  }
}

export class ApprovalNotFoundError extends SessionError {
  readonly code = 'APPROVAL_NOT_FOUND'

  constructor(sessionId: string, turn: number, callId: string) {
    super(`Turn ${turn} of session ${sessionId} does not wait for an approval of ${callId}`, {
      session_id: sessionId,
      turn,
    })
  }
}

export class PeerNotFoundError extends SessionError {
  readonly code = 'PEER_NOT_FOUND'

  constructor(peer: string) {
    super(`There is no peer "${peer}" that this session can reach; GET …/peers lists them`)
  }
}

/** The session takes no more interactions. */
export class InboxClosedError extends SessionError {
  readonly code = 'INBOX_CLOSED'

  constructor(sessionId: string) {
    super(`Session ${sessionId} stopped taking interactions`, { session_id: sessionId })
  }
}

export class InboxFullError extends SessionError {
  readonly code = 'INBOX_FULL'
  /** Seconds after which another try makes sense. */
  readonly retryAfter = 1

  constructor(sessionId: string, max: number) {
    super(`Session ${sessionId} has ${max} interactions waiting already`, { session_id: sessionId })
  }
}

/** A failure with what is known of where it happened. The agent's own error is left as it is: it may be shared. */
export class TurnFailedError extends SessionError {
  readonly code: SessionErrorCode

  constructor(failure: SessionError, where: ErrorData) {
    super(failure.message, { ...failure.data, ...where }, { cause: failure })
    this.code = failure.code
  }
}

/** The first turn failed after its session had come into being: the failure, and the news that the session stays. */
export class FirstTurnFailedError extends TurnFailedError {
  constructor(failure: SessionError) {
    super(failure, { session_created: true, resumable: true })
  }
}

/** The process that ran the turn came to its end before the turn did. What it had said can be read; nothing else is known. */
export class TurnLostError extends SessionError {
  readonly code = 'TURN_LOST'

  constructor(sessionId: string, turn: number) {
    super('The server stopped in the middle of this turn; start another to go on', { session_id: sessionId, turn })
  }
}

/** The store cannot be reached, and nothing was started or changed: trying again is safe. */
export class StoreUnavailableError extends SessionError {
  readonly code = 'STORE_UNAVAILABLE'
  /** Seconds after which to try again. */
  readonly retryAfter = 1

  constructor(cause?: unknown) {
    super('The store cannot be reached, and nothing was started or changed; try again', {}, { cause })
  }
}

/** The store broke off after the work had begun. There is no `retryAfter`: the work may be done. */
export class OutcomeUnknownError extends SessionError {
  readonly code = 'OUTCOME_UNKNOWN'

  constructor(cause?: unknown) {
    super(
      'The store broke off after the work had begun, so it may have been done; read the session first, or repeat the request only with the same Idempotency-Key',
      {},
      { cause },
    )
  }
}

/** Waits for what follows once work has begun: where the store is away from then on, its outcome is unknown. */
export async function onceBegun<T>(work: Promise<T>): Promise<T> {
  try {
    return await work
  } catch (error) {
    throw error instanceof StoreUnavailableError ? new OutcomeUnknownError(error) : error
  }
}

/** A failure as a store kept it. */
export class KeptError extends SessionError {
  readonly code: SessionErrorCode

  constructor(code: SessionErrorCode, message: string, data: ErrorData) {
    super(message, data)
    this.code = code
  }
}

/** Something that nobody expected. The cause goes to the log, never to the caller. */
export class InternalError extends SessionError {
  readonly code = 'INTERNAL_ERROR'

  constructor(cause: unknown, data: ErrorData = {}) {
    super('An unexpected error occurred', data, { cause })
  }
}

/** The store works, and refuses this very write or query: a constraint, a type or a size. Trying again would not help. */
export class StoreRefusedError extends InternalError {}

export class CapabilityUnavailableError extends SessionError {
  readonly code = 'CAPABILITY_UNAVAILABLE'

  constructor(what: string, why: string, path?: string) {
    super(`${what} is not available here: ${why}`, path === undefined ? {} : { errors: [{ path, message: why }] })
  }
}

/** A limit on resident sessions or on running turns is reached; trying again later helps. */
export class CapacityReachedError extends SessionError {
  readonly code = 'SESSION_CAPACITY_REACHED'
  /** Seconds after which another try makes sense. */
  readonly retryAfter = 1

  constructor(what: 'sessions' | 'running turns', live: number, max: number) {
    super(`Max ${what} reached (${live}/${max})`)
  }
}

export class ShuttingDownError extends SessionError {
  readonly code = 'SHUTTING_DOWN'
  /** Seconds, as above. */
  readonly retryAfter: number

  constructor(retryAfter = 1) {
    super('The server is shutting down and takes no new work')
    this.retryAfter = retryAfter
  }
}
