import { encodeEvent, toJsonLine } from './event-frame.ts'
import type { NewEvent } from './events.ts'

const CAPACITY = 32 * 1024
/** Buffers that are not in use are kept for the next burst, this many at most. */
const SPARE_MAX = 64
/** What is collected in small pieces shares memory, this much at a time. */
const SEGMENT_BYTES = 64 * 1024
const spare: Buffer[] = []

const DELTA = Buffer.from('event: text_delta\ndata: {"type":"text_delta","seq":')
const TURN = Buffer.from(',"turn":')
const TEXT = Buffer.from(',"delta":')
const ID = Buffer.from('}\nid: ')
const END = Buffer.from('\n\n')
/** Room for all of a `text_delta` frame but its text. */
const ENVELOPE_BYTES = 192
/** No character takes more bytes than this in JSON: `\u0000`. */
const ESCAPED_BYTES = 6
/** Up to here numbers are exact in the arithmetic below. */
const MAX_SMALL = 2 ** 31 - 1

/**
 * Collects the frames of a burst as bytes.
 *
 * A `text_delta` is written digit by digit and letter by letter: strings that are put together and then encoded cost
 * two to four times as much, most of it garbage. All other events are encoded as text.
 */
export class FrameBuffer {
  length = 0
  #bytes: Buffer | undefined
  #segment: Buffer | undefined
  #used = 0

  append(event: NewEvent, seq: number, turn: number): void {
    if (event.type === 'text_delta' && seq <= MAX_SMALL && turn <= MAX_SMALL) this.#appendDelta(event.delta, seq, turn)
    else this.#appendText(encodeEvent(event, seq, turn))
  }

  /**
   * Everything that was collected; empties this one. Follows what was taken before in the same memory where there is
   * room: fresh memory for each event of a paced turn costs more than the event. `retained` bounds what may lie unused.
   */
  take(retained: number): Buffer {
    const bytes = this.#bytes as Buffer
    const { length } = this
    let segment = this.#segment
    if (segment === undefined || segment.length - this.#used < length) {
      segment = Buffer.allocUnsafeSlow(Math.max(length, Math.min(SEGMENT_BYTES, retained)))
      this.#used = 0
    }
    bytes.copy(segment, this.#used, 0, length)
    const end = this.#used + length
    const taken = segment.length === length ? segment : segment.subarray(this.#used, end)
    this.#segment = end === segment.length ? undefined : segment
    this.#used = end
    this.length = 0
    this.#bytes = undefined
    if (bytes.length === CAPACITY && spare.length < SPARE_MAX) spare.push(bytes)
    return taken
  }

  /** What is taken next does not follow what was taken before. */
  leaveSegment(): void {
    this.#segment = undefined
  }

  #appendDelta(text: string, seq: number, turn: number): void {
    const bytes = this.#room(ENVELOPE_BYTES + text.length * ESCAPED_BYTES)
    let at = copy(DELTA, bytes, this.length)
    at = writeDigits(seq, bytes, at)
    at = copy(TURN, bytes, at)
    at = writeDigits(turn, bytes, at)
    at = copy(TEXT, bytes, at)
    at = writeJsonString(text, bytes, at)
    at = copy(ID, bytes, at)
    at = writeDigits(seq, bytes, at)
    this.length = copy(END, bytes, at)
  }

  #appendText(frame: string): void {
    const bytes = this.#room(frame.length * 3)
    this.length += bytes.write(frame, this.length)
  }

  #room(size: number): Buffer {
    const bytes = this.#bytes ?? spare.pop() ?? Buffer.allocUnsafeSlow(CAPACITY)
    this.#bytes = bytes
    if (this.length + size <= bytes.length) return bytes
    const larger = Buffer.allocUnsafeSlow(Math.max(bytes.length * 2, this.length + size))
    bytes.copy(larger, 0, 0, this.length)
    this.#bytes = larger
    return larger
  }
}

/** For a dozen bytes a loop is quicker than a call that leaves JavaScript. */
function copy(from: Buffer, to: Buffer, at: number): number {
  for (let i = 0; i < from.length; i++) to[at + i] = from[i] as number
  return at + from.length
}

function writeDigits(value: number, bytes: Buffer, at: number): number {
  let end = at + 1
  for (let rest = value; rest >= 10; rest = (rest / 10) | 0) end++
  let rest = value
  for (let i = end - 1; i >= at; i--) {
    bytes[i] = 48 + (rest % 10)
    rest = (rest / 10) | 0
  }
  return end
}

/** Printable ASCII as it is; anything else as JSON writes it. */
function writeJsonString(text: string, bytes: Buffer, start: number): number {
  let at = start
  bytes[at++] = 0x22
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if (code < 0x20 || code > 0x7e || code === 0x22 || code === 0x5c) {
      return start + bytes.write(toJsonLine(text), start)
    }
    bytes[at++] = code
  }
  bytes[at++] = 0x22
  return at
}
