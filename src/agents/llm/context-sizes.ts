import type { Overflow } from './overflow.ts'

/** Of the context, what is left for the answer, where nobody says how long it may be. */
const ANSWER_SHARE = 4

/**
 * How much each model can be told, in tokens as they are estimated here: what the settings say, else what the models'
 * providers said when they refused a request.
 */
export class ContextSizes {
  readonly #set: ReadonlyMap<string, number>
  readonly #learned = new Map<string, number>()

  /** `set`: by `provider/name`, by `provider`, or by `*` for all. */
  constructor(set: ReadonlyMap<string, number> = new Map()) {
    this.#set = set
  }

  /** Tokens of the longest request; `undefined` while nobody knows. */
  room(model: string, maxTokens = 0): number | undefined {
    const set = this.#set.get(model) ?? this.#set.get(model.split('/', 1)[0] as string) ?? this.#set.get('*')
    const learned = this.#learned.get(model)
    const size = set === undefined ? learned : Math.min(set, learned ?? set)
    if (size === undefined) return undefined
    return Math.floor(Math.max(size - Math.max(maxTokens, size / ANSWER_SHARE), size / ANSWER_SHARE))
  }

  /** A request of so many tokens, as estimated, was too long. */
  learn(model: string, estimate: number, { limit, actual }: Overflow): void {
    // What the provider counts is not what is estimated here: the two are held against each other where it says both.
    const told = limit === undefined ? estimate / 2 : actual === undefined ? limit : (limit * estimate) / actual
    const size = Math.max(1, Math.min(told, estimate * 0.9))
    this.#learned.set(model, Math.floor(Math.min(size, this.#learned.get(model) ?? size)))
  }
}
