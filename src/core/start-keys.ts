import { setTimeout as sleep } from 'node:timers/promises'
import type { Cluster } from './cluster.ts'
import type { DurableStore, KeyRow } from './durable-store.ts'
import { IdempotencyKeyReusedError, OutcomeUnknownError } from './errors.ts'
import { IdempotencyKeys, nothingToResume } from './idempotency.ts'
import type { Lease } from './lease.ts'
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
  readonly #lease: Lease
  /** Requests of this server whose start is not kept yet. */
  readonly #underWay = new Map<string, { fingerprint: string; started: Promise<Handle> }>()

  constructor(keys: IdempotencyKeys, store: DurableStore, lease: Lease) {
    this.#keys = keys
    this.#store = store
    this.#lease = lease
  }

  /**
   * Runs `start`, unless the key has started something: then it resolves with that. What `start` gets throws where the key
   * may be another request's by now: to be called right before there is no way back.
   */
  async once<T extends Handle>(
    scope: string,
    options: StartOptions,
    start: (assertHeld: () => void) => Promise<T>,
  ): Promise<T> {
    const { idempotency, attachOnly } = options
    const { cluster } = this.#store
    if (idempotency === undefined) return start(() => {})
    const entryKey = IdempotencyKeys.entryKey(scope, idempotency)
    const { fingerprint } = idempotency
    if (cluster === undefined) {
      const kept = this.#keys.has(entryKey) ? undefined : await this.#store.key(entryKey)
      return kept === undefined ? start(() => {}) : attached<T>(kept, fingerprint)
    }
    const until = performance.now() + PATIENCE_MS
    while (performance.now() < until) {
      const known = await this.#known<T>(entryKey, fingerprint)
      if (known !== undefined) return known
      if (this.#underWay.has(entryKey)) continue
      // What is remembered here the store has forgotten, or never knew.
      this.#keys.forget([entryKey])
      if (attachOnly === true) throw nothingToResume()
      const started = this.#start(cluster, entryKey, fingerprint, start)
      this.#underWay.set(entryKey, { fingerprint, started: started as Promise<Handle> })
      try {
        const handle = await started
        if (handle !== undefined) return handle
      } finally {
        this.#underWay.delete(entryKey)
      }
      await sleep(LOOK_AGAIN_MS)
    }
    // Another request with the key has begun, and may have started something.
    throw new OutcomeUnknownError()
  }

  /** What the key has started, or another request of this server is about to start with it. */
  async #known<T extends Handle>(entryKey: string, fingerprint: string): Promise<T | undefined> {
    for (;;) {
      const other = this.#underWay.get(entryKey)
      if (other === undefined) break
      if (other.fingerprint !== fingerprint) throw new IdempotencyKeyReusedError()
      // Why another one failed is not for this one to tell.
      const handle = await other.started.catch(() => undefined)
      if (handle !== undefined) return { ...handle, attached: true } as T
    }
    const kept = await this.#store.key(entryKey)
    if (kept !== undefined) return attached<T>(kept, fingerprint)
    return this.#underWay.has(entryKey) ? this.#known(entryKey, fingerprint) : undefined
  }

  /** Nothing where another server is about to start something with the key. */
  async #start<T extends Handle>(
    cluster: Cluster,
    entryKey: string,
    fingerprint: string,
    start: (assertHeld: () => void) => Promise<T>,
  ): Promise<T | undefined> {
    const assertHeld = this.#lease.hold()
    const held = await cluster.reserve(entryKey, fingerprint)
    if (held === 'taken') return undefined
    if (held !== 'reserved') return attached<T>(held, fingerprint)
    try {
      return await start(assertHeld)
    } finally {
      await cluster.unreserve(entryKey).catch(() => {})
    }
  }
}

function attached<T extends Handle>(kept: KeyRow, fingerprint: string): T {
  if (kept.fingerprint !== fingerprint) throw new IdempotencyKeyReusedError()
  return { ...kept.handle, sessionId: kept.sessionId, attached: true } as unknown as T
}
