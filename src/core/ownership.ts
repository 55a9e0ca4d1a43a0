import type { Claim, Cluster } from './cluster.ts'
import { SessionNotFoundError, StoreUnavailableError } from './errors.ts'
import type { SessionTask } from './session-task.ts'

/** Another server has the session. */
export class ElsewhereError extends Error {
  readonly owner: string

  constructor(owner: string) {
    super(`The session is with ${owner}`)
    this.owner = owner
  }
}

interface Waiting {
  resolve(claim: Claim | undefined): void
  reject(error: unknown): void
}

/**
 * The sessions in which this server may write. On a store that has one server these are all. Elsewhere a session is taken
 * before anything happens in it, and given back with the commit that leaves it idle.
 */
export class Ownership {
  readonly #cluster: Cluster | undefined
  readonly #held = new Set<string>()
  /** The epoch as of which a copy in memory is what the store has. */
  readonly #epochs = new WeakMap<SessionTask, number>()
  #asked = new Map<string, Waiting[]>()
  readonly #claiming = new Map<string, number>()
  /** A claim may have been made of which nobody here knows. */
  isInDoubt = false

  constructor(cluster: Cluster | undefined) {
    this.#cluster = cluster
  }

  has(sessionId: string): boolean {
    return this.#cluster === undefined || this.#held.has(sessionId)
  }

  get held(): readonly string[] {
    return [...this.#held]
  }

  epochOf(session: SessionTask): number {
    return this.#epochs.get(session) ?? 1
  }

  /** The session is this server's, and the copy is what the store has. */
  hold(session: SessionTask, epoch = 1): void {
    if (this.#cluster === undefined) return
    this.#epochs.set(session, epoch)
    this.#held.add(session.id)
  }

  /** Takes the session over with a claim. False when the copy is not what the store has. */
  renew(session: SessionTask, { before, epoch }: { before: number; epoch: number }): boolean {
    const known = this.epochOf(session)
    // Somebody who claimed it at the same time has come first.
    if (epoch <= known) return true
    if (before !== known) return false
    this.hold(session, epoch)
    return true
  }

  /** Takes sessions of which there are copies. Resolves with those of which that is not what the store has. */
  async takeBack(sessions: readonly SessionTask[]): Promise<SessionTask[]> {
    const lost: SessionTask[] = []
    await Promise.all(
      sessions.map(async (session) => {
        try {
          const claim = await this.claim(session.id)
          if (this.renew(session, claim)) return
          // Whoever asked at the same time goes on with it, or it is found to be nobody's.
          if (claim.isShared) this.isInDoubt = true
          else await this.release(session.id, claim.epoch)
        } catch (error) {
          if (!(error instanceof ElsewhereError || error instanceof SessionNotFoundError)) throw error
        }
        lost.push(session)
      }),
    )
    return lost
  }

  /** Gives back what was claimed and is not held. */
  async release(sessionId: string, epoch: number): Promise<void> {
    try {
      await this.#cluster?.release(sessionId, epoch)
    } catch {
      this.isInDoubt = true
    }
  }

  /** Others may have the session from here on. */
  giveUp(sessionId: string): void {
    this.#held.delete(sessionId)
  }

  /** Whether the session is on its way to this server. */
  isClaiming(sessionId: string): boolean {
    return this.#claiming.has(sessionId) || this.#asked.has(sessionId)
  }

  /**
   * Takes the session; all that are asked for in one step with one statement. Rejects with an `ElsewhereError` or a
   * `SessionNotFoundError`. `hold` is for the caller to call, once it has a copy.
   */
  async claim(sessionId: string): Promise<{ before: number; epoch: number; isShared: boolean }> {
    const waiting = this.#asked.get(sessionId) ?? []
    const claim = await new Promise<Claim | undefined>((resolve, reject) => {
      if (this.#asked.size === 0) setImmediate(() => void this.#claimAll())
      this.#asked.set(sessionId, waiting)
      waiting.push({ resolve, reject })
    })
    if (claim === undefined) throw new SessionNotFoundError(sessionId)
    if (claim.epoch === undefined) throw new ElsewhereError(claim.owner as string)
    return { before: claim.before, epoch: claim.epoch, isShared: waiting.length > 1 }
  }

  async #claimAll(): Promise<void> {
    const asked = this.#asked
    this.#asked = new Map()
    await this.#claimThose(asked)
  }

  async #claimThose(asked: ReadonlyMap<string, Waiting[]>): Promise<void> {
    for (const id of asked.keys()) this.#claiming.set(id, (this.#claiming.get(id) ?? 0) + 1)
    try {
      const claims = new Map((await (this.#cluster as Cluster).claim([...asked.keys()])).map((one) => [one.id, one]))
      for (const [id, waiting] of asked) for (const { resolve } of waiting) resolve(claims.get(id))
    } catch (error) {
      if (asked.size > 1 && !(error instanceof StoreUnavailableError)) {
        // The store may refuse one of them alone.
        await Promise.all([...asked].map((one) => this.#claimThose(new Map([one]))))
        return
      }
      this.isInDoubt = true
      for (const waiting of asked.values()) for (const { reject } of waiting) reject(error)
    } finally {
      for (const id of asked.keys()) {
        const others = (this.#claiming.get(id) ?? 1) - 1
        if (others === 0) this.#claiming.delete(id)
        else this.#claiming.set(id, others)
      }
    }
  }
}
