import type { EventLog, LogPage, Retention } from '../../src/core/event-log.ts'
import type { NewEvent } from '../../src/core/events.ts'
import type { SessionStore } from '../../src/core/session-store.ts'
import { MemorySessionStore } from '../../src/stores/memory/memory-session-store.ts'
import { useStoreKind } from '../helpers/store-kind.ts'

/** The memory store, seen from outside: who watches it, and faults that a test wants it to have. */
export class WatchedStore {
  /** Listeners that are registered with any log. */
  watchers = 0
  /** Called before every read of a log; what it throws is what the read throws. */
  beforeRead: (after: number) => void = () => {}

  /** Makes the store known under `scheme`, for `STORE_URL`. */
  constructor(scheme: string) {
    useStoreKind(scheme, { ephemeral: (retention) => this.#open(retention) })
  }

  #open(retention: Retention): SessionStore {
    const store = new MemorySessionStore(retention)
    return { openLog: (...args) => new WatchedLog(store.openLog(...args), this) }
  }
}

class WatchedLog implements EventLog {
  readonly #log: EventLog
  readonly #store: WatchedStore
  readonly #listeners = new Set<() => void>()

  constructor(log: EventLog, store: WatchedStore) {
    this.#log = log
    this.#store = store
  }

  get lastSeq(): number {
    return this.#log.lastSeq
  }
  get firstSeq(): number {
    return this.#log.firstSeq
  }
  get bytes(): number {
    return this.#log.bytes
  }
  get isLost(): boolean {
    return this.#log.isLost
  }
  get sealed(): boolean {
    return this.#log.sealed
  }
  append(event: NewEvent, turn: number): number {
    return this.#log.append(event, turn)
  }
  read(after: number): LogPage | undefined {
    this.#store.beforeRead(after)
    return this.#log.read(after)
  }
  watch(listener: () => void): void {
    if (!this.#listeners.has(listener)) this.#store.watchers++
    this.#listeners.add(listener)
    this.#log.watch(listener)
  }
  unwatch(listener: () => void): void {
    if (this.#listeners.delete(listener)) this.#store.watchers--
    this.#log.unwatch(listener)
  }
  seal(): void {
    this.#log.seal()
  }
}
