import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { onTestFinished } from 'vitest'

export interface FakeNode {
  port: number
  /** Every request that arrived whole, as `POST /sessions`. */
  requests: string[]
  headers: IncomingMessage['headers'][]
  /** Connections that were opened. */
  connections: number
}

/** A node that does what a test says, where a real one could not be made to. It ends with the test. */
export async function fakeNode(answer: (response: ServerResponse) => void): Promise<FakeNode> {
  const server = createServer((request, response) => {
    request.resume().on('end', () => {
      node.requests.push(`${request.method} ${request.url}`)
      node.headers.push(request.headers)
      answer(response)
    })
  })
  server.on('connection', () => node.connections++)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
  const node: FakeNode = { port: (server.address() as AddressInfo).port, requests: [], headers: [], connections: 0 }
  return node
}

/** What a node answers whose database is away, or that drains. */
export function refuse(response: ServerResponse): void {
  response.writeHead(503, { 'content-type': 'application/problem+json; charset=utf-8', 'retry-after': '7' })
  response.end('{"code":"STORE_UNAVAILABLE","detail":"the node\'s own words"}')
}
