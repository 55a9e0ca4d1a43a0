import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pino from 'pino'
import { expect, onTestFinished, test } from 'vitest'
import { buildApp } from '../../../src/app.ts'
import { loadConfig } from '../../../src/config.ts'
import { type Client, client, until, within } from '../../helpers/http.ts'
import { models, type Saying, startScriptedModel } from '../../helpers/model-server.ts'

interface Rpc {
  id?: number
  method: string
  params: { name?: string; protocolVersion?: string }
}

interface Odd {
  /** Every tool as the server lists it. */
  tools?: unknown[]
  nextCursor?: unknown
  result?: unknown
  /** Default: streamable HTTP alone. */
  transport?: 'streamable' | 'sse'
  /** What the other transport is refused with. */
  refusal?: number
  /** Nobody is answered before. */
  held?: Promise<void>
}

/** An MCP server that is odd in what it says, or speaks the transport of 2024-11-05. Nothing of it is the SDK's. */
async function oddServer({
  tools = [],
  nextCursor,
  result = {},
  transport = 'streamable',
  refusal = 405,
  held,
}: Odd = {}) {
  const methods: string[] = []
  let stream: http.ServerResponse | undefined
  const answer = ({ id, method, params }: Rpc): object | undefined => {
    methods.push(method)
    if (id === undefined) return undefined
    const protocolVersion = params?.protocolVersion
    const results: Record<string, unknown> = {
      initialize: { protocolVersion, capabilities: { tools: {} }, serverInfo: { name: 'odd', version: '1' } },
      'tools/list': { tools, nextCursor },
      'tools/call': result,
    }
    return { jsonrpc: '2.0', id, result: results[method] }
  }
  const server = http.createServer(async (request, response) => {
    await held
    const chunks: Buffer[] = []
    for await (const chunk of request) chunks.push(chunk as Buffer)
    const isMessage = request.method === 'POST'
    if (transport === 'sse' && !isMessage) {
      stream = response
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      return response.write('event: endpoint\ndata: /messages?session=1\n\n')
    }
    const isRefused = transport === 'sse' ? request.url === '/mcp' : !isMessage
    if (isRefused) return response.writeHead(refusal).end('Not this way')
    const said = answer(JSON.parse(Buffer.concat(chunks).toString()))
    if (transport === 'sse') {
      response.writeHead(202).end()
      if (said !== undefined) stream?.write(`event: message\ndata: ${JSON.stringify(said)}\n\n`)
      return
    }
    if (said === undefined) return response.writeHead(202).end()
    return response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(said))
  })
  await within('a server', new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve)))
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/mcp`,
    methods,
    cut: () => stream?.destroy(),
  }
}

/** A server with a model that says one thing after another, and what it logs. */
async function started(mcpServers: object, ...script: Saying[]) {
  const model = await startScriptedModel(...script)
  const folder = mkdtempSync(join(tmpdir(), 'suricate-odd-'))
  const MCP_CONFIG = join(folder, 'mcp.json')
  writeFileSync(MCP_CONFIG, JSON.stringify({ mcpServers }))
  const lines: string[] = []
  const logger = pino({ level: 'warn' }, { write: (line: string) => lines.push(JSON.parse(line).msg) })
  const env = {
    ...model.settings,
    PORT: '0',
    MODEL: models.compatible,
    MCP_CONFIG,
    SECRET_TOKEN: 'a-secret-of-this-test',
  }
  const app = await buildApp(loadConfig({ env }), { logger })
  const url = await app.listen({ port: 0, host: '127.0.0.1' })
  onTestFinished(async () => {
    await app.close()
    model.close()
    rmSync(folder, { recursive: true })
  })
  return { api: client(() => url), lines, model }
}

interface AgentView {
  name: string
  accepts: string[]
  tools: { name: string; description: string }[]
  mcp_servers?: { name: string; state: string; reason?: string; tool_count: number }[]
}

async function llmAgent(api: Client): Promise<AgentView> {
  const { body } = await api.get<{ agents: AgentView[] }>('/agents')
  return body.agents.find(({ name }) => name === 'llm') as AgentView
}

async function settled(api: Client): Promise<AgentView> {
  let agent: AgentView | undefined
  await until('every server has a state that stays', async () => {
    agent = await llmAgent(api)
    return agent.mcp_servers?.every(({ state }) => state !== 'connecting') === true
  })
  return agent as AgentView
}

const object = { type: 'object' }
const good = { name: 'good', description: 'Good', inputSchema: object }

test('tools that do not fit are skipped and logged, each by itself, and the others are there', async () => {
  const bad: unknown[] = [
    { name: 'bad', inputSchema: {} },
    { name: 'bad', inputSchema: { anyOf: [object, { type: 'null' }] } },
    { name: 'bad' },
    { name: 'bad', inputSchema: null },
    { name: 'bad', inputSchema: { type: 'array' } },
    { name: 'bad', inputSchema: { type: 'object', properties: null } },
    { name: 'bad', inputSchema: { type: 'object', required: 'a' } },
    { name: 'bad', description: null, inputSchema: object },
    { name: 'bad', annotations: null, inputSchema: object },
    { name: 'bad', inputSchema: object, outputSchema: { type: 'array' } },
    { name: 'bad', inputSchema: object, outputSchema: null },
    { inputSchema: object },
    { name: null, inputSchema: object },
    null,
    'bad',
  ]
  const named = bad.map((tool, i) =>
    tool !== null && typeof tool === 'object' && 'name' in tool && tool.name !== null
      ? { ...tool, name: `bad${i}.` }
      : tool,
  )
  const { url } = await oddServer({ tools: [good, ...named, { ...good, name: 'also' }], nextCursor: null })
  const { api, lines, model } = await started({ odd: { url } }, { text: 'Yes.' })
  await api.post('/sessions', { prompt: 'go' })
  expect(model.told()[0]?.tools?.map((tool) => tool.function.name)).toEqual(['odd__good', 'odd__also'])
  for (const [i, tool] of named.entries()) {
    const isNamed = tool !== bad[i]
    const name = isNamed ? `bad${i}.` : 'without a name'
    expect(lines, JSON.stringify(tool)).toContainEqual(
      expect.stringMatching(new RegExp(`^MCP server odd: its tool ${name} is skipped: .`)),
    )
  }
  expect((await llmAgent(api)).mcp_servers).toEqual([{ name: 'odd', state: 'connected', tool_count: 2 }])
})

test('an answer that does not fit is the fault of one call, and the connection stays', async () => {
  const { url, methods } = await oddServer({ tools: [good], result: { content: [{ type: 'text', text: 7 }] } })
  const call = { id: 'c1', name: 'odd__good', args: {} }
  const { api, model } = await started({ odd: { url } }, { calls: [call] }, { calls: [call] }, { text: 'Odd.' })
  await api.post('/sessions', { prompt: 'go' })
  const [first, second] = (model.told().at(-1)?.messages ?? []).filter(({ role }) => role === 'tool')
  expect(first?.content).toBe(second?.content)
  expect(JSON.parse(String(first?.content))).toMatchObject({
    error: 'execution_failed',
    message: expect.stringContaining('content.0'),
  })
  expect(methods.filter((method) => method === 'initialize')).toHaveLength(1)
})

test('GET /agents has the state of every server and the tools, before any turn', async () => {
  let letGo = () => {}
  const held = new Promise<void>((resolve) => {
    letGo = resolve
  })
  const near = await oddServer({ tools: [good] })
  const slow = await oddServer({ tools: [good, { ...good, name: 'more' }], held })
  const dies = {
    command: process.execPath,
    args: ['-e', `console.error('no such package: \${SECRET_TOKEN}'); process.exit(1)`],
  }
  const { api } = await started({ near: { url: near.url }, slow: { url: slow.url }, dies })
  await until('two have a state', async () => {
    const { mcp_servers = [] } = await llmAgent(api)
    return mcp_servers.filter(({ state }) => state === 'connecting').length === 1
  })
  const agent = await llmAgent(api)
  expect(agent.mcp_servers).toEqual([
    { name: 'near', state: 'connected', tool_count: 1 },
    { name: 'slow', state: 'connecting', tool_count: 0 },
    { name: 'dies', state: 'failed', reason: expect.stringContaining('no such package: …'), tool_count: 0 },
  ])
  expect(agent.tools).toEqual([{ name: 'near__good', description: 'Good' }])
  expect(agent.accepts).toContain('output_schema')
  letGo()
  const later = await settled(api)
  expect(later.mcp_servers?.[1]).toEqual({ name: 'slow', state: 'connected', tool_count: 2 })
})

test('a server that does not start within start_timeout_ms failed, and the turn goes on without its tools', async () => {
  const mute = await oddServer({ held: new Promise(() => {}) })
  const { api } = await started({ mute: { url: mute.url, start_timeout_ms: 50 } }, { text: 'Without.' })
  const { body } = await api.post<{ text: string }>('/sessions', { prompt: 'go' })
  expect(body.text).toBe('Without.')
  expect((await llmAgent(api)).mcp_servers).toEqual([
    { name: 'mute', state: 'failed', reason: expect.stringContaining('50 ms'), tool_count: 0 },
  ])
})

test.each([
  ['refuses the other with 404', { refusal: 404 }, {}],
  ['refuses the other with 405', { refusal: 405 }, {}],
  ['is said to', {}, { type: 'sse' }],
])('a server of the older SSE transport is spoken to that %s', async (_, odd, config) => {
  const result = { content: [{ type: 'text', text: 'done' }] }
  const server = await oddServer({ transport: 'sse', tools: [good], result, ...odd })
  const call = { id: 'c1', name: 'old__good', args: {} }
  const script = [{ calls: [call] }, { text: 'Fine.' }, { calls: [call] }, { text: 'Again.' }]
  const { api, model, lines } = await started({ old: { url: server.url, ...config } }, ...script)
  const { body } = await api.post<{ text: string; session_id: string }>('/sessions', { prompt: 'go' })
  expect(body.text).toBe('Fine.')
  expect(model.told()[1]?.messages.at(-1)?.content).toBe('done')
  // Its stream breaks: the next turn begins another.
  server.cut()
  await until('it is connected again', async () => {
    const { mcp_servers } = await llmAgent(api)
    return (
      server.methods.filter((method) => method === 'initialize').length === 2 && mcp_servers?.[0]?.state === 'connected'
    )
  })
  expect((await api.post<{ text: string }>(`/sessions/${body.session_id}/turns`, { prompt: 'on' })).body.text).toBe(
    'Again.',
  )
  expect(model.told()[3]?.messages.at(-1)?.content).toBe('done')
  expect(lines).toEqual([])
})

test('a server that has moved on from SSE is spoken to as it wants', async () => {
  const { url } = await oddServer({ tools: [good], refusal: 405 })
  const { api } = await started({ moved: { url, type: 'sse' } })
  expect((await settled(api)).mcp_servers).toEqual([{ name: 'moved', state: 'connected', tool_count: 1 }])
})

test.each([401, 403])('a server that lets nobody in is asked once: it says %i', async (refusal) => {
  const { url, methods } = await oddServer({ transport: 'sse', refusal })
  const { api } = await started({ shut: { url } })
  const [shut] = (await settled(api)).mcp_servers ?? []
  expect(shut).toMatchObject({ state: 'failed', reason: expect.stringContaining('Not this way') })
  expect(methods).toEqual([])
})
