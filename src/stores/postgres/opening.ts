import type { Sql } from './connections.ts'
import { SchemaError } from './writer.ts'

/** What to do next, by SQLSTATE or the code of the connection's error. */
const ADVICE: Readonly<Record<string, string>> = {
  '3D000': 'create it first',
  '3F000': 'create the schema of the search_path first',
  '42501': 'the user needs CREATE and USAGE on the schema',
  '57P03': 'it is starting, stopping or recovering: try again',
  ECONNREFUSED: 'nothing listens there',
  ENOTFOUND: 'there is no such host',
  CONNECT_TIMEOUT: 'it did not answer within connect_timeout',
}
const TLS_ADVICE = 'the server may have no TLS: then set sslmode=disable'
const CERTIFICATE_ADVICE = 'set sslrootcert to the file with the certificate of its authority'

/** An error of a store that cannot be opened: the place, the cause and what to do. It has no password in it. */
export function openingError(sql: Sql, error: unknown): Error {
  if (error instanceof SchemaError) return error
  const { host, port, database, user, ssl, path } = sql.options
  const hosts = path || host.map((name, index) => `${name}:${port[index]}`).join(', ')
  const { code, message } = causeOf(error)
  const advice = ADVICE[code] ?? (ssl === false ? undefined : tlsAdvice(code))
  const place = `Database ${database} at ${hosts} cannot be opened as user ${user}`
  return new Error(`${place}: ${message}${advice === undefined ? '' : `; ${advice}`}`, { cause: error })
}

/** Where a name has several addresses, each has failed, and their list has no message of its own. */
function causeOf(error: unknown): { code: string; message: string } {
  const first = error instanceof AggregateError ? error.errors[0] : error
  const { code = '', message = '' } = first as { code?: string; message?: string }
  // Newer versions of Node advise a flag of their own, where a parameter of the URL is the way.
  return { code, message: message === '' ? code : message.replace(/; if the root CA is installed locally.*$/, '') }
}

function tlsAdvice(code: string): string | undefined {
  if (['ECONNRESET', 'EPROTO', 'CONNECTION_CLOSED', 'ERR_SSL_WRONG_VERSION_NUMBER'].includes(code)) return TLS_ADVICE
  return /CERT|VERIFY|SIGNED/.test(code) && !/ALTNAME|EXPIRED/.test(code) ? CERTIFICATE_ADVICE : undefined
}
