import { fileURLToPath } from 'node:url'
import { describe, expect, onTestFinished, test } from 'vitest'
import { type McpServerConfig, parseMcpConfig } from '../../../src/agents/tools/mcp-config.ts'
import { openMcpServer } from '../../../src/agents/tools/mcp-server.ts'
import type { Tool, ToolAnswer } from '../../../src/agents/tools/tool.ts'
import { until, within } from '../../helpers/http.ts'
import { startHttpServer } from './mcp-test-server.ts'

const PROGRAM = fileURLToPath(new URL('mcp-test-server.ts', import.meta.url))
const SECRET = 'a-secret-of-the-test'
/** A signal of its own for each: the client does not take its listeners back. */
const never = () => new AbortController().signal

const stdio = (more: object = {}) =>
  configOf({ command: process.execPath, args: ['--import', 'tsx', PROGRAM, 'stdio'], ...more })

function configOf(server: object): McpServerConfig {
  const [config] = parseMcpConfig(JSON.stringify({ mcpServers: { test: server } }), 'mcp.json', { TOKEN: SECRET })
  return config as McpServerConfig
}

/** A source of tools that is closed at the end of the test, and what it logs. */
function open(config: McpServerConfig, toolTimeoutMs = 5_000) {
  const lines: string[] = []
  const log = {
    warn: (line: string) => lines.push(`warn ${line}`),
    debug: (line: string) => lines.push(`debug ${line}`),
  }
  const source = openMcpServer(config, { toolTimeoutMs, version: '0', log })
  onTestFinished(() => source.close())
  const tool = async (name: string): Promise<Tool> => {
    const tools = await source.tools(never())
    const found = tools.find((one) => one.name === `test__${name}`)
    if (found === undefined) throw new Error(`There is no ${name} among ${tools.map((one) => one.name)}`)
    return found
  }
  const call = async (name: string, args: object = {}, signal = never()): Promise<ToolAnswer> =>
    (await tool(name)).execute(args, { signal })
  return { source, lines, tool, call }
}

const transports = {
  'standard input and output': async () => stdio({ env: { TEST_API_KEY: `\${TOKEN}` } }),
  HTTP: async () => {
    const server = await startHttpServer()
    onTestFinished(() => server.close())
    return configOf({ url: server.url, headers: { authorization: `Bearer \${TOKEN}` } })
  },
}

describe.each(Object.entries(transports))('an MCP server over %s', (_, configured) => {
  test('has its tools, by names that say whose they are', async () => {
    const { source, tool } = open(await configured())
    const names = (await source.tools(never())).map(({ name }) => name)
    expect(names).toEqual(expect.arrayContaining(['test__add', 'test__slow', 'test__fail']))
    expect(await tool('add')).toMatchObject({
      description: 'Adds',
      inputSchema: { type: 'object', required: ['a', 'b'] },
      needsApproval: false,
      timeoutMs: 5_000,
    })
  })

  test('answers calls, several at a time', async () => {
    const { call } = open(await configured())
    const sums = await Promise.all([1, 2, 3].map((a) => call('add', { a, b: 10 })))
    expect(sums).toEqual(['11', '12', '13'].map((content) => ({ content, isError: false })))
  })

  test('fails of what its tools fail of', async () => {
    const { call } = open(await configured())
    expect(await call('fail')).toEqual({ content: 'out of luck', isError: true })
    const thrown = await call('throw')
    expect(thrown.isError).toBe(true)
    expect(thrown.content).toContain('thrown with')
    expect(thrown.content).not.toContain(SECRET)
    expect(await call('add', { a: 'x' })).toMatchObject({ isError: true, content: expect.stringContaining('a') })
  })

  test('says more than text, which is told in words', async () => {
    const { call } = open(await configured())
    expect((await call('mixed')).content).toBe('first\n[image image/png, 4 bytes]\ninside')
    expect((await call('structured')).content).toBe('{"sum":3}')
    expect((await call('big')).content).toHaveLength(2 * 1024 * 1024)
  })

  test('has other tools once it said so', async () => {
    const { source, call } = open(await configured())
    await call('grow')
    await until('the new tool is there', async () =>
      (await source.tools(never())).some(({ name }) => name === 'test__grown'),
    )
    expect((await call('grown')).content).toBe('new')
  })

  test('is connected once, whoever asks', async () => {
    const { source, call } = open(await configured())
    const lists = await Promise.all([1, 2, 3].map(() => source.tools(never())))
    expect(lists.map((tools) => tools.length)).toEqual(Array(3).fill(lists[0]?.length))
    const pids = await Promise.all([1, 2].map(() => call('pid')))
    expect(new Set(pids.map(({ content }) => content)).size).toBe(1)
  })

  test('is left by whom is interrupted, and by nobody else', async () => {
    const { source, call } = open(await configured())
    const left = new AbortController()
    const waiting = source.tools(left.signal)
    left.abort(new Error('left'))
    await expect(waiting).rejects.toThrow('left')
    expect((await call('add', { a: 1, b: 1 })).content).toBe('2')
    const running = new AbortController()
    const slow = call('slow', { ms: 60_000 }, running.signal)
    const other = call('slow', { ms: 50 })
    running.abort(new Error('interrupted'))
    await expect(slow).rejects.toThrow('interrupted')
    expect((await other).content).toBe('after 50 ms')
  })
})

test('an MCP server that is given up on hears of it', async () => {
  const server = await startHttpServer()
  onTestFinished(() => server.close())
  const { tool } = open(configOf({ url: server.url }))
  const slow = await tool('slow')
  const running = new AbortController()
  const call = slow.execute({ ms: 60_000 }, { signal: running.signal })
  await until('the call has begun', () => server.begun === 1)
  running.abort(new Error('interrupted'))
  await expect(call).rejects.toThrow('interrupted')
  await until('the server hears of it', () => server.aborted === 1)
})

test('an MCP server that dies in a call is started again for the next', async () => {
  const { call } = open(stdio())
  const { content: pid } = await call('pid')
  const died = await call('die')
  expect(JSON.parse(died.content)).toMatchObject({ error: 'tool_unavailable' })
  expect(died.isError).toBe(true)
  expect((await call('pid')).content).not.toBe(pid)
})

test('an MCP server that comes back is found again, also when it has forgotten who asks', async () => {
  const server = await startHttpServer()
  const { source, lines, tool, call } = open(configOf({ url: server.url }))
  const add = await tool('add')
  server.forget()
  expect((await add.execute({ a: 1, b: 2 }, { signal: never() })).content).toBe('3')
  await server.close()
  expect(await add.execute({ a: 1, b: 2 }, { signal: never() })).toMatchObject({
    isError: true,
    content: expect.stringContaining('tool_unavailable'),
  })
  expect(await source.tools(never())).toEqual([])
  expect(await source.tools(never())).toEqual([])
  expect(lines.filter((line) => line.startsWith('warn'))).toHaveLength(1)
  const back = await startHttpServer(server.port)
  onTestFinished(() => back.close())
  await until('it is found', async () => (await source.tools(never())).length > 0)
  expect((await call('add', { a: 2, b: 2 })).content).toBe('4')
})

test.each([
  ['no such program', () => configOf({ command: '/nowhere/at/all' })],
  ['a program that ends at once', () => configOf({ command: process.execPath, args: ['-e', 'process.exit(3)'] })],
  [
    'a program that says something else',
    () => configOf({ command: process.execPath, args: ['-e', 'console.log("hi")'] }),
  ],
  ['an address where nobody listens', () => configOf({ url: 'http://127.0.0.1:1/mcp' })],
])('%s has no tools, and one line in the log says so', async (_, config) => {
  const { source, lines } = open(config())
  expect(await source.tools(never())).toEqual([])
  expect(await source.tools(never())).toEqual([])
  expect(lines.filter((line) => line.startsWith('warn'))).toEqual([
    expect.stringMatching(/^warn MCP server test cannot be reached: ./),
  ])
})

test('a process sees its own variables and none of the server’s, and its secrets are seen by nobody', async () => {
  process.env.SURICATE_TEST_ONLY = 'must not be handed on'
  onTestFinished(() => {
    delete process.env.SURICATE_TEST_ONLY
  })
  const { call, lines } = open(stdio({ env: { TEST_API_KEY: `\${TOKEN}`, PLAIN: 'plain' } }))
  const { content } = await call('env')
  expect(JSON.parse(content)).toMatchObject({ PLAIN: 'plain', TEST_API_KEY: '…' })
  expect(JSON.parse(content)).not.toHaveProperty('SURICATE_TEST_ONLY')
  await call('slow', { ms: 1 })
  await until('its standard error is logged', () => lines.some((line) => line.includes('slow begins with …')))
  expect(lines.join('\n')).not.toContain(SECRET)
})

test('headers reach a server, and are not told on', async () => {
  const server = await startHttpServer()
  onTestFinished(() => server.close())
  const { call } = open(
    configOf({ url: server.url, headers: { 'x-team': 'blue-team', authorization: `Bearer \${TOKEN}` } }),
  )
  const { content } = await call('headers')
  expect(content).toContain('x-team')
  expect(content).not.toContain(SECRET)
  expect(content).not.toContain('blue-team')
})

test('approval and time-outs are those of the configuration', async () => {
  const { source } = open(stdio({ require_approval: ['add'], timeout_ms: 77 }))
  const tools = await source.tools(never())
  expect(tools.filter(({ needsApproval }) => needsApproval).map(({ name }) => name)).toEqual(['test__add'])
  expect(new Set(tools.map(({ timeoutMs }) => timeoutMs))).toEqual(new Set([77]))
  const all = open(stdio({ require_approval: true }))
  expect((await all.source.tools(never())).every(({ needsApproval }) => needsApproval)).toBe(true)
})

test('closing ends the process, and there are no tools after it', async () => {
  const { source, call } = open(stdio())
  const pid = Number((await call('pid')).content)
  await within('the server to close', source.close())
  await until('the process is gone', () => {
    try {
      process.kill(pid, 0)
      return false
    } catch {
      return true
    }
  })
  expect(await source.tools(never())).toEqual([])
})
