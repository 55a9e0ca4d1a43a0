import { readFileSync } from 'node:fs'
import { type Environment, fillIn } from '../fill-in.ts'
import { isObject } from './json.ts'
import { isHideable } from './redactor.ts'
import type { JsonObject } from './tool.ts'

interface McpServerBasics {
  /** As the file calls it. */
  readonly name: string
  /** Milliseconds that a call may take; the server's setting where it is not given. */
  readonly timeoutMs?: number
  /** Tools of which somebody must allow each call, by their names on the server; true: all. */
  readonly requireApproval: true | ReadonlySet<string>
  /** What must not be seen in anything that the server says: headers, and what is called a key, token or the like. */
  readonly secrets: readonly string[]
}

/** How to start or reach an MCP server, with all values filled in. */
export type McpServerConfig = McpServerBasics &
  (
    | {
        readonly kind: 'stdio'
        readonly command: string
        readonly args: readonly string[]
        readonly env: Readonly<Record<string, string>>
        readonly cwd?: string
      }
    | { readonly kind: 'http'; readonly url: URL; readonly headers: Readonly<Record<string, string>> }
  )

const COMMON = ['type', 'require_approval', 'timeout_ms', 'disabled']
const STDIO = new Set([...COMMON, 'command', 'args', 'env', 'cwd'])
const HTTP = new Set([...COMMON, 'url', 'headers'])
const TYPES: Readonly<Record<McpServerConfig['kind'], readonly string[]>> = {
  stdio: ['stdio'],
  http: ['http', 'streamable-http'],
}
const MAX_TIMEOUT_MS = 86_400_000
const SECRET_NAME = /key|token|secret|passw|pwd|auth|cred|cookie|private|dsn|_url$/i

/**
 * The MCP servers of a file `{"mcpServers": {name: {command, args?, env?, cwd?} | {url, headers?}}}`, each with
 * `require_approval`, `timeout_ms` and `disabled` where they are wanted. `${VAR}` in the values of `env` and `headers` is
 * taken from `environment`. Throws an Error whose message names the file and the member, never a value.
 */
export function readMcpConfig(file: string, environment: Environment): McpServerConfig[] {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    throw new Error(`The MCP configuration ${file} cannot be read: ${(error as NodeJS.ErrnoException).code}`)
  }
  return parseMcpConfig(text, file, environment)
}

/** The same for a text that was read from `file`. */
export function parseMcpConfig(text: string, file: string, environment: Environment): McpServerConfig[] {
  let root: unknown
  try {
    root = JSON.parse(text)
  } catch {
    throw new Error(`The MCP configuration ${file} is not JSON`)
  }
  const reader = new Reader(file, environment)
  const servers = reader.object(isObject(root) ? root.mcpServers : undefined, 'mcpServers')
  return Object.entries(servers).flatMap(([name, value]) => reader.server(name, value) ?? [])
}

class Reader {
  readonly #file: string
  readonly #environment: Environment

  constructor(file: string, environment: Environment) {
    this.#file = file
    this.#environment = environment
  }

  server(name: string, value: unknown): McpServerConfig | undefined {
    const at = `mcpServers.${name}`
    if (name.trim() === '') throw this.#wrong(at, 'needs a name')
    const given = this.object(value, at)
    const isStdio = given.command !== undefined
    if (isStdio === (given.url !== undefined)) throw this.#wrong(at, 'must have either a command or a url')
    const kind = isStdio ? 'stdio' : 'http'
    for (const member of Object.keys(given)) {
      if (!(isStdio ? STDIO : HTTP).has(member))
        throw this.#wrong(`${at}.${member}`, `is not known for ${kind} servers`)
    }
    if (given.type !== undefined && !TYPES[kind].includes(String(given.type))) {
      throw this.#wrong(`${at}.type`, `must be one of ${TYPES[kind].join(', ')} here`)
    }
    const { disabled = false, timeout_ms: timeoutMs } = given
    if (typeof disabled !== 'boolean') throw this.#wrong(`${at}.disabled`, 'must be true or false')
    if (timeoutMs !== undefined && !isTimeout(timeoutMs)) {
      throw this.#wrong(`${at}.timeout_ms`, `must be a whole number from 1 to ${MAX_TIMEOUT_MS}`)
    }
    const requireApproval = this.#approval(given.require_approval, `${at}.require_approval`)
    if (disabled) return undefined
    const basics = { name, requireApproval, ...(timeoutMs === undefined ? {} : { timeoutMs }) }
    return isStdio ? this.#stdio(given, at, basics) : this.#http(given, at, basics)
  }

  #stdio(given: JsonObject, at: string, basics: Omit<McpServerBasics, 'secrets'>): McpServerConfig {
    const command = this.#text(given.command, `${at}.command`)
    const args = this.#texts(given.args ?? [], `${at}.args`)
    const { values: env, secrets } = this.#filledIn(given.env ?? {}, `${at}.env`, (name) => SECRET_NAME.test(name))
    const cwd = given.cwd === undefined ? {} : { cwd: this.#text(given.cwd, `${at}.cwd`) }
    return { kind: 'stdio', ...basics, command, args, env, ...cwd, secrets }
  }

  #http(given: JsonObject, at: string, basics: Omit<McpServerBasics, 'secrets'>): McpServerConfig {
    const text = this.#text(given.url, `${at}.url`)
    const url = URL.canParse(text) ? new URL(text) : undefined
    if (url === undefined || !/^https?:$/.test(url.protocol)) throw this.#wrong(`${at}.url`, 'must be an http(s) URL')
    if (url.username !== '' || url.password !== '') {
      throw this.#wrong(`${at}.url`, 'must not have a user or password; use headers')
    }
    const { values: headers, secrets } = this.#filledIn(given.headers ?? {}, `${at}.headers`, () => true)
    for (const [name, value] of Object.entries(headers)) {
      try {
        new Headers({ [name]: value })
      } catch {
        throw this.#wrong(`${at}.headers.${name}`, 'is not a header')
      }
    }
    return {
      kind: 'http',
      ...basics,
      url,
      headers,
      secrets: [...secrets, ...url.searchParams.values()].filter(isHideable),
    }
  }

  object(value: unknown, at: string): JsonObject {
    if (!isObject(value)) throw this.#wrong(at, 'must be an object')
    return value
  }

  #approval(value: unknown, at: string): true | ReadonlySet<string> {
    if (value === true) return true
    if (value === undefined || value === false) return new Set()
    if (!Array.isArray(value)) throw this.#wrong(at, 'must be true, false or a list of tool names')
    return new Set(this.#texts(value, at))
  }

  #texts(value: unknown, at: string): string[] {
    if (!Array.isArray(value)) throw this.#wrong(at, 'must be a list')
    return value.map((item, i) => {
      if (typeof item !== 'string') throw this.#wrong(`${at}[${i}]`, 'must be a text')
      return item
    })
  }

  #text(value: unknown, at: string): string {
    if (typeof value !== 'string' || value.trim() === '') throw this.#wrong(at, 'must be a text that is not empty')
    return value
  }

  /** Texts by name with `${VAR}` replaced, and which of them are nobody's business. */
  #filledIn(value: unknown, at: string, isSecret: (name: string) => boolean) {
    const secrets: string[] = []
    const values: Record<string, string> = {}
    for (const [name, text] of Object.entries(this.object(value, at))) {
      if (typeof text !== 'string') throw this.#wrong(`${at}.${name}`, 'must be a text')
      const filled = fillIn(
        text,
        this.#environment,
        (variable) => this.#wrong(`${at}.${name}`, `needs the environment variable ${variable}`),
        (variable, found) => {
          if (SECRET_NAME.test(variable)) secrets.push(found)
        },
      )
      // Of `Bearer xyz` the second half is the secret.
      if (isSecret(name)) secrets.push(filled, ...filled.split(' ').slice(1))
      Object.defineProperty(values, name, { value: filled, enumerable: true })
    }
    return { values, secrets: [...new Set(secrets)].filter(isHideable).sort((a, b) => b.length - a.length) }
  }

  #wrong(member: string, fault: string): Error {
    return new Error(`The MCP configuration ${this.#file} is wrong: ${member} ${fault}`)
  }
}

function isTimeout(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 1 && (value as number) <= MAX_TIMEOUT_MS
}
