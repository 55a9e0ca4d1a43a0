import { randomUUID } from 'node:crypto'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { McpServer } from '@modelcontextprotocol/sdk/server/mcp.js'
import { StdioServerTransport } from '@modelcontextprotocol/sdk/server/stdio.js'
import { StreamableHTTPServerTransport } from '@modelcontextprotocol/sdk/server/streamableHttp.js'
import type { Transport } from '@modelcontextprotocol/sdk/shared/transport.js'
import { z } from 'zod'

/**
 * A real MCP server. As a program it speaks over its standard input and output; `startHttpServer` serves the same tools
 * over HTTP.
 */

const text = (value: string) => ({ content: [{ type: 'text' as const, text: value }] })

/** What becomes of calls of `slow`. */
interface Slow {
  begun: number
  aborted: number
}

function createServer(slow: Slow = { begun: 0, aborted: 0 }, headers: Record<string, unknown> = {}): McpServer {
  const server = new McpServer({ name: 'test', version: '1.0.0' })
  server.registerTool('add', { description: 'Adds', inputSchema: { a: z.number(), b: z.number() } }, async ({ a, b }) =>
    text(String(a + b)),
  )
  server.registerTool('slow', { inputSchema: { ms: z.number() } }, async ({ ms }, { signal }) => {
    if (process.env.TEST_API_KEY !== undefined) process.stderr.write(`slow begins with ${process.env.TEST_API_KEY}\n`)
    slow.begun++
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, ms)
      signal.addEventListener('abort', () => {
        clearTimeout(timer)
        slow.aborted++
        resolve()
      })
    })
    return text(`after ${ms} ms`)
  })
  server.registerTool('fail', {}, async () => ({ ...text('out of luck'), isError: true }))
  server.registerTool('throw', {}, async () => {
    throw new Error(`thrown with ${process.env.TEST_API_KEY}`)
  })
  server.registerTool('big', {}, async () => text('x'.repeat(2 * 1024 * 1024)))
  server.registerTool('env', {}, async () => text(JSON.stringify(process.env)))
  server.registerTool('headers', {}, async () => text(JSON.stringify(headers)))
  server.registerTool('die', {}, async () => process.exit(7))
  server.registerTool('pid', {}, async () => text(String(process.pid)))
  server.registerTool('mixed', {}, async () => ({
    content: [
      { type: 'text', text: 'first' },
      { type: 'image', data: Buffer.from('abcd').toString('base64'), mimeType: 'image/png' },
      { type: 'resource', resource: { uri: 'test://1', text: 'inside' } },
    ],
  }))
  server.registerTool('structured', { outputSchema: { sum: z.number() } }, async () => ({
    content: [],
    structuredContent: { sum: 3 },
  }))
  server.registerTool('grow', {}, async () => {
    server.registerTool('grown', {}, async () => text('new'))
    return text('grew')
  })
  return server
}

export interface HttpMcpServer {
  readonly url: string
  readonly port: number
  /** How many connections were introduced. */
  readonly sessions: number
  /** Calls of `slow` that were begun, and those that were given up. */
  readonly begun: number
  readonly aborted: number
  /** Forgets every session, as a restart would. */
  forget(): void
  close(): Promise<void>
}

/** The same tools over HTTP. */
export async function startHttpServer(port = 0): Promise<HttpMcpServer> {
  const transports = new Map<string, StreamableHTTPServerTransport>()
  const counts = { sessions: 0, begun: 0, aborted: 0 }
  const server = http.createServer(async (request, response) => {
    const known = transports.get(String(request.headers['mcp-session-id']))
    if (known !== undefined) return known.handleRequest(request, response)
    if (request.headers['mcp-session-id'] !== undefined) return response.writeHead(404).end()
    const transport: StreamableHTTPServerTransport = new StreamableHTTPServerTransport({
      sessionIdGenerator: () => randomUUID(),
      onsessioninitialized: (id) => {
        counts.sessions++
        transports.set(id, transport)
      },
    })
    await createServer(counts, request.headers).connect(transport as Transport)
    await transport.handleRequest(request, response)
  })
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve))
  const address = server.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${address.port}/mcp`,
    port: address.port,
    get sessions() {
      return counts.sessions
    },
    get begun() {
      return counts.begun
    },
    get aborted() {
      return counts.aborted
    },
    forget: () => transports.clear(),
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}

if (process.argv[2] === 'stdio') await createServer().connect(new StdioServerTransport())
