import type { DurableStore } from './durable-store.ts'
import type { Residents } from './residents.ts'

/** Archived sessions can be read for so long. */
const ARCHIVED_MS = 10 * 60_000
const KEYS_MS = 24 * 3_600_000
/** A commit is not repeated so late. */
const SPENT_MS = 3_600_000
const USAGE_MS = 400 * 24 * 3_600_000
const EVERY_MS = 60_000
/** Between two slices, so that a sweep is not noticed. */
const PAUSE_MS = 100

export interface HousekeepingParts {
  residents: Residents
  store: DurableStore
  /** A session that was not used for so long leaves memory, in milliseconds. */
  idleEvictMs: number
  fault: (error: unknown) => void
}

/** Lets sessions go that were not used for long, and forgets what nobody can ask for. Returns what ends it. */
export function keepHouse({ residents, store, idleEvictMs, fault }: HousekeepingParts): () => void {
  const every = Math.min(EVERY_MS, Math.max(1_000, idleEvictMs))
  let isOver = false
  let timer: NodeJS.Timeout
  const again = (ms: number) => {
    if (!isOver) timer = setTimeout(() => void tidy(), ms).unref()
  }
  const tidy = async () => {
    let more = false
    try {
      await residents.evictIdle(performance.now() - idleEvictMs)
      const now = Date.now()
      more = await store.sweep({
        archived: now - ARCHIVED_MS,
        keys: now - KEYS_MS,
        spent: now - SPENT_MS,
        usage: now - USAGE_MS,
      })
    } catch (error) {
      fault(error)
    }
    again(more ? PAUSE_MS : every)
  }
  again(every)
  return () => {
    isOver = true
    clearTimeout(timer)
  }
}
