/** A permit, given back once; giving it back again does nothing. */
export interface Permit {
  release(): void
}

/**
 * Counts how many of something may exist at a time. It never queues: a caller that gets no permit is told so at once.
 */
export class Semaphore {
  readonly max: number
  #taken = 0

  constructor(max: number) {
    if (!Number.isSafeInteger(max) || max < 1) {
      throw new TypeError(`Expected \`max\` to be an integer from 1 and up, got ${max}`)
    }
    this.max = max
  }

  get taken(): number {
    return this.#taken
  }

  tryAcquire(): Permit | undefined {
    if (this.#taken >= this.max) return undefined
    this.#taken++
    let held = true
    return {
      release: () => {
        if (!held) return
        held = false
        this.#taken--
      },
    }
  }
}
