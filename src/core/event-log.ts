import type { NewEvent } from './events.ts'

/**
 * One session's events, in order: what a store author implements. One writer appends, any number of readers read.
 *
 * An event is visible to readers only once the store has it for good. Readers hold a position, the log holds no reader's
 * queue; what is no longer retained is gone for those who come late, and they are told so.
 */
export interface EventLog {
  /** `seq` of the newest event that was appended, visible or not; 0 before the first. */
  readonly lastSeq: number
  /** `seq` of the oldest event that is retained; `lastSeq + 1` when there is none. */
  readonly firstSeq: number
  /** Bytes that are retained. */
  readonly bytes: number
  /** True after `seal`: nothing will be appended any more. */
  readonly sealed: boolean
  /** Another server goes on with the log: readers have to come again. */
  readonly isLost: boolean
  /** Gives the event the next `seq` and returns that. It becomes visible with the next commit, within this tick. */
  append(event: NewEvent, turn: number): number
  /**
   * The visible events right after `after`, as whole frames, oldest first; `undefined` when there are none yet.
   * A page never mixes turns. The bytes are shared by all readers: do not write to them.
   * Requires `after >= firstSeq - 1`.
   */
  read(after: number): LogPage | undefined
  /** Calls `listener` after every commit and after `seal`, until `unwatch`. */
  watch(listener: () => void): void
  unwatch(listener: () => void): void
  /** Ends the log: readers drain it and then see its end. */
  seal(): void
}

export interface LogPage {
  readonly bytes: Buffer
  /** The turn whose events these are. */
  readonly turn: number
  /** `seq` of the last event in the page: the next read's `after`. */
  readonly last: number
}

export interface Retention {
  /** Events that are kept for each session. */
  readonly events: number
  /** Bytes that are kept for each session. */
  readonly bytes: number
}
