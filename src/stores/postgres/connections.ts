import postgres from 'postgres'
import type { Target } from './target.ts'

export type Sql = postgres.Sql
type Options = postgres.Options<Record<string, never>>

/** So many read; one writes, some are for what servers have to do with one another, and one listens. */
const READERS = 8
const CONTROL_CONNECTIONS = 2
/** A call that the server does not even answer with an error has failed after this. */
const ANSWER_MS = 15_000
const CLOSE_SECONDS = 4

/** Arrays as PostgreSQL reads them. */
const texts = (values: readonly (string | null)[]) =>
  `{${values.map((value) => (value === null ? 'null' : `"${value.replace(/[\\"]/g, '\\$&')}"`)).join()}}`
const numbers = (values: readonly (number | null)[]) => `{${values.map((value) => value ?? 'null').join()}}`
const parse = (text: string) => text

const common = {
  // The driver would ask for them on every connection, and nobody hears when that fails.
  fetch_types: false,
  types: {
    texts: { to: 1009, from: [1009], serialize: texts, parse },
    bigints: { to: 1016, from: [1016], serialize: numbers, parse },
    floats: { to: 1022, from: [1022], serialize: numbers, parse },
  },
  connect_timeout: 5,
  // Seconds before it connects again. Left to itself it would grow to 20.
  backoff: () => 0.2,
  onnotice: () => {},
  connection: {
    application_name: 'suricate',
    statement_timeout: 10_000,
    // A server that lost sight of us lets go of what we were writing soon.
    tcp_keepalives_idle: 10,
    tcp_keepalives_interval: 5,
    tcp_keepalives_count: 3,
  },
}

/** Connections for reading. */
export function openReaders(target: Target): Sql {
  const connection = { default_transaction_read_only: true }
  return connect(target, { max: READERS, idle_timeout: 60, connection })
}

/**
 * For leases, commands and places: small writes that nothing is lost with, since whoever finds them gone asks again. They
 * do not wait for the disk.
 */
export function openControl(target: Target): Sql {
  const connection = { synchronous_commit: 'off' }
  return connect(target, { max: CONTROL_CONNECTIONS, idle_timeout: 0, connection })
}

/** One connection, until `onclose` says that it was lost. */
export function openWriter(target: Target, onclose: () => void): Sql {
  return connect(target, { max: 1, idle_timeout: 0, max_lifetime: 0, onclose })
}

function connect(target: Target, options: Options): Sql {
  const connection = { ...common.connection, ...target.connection, ...options.connection }
  return postgres({ ...common, ...target, ...options, connection } as Options) as Sql
}

/** What is under way may end first, but for `seconds` at the most. */
export async function disconnect(sql: Sql, seconds = CLOSE_SECONDS): Promise<void> {
  await sql.end({ timeout: seconds })
}

/** What `answer` resolves with, unless that takes too long. */
export async function inTime<T>(answer: PromiseLike<T>, ms = ANSWER_MS): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new NoAnswerError()), ms)
  })
  try {
    return await Promise.race([answer, late])
  } finally {
    clearTimeout(timer)
  }
}

export class NoAnswerError extends Error {
  constructor() {
    super('The database did not answer')
  }
}
