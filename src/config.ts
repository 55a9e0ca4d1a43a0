import { type Static, type TSchema, Type } from '@sinclair/typebox'
import { masked, storeKinds } from './stores/index.ts'

const ms = (description: string, standard: number, minimum = 0) =>
  Type.Integer({ description, default: standard, minimum, maximum: 86_400_000 })
const count = (description: string, standard: number, minimum = 1) =>
  Type.Integer({ description, default: standard, minimum, maximum: 10_000_000 })
const bytes = (description: string, standard: number, maximum = 1_073_741_824) =>
  Type.Integer({ description, default: standard, minimum: 1, maximum })
const text = (description: string) => Type.String({ description, default: '' })
const oneOf = <const T extends readonly string[]>(values: T, description: string, standard: T[number]) =>
  Type.Unsafe<T[number]>({ type: 'string', enum: [...values], description, default: standard })

/**
 * Every setting, by the name of its environment variable; `--max-sessions 5` on the command line is `MAX_SESSIONS=5`.
 * Names carry their unit. The table in the README is compared with this by a test.
 */
export const settings = Type.Object({
  HOST: Type.String({ description: 'Address to listen on', default: '127.0.0.1', minLength: 1 }),
  PORT: Type.Integer({
    description: 'Port to listen on; 0 takes a free one',
    default: 8080,
    minimum: 0,
    maximum: 65535,
  }),
  API_KEYS: Type.String({
    description: 'JSON array of {"key", "name"?}; turns authentication on (Authorization: Bearer <key>)',
    default: '',
  }),
  WEBHOOK_SECRETS: text(
    'Secrets, separated by commas, that interactions must come with (X-Webhook-Secret); then they need no key',
  ),
  INSECURE_NO_AUTH: Type.Boolean({
    description: 'Allow an address that is not loopback without API_KEYS',
    default: false,
  }),
  CORS_ORIGINS: Type.String({ description: 'Origins that browsers may call from, separated by commas', default: '' }),
  ALLOWED_HOSTS: Type.String({
    description: 'Host names to answer to besides loopback ones, separated by commas; checked on loopback binds',
    default: '',
  }),
  STORE_URL: Type.String({
    description:
      'Where sessions are kept: memory: is gone with the process, sqlite:./suricate.db is a file, postgres://user:password@host/db a PostgreSQL database',
    default: 'memory:',
  }),
  MAX_SESSIONS: count('Sessions that may be resident at a time', 10_000),
  MAX_ACTIVE_TURNS: count('Turns that may run at a time', 1_000),
  MAX_CLUSTER_TURNS: count('The same over all servers of a PostgreSQL database; 0 is no limit', 0, 0),
  MAX_QUEUED_TURNS: count('Turns that may wait in line in one session', 16, 0),
  MAX_STREAMS: count('Event streams that may be open at a time', 20_000),
  RETAIN_EVENTS: count('Events kept for each session', 20_000),
  RETAIN_BYTES: bytes('Bytes of events kept for each session', 8_388_608),
  BODY_LIMIT: bytes('Bytes of a request body', 1_048_576),
  UPLOAD_LIMIT: bytes('Bytes of an imported session', 33_554_432, 268_435_456),
  REQUEST_TIMEOUT_MS: ms('A request must have arrived whole within this time', 15_000, 100),
  HEADERS_TIMEOUT_MS: ms('Its headers must have arrived within this time', 5_000, 100),
  KEEP_ALIVE_TIMEOUT_MS: ms('Idle time before a connection between two requests is closed', 75_000, 100),
  STREAM_HEARTBEAT_MS: ms('An open stream says something at least this often', 5_000, 10),
  STREAM_STALL_MS: ms('A stream whose socket takes nothing for so long is cut', 60_000, 10),
  DRAIN_MS: ms('Running turns may finish for so long after SIGTERM', 10_000),
  ARCHIVE_DRAIN_MS: ms('A running turn may finish for so long after its session was archived', 600_000),
  IDLE_EVICT_MS: ms('A session that is idle for so long leaves memory, where the store is not memory', 900_000, 1_000),
  AGENT: text('Modules of agents of your own, separated by commas; as a flag it may stand more than once'),
  DEFAULT_AGENT: text('Agent for requests that name none; else it is llm where MODEL is set, and echo'),
  MODEL: text('Model of the agent llm for requests that name none, as provider/name; makes llm the default agent'),
  ANTHROPIC_API_KEY: text('Key for models of anthropic/…'),
  ANTHROPIC_BASE_URL: text("Where they are called, if not at the provider's own address"),
  ANTHROPIC_PROMPT_CACHE: oneOf(
    ['on', 'off'],
    'Cache long prompts at Anthropic, which makes the next call cheaper',
    'on',
  ),
  OPENAI_API_KEY: text('Key for models of openai/…'),
  OPENAI_BASE_URL: text("Where they are called, if not at the provider's own address"),
  GOOGLE_GENERATIVE_AI_API_KEY: text('Key for models of google/…'),
  GOOGLE_GENERATIVE_AI_BASE_URL: text("Where they are called, if not at the provider's own address"),
  OPENAI_COMPATIBLE_BASE_URL: text('Endpoint for models of compatible/…, such as http://127.0.0.1:11434/v1'),
  OPENAI_COMPATIBLE_API_KEY: text('Its key, if it needs one'),
  OPENAI_COMPATIBLE_SEND_REASONING: oneOf(
    ['on', 'off'],
    'Send reasoning_content back with earlier answers: some models demand it, a few refuse it',
    'on',
  ),
  MODEL_SILENCE_MS: ms('A model call that says nothing for so long has failed', 120_000, 10),
  MAX_MODEL_CALLS: count('Model calls that one turn may make', 100),
  COMPACT_AT_TOKENS: count('History longer than this is summarised; 0 never', 100_000, 0),
  CONTEXT_TOKENS: text(
    'Context of models in tokens, such as compatible=8192,openai/gpt-4.1=1000000 or one number for all; else learned from refusals',
  ),
  MAX_TOOL_RESULT_TOKENS: count('Tokens of one tool result that the model is shown', 25_000),
  MAX_TURN_TOKENS: count('Tokens that one turn may spend; 0 is no limit', 0, 0),
  MAX_TURN_MS: ms('Time that one turn may take; 0 is no limit', 0),
  MAX_TURN_TOOL_CALLS: count('Tool calls that one turn may make; 0 is no limit', 0, 0),
  MCP_CONFIG: text('File with the MCP servers whose tools the agent llm has: {"mcpServers": {…}}'),
  TOOL_TIMEOUT_MS: ms('A tool call may take so long', 60_000, 10),
  APPROVAL_TIMEOUT_MS: ms('A tool call that needs approval waits so long for it', 300_000, 10),
  SKILLS_DIR: text('Folder of skills, each a folder with a SKILL.md'),
  HOOKS_CONFIG: text('File with the hooks of the agent llm: {"hooks": […]}'),
  LOG_LEVEL: oneOf(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'], 'What is logged', 'info'),
  LOG_FORMAT: oneOf(['auto', 'json', 'pretty'], 'auto is pretty in a terminal and json elsewhere', 'auto'),
})

/** What models of each provider need. */
const PROVIDER_NEEDS: Readonly<Record<string, SettingName>> = {
  anthropic: 'ANTHROPIC_API_KEY',
  openai: 'OPENAI_API_KEY',
  google: 'GOOGLE_GENERATIVE_AI_API_KEY',
  compatible: 'OPENAI_COMPATIBLE_BASE_URL',
}

/** Nothing useful can be said in less. */
const MIN_CONTEXT = 256

export type SettingName = keyof typeof settings.properties

export interface ApiKey {
  key: string
  name: string
}

export type Config = Omit<
  Static<typeof settings>,
  'API_KEYS' | 'WEBHOOK_SECRETS' | 'CORS_ORIGINS' | 'ALLOWED_HOSTS' | 'AGENT' | 'CONTEXT_TOKENS'
> & {
  API_KEYS: ApiKey[]
  WEBHOOK_SECRETS: string[]
  CORS_ORIGINS: string[]
  ALLOWED_HOSTS: string[]
  AGENT: string[]
  /** By `provider/name`, by `provider`, or by `*`. */
  CONTEXT_TOKENS: ReadonlyMap<string, number>
  /** What `${NAME}` stands for in the files that settings name. */
  environment: Readonly<Record<string, string | undefined>>
}

/** A setting is wrong; the message is a sentence that names it and says what would be right. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError'
}

export interface ConfigSources {
  env: Readonly<Record<string, string | number | boolean | undefined>>
  /** Settings from the command line, by setting name; they win. */
  flags?: Readonly<Partial<Record<SettingName, string | boolean>>>
}

/**
 * Reads the settings. An empty variable counts as not set.
 *
 * Throws a `ConfigError` for a value that is wrong, and for an address beyond loopback without authentication.
 */
export function loadConfig({ env, flags = {} }: ConfigSources): Config {
  const given: Record<string, unknown> = {}
  for (const name of Object.keys(settings.properties) as SettingName[]) {
    const value = flags[name] ?? env[name]
    if (value !== undefined && value !== '') given[name] = value
  }
  const read = readSettings(given)
  const config: Config = {
    ...read,
    API_KEYS: parseApiKeys(read.API_KEYS),
    WEBHOOK_SECRETS: splitList(read.WEBHOOK_SECRETS),
    CORS_ORIGINS: parseOrigins(read.CORS_ORIGINS),
    ALLOWED_HOSTS: splitList(read.ALLOWED_HOSTS).map(hostName),
    AGENT: splitList(read.AGENT),
    CONTEXT_TOKENS: parseContextTokens(read.CONTEXT_TOKENS),
    environment: textsOf(env),
  }
  if (!Object.hasOwn(storeKinds, config.STORE_URL.split(':', 1)[0] ?? '')) {
    const schemes = Object.keys(storeKinds).map((scheme) => `${scheme}:`)
    throw new ConfigError(`STORE_URL must begin with one of ${schemes.join(', ')}, got "${masked(config.STORE_URL)}"`)
  }
  checkModel(config)
  if (!isLoopback(config.HOST) && config.API_KEYS.length === 0 && !config.INSECURE_NO_AUTH) {
    throw new ConfigError(
      `HOST is ${config.HOST}, which others can reach, and there is no authentication: set API_KEYS='[{"key":"…"}]', ` +
        'or use --insecure-no-auth if something in front of this server authenticates',
    )
  }
  return config
}

/** A name by which hosts are compared: in lower case, and without the dot that ends an absolute one. */
export function hostName(host: string): string {
  return host.toLowerCase().replace(/\.$/, '')
}

export function isLoopback(host: string): boolean {
  const name = hostName(host)
  return name === 'localhost' || name === '::1' || /^127\.\d{1,3}\.\d{1,3}\.\d{1,3}$/.test(name)
}

/** `MAX_SESSIONS` as a flag: `max-sessions`. */
export function flagName(setting: string): string {
  return setting.toLowerCase().replaceAll('_', '-')
}

function readSettings(given: Record<string, unknown>): Static<typeof settings> {
  const read = Object.entries<TSchema>(settings.properties).map(([name, schema]) => {
    const value = name in given ? readValue(schema, String(given[name])) : schema.default
    if (value !== undefined) return [name, value]
    throw new ConfigError(`${name} must be ${expected(schema)}, got "${String(given[name])}"`)
  })
  return Object.fromEntries(read) as Static<typeof settings>
}

/** What a text says, or undefined where its schema does not allow that. Settings have no other kinds than these. */
function readValue(schema: TSchema, text: string): unknown {
  if (schema.enum !== undefined) return schema.enum.includes(text) ? text : undefined
  if (schema.type === 'boolean') return text === 'true' || (text === 'false' ? false : undefined)
  if (schema.type === 'string') return text
  const number = /^[+-]?\d+$/.test(text.trim()) ? Number(text) : Number.NaN
  return number >= schema.minimum && number <= schema.maximum ? number : undefined
}

function expected(schema: TSchema): string {
  if (schema.enum !== undefined) return `one of ${schema.enum.join(', ')}`
  if (schema.type === 'integer') return `a whole number from ${schema.minimum} to ${schema.maximum}`
  return schema.type === 'boolean' ? 'true or false' : 'a text'
}

/** Before the first request, which would be told that its own `model` is wrong. */
function checkModel(config: Config): void {
  for (const name of Object.keys(settings.properties) as SettingName[]) {
    const url = name.endsWith('_BASE_URL') ? String(config[name]) : ''
    if (url === '' || (URL.canParse(url) && /^https?:$/.test(new URL(url).protocol))) continue
    throw new ConfigError(`${name} must be a URL like http://127.0.0.1:11434/v1, got "${masked(url)}"`)
  }
  if (config.MODEL === '') return
  const [, provider = '', model = ''] = /^([^/]*)\/(.*)$/s.exec(config.MODEL) ?? []
  const needed = Object.hasOwn(PROVIDER_NEEDS, provider) ? PROVIDER_NEEDS[provider] : undefined
  if (needed === undefined || model === '') {
    const known = Object.keys(PROVIDER_NEEDS).join(', ')
    throw new ConfigError(`MODEL must be provider/name with one of ${known} as the provider, got "${config.MODEL}"`)
  }
  if (config[needed] === '') throw new ConfigError(`MODEL is ${config.MODEL}, which needs ${needed}: set that as well`)
}

function parseApiKeys(text: string): ApiKey[] {
  if (text === '') return []
  const wrong = () => new ConfigError('API_KEYS must be a JSON array like [{"key":"…","name":"…"}] with a key in each')
  let parsed: unknown
  try {
    parsed = JSON.parse(text)
  } catch {
    throw wrong()
  }
  if (!Array.isArray(parsed) || parsed.length === 0) throw wrong()
  return parsed.map((entry: { key?: unknown; name?: unknown } | null, index) => {
    const { key, name = `key ${index + 1}` } = entry ?? {}
    if (typeof key !== 'string' || !/^[\x21-\x7e]+$/.test(key) || typeof name !== 'string') throw wrong()
    return { key, name }
  })
}

function parseContextTokens(text: string): Map<string, number> {
  return new Map(
    splitList(text).map((entry) => {
      const [, name = '*', tokens] = /^(?:([^=]+)=)?(\d{1,9})$/.exec(entry) ?? []
      if (!(Number(tokens) >= MIN_CONTEXT)) {
        throw new ConfigError(
          `CONTEXT_TOKENS must list provider/name=tokens, provider=tokens or one number, each from ${MIN_CONTEXT}, got "${entry}"`,
        )
      }
      return [name.trim(), Number(tokens)]
    }),
  )
}

function parseOrigins(text: string): string[] {
  return splitList(text).map((origin) => {
    if (!URL.canParse(origin) || new URL(origin).origin !== origin) {
      throw new ConfigError(`CORS_ORIGINS must list origins like https://app.example, got "${origin}"`)
    }
    return origin
  })
}

function textsOf(env: ConfigSources['env']): Record<string, string | undefined> {
  return Object.fromEntries(Object.entries(env).map(([name, value]) => [name, value?.toString()]))
}

function splitList(text: string): string[] {
  return text
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== '')
}
