import type { FastifyBaseLogger } from 'fastify'
import type { ServiceObserver } from '../core/session-service.ts'

/** One line a turn: what became of it and how long it took, never what was said. */
export function turnLog(log: FastifyBaseLogger, observe: NonNullable<ServiceObserver['turnEnded']>): ServiceObserver {
  return {
    turnEnded: (turn, durationMs) => {
      observe(turn, durationMs)
      log.info(
        { session_id: turn.sessionId, turn: turn.turn, outcome: turn.status, duration_ms: durationMs },
        'turn ended',
      )
    },
    ...faultLog(log),
  }
}

/** Lines for what no caller can be told. */
export function faultLog(
  log: FastifyBaseLogger,
): Pick<Required<ServiceObserver>, 'fault' | 'sessionLost' | 'storeFault'> {
  return {
    fault: (error, where) => log.error({ err: error, ...where }, 'the agent failed unexpectedly'),
    sessionLost: (where) =>
      log.warn(where, 'another server has taken over the session: this one was not heard for too long'),
    storeFault: (error) => log.error({ err: error }, 'the store cannot be written; it is tried again and again'),
  }
}
