import net from 'node:net'
import { dechunk } from '../helpers/http.ts'
import { patience } from '../helpers/slowness.ts'

/** What came of bytes that somebody sent. */
export interface Reaction {
  /** Every response that came, in order. */
  responses: Response[]
  /** Bytes after the last whole response that are none. */
  rest: string
  /** The server ended the connection, or this end did so when it had seen enough. */
  end: 'closed by server' | 'stream' | 'silence'
}

interface Response {
  status: number
  headers: Record<string, string>
  body: string
}

/** Nothing is waited for longer than this; the server's own limits are far below. */
const PATIENCE_MS = patience(8_000)

/**
 * Sends bytes on a connection of their own and then says that there are no more. Resolves when the server has closed it,
 * or as soon as it streams events, which have no end.
 */
export function provoke(port: number, bytes: string | Buffer, { end = true } = {}): Promise<Reaction> {
  return new Promise((resolve, reject) => {
    // Half open: the server's answer to the end of the request is still to come.
    const socket = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true })
    let received = Buffer.alloc(0)
    const settle = (how: Reaction['end']) => {
      clearTimeout(timer)
      socket.destroy()
      resolve({ ...parse(received.toString('latin1')), end: how })
    }
    const timer = setTimeout(() => settle('silence'), PATIENCE_MS)
    socket.on('data', (chunk) => {
      received = Buffer.concat([received, chunk])
      if (received.includes('\r\ncontent-type: text/event-stream\r\n')) settle('stream')
    })
    // A server that refuses in the middle of a request resets what it did not read.
    socket.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ECONNREFUSED') reject(error)
    })
    socket.on('close', () => settle('closed by server'))
    socket.on('end', () => settle('closed by server'))
    socket.on('connect', () => {
      if (end) socket.end(bytes)
      else socket.write(bytes)
    })
  })
}

function parse(text: string): Pick<Reaction, 'responses' | 'rest'> {
  const responses: Response[] = []
  let rest = text
  for (;;) {
    const head = /^HTTP\/1\.1 (\d{3}) [^\r\n]*\r\n((?:[^\r\n]+\r\n)*)\r\n/.exec(rest)
    if (head === null) return { responses, rest }
    const headers = Object.fromEntries(
      (head[2] ?? '')
        .split('\r\n')
        .filter((line) => line !== '')
        .map((line) => [line.slice(0, line.indexOf(':')).toLowerCase(), line.slice(line.indexOf(':') + 1).trim()]),
    )
    const payload = Buffer.from(rest.slice(head[0].length), 'latin1')
    const chunked = headers['transfer-encoding'] === 'chunked' ? dechunk(payload) : undefined
    const length = chunked?.length ?? Math.min(Number(headers['content-length'] ?? 0), payload.length)
    const body = (chunked?.body ?? payload.subarray(0, length)).toString()
    rest = payload.subarray(length).toString('latin1')
    // 1xx is not an answer.
    if (Number(head[1]) >= 200) responses.push({ status: Number(head[1]), headers, body })
  }
}

/** What no answer may tell. */
const INTERNALS =
  /\n\s+at |node_modules|node:|file:\/\/|\.[cm]?[jt]s:\d+|\/work\/|(Type|Reference|Range|Syntax)Error|FST_|HPE_|ERR_/

/**
 * What is wrong with how a server took a request that need not make sense: anything but success, a problem document
 * below 500, or a closed connection.
 */
export function reactionFaults({ responses, rest, end }: Reaction): string[] {
  const faults: string[] = []
  if (end === 'silence') faults.push('silence')
  if (rest !== '' && end !== 'stream') faults.push(`bytes that are no response: ${JSON.stringify(rest.slice(0, 200))}`)
  for (const { status, headers, body } of responses) {
    // What is not here is said to be not here: the one answer above 499 that is no fault.
    if (status >= 500 && status !== 501) faults.push(`${status} ${body}`)
    if (status < 400) continue
    if (!/^application\/problem\+json(; ?charset=utf-8)?$/.test(headers['content-type'] ?? '')) {
      faults.push(`${status} of type ${headers['content-type']}`)
      continue
    }
    if (body === '') continue
    try {
      const problem = JSON.parse(body) as Record<string, unknown>
      const type = `urn:suricate:problem:${String(problem.code).toLowerCase().replaceAll('_', '-')}`
      if (problem.status !== status || problem.type !== type || !problem.title || !problem.detail) {
        faults.push(`${status} with ${body}`)
      }
    } catch {
      faults.push(`${status} whose body is no JSON: ${body}`)
    }
    if (INTERNALS.test(body)) faults.push(`${status} that tells of the inside: ${body}`)
  }
  return faults
}

/** A request as bytes. `body` may be anything; its length is told truly unless `headers` say otherwise. */
export function request(
  method: string,
  path: string,
  { headers = {}, body }: { headers?: Record<string, string>; body?: string | Buffer } = {},
): Buffer {
  const payload = body === undefined ? undefined : Buffer.from(body)
  const all: Record<string, string> = {
    Host: 'localhost',
    ...(payload === undefined ? {} : { 'Content-Type': 'application/json', 'Content-Length': String(payload.length) }),
    Connection: 'close',
    ...headers,
  }
  const lines = Object.entries(all)
    .filter(([, value]) => value !== '')
    .map(([name, value]) => `${name}: ${value}\r\n`)
  const head = Buffer.from(`${method} ${path} HTTP/1.1\r\n${lines.join('')}\r\n`, 'latin1')
  return payload === undefined ? head : Buffer.concat([head, payload])
}
