import type { Cluster, Notice } from './cluster.ts'
import type { DurableStore } from './durable-store.ts'
import { StoreUnavailableError } from './errors.ts'
import type { Followers } from './followers.ts'
import type { Journal } from './journal.ts'
import type { Lease } from './lease.ts'
import type { OwnerRequests } from './owner-requests.ts'
import type { Ownership } from './ownership.ts'
import type { Residents } from './residents.ts'

const BEAT_MS = 1_000
const LOOK_MS = 250

export interface MemberParts {
  store: DurableStore
  cluster: Cluster
  lease: Lease
  journal: Journal
  ownership: Ownership
  residents: Residents
  followers: Followers
  requests: OwnerRequests
  /** Something may have changed in the store. */
  changed: () => Promise<void>
  fault: (error: unknown) => void
}

/**
 * One of several servers over a store: it says that it is there, takes up what those leave who are not, does what others
 * ask for, and looks for what notices may have failed to tell.
 */
export class Member {
  readonly #parts: MemberParts
  readonly #timers: NodeJS.Timeout[] = []
  #others = 0
  #isBeating = false
  #isTidying = false
  #isFenced = false
  #isLeaving = false
  #hasLeft = false

  constructor(parts: MemberParts) {
    this.#parts = parts
  }

  async join(): Promise<void> {
    const askedAt = performance.now()
    await this.#parts.cluster.join((notice) => this.#hear(notice))
    this.#parts.lease.heard(askedAt)
    this.#timers.push(
      setInterval(() => void this.#beat(), BEAT_MS).unref(),
      setInterval(() => void this.#tidy(), BEAT_MS).unref(),
      setInterval(() => this.#fence(), LOOK_MS).unref(),
    )
  }

  /** Takes up nothing more of what others leave. */
  retire(): void {
    this.#isLeaving = true
  }

  async leave(): Promise<void> {
    this.#hasLeft = true
    for (const timer of this.#timers) clearInterval(timer)
    await this.#parts.cluster.leave()
  }

  #hear(notice: Notice): void {
    const { followers, requests } = this.#parts
    const quietly = (done: Promise<unknown>) => void done.catch(() => {})
    switch (notice.kind) {
      case 'events':
        quietly(followers.pull(notice.sessionIds))
        break
      case 'command':
        quietly(requests.serve())
        break
      case 'reply':
        quietly(requests.look())
        break
      case 'left':
      case 'gap':
        void this.#tidy()
    }
  }

  async #beat(): Promise<void> {
    if (this.#isBeating) return
    this.#isBeating = true
    const askedAt = performance.now()
    try {
      this.#others = await this.#parts.cluster.beat()
      const wasAway = this.#parts.lease.heard(askedAt)
      this.#isFenced = false
      this.#parts.journal.reachable()
      if (wasAway) await this.#compare()
    } catch (error) {
      this.#failed(error)
    } finally {
      this.#isBeating = false
    }
  }

  /** Others may have this server's sessions by now: nothing goes on in them. Alone it goes on, and writes later. */
  #fence(): void {
    if (this.#isFenced || this.#others === 0 || !this.#parts.lease.isRunningOut) return
    this.#isFenced = true
    const { ownership, residents } = this.#parts
    ownership.isInDoubt = true
    for (const id of ownership.held) {
      const session = residents.get(id)
      if (session !== undefined) void residents.lose(session)
    }
  }

  /** What is this server's, for the store, is so here, and the other way round. */
  async #compare(): Promise<void> {
    const { cluster, ownership, residents, journal } = this.#parts
    const held = ownership.held.flatMap((id) => {
      const session = journal.isUnwritten(id) ? undefined : residents.get(id)
      return session === undefined ? [] : [{ session, epoch: ownership.epochOf(session) }]
    })
    const owned = new Set(await cluster.owned())
    for (const { session, epoch } of held) {
      const { id } = session
      // It may have been given back, and taken again, in the meantime.
      const isStill = ownership.has(id) && ownership.epochOf(session) === epoch
      if (isStill && !owned.has(id) && journal.isSettled(id)) await residents.lose(session)
    }
  }

  async #tidy(): Promise<void> {
    if (this.#isTidying) return
    this.#isTidying = true
    const { cluster, store, ownership, residents, followers, requests, changed } = this.#parts
    try {
      await requests.serve()
      await requests.look()
      await followers.pullAll()
      await changed()
      if (!this.#isLeaving) {
        await residents.adopt((await store.orphans()).map(({ id }) => id))
        if (ownership.isInDoubt) {
          ownership.isInDoubt = false
          const left = (await cluster.owned()).filter((id) => !ownership.has(id) && !residents.isComing(id))
          if ((await residents.adopt(left)) > 0) ownership.isInDoubt = true
        }
      }
    } catch (error) {
      ownership.isInDoubt = true
      if (error instanceof StoreUnavailableError) this.#failed(error)
      else this.#parts.fault(error)
    } finally {
      this.#isTidying = false
    }
  }

  /** The store is closed next, whatever is still asked of it. */
  #failed(error: unknown): void {
    if (!this.#hasLeft) this.#parts.journal.unreachable(error)
  }
}
