import { endOf, modernized } from './event-frame.ts'
import type { EventLog, LogPage, Retention } from './event-log.ts'
import { isTerminal, type NewEvent } from './events.ts'
import { FrameBuffer } from './frame-buffer.ts'

/** A run of events of one turn, as whole frames: `first` to `last`, without a gap. */
export interface Chunk {
  first: number
  last: number
  turn: number
  bytes: Buffer
}

/** Where a log that is kept elsewhere begins here, and what has to happen before its events may be seen. */
export interface LogBacking {
  /** `seq` of the newest event that is kept. */
  lastSeq: number
  /** Takes what was appended; `show` makes it visible, in the order in which it was given. */
  keep(chunk: Chunk, show: () => void): void
}

/** A burst is made visible in pieces of about this size, so that one turn cannot hold back its own readers. */
const COMMIT_BYTES = 16 * 1024
/** A chunk of this size is not merged again, which keeps the copying linear. */
const MERGED_BYTES = 64 * 1024
/** So many small chunks in a row are merged: paced events would otherwise keep an object each. */
const MERGE_AFTER = 64

/**
 * The log of a session in memory.
 *
 * What a burst appends becomes one Buffer when the tick ends, and that Buffer is what every reader writes to its socket.
 * Places inside a chunk are found by searching for the `id` line, which JSON cannot contain, so no index is kept.
 */
export class MemoryEventLog implements EventLog {
  lastSeq = 0
  firstSeq = 1
  bytes = 0
  isLost = false
  #isSealed = false
  /** Chunks that were handed on and may not be seen yet. */
  #hidden = 0
  readonly #retention: Retention
  readonly #keep: LogBacking['keep'] | undefined
  readonly #chunks: Chunk[] = []
  readonly #pending = new FrameBuffer()
  #pendingFirst = 0
  #pendingTurn = 0
  #pendingTerminal = false
  #scheduled = false
  #smallChunks = 0
  /** Bytes at the start of the oldest chunk that are no longer retained. */
  #headOffset = 0
  #watchers: Set<() => void> | undefined

  /** Begins after `lastSeq`; without `keep`, what is appended may be seen at once. */
  constructor(retention: Retention, { lastSeq = 0, keep }: Partial<LogBacking> = {}) {
    this.#retention = retention
    this.#keep = keep
    this.lastSeq = lastSeq
    this.firstSeq = lastSeq + 1
  }

  get sealed(): boolean {
    return this.#isSealed && this.#hidden === 0
  }

  /** Something was appended that may not be seen yet. */
  get isAhead(): boolean {
    return this.#hidden > 0 || this.#pending.length > 0
  }

  /** Somebody waits for what comes next. */
  get isWatched(): boolean {
    return this.#watchers !== undefined
  }

  append(event: NewEvent, turn: number): number {
    // Numbered all the same, for whoever still talks; nobody hears it.
    if (this.isLost) return ++this.lastSeq
    if (this.#pending.length > 0 && turn !== this.#pendingTurn) this.#commit()
    const seq = this.lastSeq + 1
    const isFirst = this.#pending.length === 0
    // May throw for what JSON cannot say; then nothing has happened, and no number is missing.
    this.#pending.append(event, seq, turn)
    this.lastSeq = seq
    if (isFirst) {
      this.#pendingFirst = seq
      this.#pendingTurn = turn
    }
    if (event.type !== 'text_delta' && isTerminal(event)) this.#pendingTerminal = true
    // At its end a turn is all there at once: whoever is told that it is over can read it to the end.
    if (this.#pendingTerminal || this.#pending.length >= COMMIT_BYTES) this.#commit()
    else this.#schedule()
    return seq
  }

  read(after: number): LogPage | undefined {
    const chunk = this.#chunkWith(after + 1)
    if (chunk === undefined) return undefined
    if (after + 1 === chunk.first) return chunk
    const bytes = chunk.bytes.subarray(offsetOf(chunk, after + 1))
    return { bytes, turn: chunk.turn, last: chunk.last }
  }

  watch(listener: () => void): void {
    this.#watchers ??= new Set()
    this.#watchers.add(listener)
  }

  unwatch(listener: () => void): void {
    if (this.#watchers?.delete(listener) && this.#watchers.size === 0) this.#watchers = undefined
  }

  seal(): void {
    if (this.#isSealed) return
    this.#isSealed = true
    this.#commit()
    this.#wake()
  }

  /**
   * Readers write a burst in one go: it is committed before any I/O, but once the agent has nothing more to say. From a
   * microtask, since a tick that is asked for within a tick comes before the microtasks in which an agent runs.
   */
  #schedule(): void {
    if (this.#scheduled) return
    this.#scheduled = true
    queueMicrotask(() => process.nextTick(commitScheduled, this))
  }

  commitScheduled(): void {
    this.#scheduled = false
    this.#commit()
  }

  /** Hands on what was appended, without waiting for the end of the tick. */
  flush(): void {
    this.#commit()
  }

  /** Puts what is kept elsewhere before the oldest event that is here: the chunk that ends right there. */
  prepend(chunk: Chunk): void {
    const head = this.#chunks[0]
    if (head !== undefined && this.#headOffset > 0) {
      // What was taken off is no longer its beginning's business.
      this.#chunks[0] = { ...head, first: this.firstSeq, bytes: head.bytes.subarray(this.#headOffset) }
      this.#headOffset = 0
    }
    const bytes = modernized(chunk.bytes)
    this.#chunks.unshift({ ...chunk, bytes })
    this.firstSeq = chunk.first
    this.bytes += bytes.length
  }

  /** Takes in what another server has written after the newest event that is here. */
  ingest(chunk: Chunk): void {
    if (chunk.first <= this.lastSeq) return
    // What lies between is no longer retained: readers are told so.
    if (chunk.first > this.lastSeq + 1) this.#dropBefore(chunk.first)
    this.lastSeq = chunk.last
    this.#show({ ...chunk, bytes: modernized(chunk.bytes) }, false)
  }

  /** Takes back what was appended and not shown: the store refused it. Numbers go on after what is persisted. */
  rewind(): void {
    if (this.#pending.length > 0) this.#pending.take(this.bytes)
    this.#pendingTerminal = false
    this.#isSealed = false
    this.#hidden = 0
    this.lastSeq = this.#committedLast()
  }

  /** Another server goes on with the log: nothing more is said here, and readers have to come again. */
  abandon(): void {
    if (this.isLost) return
    this.isLost = true
    this.#wake()
  }

  #commit(): void {
    if (this.#pending.length === 0 || this.isLost) return
    const chunk = {
      first: this.#pendingFirst,
      last: this.lastSeq,
      turn: this.#pendingTurn,
      bytes: this.#pending.take(this.bytes),
    }
    const turnEnded = this.#pendingTerminal
    this.#pendingTerminal = false
    if (this.#keep === undefined) {
      this.#show(chunk, turnEnded)
      return
    }
    this.#hidden++
    this.#keep(chunk, () => {
      this.#hidden--
      this.#show(chunk, turnEnded)
    })
  }

  #show(chunk: Chunk, turnEnded: boolean): void {
    if (this.isLost) return
    this.#chunks.push(chunk)
    this.bytes += chunk.bytes.length
    this.#smallChunks++
    // Before trimming: a reader that keeps up loses nothing, however little is retained.
    this.#wake()
    this.#trim()
    if (turnEnded || this.#smallChunks >= MERGE_AFTER) this.#merge(chunk.turn)
  }

  #wake(): void {
    if (this.#watchers === undefined) return
    for (const listener of this.#watchers) listener()
  }

  #chunkWith(seq: number): Chunk | undefined {
    let low = 0
    let high = this.#chunks.length - 1
    while (low <= high) {
      const middle = (low + high) >>> 1
      const chunk = this.#chunks[middle] as Chunk
      if (seq < chunk.first) high = middle - 1
      else if (seq > chunk.last) low = middle + 1
      else return chunk
    }
    return undefined
  }

  #trim(): void {
    const surplus = this.#committedLast() - this.firstSeq + 1 - this.#retention.events
    if (surplus > 0) this.#dropBefore(this.firstSeq + surplus)
    while (this.bytes > this.#retention.bytes && this.#chunks.length > 0) {
      const head = this.#chunks[0] as Chunk
      const excess = this.bytes - this.#retention.bytes
      const end = head.bytes.indexOf('\n\n', Math.max(0, this.#headOffset + excess - 2))
      this.#dropBefore(1 + (end === -1 ? head.last : seqOfFrameTo(head.bytes, end)))
    }
  }

  #committedLast(): number {
    return this.#chunks[this.#chunks.length - 1]?.last ?? this.firstSeq - 1
  }

  #dropBefore(seq: number): void {
    for (let head = this.#chunks[0]; head !== undefined && head.last < seq; head = this.#chunks[0]) {
      this.bytes -= head.bytes.length - this.#headOffset
      this.#headOffset = 0
      this.#chunks.shift()
    }
    this.firstSeq = seq
    const head = this.#chunks[0]
    if (head === undefined || head.first === seq) return
    const offset = offsetOf(head, seq, this.#headOffset)
    this.bytes -= offset - this.#headOffset
    this.#headOffset = offset
  }

  /** Joins the newest chunks of a turn: an object each for paced events would weigh more than the events. */
  #merge(turn: number): void {
    this.#smallChunks = 0
    let from = this.#chunks.length
    let size = 0
    for (; from > 0; from--) {
      const chunk = this.#chunks[from - 1] as Chunk
      if (chunk.turn !== turn || chunk.bytes.length >= MERGED_BYTES) break
      size += chunk.bytes.length
    }
    const parts = this.#chunks.slice(from)
    const first = parts[0]
    if (first === undefined || parts.length === 1) return
    const skipped = from === 0 ? this.#headOffset : 0
    const bytes = areAdjacent(parts) ? view(first.bytes, skipped, size) : this.#copy(parts, skipped, size)
    if (from === 0) this.#headOffset = 0
    const last = this.#committedLast()
    this.#chunks.splice(from, parts.length, { first: Math.max(first.first, this.firstSeq), last, turn, bytes })
  }

  #copy(parts: Chunk[], skipped: number, size: number): Buffer {
    const bytes = Buffer.allocUnsafeSlow(size - skipped)
    let at = 0
    for (const [index, part] of parts.entries()) at += part.bytes.copy(bytes, at, index === 0 ? skipped : 0)
    // Nothing lies there any more; an idle session would keep the memory for nothing.
    this.#pending.leaveSegment()
    return bytes
  }
}

/** Whether the bytes of these chunks lie in one piece, in their order. */
function areAdjacent(chunks: Chunk[]): boolean {
  const first = (chunks[0] as Chunk).bytes
  let end = first.byteOffset
  return chunks.every(({ bytes }) => {
    const follows = bytes.buffer === first.buffer && bytes.byteOffset === end
    end += bytes.length
    return follows
  })
}

function view(bytes: Buffer, start: number, end: number): Buffer {
  return Buffer.from(bytes.buffer as ArrayBuffer, bytes.byteOffset + start, end - start)
}

function commitScheduled(log: MemoryEventLog): void {
  log.commitScheduled()
}

/** Where the frame of `seq` begins. */
function offsetOf(chunk: Chunk, seq: number, from = 0): number {
  return seq === chunk.first ? 0 : endOf(chunk.bytes, seq - 1, from)
}

/** The number in the `id` line that ends at `end`. */
function seqOfFrameTo(bytes: Buffer, end: number): number {
  return Number(bytes.toString('latin1', bytes.lastIndexOf(' ', end) + 1, end))
}
