import { LRUCache } from 'lru-cache'
import type { SessionQuery } from './session-service.ts'
import type { SessionTask } from './session-task.ts'

/** How much of archived sessions is kept, so that a reader who was cut off can still read to the end. */
const ARCHIVED_MAX = 256
const ARCHIVED_BYTES = 64 * 1024 * 1024
const ARCHIVED_MS = 10 * 60_000
/** Of so many sessions that are gone the last `seq` is known one by one. */
const LAST_SEQS = 100_000
/** More events than a turn has that is still running. */
const DRAINING_EVENTS = 2 ** 32

/**
 * Every session, found by id and listed in the order of creation. Looking up, adding, removing and an unfiltered page
 * cost the same whatever the number of sessions; a filter looks at each session once.
 */
export class SessionRegistry {
  readonly #live = new Map<string, SessionTask>()
  readonly #inOrder: SessionTask[] = []
  /** Live sessions that have a name among their peers, in the order of creation. */
  readonly #named = new Map<string, SessionTask>()
  #nextOrdinal = 0
  /** Archived, and a turn still running. A set: an id may be imported, and archived, anew in the meantime. */
  readonly #draining = new Set<SessionTask>()
  readonly #archived = new LRUCache<string, SessionTask>({
    max: ARCHIVED_MAX,
    maxSize: ARCHIVED_BYTES,
    ttl: ARCHIVED_MS,
    ttlAutopurge: true,
    sizeCalculation: (session) => session.log.bytes + 1,
  })

  /** By id, of sessions that are over: `seq` goes on where the id comes back. */
  readonly #lastSeqs: LRUCache<string, number>
  /** The highest of those that are not known one by one. */
  #lastSeqOfOthers = 0

  constructor(maxLastSeqs = LAST_SEQS) {
    this.#lastSeqs = new LRUCache({
      // By size and not by `max`, for which the cache would make room in advance.
      maxSize: maxLastSeqs,
      sizeCalculation: () => 1,
      dispose: (lastSeq, _, reason) => {
        if (reason === 'evict') this.#lastSeqOfOthers = Math.max(this.#lastSeqOfOthers, lastSeq)
      },
    })
  }

  get size(): number {
    return this.#live.size
  }

  get(id: string): SessionTask | undefined {
    return this.#live.get(id)
  }

  /** Also finds what was archived, as long as it is kept. */
  getReadable(id: string): SessionTask | undefined {
    const live = this.#live.get(id)
    if (live !== undefined) return live
    let newest = this.#archived.get(id)
    for (const session of this.#draining) {
      if (session.id === id && session.ordinal > (newest?.ordinal ?? -1)) newest = session
    }
    return newest
  }

  /** After which event one begins that comes under an id that is not live: none before it was ever the id's. */
  lastSeqOf(id: string): number {
    let last = this.#lastSeqs.get(id) ?? this.#lastSeqOfOthers
    for (const session of this.#draining) {
      if (session.id === id) last = Math.max(last, session.log.lastSeq + DRAINING_EVENTS)
    }
    return last
  }

  named(): SessionTask[] {
    return [...this.#named.values()]
  }

  getNamed(name: string): SessionTask | undefined {
    return this.#named.get(name)
  }

  add(session: SessionTask): void {
    // Numbered here and not when it was asked for: agents may take their time to be built.
    session.ordinal = this.#nextOrdinal++
    this.#archived.delete(session.id)
    this.#live.set(session.id, session)
    this.#inOrder.push(session)
    if (session.metadata.comms_name !== undefined) this.#named.set(session.metadata.comms_name, session)
  }

  /** Hides a session; it stays readable while it drains. */
  archive(session: SessionTask): void {
    this.#live.delete(session.id)
    this.#inOrder.splice(this.#indexOf(session.ordinal), 1)
    this.#draining.add(session)
    if (session.metadata.comms_name !== undefined) this.#named.delete(session.metadata.comms_name)
  }

  /** Forgets a session that goes on from a store. */
  remove(session: SessionTask): void {
    this.#live.delete(session.id)
    this.#inOrder.splice(this.#indexOf(session.ordinal), 1)
    if (session.metadata.comms_name !== undefined) this.#named.delete(session.metadata.comms_name)
  }

  /** The same for one that may be archived. False when it is not here. */
  forget(session: SessionTask): boolean {
    if (this.#draining.delete(session)) return true
    if (this.#archived.get(session.id) === session) return this.#archived.delete(session.id)
    if (this.#live.get(session.id) !== session) return false
    this.remove(session)
    return true
  }

  retire(session: SessionTask): void {
    const { id, log } = session
    const known = this.#lastSeqs.get(id) ?? 0
    if (log.lastSeq > known) this.#lastSeqs.set(id, log.lastSeq)
    if (!this.#draining.delete(session) || this.#live.has(session.id)) return
    if ((this.#archived.get(session.id)?.ordinal ?? -1) < session.ordinal) this.#archived.set(session.id, session)
  }

  /** Live and draining sessions: all that still hold an agent. */
  residents(): SessionTask[] {
    return [...this.#inOrder, ...this.#draining]
  }

  list({ limit, offset, labels = [], active }: SessionQuery): { sessions: SessionTask[]; total: number } {
    const matching =
      labels.length === 0 && active === undefined
        ? this.#inOrder
        : this.#inOrder.filter(
            (session) =>
              (active === undefined || session.isActive === active) &&
              labels.every(([key, value]) => labelOf(session, key) === value),
          )
    return { sessions: matching.slice(offset, offset + limit), total: matching.length }
  }

  #indexOf(ordinal: number): number {
    let low = 0
    let high = this.#inOrder.length - 1
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((this.#inOrder[middle] as SessionTask).ordinal < ordinal) low = middle + 1
      else high = middle
    }
    return low
  }
}

function labelOf({ labels }: SessionTask, key: string): string | undefined {
  return Object.hasOwn(labels, key) ? labels[key] : undefined
}
