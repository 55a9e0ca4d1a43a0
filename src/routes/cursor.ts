import type { IncomingHttpHeaders } from 'node:http'
import { InvalidCursorError, InvalidParamsError } from '../core/errors.ts'
import type { Awaitable } from '../core/session-service.ts'

/** Runs `find` with a cursor that came in `Last-Event-ID`: if it is wrong, it is the header that is wrong. */
export async function fromHeader<T>(find: () => Awaitable<T>): Promise<T> {
  try {
    return await find()
  } catch (error) {
    throw error instanceof InvalidCursorError ? new InvalidParamsError('/last-event-id', error.complaint) : error
  }
}

/** The cursor in `Last-Event-ID`, on routes that only sometimes stream too: their schemas do not speak of it. */
export function lastEventId(headers: IncomingHttpHeaders): number | undefined {
  const cursor: unknown = headers['last-event-id']
  if (cursor === undefined || cursor === '') return undefined
  if (!/^\d{1,20}$/.test(String(cursor)))
    throw new InvalidParamsError('/last-event-id', 'must be an integer, 0 or more')
  return Number(cursor)
}
