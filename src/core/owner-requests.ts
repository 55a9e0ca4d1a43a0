import type { Cluster } from './cluster.ts'
import {
  type ActiveTurn,
  type ErrorData,
  InternalError,
  KeptError,
  OutcomeUnknownError,
  onceBegun,
  SessionBusyError,
  SessionError,
  type SessionErrorCode,
} from './errors.ts'
import { ElsewhereError } from './ownership.ts'

/** Whoever asks waits so long for an owner that is there. */
const PATIENCE_MS = 10_000
/** Where the notice of a reply is lost. */
const LOOK_AGAIN_MS = 500

/** An error as it travels. */
interface Refusal {
  code: SessionErrorCode
  message: string
  data: ErrorData
  retryAfter?: number
  activeTurn?: ActiveTurn
}

type Answer = { value: unknown } | { error: Refusal } | { isElsewhere: true }

/** Does what another server asks for. Rejects with an `ElsewhereError` where this one has not got the session. */
export type Execute = (operation: string, sessionId: string, args: unknown) => Promise<unknown>

/** What has to be done where a session's turn runs, asked for by rows in the store. */
export class OwnerRequests {
  readonly #cluster: Cluster
  readonly #execute: Execute
  readonly #waiting = new Map<number, (answer: Answer) => void>()
  #looking: Promise<void> | undefined
  #isWanted = false

  constructor(cluster: Cluster, execute: Execute) {
    this.#cluster = cluster
    this.#execute = execute
  }

  /**
   * Has `owner` do it. Rejects with what it rejects with there, with an `ElsewhereError` where the session is not with
   * `owner` any more, and with an `OutcomeUnknownError` where nobody can say what became of it.
   */
  async ask(owner: string, operation: string, sessionId: string, args: unknown): Promise<unknown> {
    // Without an answer the command may be there, and be executed.
    const number = await onceBegun(this.#cluster.ask(owner, { operation, sessionId, args: JSON.stringify(args) }))
    const answer = await this.#answerTo(number)
    if ('value' in answer) return answer.value
    if ('error' in answer) throw errorOf(sessionId, answer.error)
    throw new ElsewhereError(owner)
  }

  /** Looks for replies. */
  async look(): Promise<void> {
    if (this.#waiting.size === 0) return
    this.#isWanted = true
    this.#looking ??= this.#lookAll()
    await this.#looking
  }

  /** Does what others ask this server for. */
  async serve(): Promise<void> {
    for (const { number, operation, sessionId, args } of await this.#cluster.commands()) {
      void this.#answer(operation, sessionId, args)
        .then((answer) => this.#cluster.reply(number, JSON.stringify(answer)))
        // Whoever asked is told so when the patience is over.
        .catch(() => {})
    }
  }

  async #answer(operation: string, sessionId: string, args: string): Promise<Answer> {
    try {
      return { value: (await this.#execute(operation, sessionId, JSON.parse(args))) ?? null }
    } catch (error) {
      if (error instanceof ElsewhereError) return { isElsewhere: true }
      return { error: refusalOf(error) }
    }
  }

  async #answerTo(number: number): Promise<Answer> {
    const timer = setInterval(() => void this.look().catch(() => {}), LOOK_AGAIN_MS)
    const late = setTimeout(() => {
      const give = this.#waiting.get(number)
      void this.#cluster.withdraw(number).then(
        (isNotBegun) => give?.(isNotBegun ? { isElsewhere: true } : unknown()),
        () => give?.(unknown()),
      )
    }, PATIENCE_MS)
    try {
      return await new Promise<Answer>((resolve) => {
        this.#waiting.set(number, resolve)
        // It may be there already.
        void this.look().catch(() => {})
      })
    } finally {
      clearInterval(timer)
      clearTimeout(late)
      this.#waiting.delete(number)
    }
  }

  async #lookAll(): Promise<void> {
    try {
      while (this.#isWanted) {
        this.#isWanted = false
        const replies = await this.#cluster.replies([...this.#waiting.keys()])
        // They are gone from the store by now.
        for (const { number, reply } of replies) {
          if (reply !== undefined) this.#waiting.get(number)?.(JSON.parse(reply) as Answer)
        }
        for (const { number, reply } of replies) if (reply === undefined) await this.#giveUp(number)
      }
    } finally {
      this.#looking = undefined
    }
  }

  /** Its owner is gone. Where that had begun with it, nobody knows how far it came. */
  async #giveUp(number: number): Promise<void> {
    const isNotBegun = await this.#cluster.withdraw(number)
    this.#waiting.get(number)?.(isNotBegun ? { isElsewhere: true } : unknown())
  }
}

function unknown(): Answer {
  return { error: refusalOf(new OutcomeUnknownError()) }
}

function refusalOf(error: unknown): Refusal {
  const known = error instanceof SessionError ? error : new InternalError(error)
  const { code, message, data } = known
  const refusal: Refusal = { code, message, data }
  if (known instanceof SessionBusyError) refusal.activeTurn = known.activeTurn
  if ('retryAfter' in known) refusal.retryAfter = Number(known.retryAfter)
  return refusal
}

function errorOf(sessionId: string, { code, message, data, retryAfter, activeTurn }: Refusal): SessionError {
  if (activeTurn !== undefined) return new SessionBusyError(sessionId, activeTurn, message)
  const error = new KeptError(code, message, data)
  return retryAfter === undefined ? error : Object.assign(error, { retryAfter })
}
