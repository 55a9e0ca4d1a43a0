import { readFileSync } from 'node:fs'
import { type ConnectionOptions, checkServerIdentity } from 'node:tls'
import type postgres from 'postgres'

type Options = postgres.Options<Record<string, never>>

/** The part of the driver's options that a URL decides. It takes several hosts, which its types do not say. */
export type Target = Omit<Options, 'host' | 'port'> & { host?: string[]; port?: number[] }

const FORM = 'STORE_URL must be like postgres://user:password@host/database'
const SSL_MODES = ['disable', 'prefer', 'require', 'no-verify', 'verify-ca', 'verify-full'] as const
/** As in libpq, and a few that other drivers have. Nothing else is handed to the database, which would refuse it. */
const PARAMETERS = [
  ...['sslmode', 'ssl', 'sslrootcert', 'sslcert', 'sslkey', 'sslnegotiation', 'channel_binding'],
  ...['schema', 'search_path', 'application_name', 'options', 'connect_timeout', 'target_session_attrs'],
  ...['host', 'port', 'user', 'password', 'dbname'],
]

/**
 * Reads a URL as libpq does. Throws a `TypeError` that names what is wrong; like every error of this store, it repeats
 * neither the password nor what could be a part of it.
 */
export function targetOf(url: string): Target {
  const [, credentials = '', hosts = '', path = '', query = ''] =
    /^postgres(?:ql)?:\/\/(?:([^/?#]*)@)?([^@/?#]*)(?:\/([^@?#]*))?(?:\?([^@#]*))?$/.exec(url) ??
    refuse(notEncoded(url))
  const given = parametersOf(query)
  const [user = '', password = ''] = credentials.split(/:(.*)/s).map(decoded)
  const places = (given.host ?? decoded(hosts)).split(',').map(placeOf)
  const ports = given.port?.split(',') ?? []
  const host = places.map((place) => place.host)
  const port = places.map((place, index) => portOf(ports[index] ?? ports[0] ?? place.port))
  const [first = ''] = host
  const isSocket = first.startsWith('/')
  return {
    ...optional('host', first === '' ? undefined : host),
    ...optional('port', first === '' ? undefined : port),
    ...optional('path', isSocket ? `${first}/.s.PGSQL.${port[0]}` : undefined),
    ...optional('username', given.user ?? user),
    ...optional('password', given.password ?? password),
    ...optional('database', given.dbname ?? decoded(path)),
    ...optional('connect_timeout', given.connect_timeout && secondsOf(given.connect_timeout)),
    ...optional('target_session_attrs', sessionOf(given.target_session_attrs)),
    ssl: isSocket ? false : tlsOf(given, host),
    ...optional('sslnegotiation', given.sslnegotiation),
    connection: {
      ...optional('application_name', given.application_name),
      ...optional('search_path', given.search_path ?? (given.schema && quoted(given.schema))),
      ...optional('options', given.options),
    },
  }
}

function parametersOf(query: string): Record<string, string | undefined> {
  const given: Record<string, string> = {}
  for (const part of query.split('&').filter((part) => part !== '')) {
    const [name = '', value = ''] = part.split(/=(.*)/s).map(decoded)
    if (!PARAMETERS.includes(name))
      refuse(`STORE_URL has the parameter ${name}, which is none of ${PARAMETERS.join(', ')}`)
    if (value === '') refuse(`STORE_URL has the parameter ${name} without a value`)
    given[name] = value
  }
  if (given.channel_binding !== undefined) channelBinding(given.channel_binding)
  if (given.schema !== undefined && given.search_path !== undefined) {
    refuse('STORE_URL has both schema and search_path: leave one of them out')
  }
  return given
}

function channelBinding(value: string): void {
  if (['disable', 'prefer'].includes(value)) return
  refuse(
    value === 'require'
      ? 'STORE_URL has channel_binding=require, which is not supported: leave it out and set sslmode=verify-full, which proves who the server is as well'
      : wrong('channel_binding', 'disable or prefer', value),
  )
}

function tlsOf(
  given: Record<string, string | undefined>,
  hosts: readonly string[],
): false | 'prefer' | ConnectionOptions {
  const { sslrootcert, sslcert, sslkey, sslnegotiation } = given
  const isSystem = sslrootcert === 'system'
  const mode = given.sslmode ?? (isSystem ? 'verify-full' : given.ssl === 'true' ? 'require' : 'disable')
  if (!SSL_MODES.some((known) => known === mode)) refuse(wrong('sslmode', `one of ${SSL_MODES.join(', ')}`, mode))
  if (given.ssl !== undefined && !['true', 'false'].includes(given.ssl))
    refuse(wrong('ssl', 'true or false', given.ssl))
  if (isSystem && mode !== 'verify-full') refuse('STORE_URL has sslrootcert=system, which needs sslmode=verify-full')
  if (sslnegotiation !== undefined && !['postgres', 'direct'].includes(sslnegotiation)) {
    refuse(wrong('sslnegotiation', 'postgres or direct', sslnegotiation))
  }
  if (mode === 'disable') return false
  if (mode === 'prefer') return 'prefer'
  const files = {
    ...optional('ca', sslrootcert === undefined || isSystem ? undefined : contentOf('sslrootcert', sslrootcert)),
    ...optional('cert', sslcert && contentOf('sslcert', sslcert)),
    ...optional('key', sslkey && contentOf('sslkey', sslkey)),
  }
  // As in libpq: where there is a certificate to hold the server's against, it is.
  const isVerified = mode.startsWith('verify') || (mode === 'require' && files.ca !== undefined)
  if (!isVerified) return { ...files, rejectUnauthorized: false }
  return {
    ...files,
    rejectUnauthorized: true,
    checkServerIdentity: mode === 'verify-full' ? identityOf(hosts) : anyName,
  }
}

const anyName = () => undefined
const isAddress = (host: string) => /^[\d.]+$|:/.test(host)

/** The driver tells the TLS library no name where the host is an address, and that then looks for "localhost". */
function identityOf(hosts: readonly string[]): typeof checkServerIdentity {
  return (name, certificate) => {
    const names = hosts.includes(name) ? [name] : hosts.filter(isAddress)
    const failures = names.map((known) => checkServerIdentity(known, certificate))
    return failures.includes(undefined) ? undefined : (failures[0] ?? checkServerIdentity(name, certificate))
  }
}

/** `target_session_attrs` as the driver takes it: it would take our connections that only read for a standby's. */
function sessionOf(value: string | undefined): 'primary' | undefined {
  if (value === undefined || value === 'any') return undefined
  if (value !== 'read-write' && value !== 'primary') {
    refuse(wrong('target_session_attrs', 'any, read-write or primary, since the store is written to', value))
  }
  return 'primary'
}

function placeOf(text: string): { host: string; port: string } {
  if (text.startsWith('/')) return { host: text, port: '5432' }
  const [, address, name, port] = /^(?:\[([^\]]+)\]|([^:]*))(?::(\d*))?$/.exec(text) ?? refuse(FORM)
  return { host: address ?? name ?? '', port: port || '5432' }
}

function portOf(text: string): number {
  const port = Number(text)
  return Number.isInteger(port) && port > 0 && port < 65_536 ? port : refuse(wrong('port', 'from 1 to 65535', text))
}

function secondsOf(text: string): number {
  if (!/^-?\d{1,6}$/.test(text)) refuse(wrong('connect_timeout', 'a whole number of seconds', text))
  return Math.max(0, Number(text))
}

function contentOf(parameter: string, path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch (cause) {
    return refuse(`STORE_URL has ${parameter}=${path}, which cannot be read: ${(cause as NodeJS.ErrnoException).code}`)
  }
}

/** A name as an identifier of SQL. */
function quoted(name: string): string {
  return `"${name.replaceAll('"', '""')}"`
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return refuse(notEncoded(text))
  }
}

function optional<Name extends string, Value>(name: Name, value: Value | undefined | '') {
  return (value === undefined || value === '' ? {} : { [name]: value }) as { [name in Name]?: Value }
}

function notEncoded(text: string): string {
  return `${FORM}${/[@%#]/.test(text) ? ', with %xx for every special character in the user and the password' : ''}`
}

function wrong(parameter: string, right: string, value: string): string {
  return `STORE_URL must have ${parameter} ${right}, got "${value}"`
}

function refuse(sentence: string): never {
  throw new TypeError(sentence)
}
