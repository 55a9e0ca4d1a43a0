import { setTimeout as sleep } from 'node:timers/promises'

/** Waits `ms` milliseconds. Rejects with an `AbortError` when the turn is interrupted first. */
export async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await sleep(ms, undefined, { signal })
}
