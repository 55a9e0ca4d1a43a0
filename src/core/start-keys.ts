import { setTimeout as sleep } from 'node:timers/promises'
import type { DurableStore, KeyRow } from './durable-store.ts'
import { IdempotencyKeyReusedError, StoreUnavailableError } from './errors.ts'
import { IdempotencyKeys } from './idempotency.ts'
import type { StartOptions } from './session-service.ts'

/** A request waits so long for another one with its key. */
const PATIENCE_MS = 30_000
const LOOK_AGAIN_MS = 50

interface Handle {
  readonly sessionId: string
  readonly attached: boolean
}

/**
 * Idempotency keys that outlive the process. What a key started is kept with its first commit; where several servers may
 * get the same request at once, the key is reserved for the one that was first.
 */
export class StartKeys {
  readonly #keys: IdempotencyKeys
  readonly #store: DurableStore

  constructor(keys: IdempotencyKeys, store: DurableStore) {
    this.#keys = keys
    this.#store = store
  }

  /** Runs `start`, unless the key has started something: then it resolves with that. */
  async once<T extends Handle>(scope: string, options: StartOptions, start: () => Promise<T>): Promise<T> {
    const { idempotency, attachOnly } = options
    if (idempotency === undefined) return start()
    const entryKey = IdempotencyKeys.entryKey(scope, idempotency)
    const { fingerprint } = idempotency
    const { cluster } = this.#store
    if (cluster === undefined && this.#keys.has(entryKey)) return start()
    const kept = await this.#store.key(entryKey)
    if (kept !== undefined) return attached<T>(kept, fingerprint)
    if (cluster === undefined) return start()
    if (attachOnly === true) return (await this.#underWay<T>(entryKey, fingerprint)) ?? start()
    const until = performance.now() + PATIENCE_MS
    while (performance.now() < until) {
      const held = await cluster.reserve(entryKey, fingerprint)
      if (held === 'reserved') {
        // What is remembered here was forgotten by the store.
        this.#keys.forget([entryKey])
        try {
          return await start()
        } finally {
          await cluster.unreserve(entryKey).catch(() => {})
        }
      }
      if (held !== 'taken') return attached<T>(held, fingerprint)
      const underWay = await this.#underWay<T>(entryKey, fingerprint)
      if (underWay !== undefined) return underWay
      await sleep(LOOK_AGAIN_MS)
    }
    throw new StoreUnavailableError()
  }

  async #underWay<T extends Handle>(entryKey: string, fingerprint: string): Promise<T | undefined> {
    const handle = await this.#keys.attach(entryKey, fingerprint)
    return handle === undefined ? undefined : (handle as T)
  }
}

function attached<T extends Handle>(kept: KeyRow, fingerprint: string): T {
  if (kept.fingerprint !== fingerprint) throw new IdempotencyKeyReusedError()
  return { ...kept.handle, sessionId: kept.sessionId, attached: true } as unknown as T
}
