import type { Approval, ApprovalRequest } from './agent.ts'
import type { NewEvent } from './events.ts'
import { timeOf } from './time.ts'

const STANDARD_MS = 300_000
/** The longest that a timer of Node waits, 24 days: longer ones would end at once. */
const MAX_MS = 2 ** 31 - 1

interface Waiting {
  name: string
  settle(approval: Approval): void
  leave(): void
}

/** The tool calls of one turn that wait until somebody allows them. */
export class Approvals {
  readonly #append: (event: NewEvent) => void
  readonly #waiting = new Map<string, Waiting>()

  /** `append` puts an event into the turn's log. */
  constructor(append: (event: NewEvent) => void) {
    this.#append = append
  }

  /** Asks, and waits for an answer, for the time-out, or for `signal`. */
  request({ id, name, args = {}, timeoutMs = STANDARD_MS }: ApprovalRequest, signal: AbortSignal): Promise<Approval> {
    signal.throwIfAborted()
    if (!(timeoutMs >= 0)) throw new TypeError(`Expected \`timeoutMs\` to be a number from 0 up, got ${timeoutMs}`)
    const waitMs = Math.min(timeoutMs, MAX_MS)
    this.#append({
      type: 'tool_approval_requested',
      id,
      name,
      args,
      expires_at: timeOf(Date.now() + waitMs),
    })
    const answer = new Promise<Approval>((resolve, reject) => {
      const done = () => {
        clearTimeout(timer)
        signal.removeEventListener('abort', leave)
        this.#waiting.delete(id)
      }
      const settle = (approval: Approval) => {
        done()
        this.#append({ type: 'tool_approval_resolved', id, name, ...approval })
        resolve(approval)
      }
      const leave = () => {
        done()
        reject(signal.reason ?? new Error('The turn is over'))
      }
      const timer = setTimeout(() => settle({ approved: false, reason: 'nobody answered in time' }), waitMs)
      signal.addEventListener('abort', leave, { once: true })
      this.#waiting.set(id, { name, settle, leave })
    })
    // An agent may have stopped waiting for it.
    answer.catch(() => {})
    return answer
  }

  /** The turn is over: nothing waits any more, and nothing more is said. */
  close(): void {
    for (const waiting of [...this.#waiting.values()]) waiting.leave()
  }

  /** Hands in an answer. False when that call does not wait for one. */
  answer(callId: string, approval: Approval): boolean {
    const waiting = this.#waiting.get(callId)
    waiting?.settle(approval)
    return waiting !== undefined
  }
}
