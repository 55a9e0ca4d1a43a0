import { LRUCache } from 'lru-cache'
import { IdempotencyKeyReusedError, InvalidParamsError } from './errors.ts'
import type { IdempotencyClaim, StartOptions } from './session-service.ts'

const KEPT_MS = 24 * 3_600_000
const KEYS_MAX = 100_000

/** What was started: a turn, or an interaction. */
interface Handle {
  readonly sessionId: string
  readonly attached: boolean
}

interface Entry {
  fingerprint: string
  handle: Promise<Handle>
}

/** A cursor came with a key that has started nothing. */
export function nothingToResume(): InvalidParamsError {
  return new InvalidParamsError(
    '/last-event-id',
    'resumes what this Idempotency-Key started, and there is nothing; follow it at its events URL instead',
  )
}

/**
 * Remembers what a key started, so that a repeated request attaches to it instead of starting another.
 *
 * A key counts for its caller alone; the same from somebody else is another. It is kept for 24 hours or until its session
 * is archived; beyond 100,000 keys the oldest are forgotten first. A start that fails leaves no key behind, so that it
 * can be tried again.
 */
export class IdempotencyKeys {
  // Bounded by size and not by `max`, for which the cache would make room in advance: megabytes, used or not.
  readonly #entries = new LRUCache<string, Entry>({ maxSize: KEYS_MAX, sizeCalculation: () => 1, ttl: KEPT_MS })

  /**
   * Runs `start` unless the key already did. `started` hears of the key under which to forget it. Whatever starts
   * something else has another `scope`.
   */
  async once<T extends Handle>(
    scope: string,
    { idempotency, attachOnly }: StartOptions,
    start: () => T | Promise<T>,
    started: (handle: T, entryKey: string, fingerprint: string) => void,
  ): Promise<T> {
    const entryKey = idempotency === undefined ? '' : IdempotencyKeys.entryKey(scope, idempotency)
    const known = idempotency === undefined ? undefined : this.attach(entryKey, idempotency.fingerprint)
    if (known !== undefined) return (await known) as T
    if (attachOnly) throw nothingToResume()
    if (idempotency === undefined) return start()
    const { fingerprint } = idempotency
    const handle = Promise.resolve(start())
    this.#entries.set(entryKey, { fingerprint, handle })
    handle.then(
      (begun) => started(begun, entryKey, fingerprint),
      () => this.#entries.delete(entryKey),
    )
    return handle
  }

  /** The key under which something is remembered. */
  static entryKey(scope: string, { caller, key }: IdempotencyClaim): string {
    return JSON.stringify([scope, caller, key])
  }

  has(entryKey: string): boolean {
    return this.#entries.has(entryKey)
  }

  /** What the key started, or is about to; nothing when it did not. Throws for another request with the same key. */
  attach(entryKey: string, fingerprint: string): Promise<Handle> | undefined {
    const known = this.#entries.get(entryKey)
    if (known === undefined) return undefined
    if (known.fingerprint !== fingerprint) throw new IdempotencyKeyReusedError()
    return known.handle.then((handle) => ({ ...handle, attached: true }))
  }

  forget(entryKeys: readonly string[]): void {
    for (const entryKey of entryKeys) this.#entries.delete(entryKey)
  }
}
