import type { Cluster, Command, Reply } from '../../src/core/cluster.ts'

/** Something of which only what a test is about is there; whoever asks for more fails. */
export function partOf<T extends object>(what: string, given: { [K in keyof T]?: T[K] | undefined }): T {
  return new Proxy(given, {
    get(target, name) {
      if (name in target) return Reflect.get(target, name)
      throw new Error(`Nobody expected ${what}.${String(name)}`)
    },
  }) as T
}

interface KeptCommand extends Command {
  readonly owner: string
  isBegun: boolean
  reply: string | undefined
}

/** Commands between servers as a store keeps them. To give notice of them is for the test. */
export class Mailbox {
  /** Servers that are not there any more. */
  readonly gone = new Set<string>()
  readonly #kept = new Map<number, KeptCommand>()
  #last = 0

  /** What `server` sees of it, and what else it has. */
  cluster(server: string, more: Partial<Cluster> = {}): Cluster {
    return partOf<Cluster>('cluster', {
      ask: async (owner, command) => {
        this.#kept.set(++this.#last, { ...command, owner, isBegun: false, reply: undefined })
        return this.#last
      },
      replies: async (numbers) => numbers.flatMap((number) => this.#replyTo(number)),
      withdraw: async (number) => this.#kept.get(number)?.isBegun === false && this.#kept.delete(number),
      commands: async () => {
        const found = [...this.#kept].filter(([, { owner, isBegun }]) => owner === server && !isBegun)
        for (const [, command] of found) command.isBegun = true
        return found.map(([number, { sessionId, operation, args }]) => ({ number, sessionId, operation, args }))
      },
      reply: async (number, reply) => {
        const kept = this.#kept.get(number)
        if (kept !== undefined) kept.reply = reply
      },
      ...more,
    })
  }

  #replyTo(number: number): Reply[] {
    const kept = this.#kept.get(number)
    if (kept === undefined) return []
    if (kept.reply !== undefined) {
      this.#kept.delete(number)
      return [{ number, reply: kept.reply }]
    }
    return this.gone.has(kept.owner) ? [{ number, reply: undefined }] : []
  }
}
