import { LEASE_MS } from './cluster.ts'
import { StoreUnavailableError } from './errors.ts'

/** Who has not been heard for so long may be taken for gone any moment. */
const SILENCE_MS = LEASE_MS - 1_000

/** How long ago this server was last heard, by a clock that nobody sets. */
export class Lease {
  #heardAt = performance.now()
  #term = 0

  /** It was heard: asked for at `askedAt`, by the clock of `performance.now`. True when that came too late. */
  heard(askedAt: number): boolean {
    const isLate = askedAt - this.#heardAt > LEASE_MS
    if (isLate) this.#term++
    this.#heardAt = askedAt
    return isLate
  }

  /** Others may take this server for gone by now. */
  get isRunningOut(): boolean {
    return performance.now() - this.#heardAt >= SILENCE_MS
  }

  /** What is held now is held as long as this does not throw. */
  hold(): () => void {
    const term = this.#term
    return () => {
      if (this.#term !== term || this.isRunningOut) throw new StoreUnavailableError()
    }
  }
}
