import http from 'node:http'
import net from 'node:net'

/** Where a connection breaks: after so many bytes of the answer, head and all, or after so many event frames. */
export interface Cut {
  after: number
  unit: 'bytes' | 'frames'
  /** A reset, or an end in the middle. */
  how: 'reset' | 'end'
}

export interface BrokenNetwork extends Disposable {
  readonly url: string
  /** How many connections it broke. */
  readonly cuts: number
}

/** A network before the server at `port` that asks at every connection where to break it; `undefined` lets it pass. */
export async function brokenNetwork(port: number, next: () => Cut | undefined): Promise<BrokenNetwork> {
  const sockets = new Set<net.Socket>()
  let cuts = 0

  const listener = net.createServer((client) => {
    const cut = next()
    const upstream = net.connect({ host: '127.0.0.1', port, noDelay: true })
    client.setNoDelay()
    for (const [socket, other] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      sockets.add(socket)
      socket.on('error', () => other.destroy())
      socket.on('close', () => {
        sockets.delete(socket)
        other.destroy()
      })
    }
    client.pipe(upstream)
    if (cut === undefined) {
      upstream.pipe(client)
      return
    }
    const finder = placeFinder(cut)
    upstream.on('data', (bytes: Buffer) => {
      const end = finder(bytes)
      if (end === undefined) {
        client.write(bytes)
        return
      }
      cuts++
      upstream.removeAllListeners('data')
      upstream.pause()
      client.write(bytes.subarray(0, end), () => {
        if (cut.how === 'reset') client.resetAndDestroy()
        else client.destroy()
      })
    })
  })

  await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${(listener.address() as net.AddressInfo).port}`,
    get cuts() {
      return cuts
    },
    [Symbol.dispose]() {
      listener.close()
      for (const socket of sockets) socket.destroy()
    },
  }
}

/** Says at which byte of the piece that it is given the connection breaks. */
function placeFinder({ after, unit }: Cut): (piece: Buffer) => number | undefined {
  let left = after
  if (unit === 'bytes') {
    return (piece) => {
      if (piece.length >= left) return left
      left -= piece.length
      return undefined
    }
  }
  // No head of a response has two line feeds in a row; every frame ends with them.
  let previous = 0
  return (piece) => {
    for (let i = 0; i < piece.length; i++) {
      if (piece[i] === 0x0a && previous === 0x0a && --left === 0) return i + 1
      previous = piece[i] as number
    }
    return undefined
  }
}

/** A proxy that understands event streams and changes what passes: for showing that somebody notices. */
export async function lyingProxy(port: number, lie: (blocks: string[]) => string[]): Promise<BrokenNetwork> {
  const server = http.createServer((request, response) => {
    const upstream = http.request(
      { host: '127.0.0.1', port, path: request.url, method: request.method, headers: request.headers, agent: false },
      (answer) => {
        let text = ''
        answer.setEncoding('utf8')
        answer.on('data', (chunk) => {
          text += chunk
        })
        answer.on('end', () => {
          const blocks = text.split(/(?<=\n\n)/)
          response.writeHead(answer.statusCode ?? 0, { 'content-type': answer.headers['content-type'] ?? '' })
          response.end(lie(blocks).join(''))
        })
      },
    )
    upstream.on('error', () => response.destroy())
    request.pipe(upstream)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as net.AddressInfo).port}`,
    cuts: 0,
    [Symbol.dispose]() {
      server.close()
      server.closeAllConnections()
    },
  }
}
