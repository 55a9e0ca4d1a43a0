import type { FastifyBaseLogger } from 'fastify'
import { InternalError, type SessionError } from '../core/errors.ts'
import type { ServiceObserver } from '../core/session-service.ts'

const MAX_CAUSES = 5

/** One line a turn: what became of it, how long it took and why it failed, never what was said. */
export function turnLog(log: FastifyBaseLogger, observe: NonNullable<ServiceObserver['turnEnded']>): ServiceObserver {
  return {
    turnEnded: (turn, durationMs) => {
      observe(turn, durationMs)
      const line = { session_id: turn.sessionId, turn: turn.turn, outcome: turn.status, duration_ms: durationMs }
      if (turn.error === undefined) log.info(line, 'turn ended')
      else log.warn({ ...line, ...failureOf(turn.error) }, 'turn ended')
    },
    ...faultLog(log),
  }
}

/** Lines for what no caller can be told. */
export function faultLog(
  log: FastifyBaseLogger,
): Pick<Required<ServiceObserver>, 'fault' | 'sessionLost' | 'writeRefused' | 'storeFault'> {
  return {
    fault: (error, where) => log.error({ err: error, ...where }, 'the agent failed unexpectedly'),
    sessionLost: (where) =>
      log.warn(where, 'another server has taken over the session: this one was not heard for too long'),
    writeRefused: (error, where) =>
      log.error(
        { err: error instanceof InternalError ? error.cause : error, ...where },
        'the store refused to persist a session: its turn fails, or it is not created',
      ),
    storeFault: (error) => log.error({ err: error }, 'the store cannot be written; it is tried again and again'),
  }
}

/** Why a turn failed: what its caller is told, and what is behind it. Texts alone: an error may carry a whole request. */
function failureOf(error: SessionError): { code: string; error: string; causes?: string[] } {
  const causes: string[] = []
  for (let at = error.cause; at instanceof Error && causes.length < MAX_CAUSES; at = at.cause) {
    if (at.message !== error.message && at.message !== causes.at(-1)) causes.push(at.message)
  }
  return { code: error.code, error: error.message, ...(causes.length === 0 ? {} : { causes }) }
}
