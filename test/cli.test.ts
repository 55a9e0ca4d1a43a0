import { existsSync, readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, describe, expect, test, vi } from 'vitest'
import { type Config, flagName, type SettingName, settings } from '../src/config.ts'
import { client } from './helpers/http.ts'
import { killLeftovers, run, serve, suricate } from './process/child.ts'

const file = (path: string) => readFileSync(new URL(path, import.meta.url), 'utf8')
const { version } = JSON.parse(file('../package.json')) as { version: string }

let served: (config: Config) => void
let runs = 0
vi.mock('../src/main.ts', () => ({ serve: async (config: Config) => served(config) }))

/** The sentence, and nothing else: no stack, no second line. */
const sentence = (text: string) => new RegExp(`^suricate: .*${text}.*\\n$`)

describe('the command line in this process', () => {
  const { argv, env } = process

  afterEach(() => {
    process.argv = argv
    process.env = env
    vi.restoreAllMocks()
  })

  interface Said {
    stdout: string
    stderr: string
    code: number | undefined
    config: Config | undefined
  }

  /** Runs the command line up to where it would serve, exit or be done printing. */
  function main(args: string[], environment: Record<string, string> = {}): Promise<Said> {
    process.argv = ['node', 'suricate', ...args]
    process.env = environment
    const said: Said = { stdout: '', stderr: '', code: undefined, config: undefined }
    return new Promise<Said>((resolve, reject) => {
      vi.spyOn(process.stdout, 'write').mockImplementation((text) => {
        said.stdout += String(text)
        resolve(said)
        return true
      })
      vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
        said.stderr += String(text)
        return true
      })
      vi.spyOn(process, 'exit').mockImplementation(((code: number) => {
        said.code = code
        resolve(said)
      }) as typeof process.exit)
      served = (config) => {
        said.config = config
        resolve(said)
      }
      // A module runs once for each name that it is imported by.
      import(/* @vite-ignore */ `../src/cli.ts?run=${++runs}`).catch(reject)
    })
  }

  /** A value for each setting that is not its default, as text and as what it is read as. */
  const values: Record<SettingName, [text: string, read: unknown]> = {
    HOST: ['127.0.0.2', '127.0.0.2'],
    PORT: ['12345', 12_345],
    API_KEYS: ['[{"key":"k","name":"n"}]', [{ key: 'k', name: 'n' }]],
    WEBHOOK_SECRETS: ['one, two', ['one', 'two']],
    INSECURE_NO_AUTH: ['true', true],
    CORS_ORIGINS: ['https://a.example,http://b.example:81', ['https://a.example', 'http://b.example:81']],
    ALLOWED_HOSTS: ['One.example, two.example', ['one.example', 'two.example']],
    STORE_URL: ['memory:other', 'memory:other'],
    MAX_SESSIONS: ['3', 3],
    MAX_ACTIVE_TURNS: ['4', 4],
    MAX_CLUSTER_TURNS: ['6', 6],
    MAX_QUEUED_TURNS: ['5', 5],
    MAX_STREAMS: ['6', 6],
    RETAIN_EVENTS: ['7', 7],
    RETAIN_BYTES: ['2048', 2_048],
    BODY_LIMIT: ['4096', 4_096],
    UPLOAD_LIMIT: ['25', 25],
    REQUEST_TIMEOUT_MS: ['1234', 1_234],
    HEADERS_TIMEOUT_MS: ['1235', 1_235],
    KEEP_ALIVE_TIMEOUT_MS: ['1240', 1_240],
    STREAM_HEARTBEAT_MS: ['1236', 1_236],
    STREAM_STALL_MS: ['1237', 1_237],
    DRAIN_MS: ['0', 0],
    ARCHIVE_DRAIN_MS: ['1238', 1_238],
    IDLE_EVICT_MS: ['1243', 1_243],
    AGENT: ['./a.ts, b.js', ['./a.ts', 'b.js']],
    DEFAULT_AGENT: ['a', 'a'],
    MODEL: ['compatible/tiny', 'compatible/tiny'],
    ANTHROPIC_API_KEY: ['a-key', 'a-key'],
    ANTHROPIC_BASE_URL: ['http://127.0.0.1:1/a', 'http://127.0.0.1:1/a'],
    OPENAI_API_KEY: ['o-key', 'o-key'],
    OPENAI_BASE_URL: ['http://127.0.0.1:1/o', 'http://127.0.0.1:1/o'],
    GOOGLE_GENERATIVE_AI_API_KEY: ['g-key', 'g-key'],
    GOOGLE_GENERATIVE_AI_BASE_URL: ['http://127.0.0.1:1/g', 'http://127.0.0.1:1/g'],
    OPENAI_COMPATIBLE_BASE_URL: ['http://127.0.0.1:1/c', 'http://127.0.0.1:1/c'],
    OPENAI_COMPATIBLE_API_KEY: ['c-key', 'c-key'],
    ANTHROPIC_PROMPT_CACHE: ['off', 'off'],
    OPENAI_COMPATIBLE_SEND_REASONING: ['off', 'off'],
    CONTEXT_TOKENS: ['compatible=8192', new Map([['compatible', 8_192]])],
    MAX_TOOL_RESULT_TOKENS: ['1240', 1_240],
    MODEL_SILENCE_MS: ['1239', 1_239],
    MAX_MODEL_CALLS: ['8', 8],
    COMPACT_AT_TOKENS: ['0', 0],
    MAX_TURN_TOKENS: ['10', 10],
    MAX_TURN_MS: ['1240', 1_240],
    MAX_TURN_TOOL_CALLS: ['11', 11],
    MCP_CONFIG: ['./mcp.json', './mcp.json'],
    TOOL_TIMEOUT_MS: ['1241', 1_241],
    APPROVAL_TIMEOUT_MS: ['1242', 1_242],
    SKILLS_DIR: ['./skills', './skills'],
    HOOKS_CONFIG: ['./hooks.json', './hooks.json'],
    LOG_LEVEL: ['warn', 'warn'],
    LOG_FORMAT: ['json', 'json'],
  }
  const names = Object.keys(settings.properties) as SettingName[]
  const read = Object.fromEntries(names.map((name) => [name, values[name]?.[1]]))
  const asFlags = (name: SettingName) =>
    settings.properties[name].type === 'boolean'
      ? [`--${flagName(name)}`]
      : [`--${flagName(name)}`, String(values[name]?.[0])]

  test('takes every setting from the environment', async () => {
    const environment = Object.fromEntries(names.map((name) => [name, String(values[name]?.[0])]))
    expect((await main(['serve'], environment)).config).toEqual({ ...read, environment })
  })

  test('takes every setting as a flag, which wins over the environment', async () => {
    const other: Record<string, string> = { PORT: '1', MAX_SESSIONS: '9', DRAIN_MS: '9', LOG_LEVEL: 'fatal' }
    expect((await main(['serve', ...names.flatMap(asFlags)], other)).config).toEqual({ ...read, environment: other })
  })

  test('takes an empty variable as none, and an empty flag too', async () => {
    const environment = Object.fromEntries(names.map((name) => [name, '']))
    const { config } = await main(['serve', '--max-sessions', ''], environment)
    expect({ ...config, environment: {} }).toEqual((await main(['serve'])).config)
  })

  test.each(
    names.flatMap((name): [SettingName, string, string][] => {
      const { type, enum: allowed } = settings.properties[name] as { type: string; enum?: string[] }
      if (type === 'integer') return [[name, 'abc', 'whole number from']]
      if (allowed !== undefined) return [[name, 'abc', `one of ${allowed.join(', ')}`]]
      const wrong: Partial<Record<SettingName, [string, string]>> = {
        HOST: ['0.0.0.0', 'API_KEYS'],
        API_KEYS: ['abc', 'JSON array'],
        MODEL: ['abc', 'provider/name'],
        ANTHROPIC_BASE_URL: ['abc', 'a URL like'],
        OPENAI_BASE_URL: ['abc', 'a URL like'],
        GOOGLE_GENERATIVE_AI_BASE_URL: ['abc', 'a URL like'],
        OPENAI_COMPATIBLE_BASE_URL: ['abc', 'a URL like'],
        CORS_ORIGINS: ['abc', 'https://app.example'],
        STORE_URL: ['abc', 'memory:'],
      }
      const known = wrong[name]
      return known === undefined ? [] : [[name, ...known]]
    }),
  )('stops for a wrong %s (%s) and says what would be right, by flag as by environment', async (name, value, right) => {
    for (const said of [
      await main(['serve', `--${flagName(name)}`, value]),
      await main(['serve'], { [name]: value }),
    ]) {
      expect(said).toMatchObject({ code: 1, config: undefined, stdout: '' })
      expect(said.stderr).toMatch(sentence(`${name} .*${right}`))
    }
  })

  test('stops for a switch with a value that is none, and says which switch', async () => {
    expect((await main(['serve', '--insecure-no-auth=maybe'])).stderr).toMatch(sentence('--insecure-no-auth'))
    expect((await main(['serve'], { INSECURE_NO_AUTH: 'maybe' })).stderr).toMatch(
      sentence('INSECURE_NO_AUTH must be true or false'),
    )
  })

  test.each([
    [['serve', '--loud'], '--loud'],
    [['serve', '--port'], '--port'],
    [['serve', 'extra'], 'extra'],
    [['sing'], 'no command "sing"'],
    [['--loud'], '--loud'],
  ])('does not know %j and says where help is', async (args, what) => {
    const said = await main(args)
    expect(said).toMatchObject({ code: 1, config: undefined })
    expect(said.stderr).toMatch(sentence(`${what}.*--help`))
  })

  test.each([[['export', '--all']], [['backup', 'copy.db']]])('%j makes no store where there is none', async (args) => {
    const path = join(tmpdir(), `suricate-none-${process.pid}.db`)
    const said = await main(args, { STORE_URL: `sqlite:${path}` })
    expect(said).toMatchObject({ code: 1, stdout: '' })
    expect(said.stderr).toMatch(sentence(`There is no file ${path}`))
    expect(['', '-lock'].filter((end) => existsSync(path + end))).toEqual([])
  })

  test.each([
    [['backup'], 'suricate backup FILE'],
    [['backup', 'one', 'two'], "'two'.*--help"],
    [['export', 'one'], "'one'.*--help"],
  ])('%j says what is missing or too much', async (args, what) => {
    expect((await main(args)).stderr).toMatch(sentence(what))
  })

  test.each([[['--help']], [['-h']], [['help']], [[]], [['serve', '--help']], [['serve', '-h']]])(
    '%j lists every command and every setting with its flag, its meaning and its default',
    async (args) => {
      const { stdout, stderr, code } = await main(args)
      expect({ stderr, code }).toEqual({ stderr: '', code: undefined })
      for (const command of [
        'suricate serve',
        'suricate export',
        'suricate import',
        'suricate backup',
        'suricate openapi',
        'suricate --version',
      ]) {
        expect(stdout).toContain(command)
      }
      for (const [name, { description, default: standard }] of Object.entries(settings.properties)) {
        const line = stdout.split('\n').find((text) => text.startsWith(`  --${flagName(name)} `))
        expect(line, name).toContain(` ${name} `)
        expect(line, name).toContain(description)
        if (standard !== '') expect(line, name).toContain(`(${standard})`)
      }
    },
  )
})

describe('the command line as a process', () => {
  afterAll(killLeftovers)

  test('--version prints the version of the package', async () => {
    const { code, stdout, stderr } = await run(['--version'])
    expect({ code, stdout, stderr }).toEqual({ code: 0, stdout: `${version}\n`, stderr: '' })
  })

  test('a bind beyond loopback without keys does not start, and says both ways to go on', async () => {
    const { code, stdout, stderr } = await run(['serve', '--host', '0.0.0.0', '--port', '0'])
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(stderr).toMatch(sentence('HOST is 0\\.0\\.0\\.0.*API_KEYS.*--insecure-no-auth'))
  })

  test('--insecure-no-auth warns at every start, whatever the address', async () => {
    const server = await serve({ INSECURE_NO_AUTH: 'true' })
    expect((await client(() => server.url).get('/sessions')).status).toBe(200)
    server.child.kill('SIGTERM')
    await server.exited
    expect(server.logs[0]).toMatchObject({ level: 'warn', msg: expect.stringContaining('--insecure-no-auth') })
  })

  test('a port that is taken ends with a sentence, not a stack', async () => {
    const taken = createServer().listen(0, '127.0.0.1')
    await new Promise((resolve) => taken.once('listening', resolve))
    const { port } = taken.address() as { port: number }
    const { code, stderr } = await run(['serve', '--port', String(port)])
    taken.close()
    expect(code).toBe(1)
    expect(stderr).toMatch(sentence(`EADDRINUSE.*${port}; take another port with --port`))
  })

  test('the log is readable in the pretty format: a line with time, level and message, no JSON', async () => {
    const child = suricate(['serve', '--port', '0', '--log-format', 'pretty'])
    const line = await new Promise<string>((resolve) => child.stdout?.once('data', (chunk) => resolve(String(chunk))))
    child.kill('SIGKILL')
    expect(line).toMatch(/\d\d:\d\d:\d\d.*INFO.*Suricate .* listens on http:\/\/127\.0\.0\.1:\d+/)
    expect(line).not.toMatch(/^\{/)
  })
})
