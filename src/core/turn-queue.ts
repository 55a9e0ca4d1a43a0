import { SessionBusyError } from './errors.ts'
import type { TurnRecord } from './turn-record.ts'

/** The turns of a session that wait in line. */
export class TurnQueue {
  readonly #max: number
  readonly #onCancelled: (record: TurnRecord) => void
  #turns: TurnRecord[] | undefined
  #isHeld = false

  /** `onCancelled` ends a turn that was taken out of the line. */
  constructor(max: number, onCancelled: (record: TurnRecord) => void) {
    this.#max = max
    this.#onCancelled = onCancelled
  }

  get length(): number {
    return this.#turns?.length ?? 0
  }

  get isEmpty(): boolean {
    return this.length === 0
  }

  /** Throws a `SessionBusyError` when the line is full. */
  assertRoom(sessionId: string, activeTurn: ConstructorParameters<typeof SessionBusyError>[1]): void {
    const queued = this.length
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

  /** Cancels one turn, wherever it stands. False where it is not in line. */
  cancel(turn: number): boolean {
    const record = this.#turns?.find((queued) => queued.turn === turn)
    if (record === undefined) return false
    this.#turns = this.#turns?.filter((queued) => queued !== record)
    this.#onCancelled(record)
    return true
  }

  /** Cancels all that waits. Returns the first of them. */
  cancelAll(): TurnRecord | undefined {
    const turns = this.#turns ?? []
    this.#turns = undefined
    for (const record of turns) this.#onCancelled(record)
    return turns[0]
  }
}
