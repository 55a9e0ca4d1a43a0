import { SessionBusyError } from './errors.ts'
import type { TurnRecord } from './turn-record.ts'

/** The turns of a session that wait in line. */
export class TurnQueue {
  readonly #max: number
  #turns: TurnRecord[] | undefined
  #isHeld = false

  constructor(max: number) {
    this.#max = max
  }

  get isEmpty(): boolean {
    return this.#turns === undefined || this.#turns.length === 0
  }

  /** Throws a `SessionBusyError` when the line is full. */
  assertRoom(sessionId: string, activeTurn: ConstructorParameters<typeof SessionBusyError>[1]): void {
    const queued = this.#turns?.length ?? 0
    if (queued < this.#max) return
    const text = `Session ${sessionId} already has ${queued} ${queued === 1 ? 'turn' : 'turns'} in line`
    throw new SessionBusyError(sessionId, activeTurn, text)
  }

  add(record: TurnRecord, isFirst: boolean): void {
    this.#turns ??= []
    if (isFirst) this.#turns.unshift(record)
    else this.#turns.push(record)
  }

  /** Hands out no more turns: they stay in line, for whoever takes up the session from its store. */
  hold(): void {
    this.#isHeld = true
  }

  next(): TurnRecord | undefined {
    return this.#isHeld ? undefined : this.#turns?.shift()
  }

  /** Everything that waits; the line is empty then. */
  takeAll(): TurnRecord[] {
    const turns = this.#turns ?? []
    this.#turns = undefined
    return turns
  }
}
