import net from 'node:net'

/**
 * Where the answer of a connection is torn off: after so many event frames (0: after its head) and so many bytes more.
 * Without `frames` the bytes are counted from the beginning of the answer. What came before the cut arrives, unless it
 * is a `reset`, which may overtake it.
 */
export interface Cut {
  frames?: number
  bytes?: number
  reset?: boolean
}

export interface CuttingProxy {
  url: string
  /** The heads of all requests that came through, one a connection. */
  readonly requests: readonly { line: string; lastEventId: string | undefined }[]
  /** Bytes of the answer that the newest connection passed on. */
  readonly passed: number
}

/**
 * A network that breaks: it stands before the server at `port` and breaks its first connections, each where `cuts` says;
 * all later ones pass whole. It goes with the `using` block it stands in.
 */
export async function cuttingProxy(port: number, cuts: readonly Cut[]): Promise<CuttingProxy & Disposable> {
  const requests: { line: string; lastEventId: string | undefined }[] = []
  const sockets = new Set<net.Socket>()
  const waiting = [...cuts]
  let passed = 0

  const listener = net.createServer((client) => {
    const cut = waiting.shift()
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

    let head = ''
    client.on('data', (bytes) => {
      if (!head.includes('\r\n\r\n')) {
        head += bytes.toString('latin1')
        if (head.includes('\r\n\r\n')) requests.push(read(head))
      }
      upstream.write(bytes)
    })

    let answer = ''
    upstream.on('data', (bytes) => {
      const from = answer.length
      answer += bytes.toString('latin1')
      const end = endOf(answer, cut)
      passed = end ?? answer.length
      if (end === undefined) {
        client.write(bytes)
        return
      }
      upstream.pause()
      const rest = bytes.subarray(0, end - from)
      if (cut?.reset) client.write(rest, () => client.resetAndDestroy())
      else client.end(rest, () => client.destroy())
    })
  })

  await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve))
  const address = listener.address() as net.AddressInfo
  return {
    url: `http://127.0.0.1:${address.port}`,
    requests,
    get passed() {
      return passed
    },
    [Symbol.dispose]() {
      listener.close()
      for (const socket of sockets) socket.destroy()
    },
  }
}

function read(head: string): { line: string; lastEventId: string | undefined } {
  const [line = ''] = head.split(' HTTP/1.1\r\n', 1)
  return { line, lastEventId: /\r\nlast-event-id: (.*)\r\n/i.exec(head)?.[1] }
}

/** Where an answer is to end, once it is that long. No head of a response has two line feeds in a row, every frame has. */
function endOf(answer: string, cut: Cut | undefined): number | undefined {
  if (cut === undefined) return undefined
  const { frames, bytes = 0 } = cut
  let at = 0
  if (frames !== undefined) {
    for (const mark of ['\r\n\r\n', ...Array<string>(frames).fill('\n\n')]) {
      const found = answer.indexOf(mark, at)
      if (found === -1) return undefined
      at = found + mark.length
    }
  }
  return answer.length >= at + bytes ? at + bytes : undefined
}
