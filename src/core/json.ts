/**
 * `JSON.parse`, with `read` for each value. Throws for a number that is too large for one: it would be `Infinity` here, and
 * null for everybody who is told of it.
 */
export function parseJson(text: string, read: (value: unknown) => unknown = (value) => value): unknown {
  return JSON.parse(text, (_, value: unknown) => {
    if (typeof value === 'number' && !Number.isFinite(value)) throw new RangeError('it has a number that is too large')
    return read(value)
  })
}
