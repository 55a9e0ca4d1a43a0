import { setTimeout as sleep } from 'node:timers/promises'
import { ProviderError } from '../../core/errors.ts'
import type { AgentReport } from '../../core/events.ts'
import { ModelFault } from './model.ts'

export interface RetryPolicy {
  /** Tries after the first. */
  readonly maxRetries: number
  readonly firstDelayMs: number
  readonly maxDelayMs: number
}

export const STANDARD_RETRY: RetryPolicy = { maxRetries: 3, firstDelayMs: 500, maxDelayMs: 30_000 }

/** A provider that asks for more patience than this is not waited for. */
const MAX_RETRY_AFTER_MS = 300_000

/**
 * Runs `attempt` until it succeeds, with `retrying` before each new try. What an attempt yields reaches the stream as it
 * comes; after `retrying` it is void. Throws a `ProviderError` once no try is left, or at once where another cannot help.
 */
export async function* withRetries<T>(
  attempt: () => AsyncGenerator<AgentReport, T, undefined>,
  signal: AbortSignal,
  policy: RetryPolicy,
): AsyncGenerator<AgentReport, T, undefined> {
  for (let tries = 1; ; tries++) {
    try {
      return yield* attempt()
    } catch (error) {
      signal.throwIfAborted()
      if (!(error instanceof ModelFault)) throw error
      const delayMs = error.retryAfterMs ?? backoff(tries, policy)
      if (!error.retryable || tries > policy.maxRetries || delayMs > MAX_RETRY_AFTER_MS) {
        throw new ProviderError(error.message, {}, { cause: error })
      }
      yield {
        type: 'retrying',
        attempt: tries,
        max_attempts: policy.maxRetries,
        error: error.message,
        delay_ms: Math.round(delayMs),
      }
      await sleep(delayMs, undefined, { signal })
    }
  }
}

/** Doubles with each try, give or take a tenth, so that many sessions do not come back at the same moment. */
function backoff(tries: number, { firstDelayMs, maxDelayMs }: RetryPolicy): number {
  return Math.min(maxDelayMs, firstDelayMs * 2 ** (tries - 1)) * (0.9 + Math.random() * 0.2)
}
