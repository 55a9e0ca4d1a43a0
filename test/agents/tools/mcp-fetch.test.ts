import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { ErrorCode, McpError } from '@modelcontextprotocol/sdk/types.js'
import { describe, expect, onTestFinished, test } from 'vitest'
import { isLost, MAX_MESSAGE_BYTES, MessageTooLongError, mcpFetch } from '../../../src/agents/tools/mcp-fetch.ts'
import { within } from '../../helpers/http.ts'

const STREAM = { 'content-type': 'text/event-stream' }
const JSON_TYPE = { 'content-type': 'application/json' }

type Answer = (response: http.ServerResponse, request: http.IncomingMessage) => void

/** What a client and a server say to each other through the fetch under test. */
async function between(...answers: Answer[]) {
  let count = 0
  const server = http.createServer((request, response) => {
    request.resume().on('end', () => answers[Math.min(count++, answers.length - 1)]?.(response, request))
  })
  await within('a server', new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve)))
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
  const seen = { gone: 0 }
  const fetch = mcpFetch(() => {
    seen.gone++
  })
  const post = (message: object) =>
    fetch(url, { method: 'POST', body: JSON.stringify({ jsonrpc: '2.0', ...message }), redirect: 'manual' })
  return { seen, post, get: (headers: Record<string, string>) => fetch(url, { method: 'GET', headers }) }
}

const CALL = { id: 7, method: 'tools/call' }
const event = (data: object) => `event: message\ndata: ${JSON.stringify(data)}\n\n`
const dataOf = (text: string) =>
  [...text.matchAll(/^data: (.*)$/gm)].map(([, data]) => JSON.parse(String(data)) as Record<string, unknown>)

function errorOf(data: Record<string, unknown> | undefined): McpError {
  const { code, message, data: more } = (data?.error ?? {}) as { code: number; message: string; data: unknown }
  return new McpError(code, message, more)
}

describe('a request that is answered with a stream', () => {
  test('has its answer first, whatever is said after it', async () => {
    const { post } = await between((response) => {
      response.writeHead(200, STREAM).end(event({ jsonrpc: '2.0', id: 7, result: {} }))
    })
    expect(dataOf(await (await post(CALL)).text())[0]).toEqual({ jsonrpc: '2.0', id: 7, result: {} })
  })

  test.each<[string, Answer]>([
    ['ends', (response) => void response.writeHead(200, STREAM).end(': nothing\n\n')],
    ['breaks off', (response) => void response.writeHead(200, STREAM).write('data: {"half', () => response.destroy())],
  ])('that %s without one has an error for it', async (_, answer) => {
    const { post } = await between(answer)
    const last = dataOf((await (await post(CALL)).text()).replace('data: {"half', '')).at(-1)
    expect(last).toMatchObject({ jsonrpc: '2.0', id: 7, error: { code: ErrorCode.ConnectionClosed } })
    expect(isLost(errorOf(last))).toBe(true)
  })

  test('with event ids that ends without one is for the client to take up again', async () => {
    const { post } = await between((response) => void response.writeHead(200, STREAM).end('id: 1\ndata: \n\n'))
    expect(await (await post(CALL)).text()).toBe('id: 1\ndata: \n\n')
  })

  test('with event ids that breaks off is for the client to take up again', async () => {
    const { post } = await between((response) => {
      response.writeHead(200, STREAM).write('id: 1\ndata: \n\n', () => response.destroy())
    })
    await expect((await post(CALL)).text()).rejects.toThrow()
  })

  test('is left once it is cancelled', async () => {
    let left = Promise.resolve()
    const { post } = await between(
      (response) => {
        left = new Promise((resolve) => response.on('close', resolve))
        response.writeHead(200, STREAM).flushHeaders()
      },
      (response) => void response.writeHead(202).end(),
    )
    const text = (await post(CALL)).text()
    await post({ method: 'notifications/cancelled', params: { requestId: 7 } })
    await within('the stream to be left', left)
    expect(dataOf(await text)).toHaveLength(1)
  })

  test('may be as long as it likes, message by message', async () => {
    const long = event({ jsonrpc: '2.0', method: 'notifications/message', params: 'x'.repeat(MAX_MESSAGE_BYTES / 4) })
    const { post } = await between((response) => {
      response.writeHead(200, STREAM).end(long.repeat(6) + event({ jsonrpc: '2.0', id: 7, result: {} }))
    })
    expect(dataOf(await (await post(CALL)).text())[6]).toMatchObject({ id: 7, result: {} })
  })

  test('with a message that is too long has an error for it', async () => {
    const { post } = await between((response) => {
      response.writeHead(200, STREAM).end(event({ id: 7, result: 'x'.repeat(MAX_MESSAGE_BYTES * 1.1) }))
    })
    const error = errorOf(dataOf(`\n${(await (await post(CALL)).text()).split('\n\n').at(-2)}`).at(-1))
    expect(error.message).toContain(`longer than ${MAX_MESSAGE_BYTES} bytes`)
    expect(isLost(error)).toBe(false)
  })
})

describe('a request that is answered with JSON', () => {
  test('has it as it is', async () => {
    const { post } = await between((response) => void response.writeHead(200, JSON_TYPE).end('{"id":7}'))
    expect(await (await post(CALL)).json()).toEqual({ id: 7 })
  })

  test('fails where that is too long', async () => {
    const { post } = await between((response) => {
      response.writeHead(200, JSON_TYPE).end(`"${'x'.repeat(MAX_MESSAGE_BYTES)}"`)
    })
    await expect((await post(CALL)).json()).rejects.toThrow(MessageTooLongError)
  })
})

test('a redirect is the client’s to judge', async () => {
  const { post } = await between((response) => void response.writeHead(307, { location: '/other' }).end('see there'))
  const { status, headers } = await post(CALL)
  expect([status, headers.get('location')]).toEqual([307, '/other'])
})

test('a stream that cannot be taken up again is the end of the connection', async () => {
  const { seen, get } = await between(
    (response) => void response.writeHead(404).end(),
    (response) => void response.writeHead(200, STREAM).end(),
    (response) => void response.writeHead(404).end(),
    (response) => void response.destroy(),
  )
  const resume = { 'last-event-id': '1' }
  await get({})
  expect(seen.gone).toBe(0)
  await get(resume)
  await get(resume)
  expect(seen.gone).toBe(0)
  await expect(get(resume)).rejects.toThrow('fetch failed')
  expect(seen.gone).toBe(1)
})
