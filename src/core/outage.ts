import { OutcomeUnknownError } from './errors.ts'

/** Whether the store is away, for those who wait for it. */
export class Outage {
  readonly #patienceMs: number
  readonly #fault: (error: unknown) => void
  #isOngoing = false
  #controller = new AbortController()
  #timer: NodeJS.Timeout | undefined

  /** `fault` is called once at the beginning of each outage, with its cause. */
  constructor(patienceMs: number, fault: (error: unknown) => void) {
    this.#patienceMs = patienceMs
    this.#fault = fault
  }

  get isOngoing(): boolean {
    return this.#isOngoing
  }

  /** Aborts, with an `OutcomeUnknownError`, when the store has been away for `patienceMs`. */
  get signal(): AbortSignal {
    return this.#controller.signal
  }

  begin(error: unknown): void {
    if (this.#isOngoing) return
    this.#isOngoing = true
    this.#fault(error)
    this.#timer = setTimeout(() => this.#controller.abort(new OutcomeUnknownError(error)), this.#patienceMs).unref()
  }

  end(): void {
    if (!this.#isOngoing) return
    this.#isOngoing = false
    clearTimeout(this.#timer)
    if (this.#controller.signal.aborted) this.#controller = new AbortController()
  }
}
