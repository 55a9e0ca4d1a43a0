import type { Comms } from './agent.ts'
import type { CommsCommand, CommsReceipt, Peer } from './comms.ts'
import type { DurableStore, SessionRow } from './durable-store.ts'
import { InboxClosedError, PeerNotFoundError, SessionNotFoundError } from './errors.ts'
import type { OperationRouter } from './operation-router.ts'
import { peersOf, routed } from './session-comms.ts'
import type { StoredSessions } from './stored-sessions.ts'

/** What sessions of a store have to do with one another, wherever they are. */
export class StoredComms {
  readonly #store: DurableStore
  readonly #sessions: StoredSessions
  readonly #router: OperationRouter

  constructor(store: DurableStore, sessions: StoredSessions, router: OperationRouter) {
    this.#store = store
    this.#sessions = sessions
    this.#router = router
  }

  async peers(sessionId: string): Promise<Peer[]> {
    await this.#sessions.live(sessionId)
    return peersOf(await this.#store.allNamed(), sessionId)
  }

  async send(sessionId: string, command: CommsCommand): Promise<CommsReceipt> {
    const row = await this.#sessions.readable(sessionId)
    if (row.isArchived) throw new InboxClosedError(sessionId)
    return this.#send(row, command)
  }

  /** For the session's agent: its last turn may go on when the session is archived. */
  of(sessionId: string): Comms {
    const running = async () => {
      const row = await this.#sessions.readable(sessionId)
      if (row.isArchived && !row.isActive) throw new InboxClosedError(sessionId)
      return row
    }
    return {
      peers: async () => peersOf(await this.#store.allNamed(), sessionId),
      send: async (command) => this.#send(await running(), command),
    }
  }

  async #send({ id, metadata }: SessionRow, command: CommsCommand): Promise<CommsReceipt> {
    const { to, incoming, isSubscribed, receipt } = routed(command, metadata.comms_name)
    const target = to === undefined ? id : (await this.#store.named(to))?.id
    if (target === undefined || (to !== undefined && target === id)) throw new PeerNotFoundError(to as string)
    try {
      return receipt(await this.#router.run('deliver', target, { incoming, isSubscribed }))
    } catch (error) {
      if (!(error instanceof SessionNotFoundError)) throw error
      throw to === undefined ? new InboxClosedError(id) : new PeerNotFoundError(to)
    }
  }
}
