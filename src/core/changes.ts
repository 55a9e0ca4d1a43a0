import { setTimeout as sleep } from 'node:timers/promises'

/** Lets others wait until something is so, by telling them whenever anything changed. */
export class Changes {
  #waiting = new Set<() => void>()

  /** Wakes everybody who waits. */
  announce(): void {
    if (this.#waiting.size === 0) return
    const waiting = this.#waiting
    this.#waiting = new Set()
    for (const wake of waiting) wake()
  }

  /** Resolves at the next change. Rejects with `signal.reason` when that aborts first. */
  next(signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted()
    return new Promise((resolve, reject) => {
      const wake = () => {
        signal?.removeEventListener('abort', left)
        resolve()
      }
      const left = () => {
        this.#waiting.delete(wake)
        reject(signal?.reason)
      }
      this.#waiting.add(wake)
      signal?.addEventListener('abort', left, { once: true })
    })
  }

  /** The same, or after `ms` milliseconds: for what may change without a word. */
  async nextWithin(ms: number, signal?: AbortSignal): Promise<void> {
    const late = new AbortController()
    const left = () => late.abort(signal?.reason)
    const timer = setTimeout(() => late.abort(), ms)
    signal?.addEventListener('abort', left, { once: true })
    try {
      await this.next(late.signal)
    } catch {
      signal?.throwIfAborted()
    } finally {
      clearTimeout(timer)
      signal?.removeEventListener('abort', left)
    }
  }

  /** Resolves once `met` is true, or after `ms` milliseconds. */
  async until(met: () => boolean, ms: number): Promise<void> {
    const deadline = new AbortController()
    const timer = sleep(ms, undefined, { signal: deadline.signal }).catch(() => {})
    let late = false
    void timer.then(() => {
      late = true
      this.announce()
    })
    while (!met() && !late) await this.next()
    deadline.abort()
  }
}
