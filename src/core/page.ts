import type { Page } from './session-service.ts'

/** About so many bytes go into a page, as JSON: a history of any size holds up nobody else. */
export const PAGE_BYTES = 1024 * 1024

/** Bytes of a value as JSON. */
export function bytesOfJson(value: unknown): number {
  return Buffer.byteLength(JSON.stringify(value))
}

/** How many of the first may stand in a page: one at least, and others as long as they fit. */
export function countWithin(sizes: Iterable<number>, maxBytes: number): number {
  let count = 0
  let bytes = 0
  for (const size of sizes) {
    bytes += size
    if (count > 0 && bytes > maxBytes) break
    count++
  }
  return count
}

/** A page of what is in memory. */
export function sliceOf<T>(
  items: readonly T[],
  { limit, offset, maxBytes }: Page,
  sizeOf: (item: T) => number = bytesOfJson,
): T[] {
  const slice = items.slice(offset, offset + limit)
  return maxBytes === undefined ? slice : slice.slice(0, countWithin(sizesOf(slice, sizeOf), maxBytes))
}

/** One by one: what does not fit any more is not measured. */
function* sizesOf<T>(items: readonly T[], sizeOf: (item: T) => number): Generator<number> {
  for (const item of items) yield sizeOf(item)
}
