import postgres from 'postgres'
import { type SessionError, StoreRefusedError, StoreUnavailableError } from '../../core/errors.ts'

/**
 * SQLSTATE classes (https://www.postgresql.org/docs/current/errcodes-appendix.html) that say nothing about the values of a
 * statement: connection, transaction state, authorization, no such database, rollback, resources (a full disk among them),
 * locks, an operator's intervention, the system, its configuration.
 */
const UNAVAILABLE_CLASSES = new Set(['08', '25', '28', '3D', '40', '53', '55', '57', '58', 'F0'])
/** Data that is corrupted on the disk. */
const UNAVAILABLE = new Set(['XX001', 'XX002'])
const READ_ONLY = '25006'

/** Whether the database cannot be used now, or refuses this one statement. */
export function storeError(error: unknown): SessionError {
  return isRefusal(error) ? new StoreRefusedError(error) : new StoreUnavailableError(error)
}

/** The server takes reads alone, as a primary does that was demoted: another connection may find the new one. */
export function isReadOnly(error: unknown): boolean {
  return error instanceof postgres.PostgresError && error.code === READ_ONLY
}

function isRefusal(error: unknown): boolean {
  if (error instanceof postgres.PostgresError) {
    return !UNAVAILABLE_CLASSES.has(error.code.slice(0, 2)) && !UNAVAILABLE.has(error.code)
  }
  // The driver could not even encode it.
  return error instanceof TypeError || error instanceof RangeError
}
