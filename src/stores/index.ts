import type { DurableStore } from '../core/durable-store.ts'
import type { Retention } from '../core/event-log.ts'
import type { SessionStore } from '../core/session-store.ts'
import { MemorySessionStore } from './memory/memory-session-store.ts'

interface StoreKind {
  /** Of a store that ends with the process. */
  ephemeral?: (retention: Retention) => SessionStore
  /** Of one that does not. It gets the whole URL. */
  durable?: (url: string) => Promise<DurableStore>
}

/** Loaded where they are used: they bring native parts and drivers. */
const postgres: StoreKind = {
  durable: async (url) => (await import('./postgres/postgres-store.ts')).PostgresStore.open(url),
}

/** Every store there is, by the scheme of the URL that chooses it. A new one is a line here. */
export const storeKinds: Record<string, StoreKind> = {
  memory: { ephemeral: (retention) => new MemorySessionStore(retention) },
  sqlite: {
    durable: async (url) =>
      (await import('./sqlite/sqlite-store.ts')).SqliteStore.open(url.slice(url.indexOf(':') + 1)),
  },
  postgres,
  postgresql: postgres,
}

/**
 * Opens the store that `url` names, e.g. `memory:`. Throws a `TypeError` that lists the schemes for one that is none, or
 * that outlives the process.
 */
export function openStore(url: string, retention: Retention): SessionStore {
  const { ephemeral } = kindOf(url)
  if (ephemeral === undefined) throw new TypeError(`"${masked(url)}" is a durable store: open it with openDurableStore`)
  return ephemeral(retention)
}

/** Opens the store that `url` names, e.g. `sqlite:./suricate.db`; nothing where it ends with the process. */
export async function openDurableStore(url: string): Promise<DurableStore | undefined> {
  return kindOf(url).durable?.(url)
}

/** The URL without the user and password that it may have. */
export function masked(url: string): string {
  return url.replace(/\/\/.*@/s, '//…@')
}

function kindOf(url: string): StoreKind {
  const scheme = url.split(':', 1)[0] ?? ''
  const kind = Object.hasOwn(storeKinds, scheme) ? storeKinds[scheme] : undefined
  if (kind !== undefined) return kind
  throw new TypeError(`STORE_URL must begin with one of ${Object.keys(storeKinds).join(', ')}:, got "${masked(url)}"`)
}
