import { describe, expect, test } from 'vitest'
import {
  AgentError,
  CapabilityUnavailableError,
  CapacityReachedError,
  FirstTurnFailedError,
  IdempotencyKeyReusedError,
  InternalError,
  InvalidParamsError,
  PersistenceDisabledError,
  SessionBusyError,
  SessionError,
  SessionExistsError,
  SessionNotFoundError,
  SessionNotRunningError,
  ShuttingDownError,
  TurnNotFoundError,
} from '../../src/core/errors.ts'

const ID = '0199d3c0-0000-7000-8000-000000000000'
const active = { turn: 3, status: 'running' as const, last_seq: 7 }

describe('an error of the service', () => {
  test.each<[SessionError, string, string, object]>([
    [
      new InvalidParamsError('/prompt', 'must not be blank'),
      'INVALID_PARAMS',
      '/prompt must not be blank',
      { errors: [{ path: '/prompt', message: 'must not be blank' }] },
    ],
    [
      new InvalidParamsError('', 'The body is no JSON'),
      'INVALID_PARAMS',
      'The body is no JSON',
      { errors: [{ path: '', message: 'The body is no JSON' }] },
    ],
    [new SessionNotFoundError(ID), 'SESSION_NOT_FOUND', `There is no session ${ID}`, { session_id: ID }],
    [new TurnNotFoundError(ID, 4), 'TURN_NOT_FOUND', `Session ${ID} has no turn 4`, { session_id: ID, turn: 4 }],
    [new SessionBusyError(ID, active), 'SESSION_BUSY', `Session ${ID} is running turn 3`, { session_id: ID, turn: 3 }],
    [new SessionBusyError(ID, active, 'too many'), 'SESSION_BUSY', 'too many', { session_id: ID, turn: 3 }],
    [new SessionNotRunningError(ID), 'SESSION_NOT_RUNNING', `Session ${ID} has no turn in flight`, { session_id: ID }],
    [
      new SessionNotRunningError(ID, 2),
      'SESSION_NOT_RUNNING',
      `Turn 2 of session ${ID} neither runs nor waits in line`,
      { session_id: ID, turn: 2 },
    ],
    [
      new SessionExistsError(ID),
      'SESSION_EXISTS',
      `Session ${ID} is live; archive it before importing it again`,
      { session_id: ID },
    ],
    [
      new PersistenceDisabledError(ID),
      'SESSION_PERSISTENCE_DISABLED',
      `Session ${ID} is archived, and this server keeps no transcript of archived sessions`,
      { session_id: ID },
    ],
    [
      new IdempotencyKeyReusedError(),
      'IDEMPOTENCY_KEY_REUSED',
      'This Idempotency-Key was used before with another body; send a new key for a new request',
      {},
    ],
    [new AgentError('it failed'), 'AGENT_ERROR', 'it failed', {}],
    [
      new InternalError(new Error('secret'), { turn: 1 }),
      'INTERNAL_ERROR',
      'An unexpected error occurred',
      { turn: 1 },
    ],
    [
      new CapabilityUnavailableError('model', 'none is configured'),
      'CAPABILITY_UNAVAILABLE',
      'model is not available here: none is configured',
      {},
    ],
    [
      new CapabilityUnavailableError('model', 'none is configured', '/model'),
      'CAPABILITY_UNAVAILABLE',
      'model is not available here: none is configured',
      { errors: [{ path: '/model', message: 'none is configured' }] },
    ],
    [new CapacityReachedError('sessions', 2, 2), 'SESSION_CAPACITY_REACHED', 'Max sessions reached (2/2)', {}],
    [new ShuttingDownError(), 'SHUTTING_DOWN', 'The server is shutting down and takes no new work', {}],
  ])('%s says what it is, as a code, as a sentence and as data', (error, code, message, data) => {
    expect(error).toBeInstanceOf(SessionError)
    expect(error.name).toBe(error.constructor.name)
    expect({ code: error.code, message: error.message, data: error.data }).toEqual({ code, message, data })
  })

  test('keeps its cause for the log', () => {
    const cause = new Error('secret')
    expect(new InternalError(cause).cause).toBe(cause)
    expect(new AgentError('x', {}, { cause }).cause).toBe(cause)
  })

  test('that passes says when another try makes sense', () => {
    expect(new CapacityReachedError('running turns', 1, 1).retryAfter).toBe(1)
    expect(new ShuttingDownError(5).retryAfter).toBe(5)
  })

  test('that names the turn in the way has all that is known of it', () => {
    expect(new SessionBusyError(ID, active)).toMatchObject({ sessionId: ID, activeTurn: active })
  })

  test('of a first turn has that turn’s code and text, and the news that the session stays [R6]', () => {
    const failure = new AgentError('no model', { session_id: ID, turn: 1 })
    const error = new FirstTurnFailedError(failure)
    expect(error).toMatchObject({ code: 'AGENT_ERROR', message: 'no model', cause: failure })
    expect(error.data).toEqual({ session_id: ID, turn: 1, session_created: true, resumable: true })
    expect(failure.data).toEqual({ session_id: ID, turn: 1 })
  })
})
