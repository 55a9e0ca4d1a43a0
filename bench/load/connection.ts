import net from 'node:net'

/** What becomes of one request. The bytes of `body` are only good until it returns. */
export interface Receiver {
  head(status: number, head: string): void
  body(bytes: Buffer, start: number, end: number): void
  end(): void
  /** The connection ended before the response did. */
  cut(reason: string): void
}

/** All sockets read into this one buffer: a read is handed on before the next one begins. */
const shared = Buffer.allocUnsafe(256 * 1024)

const LF = 10

/**
 * A keep-alive HTTP/1.1 client for one request at a time. It knows only what the servers of the benchmark send, and
 * shares the machine with them, so it makes no object for a chunk and copies nothing that came whole.
 */
export class Connection {
  readonly #port: number
  #socket: net.Socket | undefined
  #receiver: Receiver | undefined
  #state: 'head' | 'length' | 'chunk-size' | 'chunk' | 'chunk-end' | 'last-chunk-end' = 'head'
  #left = 0
  #closes = false
  #held: Buffer | undefined

  constructor(port: number) {
    this.#port = port
  }

  send(request: Buffer, receiver: Receiver): void {
    if (this.#receiver !== undefined) throw new Error('The connection is busy')
    this.#receiver = receiver
    this.#state = 'head'
    this.#socket ??= this.#connect()
    this.#socket.write(request)
  }

  /** Leaves without a word, as a client that crashed does. */
  destroy(): void {
    this.#receiver = undefined
    this.#socket?.destroy()
    this.#socket = undefined
  }

  #connect(): net.Socket {
    const socket = net.connect({
      port: this.#port,
      host: '127.0.0.1',
      noDelay: true,
      onread: {
        buffer: shared,
        callback: (length, bytes) => {
          if (socket === this.#socket) this.#read(bytes as Buffer, length)
          return true
        },
      },
    })
    let reason = 'the connection was closed'
    socket.on('error', (error) => {
      reason = error.message
    })
    socket.on('close', () => {
      if (socket !== this.#socket) return
      this.#socket = undefined
      this.#held = undefined
      const receiver = this.#receiver
      this.#receiver = undefined
      receiver?.cut(reason)
    })
    return socket
  }

  #read(arrived: Buffer, length: number): void {
    let bytes = arrived
    let end = length
    if (this.#held !== undefined) {
      bytes = Buffer.concat([this.#held, arrived.subarray(0, length)])
      end = bytes.length
      this.#held = undefined
    }
    let at = 0
    while (at < end) {
      const next = this.#step(bytes, at, end)
      if (next === -1) {
        this.#held = Buffer.from(bytes.subarray(at, end))
        return
      }
      at = next
    }
  }

  /** Takes what it can from `at` on and says where the next step begins; -1 when more bytes are needed. */
  #step(bytes: Buffer, at: number, end: number): number {
    switch (this.#state) {
      case 'head': {
        const stop = bytes.subarray(at, end).indexOf('\r\n\r\n')
        if (stop === -1) return -1
        this.#takeHead(bytes.toString('latin1', at, at + stop).toLowerCase())
        return at + stop + 4
      }
      case 'chunk-size': {
        let stop = at
        while (stop < end && bytes[stop] !== LF) stop++
        if (stop === end) return -1
        this.#left = Number.parseInt(bytes.toString('latin1', at, stop), 16)
        this.#state = this.#left === 0 ? 'last-chunk-end' : 'chunk'
        return stop + 1
      }
      case 'chunk-end':
        if (end - at < 2) return -1
        this.#state = 'chunk-size'
        return at + 2
      case 'last-chunk-end':
        if (end - at < 2) return -1
        this.#finish()
        return at + 2
      case 'chunk':
      case 'length': {
        const stop = Math.min(end, at + this.#left)
        this.#left -= stop - at
        this.#receiver?.body(bytes, at, stop)
        if (this.#left === 0) {
          if (this.#state === 'chunk') this.#state = 'chunk-end'
          else this.#finish()
        }
        return stop
      }
    }
  }

  #takeHead(head: string): void {
    const status = Number(head.slice(9, 12))
    this.#closes = head.includes('\r\nconnection: close')
    const length = /\r\ncontent-length: (\d+)/.exec(head)?.[1]
    this.#left = Number(length ?? 0)
    this.#state = length === undefined ? 'chunk-size' : 'length'
    this.#receiver?.head(status, head)
    if (this.#state === 'length' && this.#left === 0) this.#finish()
  }

  #finish(): void {
    const receiver = this.#receiver
    this.#receiver = undefined
    this.#state = 'head'
    if (this.#closes) {
      this.#socket?.destroy()
      this.#socket = undefined
    }
    receiver?.end()
  }
}
