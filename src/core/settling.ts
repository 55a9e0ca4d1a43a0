import { OutcomeUnknownError } from './errors.ts'

interface Waiting {
  readonly id: string
  /** All that it waits for is in the commit under way. */
  isInFlight: boolean
  resolve(): void
  reject?(error: Error): void
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

  /** Rejects with an `OutcomeUnknownError` after `patienceMs`, or with what `drop` is given. */
  wait(id: string, isInFlight: boolean, patienceMs: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiting = this.#waiting.filter((one) => one !== waiting)
        reject(new OutcomeUnknownError())
      }, patienceMs)
      const waiting: Waiting = {
        id,
        isInFlight,
        resolve: () => {
          clearTimeout(timer)
          resolve()
        },
        reject: (error) => {
          clearTimeout(timer)
          reject(error)
        },
      }
      this.#waiting.push(waiting)
    })
  }

  /** A commit begins, with what has changed in these sessions. */
  begun(batch: { has(id: string): boolean }): void {
    for (const waiting of this.#waiting) waiting.isInFlight = batch.has(waiting.id)
  }

  /** It is done for the sessions in `batch`. */
  done(batch: { has(id: string): boolean }): void {
    const isServed = ({ id, isInFlight }: Waiting) => isInFlight && batch.has(id)
    const served = this.#waiting.filter(isServed)
    this.#waiting = this.#waiting.filter((waiting) => !isServed(waiting))
    for (const { resolve } of served) resolve()
  }

  /** Nothing of the session will be persisted. By default another node has taken it over. */
  drop(id: string, error: Error = new OutcomeUnknownError()): void {
    const dropped = this.#waiting.filter((waiting) => waiting.id === id)
    this.#waiting = this.#waiting.filter((waiting) => waiting.id !== id)
    for (const { reject } of dropped) reject?.(error)
  }
}
