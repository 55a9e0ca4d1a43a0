import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { parseMcpConfig, readMcpConfig } from '../../../src/agents/tools/mcp-config.ts'

const environment = { TEAM_TOKEN: 'sesame-open-1', REGION: 'north', EMPTY: '', SHORT_KEY: 'short' }

const parse = (mcpServers: unknown) => parseMcpConfig(JSON.stringify({ mcpServers }), 'mcp.json', environment)
/** The one server of a file. */
const one = (server: object) => parse({ one: server })[0]
const stdio = (more: object = {}) => ({ command: 'node', ...more })
const http = (more: object = {}) => ({ url: 'https://tools.example/mcp', ...more })

describe('a file of MCP servers', () => {
  test('says how to start and reach them', () => {
    const servers = parse({
      files: stdio({ args: ['server.js', '--all'], env: { REGION: `\${REGION}` }, cwd: '/srv', timeout_ms: 5_000 }),
      tickets: http({ headers: { 'x-team': 'blue' }, require_approval: ['close'], type: 'http' }),
    })
    expect(servers).toEqual([
      {
        name: 'files',
        kind: 'stdio',
        command: 'node',
        args: ['server.js', '--all'],
        env: { REGION: 'north' },
        cwd: '/srv',
        timeoutMs: 5_000,
        startTimeoutMs: 30_000,
        requireApproval: new Set(),
        secrets: [],
      },
      {
        name: 'tickets',
        kind: 'http',
        url: new URL('https://tools.example/mcp'),
        headers: { 'x-team': 'blue' },
        transport: 'streamable',
        startTimeoutMs: 30_000,
        requireApproval: new Set(['close']),
        secrets: [],
      },
    ])
  })

  test('may have servers that are not used, and still must be right', () => {
    expect(parse({ off: stdio({ disabled: true }), on: http({ disabled: false }) }).map(({ name }) => name)).toEqual([
      'on',
    ])
    expect(() => parse({ off: { disabled: true } })).toThrow('mcpServers.off must have either')
  })

  test('may have none', () => {
    expect(parse({})).toEqual([])
  })

  test.each([
    [stdio({ type: 'stdio' }), 'stdio'],
    [http({ type: 'http' }), 'http'],
    [http({ type: 'streamable-http' }), 'http'],
  ])('may name the kind of %j', (server, kind) => {
    expect(one(server)?.kind).toBe(kind)
  })

  test.each([
    [true, true],
    [false, new Set()],
    [['a', 'b'], new Set(['a', 'b'])],
  ])('may want approval: %j', (require_approval, expected) => {
    expect(one(stdio({ require_approval }))?.requireApproval).toEqual(expected)
  })

  test('is read from where it is', () => {
    const folder = mkdtempSync(join(tmpdir(), 'suricate-mcp-'))
    onTestFinished(() => rmSync(folder, { recursive: true }))
    const file = join(folder, 'mcp.json')
    writeFileSync(file, JSON.stringify({ mcpServers: { one: stdio() } }))
    expect(readMcpConfig(file, {}).map(({ name }) => name)).toEqual(['one'])
    expect(() => readMcpConfig(join(folder, 'none.json'), {})).toThrow(
      /^The MCP configuration .* cannot be read: ENOENT$/,
    )
  })
})

describe('the environment', () => {
  test.each([
    [`\${REGION}`, 'north'],
    [`in \${REGION}/\${REGION}!`, 'in north/north!'],
    [`\${EMPTY}`, ''],
    ['$REGION', '$REGION'],
    [`\${1ST}`, `\${1ST}`],
  ])('stands for %s in env and headers', (text, expected) => {
    expect(one(stdio({ env: { A: text } }))).toMatchObject({ env: { A: expected } })
    expect(one(http({ headers: { 'x-a': text } }))).toMatchObject({ headers: { 'x-a': expected } })
  })

  test.each<[string, string]>([
    [`\${REGION:-south}`, 'north'],
    [`\${NOWHERE:-south}`, 'south'],
    [`\${EMPTY:-south}`, 'south'],
    [`\${NOWHERE:-}.`, '.'],
    [`\${NOWHERE:-http://a.example:1/b?c=d}`, 'http://a.example:1/b?c=d'],
    [`\${constructor:-x}\${__proto__:-y}`, 'xy'],
  ])('has a default in %s', (text, expected) => {
    expect(one(stdio({ env: { A: text } }))).toMatchObject({ env: { A: expected } })
    expect(one(http({ headers: { 'x-a': text } }))).toMatchObject({ headers: { 'x-a': expected } })
  })

  test('stands for its variables in command, args, cwd and url', () => {
    const given = { command: `\${BIN:-node}`, args: ['--region', `\${REGION}`], cwd: `/srv/\${REGION}` }
    expect(one(given)).toMatchObject({ command: 'node', args: ['--region', 'north'], cwd: '/srv/north' })
    expect(one({ url: `\${BASE:-https://tools.example}/\${REGION}` })).toMatchObject({
      url: new URL('https://tools.example/north'),
    })
  })

  test.each<[string, object]>([
    ['command', { command: `\${NOWHERE}` }],
    ['args[1]', stdio({ args: ['a', `\${NOWHERE}`] })],
    ['cwd', stdio({ cwd: `\${NOWHERE}` })],
    ['url', { url: `https://\${NOWHERE}/` }],
    ['headers.x-a', http({ headers: { 'x-a': `\${NOWHERE}` } })],
  ])('must have what %s names', (member, server) => {
    expect(() => one(server)).toThrow(`mcpServers.one.${member} needs the environment variable NOWHERE`)
    expect(parse({ one: { ...server, disabled: true } })).toEqual([])
  })

  test.each(['NOWHERE', 'constructor', '__proto__'])('must have %s, if it is named', (name) => {
    expect(() => one(stdio({ env: { A: `\${${name}}` } }))).toThrow(
      `The MCP configuration mcp.json is wrong: mcpServers.one.env.A needs the environment variable ${name}`,
    )
  })

  test('of a server has the names that the file gives it', () => {
    const server = parseMcpConfig(
      '{"mcpServers": {"one": {"command": "x", "env": {"__proto__": "a", "constructor": "b"}}}}',
      'mcp.json',
      {},
    )[0]
    expect(Object.entries((server as { env?: object } | undefined)?.env ?? {})).toEqual([
      ['__proto__', 'a'],
      ['constructor', 'b'],
    ])
  })
})

describe('secrets are', () => {
  test.each<[string, object, string[]]>([
    ['all headers', http({ headers: { 'x-tenant': 'tenant-4711' } }), ['tenant-4711']],
    [
      'what is after the scheme of a header',
      http({ headers: { authorization: `Bearer \${TEAM_TOKEN}` } }),
      ['Bearer sesame-open-1', 'sesame-open-1'],
    ],
    ['values of a URL', http({ url: 'https://tools.example/mcp?k=in-the-url-1&v=2' }), ['in-the-url-1']],
    ['variables that are called so', stdio({ env: { API_KEY: 'sesame-open-2' } }), ['sesame-open-2']],
    ['what is taken from such', stdio({ env: { A: `user:\${TEAM_TOKEN}` } }), ['sesame-open-1']],
    ['of the command line too', stdio({ args: ['--token', `\${TEAM_TOKEN}`] }), ['sesame-open-1']],
    ['in the path of a URL', { url: `https://tools.example/\${TEAM_TOKEN}/mcp` }, ['sesame-open-1']],
    ['defaults as well', stdio({ args: [`\${API_TOKEN:-sesame-open-3}`] }), ['sesame-open-3']],
    ['nothing that is short', stdio({ env: { API_KEY: 'short', OTHER: `\${SHORT_KEY}` } }), []],
    ['nothing that is called otherwise', stdio({ env: { REGION: 'northern-lights' } }), []],
  ])('%s', (_, server, expected) => {
    expect(one(server)?.secrets).toEqual(expected)
  })
})

describe('a file of another client', () => {
  const warned = (server: object, root: object = {}) => {
    const warnings: string[] = []
    const text = JSON.stringify({ mcpServers: { one: server }, ...root })
    const [config] = parseMcpConfig(text, 'mcp.json', environment, (sentence) => warnings.push(sentence))
    return { config, warnings }
  }
  const sentence = (member: string, why: string) => `The MCP configuration mcp.json: ${member} is not used, ${why}`

  test.each<[object, object]>([
    [stdio({ requireApproval: true }), { requireApproval: true }],
    [stdio({ timeoutMs: 7, startTimeoutMs: 8 }), { timeoutMs: 7, startTimeoutMs: 8 }],
    [stdio({ type: 'local', enabled: true }), { kind: 'stdio' }],
    [stdio({ transportType: 'stdio' }), { kind: 'stdio' }],
    [stdio({ url: null, env: null, type: null, autoApprove: null }), { kind: 'stdio' }],
    [http({ type: 'streamableHttp' }), { transport: 'streamable' }],
    [http({ type: 'streamable_http' }), { transport: 'streamable' }],
    [http({ type: 'remote' }), { transport: 'streamable' }],
    [http({ type: 'sse' }), { transport: 'sse' }],
    [http({ transport: 'sse' }), { transport: 'sse' }],
    [{ serverUrl: 'https://tools.example/a' }, { url: new URL('https://tools.example/a') }],
    [{ httpUrl: 'https://tools.example/b' }, { url: new URL('https://tools.example/b') }],
  ])('is understood: %j', (server, expected) => {
    const { config, warnings } = warned(server)
    expect(config).toMatchObject(expected)
    expect(warnings).toEqual([])
  })

  test.each<[object, string, string]>([
    [stdio({ autoApprove: ['a'] }), 'autoApprove', 'calls need approval only where require_approval says so'],
    [stdio({ alwaysAllow: [] }), 'alwaysAllow', 'calls need approval only where require_approval says so'],
    [stdio({ timeout: 60 }), 'timeout', 'clients disagree about its unit; set timeout_ms'],
    [stdio({ headers: {} }), 'headers', 'stdio servers have none'],
    [http({ args: [] }), 'args', 'http servers have none'],
    [http({ constructor: 1 }), 'constructor', 'http servers have none'],
    [stdio({ type: 'http' }), 'type', 'the server has a command'],
    [http({ type: 'stdio' }), 'type', 'the server has a url'],
    [http({ type: 'websocket' }), 'type', 'the server has a url'],
  ])('has members that are warned of: %j', (server, member, why) => {
    const { config, warnings } = warned(server)
    expect(config?.name).toBe('one')
    expect(warnings).toEqual([sentence(`mcpServers.one.${member}`, why)])
  })

  test('may have more than servers', () => {
    expect(warned(stdio(), { inputs: [] }).warnings).toEqual([sentence('inputs', 'only mcpServers is')])
  })

  test.each([{ disabled: true }, { enabled: false }])('may have servers that are off: %j', (off) => {
    expect(warned(stdio({ ...off, autoApprove: [] }))).toEqual({ config: undefined, warnings: [] })
  })
})

describe('a file is refused that', () => {
  test.each<[string, string, string]>([
    ['is no JSON', '{"mcpServers": {', 'is not JSON'],
    ['is empty', '', 'is not JSON'],
    ['is a list', '[]', 'is wrong: mcpServers must be an object'],
    ['has no servers', '{"servers": {}}', 'is wrong: mcpServers must be an object'],
    ['has a list of servers', '{"mcpServers": []}', 'is wrong: mcpServers must be an object'],
  ])('%s', (_, text, fault) => {
    expect(() => parseMcpConfig(text, 'mcp.json', {})).toThrow(`The MCP configuration mcp.json ${fault}`)
  })

  test.each<[unknown, string]>([
    ['node server.js', 'one must be an object'],
    [{}, 'one must have either a command or a url'],
    [{ command: 'node', url: 'https://tools.example/' }, 'one must have either a command or a url'],
    [stdio({ disabled: 'no' }), 'one.disabled must be true or false'],
    [stdio({ timeout_ms: 0 }), 'one.timeout_ms must be a whole number from 1 to 86400000'],
    [stdio({ start_timeout_ms: 0 }), 'one.start_timeout_ms must be a whole number from 1 to 86400000'],
    [stdio({ requireApproval: 'all' }), 'one.require_approval must be true, false or a list of tool names'],
    [{ command: `\${EMPTY}` }, 'one.command must be a text that is not empty'],
    [stdio({ timeout_ms: '5' }), 'one.timeout_ms must be a whole number from 1 to 86400000'],
    [stdio({ require_approval: 'all' }), 'one.require_approval must be true, false or a list of tool names'],
    [stdio({ require_approval: ['a', 1] }), 'one.require_approval[1] must be a text'],
    [{ command: ' ' }, 'one.command must be a text that is not empty'],
    [{ command: ['node'] }, 'one.command must be a text that is not empty'],
    [stdio({ args: 'server.js' }), 'one.args must be a list'],
    [stdio({ args: [1] }), 'one.args[0] must be a text'],
    [stdio({ cwd: '' }), 'one.cwd must be a text that is not empty'],
    [stdio({ env: [] }), 'one.env must be an object'],
    [stdio({ env: { A: 1 } }), 'one.env.A must be a text'],
    [{ url: 'tools.example' }, 'one.url must be an http(s) URL'],
    [{ url: 'file:///etc/passwd' }, 'one.url must be an http(s) URL'],
    [{ url: 'https://ada:sesame@tools.example/' }, 'one.url must not have a user or password; use headers'],
    [http({ headers: { 'no header': 'x' } }), 'one.headers.no header is not a header'],
    [http({ headers: { 'x-a': 'sesame\r\nx-b: c' } }), 'one.headers.x-a is not a header'],
  ])('says %j', (server, fault) => {
    const refusal = `The MCP configuration mcp.json is wrong: mcpServers.${fault}`
    expect(() => parse({ one: server })).toThrow(new Error(refusal))
  })

  test('has a server without a name', () => {
    expect(() => parse({ ' ': stdio() })).toThrow('mcpServers.  needs a name')
  })
})
