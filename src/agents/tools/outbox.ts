/** Where several writers leave what one reader takes, in the order in which it came. */
export class Outbox<T> {
  #items: T[] = []
  #end: { error?: unknown } | undefined
  #wake: (() => void) | undefined

  /** Nothing is taken after the end. */
  put(item: T): void {
    if (this.#end !== undefined) return
    this.#items.push(item)
    this.#wake?.()
  }

  /** The reader gets what is there, and then its end. */
  end(): void {
    this.#finish({})
  }

  /** The reader gets what is there, and then `error`. */
  fail(error: unknown): void {
    this.#finish({ error })
  }

  /** The reader gets `error` at once. */
  cut(error: unknown): void {
    this.#items = []
    this.#end = { error }
    this.#wake?.()
  }

  #finish(end: { error?: unknown }): void {
    this.#end ??= end
    this.#wake?.()
  }

  async *read(): AsyncGenerator<T, void, undefined> {
    for (;;) {
      for (let item = this.#items.shift(); item !== undefined; item = this.#items.shift()) yield item
      if (this.#end !== undefined) {
        if ('error' in this.#end) throw this.#end.error
        return
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
  }
}
