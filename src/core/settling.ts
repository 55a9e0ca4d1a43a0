import { StoreUnavailableError } from './errors.ts'

interface Waiting {
  readonly id: string
  /** All that it waits for is in the commit under way. */
  isInFlight: boolean
  resolve(): void
  reject?(): void
}

/** Who waits until all that has happened in a session so far is kept. */
export class Settling {
  #waiting: Waiting[] = []

  /** The sessions of which something is waited for that no commit under way has. */
  ids(): ReadonlySet<string> {
    return new Set(this.#waiting.flatMap(({ id, isInFlight }) => (isInFlight ? [] : [id])))
  }

  /** `then` is never called where another server takes the session over. */
  add(id: string, isInFlight: boolean, then: () => void): void {
    this.#waiting.push({ id, isInFlight, resolve: then })
  }

  /** Rejects with a `StoreUnavailableError` after `patienceMs`, or when another server takes the session over. */
  wait(id: string, isInFlight: boolean, patienceMs: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const give = (act: () => void) => () => {
        clearTimeout(timer)
        act()
      }
      const refuse = () => reject(new StoreUnavailableError())
      const waiting: Waiting = { id, isInFlight, resolve: give(resolve), reject: give(refuse) }
      const timer = setTimeout(() => {
        this.#waiting = this.#waiting.filter((one) => one !== waiting)
        refuse()
      }, patienceMs)
      this.#waiting.push(waiting)
    })
  }

  /** A commit begins, with what has changed in these sessions. */
  begun(batch: { has(id: string): boolean }): void {
    for (const waiting of this.#waiting) waiting.isInFlight = batch.has(waiting.id)
  }

  /** It is done. */
  done(): void {
    const served = this.#waiting.filter(({ isInFlight }) => isInFlight)
    this.#waiting = this.#waiting.filter(({ isInFlight }) => !isInFlight)
    for (const { resolve } of served) resolve()
  }

  /** Nothing of the session will be kept. */
  drop(id: string): void {
    const dropped = this.#waiting.filter((waiting) => waiting.id === id)
    this.#waiting = this.#waiting.filter((waiting) => waiting.id !== id)
    for (const { reject } of dropped) reject?.()
  }
}
