import { type IntegerOptions, type TInteger, Type } from '@sinclair/typebox'

/**
 * A count, position or size. Its bounds are there even where only JSON sets them: beyond 2^53 a number is not exact, and
 * stores keep 64 bits.
 */
export function count(description: string, options: IntegerOptions = {}): TInteger {
  return Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER, format: 'int64', description, ...options })
}
