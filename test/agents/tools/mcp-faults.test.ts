import { randomUUID } from 'node:crypto'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { Server } from '@modelcontextprotocol/sdk/server/index.js'
import { StreamableHTTPServerTransport } from '@modelcontextprotocol/sdk/server/streamableHttp.js'
import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js'
import {
  CallToolRequestSchema,
  ErrorCode,
  ListToolsRequestSchema,
  type ListToolsResult,
  McpError,
  type Result,
} from '@modelcontextprotocol/sdk/types.js'
import { expect, onTestFinished, test } from 'vitest'
import { type McpServerConfig, parseMcpConfig } from '../../../src/agents/tools/mcp-config.ts'
import { openMcpServer } from '../../../src/agents/tools/mcp-server.ts'
import type { Tool } from '../../../src/agents/tools/tool.ts'
import { until, within } from '../../helpers/http.ts'
import { patience } from '../../helpers/slowness.ts'
import { startHttpServer } from './mcp-test-server.ts'

const SECRET = 'a-secret-of-the-test'
const never = () => new AbortController().signal

function open(server: object) {
  const text = JSON.stringify({ mcpServers: { test: server } })
  const [config] = parseMcpConfig(text, 'mcp.json', { TOKEN: SECRET })
  const lines: string[] = []
  const log = {
    warn: (line: string) => lines.push(`warn ${line}`),
    debug: (line: string) => lines.push(`debug ${line}`),
  }
  const source = openMcpServer(config as McpServerConfig, { toolTimeoutMs: 60_000, version: '0', log })
  onTestFinished(() => source.close())
  const tool = async (name: string): Promise<Tool> => {
    const found = (await source.tools(never())).find((one) => one.name === `test__${name}`)
    if (found === undefined) throw new Error(`There is no ${name}`)
    return found
  }
  return { source, lines, tool, warnings: () => lines.filter((line) => line.startsWith('warn')) }
}

/** A program that does what it is told in place of a server. */
const program = (source: string, more: object = {}) => ({ command: process.execPath, args: ['-e', source], ...more })

interface Peculiar {
  capabilities?: object
  list?: (cursor: string | undefined) => ListToolsResult | Promise<ListToolsResult>
  call?: () => Result
}

/** A server that is right in the protocol and odd in what it says. */
async function peculiar({ capabilities = { tools: {} }, list, call }: Peculiar): Promise<{ url: string }> {
  const sessions = new Map<string, StreamableHTTPServerTransport>()
  const begun = async (): Promise<StreamableHTTPServerTransport> => {
    const id = randomUUID()
    const transport = new StreamableHTTPServerTransport({ sessionIdGenerator: () => id })
    const odd = new Server({ name: 'odd', version: '1' }, { capabilities })
    if (list !== undefined) odd.setRequestHandler(ListToolsRequestSchema, ({ params }) => list(params?.cursor))
    if (call !== undefined) odd.setRequestHandler(CallToolRequestSchema, () => call())
    await odd.connect(transport as Transport)
    sessions.set(id, transport)
    return transport
  }
  const server = http.createServer(async (request, response) => {
    const transport = sessions.get(String(request.headers['mcp-session-id'])) ?? (await begun())
    await transport.handleRequest(request, response)
  })
  return { url: await listening(server) }
}

const plain = (name: string) => ({ name, inputSchema: { type: 'object' as const } })

test('a server over HTTP that breaks off in a call is an answer, long before the time of the call is up', async () => {
  const server = await startHttpServer()
  onTestFinished(() => server.close())
  const { tool } = open({ url: server.url })
  const call = (await tool('slow')).execute({ ms: 60_000 }, { signal: never() })
  await until('the call has begun', () => server.begun === 1)
  await server.close()
  const { content, isError } = await within('an answer', call)
  expect([JSON.parse(content), isError]).toMatchObject([{ error: 'tool_unavailable' }, true])
})

test('a call that broke off does not disturb the others', async () => {
  const cut: (() => void)[] = []
  const { url } = await inFront({ answered: (response) => cut.push(() => response.destroy()) })
  const { tool } = open({ url })
  const slow = await tool('slow')
  const first = slow.execute({ ms: 60_000 }, { signal: never() })
  await until('the first is under way', () => cut.length === 1)
  const second = slow.execute({ ms: 300 }, { signal: never() })
  await until('the second is under way', () => cut.length === 2)
  cut[0]?.()
  expect((await first).content).toContain('tool_unavailable')
  expect((await second).content).toBe('after 300 ms')
})

test.each([400, 404])('a session that the server has forgotten is begun again: it says %i', async (status) => {
  let calls = 0
  const { url } = await inFront({
    asked: (response) => {
      if (calls++ === 0) response.writeHead(status).end('No such session')
    },
  })
  const { tool } = open({ url })
  const answer = await (await tool('add')).execute({ a: 1, b: 2 }, { signal: never() })
  expect(answer).toEqual({ content: '3', isError: false })
  expect(calls).toBe(2)
})

test('a refusal that stays is the end of a call', async () => {
  let calls = 0
  const { url } = await inFront({
    asked: (response) => {
      calls++
      response.writeHead(404).end()
    },
  })
  const { tool } = open({ url })
  const { content } = await (await tool('add')).execute({ a: 1, b: 2 }, { signal: never() })
  expect(JSON.parse(content)).toMatchObject({ error: 'tool_unavailable' })
  expect(calls).toBe(2)
})

interface Interference {
  /** May answer a call of a tool by itself. */
  asked?: (response: http.ServerResponse) => void
  /** Hears when the answer to a call has begun. */
  answered?: (response: http.ServerResponse) => void
}

/** Stands before a server, and comes between calls of its tools. */
async function inFront({ asked, answered }: Interference): Promise<{ url: string }> {
  const behind = await startHttpServer()
  onTestFinished(() => behind.close())
  const server = http.createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      const body = Buffer.concat(chunks)
      const isCall = body.includes('"tools/call"')
      if (isCall) asked?.(response)
      if (response.headersSent) return
      const { method, headers } = request
      const onward = http.request(behind.url, { method: String(method), headers }, (answer) => {
        response.writeHead(answer.statusCode ?? 500, answer.headers)
        response.flushHeaders()
        answer.on('error', () => response.destroy())
        answer.pipe(response)
        if (isCall) answered?.(response)
      })
      onward.on('error', () => response.destroy())
      onward.end(body)
    })
  })
  return { url: await listening(server) }
}

/** The address of a server that is closed at the end of the test. */
async function listening(server: http.Server): Promise<string> {
  await within('a server', new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve)))
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}/mcp`
}

test('all pages of tools are there, each name once, and none that a call cannot call', async () => {
  const { url } = await peculiar({
    list: (cursor) =>
      cursor === undefined
        ? { tools: [plain('a'), { ...plain('task'), execution: { taskSupport: 'required' } }], nextCursor: '2' }
        : { tools: [plain('b'), plain('a')] },
  })
  const names = (await open({ url }).source.tools(never())).map(({ name }) => name)
  expect(names).toEqual(['test__a', 'test__b'])
})

test('pages without end are not asked for for ever', async () => {
  let pages = 0
  const { url } = await peculiar({ list: () => ({ tools: [plain(`t${++pages}`)], nextCursor: 'more' }) })
  expect((await open({ url }).source.tools(never())).length).toBe(100)
  expect(pages).toBe(100)
})

test('a schema of answers that is wrong does no harm', async () => {
  const outputSchema = { type: 'object' as const, properties: { sum: { type: 'nonsense' } } }
  const { url } = await peculiar({
    list: () => ({ tools: [{ ...plain('a'), outputSchema }, plain('b')] }),
    call: () => ({ content: [{ type: 'image', data: 'AAAA', mimeType: 'image/png' }], structuredContent: { sum: 3 } }),
  })
  const { tool } = open({ url })
  const answer = await (await tool('a')).execute({}, { signal: never() })
  expect(answer).toEqual({ content: '{"sum":3}\n[image image/png, 3 bytes]', isError: false })
})

test('a server that has no tools at all has none, and that is nothing to warn of', async () => {
  const { url } = await peculiar({ capabilities: {} })
  const { source, warnings } = open({ url })
  expect(await source.tools(never())).toEqual([])
  expect(warnings()).toEqual([])
})

test('a server that does not list its tools is left alone for a while that grows, and warned of once', async () => {
  const askedAt: number[] = []
  const { url } = await peculiar({
    list: () => {
      askedAt.push(performance.now())
      throw new McpError(ErrorCode.InternalError, `no list for ${SECRET}`)
    },
  })
  const { source, warnings } = open({ url, headers: { authorization: `Bearer \${TOKEN}` } })
  await until('it was asked three times', async () => {
    expect(await Promise.all([1, 2, 3].map(() => source.tools(never())))).toEqual([[], [], []])
    return askedAt.length === 3
  })
  const [first = 0, second = 0, third = 0] = askedAt
  expect(second - first).toBeGreaterThan(499)
  expect(third - second).toBeGreaterThan(999)
  expect(warnings()).toEqual([expect.stringContaining('no list for …')])
})

test.each([ErrorCode.InvalidParams, ErrorCode.ConnectionClosed, -32_042])(
  'an error %i of the protocol is what the model is told, without secrets',
  async (code) => {
    const { url } = await peculiar({
      list: () => ({ tools: [plain('a')] }),
      call: () => {
        throw new McpError(code, `${'x'.repeat(1_950)} ${SECRET}`)
      },
    })
    const { tool } = open({ url, headers: { authorization: `Bearer \${TOKEN}` } })
    const { content, isError } = await (await tool('a')).execute({}, { signal: never() })
    expect([JSON.parse(content), isError]).toMatchObject([{ error: 'execution_failed' }, true])
    expect(content).not.toContain(SECRET.slice(0, 4))
  },
)

test('an answer that is too long for anybody is an error', async () => {
  const { url } = await peculiar({
    list: () => ({ tools: [plain('a')] }),
    call: () => ({ content: [{ type: 'text', text: 'x'.repeat(11 * 1024 * 1024) }] }),
  })
  const { tool } = open({ url })
  const { content, isError } = await (await tool('a')).execute({}, { signal: never() })
  expect([JSON.parse(content), isError]).toMatchObject([
    { error: 'execution_failed', message: expect.stringContaining('longer than') },
    true,
  ])
})

test('closing does not wait for a server that never says hello', async () => {
  const { source, lines } = open(program('process.stderr.write("here\\n"); setInterval(() => {}, 1000)'))
  const tools = source.tools(never())
  await until('it has started', () => lines.includes('debug MCP server test: here'))
  await within('the end of it', source.close(), patience(6_000))
  expect(await tools).toEqual([])
})

test('what a server says to its standard error is logged line by line, and no secret of it however it comes', async () => {
  const pieces = ['one ', SECRET.slice(0, 8), SECRET.slice(8), ' two\n', 'x'.repeat(1_990), ` ${SECRET}\n`]
  const source = `
    const pieces = ${JSON.stringify(pieces)}
    const next = () => pieces.length > 0 ? process.stderr.write(pieces.shift(), () => setTimeout(next, 20)) : process.exit()
    next()
  `
  const { source: server, lines } = open(program(source, { env: { THE_TOKEN: `\${TOKEN}` } }))
  expect(await server.tools(never())).toEqual([])
  await until('both lines are there', () => lines.filter((line) => line.startsWith('debug')).length === 2)
  expect(lines).toContain('debug MCP server test: one … two')
  expect(lines.join('\n')).not.toContain(SECRET.slice(0, 8))
})
