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
  /** Milliseconds within which the server must have started and listed its tools. */
  readonly startTimeoutMs: number
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
    | {
        readonly kind: 'http'
        readonly url: URL
        readonly headers: Readonly<Record<string, string>>
        /** The transport that is tried first; the other one is spoken where the server refuses it. */
        readonly transport: HttpTransport
      }
  )

/** `sse` is the transport of the protocol's first version, 2024-11-05. */
export type HttpTransport = 'streamable' | 'sse'

const COMMON = ['type', 'disabled', 'enabled', 'require_approval', 'timeout_ms', 'start_timeout_ms']
const MEMBERS: Readonly<Record<McpServerConfig['kind'], ReadonlySet<string>>> = {
  stdio: new Set([...COMMON, 'command', 'args', 'env', 'cwd']),
  http: new Set([...COMMON, 'url', 'headers']),
}
/** What other clients call them. */
const ALIASES = new Map<string, string>([
  ['requireApproval', 'require_approval'],
  ['timeoutMs', 'timeout_ms'],
  ['startTimeoutMs', 'start_timeout_ms'],
  ['serverUrl', 'url'],
  ['httpUrl', 'url'],
  ['transport', 'type'],
  ['transportType', 'type'],
])
/** What `type` may be, in the spellings of other clients. */
const TYPES = new Map<string, 'stdio' | HttpTransport>([
  ['stdio', 'stdio'],
  ['local', 'stdio'],
  ['http', 'streamable'],
  ['streamable-http', 'streamable'],
  ['streamable_http', 'streamable'],
  ['streamableHttp', 'streamable'],
  ['remote', 'streamable'],
  ['sse', 'sse'],
])
/** Why a member that other clients know is not used. */
const REASONS = new Map<string, string>([
  ['timeout', 'clients disagree about its unit; set timeout_ms'],
  ['autoApprove', 'calls need approval only where require_approval says so'],
  ['alwaysAllow', 'calls need approval only where require_approval says so'],
])
const MAX_TIMEOUT_MS = 86_400_000
const START_TIMEOUT_MS = 30_000
const SECRET_NAME = /key|token|secret|passw|pwd|auth|cred|cookie|private|dsn|_url$/i

/**
 * The MCP servers of a file `{"mcpServers": {name: {command, args?, env?, cwd?} | {url, headers?}}}`, each with
 * `require_approval`, `timeout_ms`, `start_timeout_ms` and `disabled` where they are wanted. `${VAR}` and
 * `${VAR:-default}` in the texts of a server are taken from `environment`. `warn` hears of members that are not used.
 * Throws an Error whose message names the file and the member, never a value.
 */
export function readMcpConfig(file: string, environment: Environment, warn?: Warn): McpServerConfig[] {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    throw new Error(`The MCP configuration ${file} cannot be read: ${(error as NodeJS.ErrnoException).code}`)
  }
  return parseMcpConfig(text, file, environment, warn)
}

/** The same for a text that was read from `file`. */
export function parseMcpConfig(
  text: string,
  file: string,
  environment: Environment,
  warn: Warn = () => {},
): McpServerConfig[] {
  let root: unknown
  try {
    root = JSON.parse(text)
  } catch {
    throw new Error(`The MCP configuration ${file} is not JSON`)
  }
  const reader = new FileReader(file, environment, warn)
  return reader.servers(isObject(root) ? root : {})
}

type Warn = (sentence: string) => void
type Basics = Omit<McpServerBasics, 'secrets'>

class FileReader {
  readonly #file: string
  readonly #environment: Environment
  readonly #warn: Warn

  constructor(file: string, environment: Environment, warn: Warn) {
    this.#file = file
    this.#environment = environment
    this.#warn = warn
  }

  servers(root: JsonObject): McpServerConfig[] {
    const servers = this.#object(root.mcpServers, 'mcpServers')
    for (const member of Object.keys(root)) if (member !== 'mcpServers') this.#notUsed(member, 'only mcpServers is')
    return Object.entries(servers).flatMap(([name, value]) => this.#server(name, value) ?? [])
  }

  #server(name: string, value: unknown): McpServerConfig | undefined {
    const at = `mcpServers.${name}`
    if (name.trim() === '') throw this.#wrong(at, 'needs a name')
    const given = withoutAliases(this.#object(value, at))
    const isStdio = given.command !== undefined
    if (isStdio === (given.url !== undefined)) throw this.#wrong(at, 'must have either a command or a url')
    const { disabled = given.enabled === false, timeout_ms: timeoutMs } = given
    const { start_timeout_ms: startTimeoutMs = START_TIMEOUT_MS } = given
    if (typeof disabled !== 'boolean') throw this.#wrong(`${at}.disabled`, 'must be true or false')
    if (timeoutMs !== undefined) this.#assertTimeout(timeoutMs, `${at}.timeout_ms`)
    this.#assertTimeout(startTimeoutMs, `${at}.start_timeout_ms`)
    const requireApproval = this.#approval(given.require_approval, `${at}.require_approval`)
    if (disabled) return undefined
    const basics = { name, requireApproval, startTimeoutMs, ...(timeoutMs === undefined ? {} : { timeoutMs }) }
    const kind = isStdio ? 'stdio' : 'http'
    for (const member of Object.keys(given)) {
      if (!MEMBERS[kind].has(member))
        this.#notUsed(`${at}.${member}`, REASONS.get(member) ?? `${kind} servers have none`)
    }
    const type = TYPES.get(String(given.type ?? (isStdio ? 'stdio' : 'http')))
    if (type === undefined || isStdio !== (type === 'stdio')) {
      this.#notUsed(`${at}.type`, `the server has a ${isStdio ? 'command' : 'url'}`)
    }
    return isStdio
      ? this.#stdio(given, at, basics)
      : this.#http(given, at, basics, type === 'sse' ? 'sse' : 'streamable')
  }

  #stdio(given: JsonObject, at: string, basics: Basics): McpServerConfig {
    const secrets: string[] = []
    const command = this.#text(given.command, `${at}.command`, secrets)
    const args = this.#texts(given.args ?? [], `${at}.args`).map((arg, i) =>
      this.#filledIn(arg, `${at}.args[${i}]`, secrets),
    )
    const env = this.#textsByName(given.env ?? {}, `${at}.env`, (name) => SECRET_NAME.test(name), secrets)
    const cwd = given.cwd === undefined ? {} : { cwd: this.#text(given.cwd, `${at}.cwd`, secrets) }
    return { kind: 'stdio', ...basics, command, args, env, ...cwd, secrets: hideable(secrets) }
  }

  #http(given: JsonObject, at: string, basics: Basics, transport: HttpTransport): McpServerConfig {
    const secrets: string[] = []
    const text = this.#text(given.url, `${at}.url`, secrets)
    const url = URL.canParse(text) ? new URL(text) : undefined
    if (url === undefined || !/^https?:$/.test(url.protocol)) throw this.#wrong(`${at}.url`, 'must be an http(s) URL')
    if (url.username !== '' || url.password !== '') {
      throw this.#wrong(`${at}.url`, 'must not have a user or password; use headers')
    }
    const headers = this.#textsByName(given.headers ?? {}, `${at}.headers`, () => true, secrets)
    for (const [name, value] of Object.entries(headers)) {
      try {
        new Headers({ [name]: value })
      } catch {
        throw this.#wrong(`${at}.headers.${name}`, 'is not a header')
      }
    }
    secrets.push(...url.searchParams.values())
    return { kind: 'http', ...basics, url, headers, transport, secrets: hideable(secrets) }
  }

  #object(value: unknown, at: string): JsonObject {
    if (!isObject(value)) throw this.#wrong(at, 'must be an object')
    return value
  }

  #approval(value: unknown, at: string): true | ReadonlySet<string> {
    if (value === true) return true
    if (value === undefined || value === false) return new Set()
    if (!Array.isArray(value)) throw this.#wrong(at, 'must be true, false or a list of tool names')
    return new Set(this.#texts(value, at))
  }

  #assertTimeout(value: unknown, at: string): asserts value is number {
    if (Number.isInteger(value) && (value as number) >= 1 && (value as number) <= MAX_TIMEOUT_MS) return
    throw this.#wrong(at, `must be a whole number from 1 to ${MAX_TIMEOUT_MS}`)
  }

  #texts(value: unknown, at: string): string[] {
    if (!Array.isArray(value)) throw this.#wrong(at, 'must be a list')
    return value.map((item, i) => {
      if (typeof item !== 'string') throw this.#wrong(`${at}[${i}]`, 'must be a text')
      return item
    })
  }

  #text(value: unknown, at: string, secrets: string[]): string {
    const text = typeof value === 'string' ? this.#filledIn(value, at, secrets) : ''
    if (text.trim() === '') throw this.#wrong(at, 'must be a text that is not empty')
    return text
  }

  #textsByName(value: unknown, at: string, isSecret: (name: string) => boolean, secrets: string[]) {
    const values: Record<string, string> = {}
    for (const [name, text] of Object.entries(this.#object(value, at))) {
      if (typeof text !== 'string') throw this.#wrong(`${at}.${name}`, 'must be a text')
      const filled = this.#filledIn(text, `${at}.${name}`, secrets)
      // Of `Bearer xyz` the second half is the secret.
      if (isSecret(name)) secrets.push(filled, ...filled.split(' ').slice(1))
      Object.defineProperty(values, name, { value: filled, enumerable: true })
    }
    return values
  }

  /** `text` with its variables replaced. The values of those whose name says so are added to `secrets`. */
  #filledIn(text: string, at: string, secrets: string[]): string {
    return fillIn(
      text,
      this.#environment,
      (name) => this.#wrong(at, `needs the environment variable ${name}`),
      (name, value) => {
        if (SECRET_NAME.test(name)) secrets.push(value)
      },
    )
  }

  #notUsed(member: string, why: string): void {
    this.#warn(`The MCP configuration ${this.#file}: ${member} is not used, ${why}`)
  }

  #wrong(member: string, fault: string): Error {
    return new Error(`The MCP configuration ${this.#file} is wrong: ${member} ${fault}`)
  }
}

/** With our names for all members: our own wins where both are given, and null is as good as none. */
function withoutAliases(given: JsonObject): JsonObject {
  const members = Object.entries(given).filter(([, value]) => value !== null)
  const renamed = members.map(([name, value]) => {
    const own = ALIASES.get(name) ?? name
    return [own !== name && Object.hasOwn(given, own) ? name : own, value]
  })
  return Object.fromEntries(renamed)
}

function hideable(secrets: readonly string[]): string[] {
  return [...new Set(secrets)].filter(isHideable).sort((a, b) => b.length - a.length)
}
