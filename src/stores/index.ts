import type { DurableStore } from '../core/durable-store.ts'
import type { Retention } from '../core/event-log.ts'
import type { SessionStore } from '../core/session-store.ts'
import { MemorySessionStore } from './memory/memory-session-store.ts'
import { fileOf } from './sqlite/location.ts'

interface StoreKind {
  /** Of a store that ends with the process. */
  ephemeral?: (retention: Retention) => SessionStore
  /** Of one that does not. It gets the whole URL; without `create` the place must be there and have been used. */
  durable?: (url: string, create: boolean) => Promise<DurableStore>
  /** Copies it to a new file while servers use it. */
  backUp?: (url: string, target: string) => Promise<void>
}

/** Loaded where they are used: they bring native parts and drivers. */
const postgres: StoreKind = {
  durable: async (url, create) => (await import('./postgres/postgres-store.ts')).PostgresStore.open(url, create),
}

/** Every store there is, by the scheme of the URL that chooses it. A new one is a line here. */
export const storeKinds: Record<string, StoreKind> = {
  memory: { ephemeral: (retention) => new MemorySessionStore(retention) },
  sqlite: {
    durable: async (url, create) => (await import('./sqlite/sqlite-store.ts')).SqliteStore.open(fileOf(url), create),
    backUp: async (url, target) => (await import('./sqlite/backup.ts')).backUp(fileOf(url), target),
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

/**
 * Opens the store that `url` names, e.g. `sqlite:./suricate.db`; nothing where it ends with the process. Rejects without
 * `create` where there is none yet.
 */
export async function openDurableStore(
  url: string,
  { create = true }: { create?: boolean } = {},
): Promise<DurableStore | undefined> {
  return kindOf(url).durable?.(url, create)
}

/** Copies the store that `url` names to the new file `target`. Rejects for one that has tools of its own for that. */
export async function backUpStore(url: string, target: string): Promise<void> {
  const { backUp } = kindOf(url)
  if (backUp === undefined)
    throw new TypeError(
      'backup copies a file of SQLite, as sqlite:./suricate.db; a PostgreSQL database is copied with pg_dump',
    )
  await backUp(url, target)
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
