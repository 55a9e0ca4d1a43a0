import type { DurableStore, SessionWrite } from './durable-store.ts'
import { StoreUnavailableError } from './errors.ts'

/** What became of a batch of writes, by session id. What is in none of these is persisted. */
export interface BatchOutcome {
  /** Sessions that another node has taken over, and new ones whose id or name is taken. */
  readonly leftOut: string[]
  /** Sessions whose write the store refuses, with its error. */
  readonly refused: Map<string, unknown>
  /** Sessions that could not be written because the store is away, and why that is. */
  readonly away: { readonly ids: ReadonlySet<string>; readonly error: StoreUnavailableError } | undefined
}

/** Commits all of it at once or, where the store refuses that, in halves until only what it refuses is left. */
export async function commitBatch(store: DurableStore, writes: readonly SessionWrite[]): Promise<BatchOutcome> {
  const leftOut: string[] = []
  const refused = new Map<string, unknown>()
  const rest = [writes]
  for (let part = rest.shift(); part !== undefined; part = rest.shift()) {
    try {
      leftOut.push(...(await store.commit(part)))
    } catch (error) {
      if (error instanceof StoreUnavailableError) {
        const ids = new Set([part, ...rest].flat().map(({ row }) => row.id))
        return { leftOut, refused, away: { ids, error } }
      }
      const half = part.length >> 1
      if (half === 0) for (const { row } of part) refused.set(row.id, error)
      // In their order: an archived session gives its name to a new one.
      else rest.unshift(part.slice(0, half), part.slice(half))
    }
  }
  return { leftOut, refused, away: undefined }
}
