import { setTimeout as sleep } from 'node:timers/promises'

/** The longest that a timer can wait, in milliseconds; a longer one ends at once. */
export const MAX_TIMER_MS = 2 ** 31 - 1

/** Waits `ms` milliseconds. Rejects with an `AbortError` when the turn is interrupted first. */
export async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await sleep(ms, undefined, { signal })
}
