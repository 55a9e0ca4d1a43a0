import net, { type AddressInfo, type Socket } from 'node:net'

/** One direction of one connection. Bytes wait here for their time, or for a path that passes them on again. */
interface Lane {
  readonly to: Socket
  readonly towardsNode: boolean
  readonly held: { bytes: Buffer; due: number }[]
  /** Its sender has gone. */
  isOver: boolean
}

/**
 * The network between a node and its database, as a test wants it: whole, slow, cut, or half open, when it takes bytes
 * and delivers none. What a half-open network holds is delivered once it is mended, as TCP would do it.
 */
export class BrokenPath {
  readonly url: string
  readonly #listener: net.Server
  readonly #lanes = new Set<Lane>()
  readonly #sockets = new Set<Socket>()
  #isCut = false
  /** In which direction nothing passes. */
  #frozen: 'none' | 'node' | 'both' = 'none'
  #delayMs = 0
  #answersToLose = 0

  private constructor(url: string, listener: net.Server) {
    this.url = url
    this.#listener = listener
  }

  /** A path to the database at `url`; whoever connects to its own `url` goes through it. */
  static async open(url: string): Promise<BrokenPath> {
    const listener = net.createServer()
    await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve))
    const through = new URL(url)
    through.port = String((listener.address() as AddressInfo).port)
    const path = new BrokenPath(through.href, listener)
    listener.on('connection', (node) => path.#connect(node, Number(new URL(url).port)))
    return path
  }

  /** Ends all connections, and every new one, until the path is mended. */
  cut(): void {
    this.#isCut = true
    this.#destroyAll()
  }

  /** Takes bytes and delivers none: in both directions, or only those that go to the node. */
  freeze(direction: 'node' | 'both' = 'both'): void {
    this.#frozen = direction
  }

  /** Delivers everything so much later. */
  slow(ms: number): void {
    this.#delayMs = ms
  }

  /**
   * Drops the next `count` answers of the database to something that it was sent from now on, and ends their
   * connections: what was asked for has been done, and whoever asked does not know.
   */
  loseAnswers(count: number): void {
    this.#answersToLose = count
  }

  /** Answers that are still to be lost. */
  get answersToLose(): number {
    return this.#answersToLose
  }

  /** All passes again. */
  mend(): void {
    this.#isCut = false
    this.#frozen = 'none'
    this.#delayMs = 0
    this.#answersToLose = 0
    for (const lane of this.#lanes) this.#flush(lane)
  }

  close(): void {
    this.#listener.close()
    this.#destroyAll()
  }

  #destroyAll(): void {
    for (const socket of this.#sockets) socket.destroy()
    this.#lanes.clear()
  }

  #connect(node: Socket, port: number): void {
    if (this.#isCut) {
      node.on('error', () => {}).destroy()
      return
    }
    const database = net.connect({ host: '127.0.0.1', port, noDelay: true })
    node.setNoDelay()
    /** Something was sent since answers are being lost. */
    let isAsked = false
    this.#carry(node, database, false, () => {
      if (this.#answersToLose > 0) isAsked = true
      return true
    })
    this.#carry(database, node, true, () => {
      if (!isAsked || this.#answersToLose === 0) return true
      this.#answersToLose--
      node.destroy()
      database.destroy()
      return false
    })
  }

  /** Brings bytes from one socket to the other; `passes` is asked about each piece. There is no backpressure. */
  #carry(from: Socket, to: Socket, towardsNode: boolean, passes: () => boolean): void {
    const lane: Lane = { to, towardsNode, held: [], isOver: false }
    this.#lanes.add(lane)
    this.#sockets.add(from)
    from.on('data', (bytes: Buffer) => {
      if (!passes()) return
      lane.held.push({ bytes, due: performance.now() + this.#delayMs })
      if (this.#delayMs === 0) this.#flush(lane)
      else setTimeout(() => this.#flush(lane), this.#delayMs + 1)
    })
    from.on('error', () => {})
    from.on('close', () => {
      this.#sockets.delete(from)
      lane.isOver = true
      this.#flush(lane)
    })
  }

  #flush(lane: Lane): void {
    if (this.#frozen === 'both' || (this.#frozen === 'node' && lane.towardsNode)) return
    for (let first = lane.held[0]; first !== undefined; first = lane.held[0]) {
      // Its own timer comes back for it.
      if (first.due > performance.now()) return
      lane.held.shift()
      lane.to.write(first.bytes)
    }
    if (!lane.isOver) return
    this.#lanes.delete(lane)
    lane.to.end()
  }
}
