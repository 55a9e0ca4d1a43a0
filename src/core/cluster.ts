import type { KeyRow, SessionRow } from './durable-store.ts'
import type { Chunk } from './memory-event-log.ts'

/**
 * What a store offers so that several servers can share it: who may write in a session, who is still there, and ways to
 * ask and to wake one another. Safety rests on epochs alone: a commit with an old one is left out. Leases, notices and
 * looking again serve to get on.
 *
 * Like the store, every method rejects with a `StoreUnavailableError` when the store cannot be reached.
 */
export interface Cluster {
  /** Makes this server known: its lease begins. Notices come until `leave`. */
  join(hear: (notice: Notice) => void): Promise<void>
  /** Prolongs the lease by `LEASE_MS`, by the clock of the store. Resolves with how many other servers are there. */
  beat(): Promise<number>
  /** Gives up the lease and every session, so that others take over at once. */
  leave(): Promise<void>
  /** Takes sessions that no server has whose lease runs. There is no claim for a session that is not there. */
  claim(sessionIds: readonly string[]): Promise<Claim[]>
  /** Gives back a session that was claimed and not written in since. */
  release(sessionId: string, epoch: number): Promise<void>
  /** Sessions that are this server's, for the store. */
  owned(): Promise<string[]>
  /** What is new in sessions, from `after` on; nothing of a session that is not there. A part of it where that is much. */
  news(positions: readonly Position[]): Promise<News[]>

  /** Asks the owner of a session to do something. Resolves with the number of the command. */
  ask(owner: string, command: Command): Promise<number>
  /** What became of commands; nothing of those that are not answered and whose owner is there. */
  replies(numbers: readonly number[]): Promise<Reply[]>
  /** Takes a command back. False when it was begun already. */
  withdraw(number: number): Promise<boolean>
  /** Commands for this server that it has not had yet. */
  commands(): Promise<(Command & { number: number })[]>
  reply(number: number, reply: string): Promise<void>

  /** Holds a key for a request that is under way here. `taken` while another request holds it. */
  reserve(entryKey: string, fingerprint: string): Promise<'reserved' | 'taken' | KeyRow>
  unreserve(entryKey: string): Promise<void>

  /** One of `max` places, which end with the lease; nothing when all are taken. */
  takeSlot(max: number): Promise<number | undefined>
  freeSlot(slot: number): Promise<void>
}

/** A server that was not heard of for so long is gone, and its sessions are for others. */
export const LEASE_MS = 5_000

export interface Claim {
  readonly id: string
  /** The epoch before: a server that knows the session as of that one knows it as it is. */
  readonly before: number
  /** Nothing when another server has the session. */
  readonly epoch: number | undefined
  /** Who had it. */
  readonly owner: string | undefined
}

/** `gap`: notices may have been missed. */
export type Notice = { kind: 'events'; sessionIds: readonly string[] } | { kind: 'command' | 'reply' | 'left' | 'gap' }

export interface Position {
  readonly id: string
  readonly after: number
}

export interface News {
  readonly row: SessionRow
  /** Oldest first, without a gap but for what is no longer retained. */
  readonly chunks: readonly Chunk[]
}

export interface Command {
  readonly sessionId: string
  readonly operation: string
  /** JSON. */
  readonly args: string
}

export interface Reply {
  readonly number: number
  /** JSON; nothing when the owner is gone. */
  readonly reply: string | undefined
}
