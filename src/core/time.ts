import { Type } from '@sinclair/typebox'
import { InvalidParamsError } from './errors.ts'

/** A point in time on the wire: RFC 3339, as `timeOf` writes it and `msOf` reads it. */
export const time = (description: string) => Type.String({ format: 'date-time', description })

const RFC_3339 = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:[0-5]\d(?:\.\d+)?(?:Z|[+-]\d{2}:\d{2})$/i
/** Milliseconds since the epoch whose year in UTC has four digits. */
export const TIME_BOUNDS = {
  minimum: Date.parse('0000-01-01T00:00:00.000Z'),
  maximum: Date.parse('9999-12-31T23:59:59.999Z'),
}

/** In UTC, with milliseconds. */
export function timeOf(ms: number): string {
  return new Date(ms).toISOString()
}

/**
 * Milliseconds since the epoch. The format `date-time` alone lets in leap seconds, `+01`, and times whose year in UTC
 * does not have four digits; those throw an `InvalidParamsError` for the member at `path`.
 */
export function msOf(path: string, text: string): number {
  const ms = RFC_3339.test(text) ? Date.parse(text.toUpperCase()) : Number.NaN
  // Not the other way round: NaN is neither.
  if (!(ms >= TIME_BOUNDS.minimum && ms <= TIME_BOUNDS.maximum)) {
    throw new InvalidParamsError(path, 'must be a time such as 2026-01-31T12:00:00Z, from year 0000 to 9999 in UTC')
  }
  return ms
}
