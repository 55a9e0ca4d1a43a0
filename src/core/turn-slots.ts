import type { Changes } from './changes.ts'
import type { Cluster } from './cluster.ts'
import { CapacityReachedError } from './errors.ts'
import type { Semaphore } from './semaphore.ts'

/**
 * Turns that may run at a time over all servers. Each has a row of the store, of which there are no more than that; this
 * server has at least as many as it has permits taken.
 */
export class TurnSlots {
  readonly #cluster: Cluster
  readonly #max: number
  readonly #activeTurns: Semaphore
  #slots: number[] = []
  /** Starts that are under way. */
  #pending = 0
  #trimming: Promise<void> | undefined

  constructor(cluster: Cluster, max: number, activeTurns: Semaphore, changes: Changes) {
    this.#cluster = cluster
    this.#max = max
    this.#activeTurns = activeTurns
    void this.#watch(changes)
  }

  /** Runs `start`, which takes at most one permit. Rejects with a `CapacityReachedError` when all places are taken. */
  async during<T>(start: () => Promise<T>): Promise<T> {
    this.#pending++
    try {
      if (this.#surplus < 0) {
        const slot = await this.#cluster.takeSlot(this.#max)
        if (slot === undefined) throw new CapacityReachedError('running turns', this.#max, this.#max)
        this.#slots.push(slot)
      }
      return await start()
    } finally {
      this.#pending--
      void this.#trim()
    }
  }

  get #surplus(): number {
    return this.#slots.length - this.#activeTurns.taken - this.#pending
  }

  async #watch(changes: Changes): Promise<void> {
    for (;;) {
      await changes.next()
      void this.#trim()
    }
  }

  async #trim(): Promise<void> {
    this.#trimming ??= this.#free().finally(() => {
      this.#trimming = undefined
    })
    await this.#trimming
  }

  async #free(): Promise<void> {
    while (this.#surplus > 0) {
      const slot = this.#slots.pop() as number
      try {
        await this.#cluster.freeSlot(slot)
      } catch {
        // It is still this server's, for the next start or the next look.
        this.#slots.push(slot)
        return
      }
    }
  }
}
