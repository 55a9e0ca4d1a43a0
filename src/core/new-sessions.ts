import type { DurableStore } from './durable-store.ts'
import { InvalidParamsError, onceBegun, SessionExistsError } from './errors.ts'
import type { Journal } from './journal.ts'
import type { Residents } from './residents.ts'
import type { StoredSessions } from './stored-sessions.ts'

export interface NewSessionsParts {
  store: DurableStore
  journal: Journal
  residents: Residents
  sessions: StoredSessions
}

/** Makes sessions whose id, or name, another server may have given meanwhile. */
export class NewSessions {
  readonly #parts: NewSessionsParts

  constructor(parts: NewSessionsParts) {
    this.#parts = parts
  }

  /** `refuse` looks at what there is, before, and again where the store has refused it. Resolves once it is kept. */
  async make<T extends { sessionId: string }>(make: () => Promise<T>, refuse: () => Promise<void>): Promise<T> {
    const { residents, journal } = this.#parts
    await refuse()
    await residents.makeRoom()
    const made = await make()
    try {
      await journal.settled(made.sessionId)
    } catch (error) {
      // Its own reason, where that can be found out, is a better answer.
      await onceBegun(refuse())
      throw error
    }
    residents.used(made.sessionId)
    return made
  }

  async refuseTakenName(name: string | undefined, path: string): Promise<void> {
    const { store, residents } = this.#parts
    if (store.cluster === undefined || name === undefined) return
    if ((await store.named(name)) !== undefined) throw new InvalidParamsError(path, 'is taken by another session')
    await residents.forgetStale({ name })
  }

  async refuseTakenId(sessionId: string): Promise<void> {
    const { sessions, residents } = this.#parts
    const there = await sessions.row(sessionId)
    // One that is archived and still runs its last turn is in the way as well.
    if (there?.isArchived === false || there?.isActive || residents.owned(sessionId)?.isOver === false) {
      throw new SessionExistsError(sessionId)
    }
    await residents.forgetStale({ id: sessionId })
  }
}
