import type { Cluster } from './cluster.ts'
import { StoreUnavailableError } from './errors.ts'
import { OwnerRequests } from './owner-requests.ts'
import { ElsewhereError, type Ownership } from './ownership.ts'
import type { Residents } from './residents.ts'
import type { Operation, OperationArgs, OperationResults, Operations } from './session-operations.ts'

/** A session may be between two servers for so long. */
const BETWEEN_MS = 15_000

export interface Conditions {
  /** Throws where it must not be done any more, by this request. */
  assertHeld?: (() => void) | undefined
  /** May refuse what another server would have to be asked for. */
  beforeAsking?: (() => Promise<void>) | undefined
}

/** Has operations done where their session is: here, or by the server that runs its turn. */
export class OperationRouter {
  readonly #residents: Residents
  readonly #operations: Operations
  /** What goes to other servers and comes from them, where there are any. */
  readonly requests: OwnerRequests | undefined

  constructor(residents: Residents, operations: Operations, ownership: Ownership, cluster: Cluster | undefined) {
    this.#residents = residents
    this.#operations = operations
    if (cluster === undefined) return
    this.requests = new OwnerRequests(cluster, async (operation, id, args) => {
      if (!ownership.has(id)) {
        // Whoever asks has read that it is here.
        ownership.isInDoubt = true
        throw new ElsewhereError('another server')
      }
      return this.#here(operation as Operation, id, args as never)
    })
  }

  async run<K extends Operation>(
    operation: K,
    sessionId: string,
    args: OperationArgs[K],
    { assertHeld, beforeAsking }: Conditions = {},
  ): Promise<OperationResults[K]> {
    const until = performance.now() + BETWEEN_MS
    for (;;) {
      try {
        return await this.#here(operation, sessionId, args, assertHeld)
      } catch (error) {
        if (!(error instanceof ElsewhereError) || this.requests === undefined) throw error
        await beforeAsking?.()
        assertHeld?.()
        try {
          return (await this.requests.ask(error.owner, operation, sessionId, args)) as OperationResults[K]
        } catch (refusal) {
          if (!(refusal instanceof ElsewhereError)) throw refusal
          if (performance.now() > until) throw new StoreUnavailableError(refusal)
        }
      }
    }
  }

  #here<K extends Operation>(
    operation: K,
    sessionId: string,
    args: OperationArgs[K],
    assertHeld?: () => void,
  ): Promise<OperationResults[K]> {
    return this.#residents.with(sessionId, (session) => {
      assertHeld?.()
      return this.#operations[operation](session, args)
    })
  }
}
