import { fstatSync, writeSync } from 'node:fs'
import { Socket } from 'node:net'
import { isatty, ReadStream } from 'node:tty'

const STDOUT = 1
/** Log lines that may wait for a slow reader; more are dropped. */
const MAX_WAITING_BYTES = 8_388_608

/**
 * The log's lines on standard output. A reader of the log that is slow or gone costs lines of the log and nothing else: no
 * write blocks the process, and none of them is tried again at its exit.
 */
export class LogOutput {
  /** Absent for a file, which takes what is written at once. */
  readonly #stream: Socket | undefined
  #isLost = false
  #dropped = 0

  /** `onDropped` hears how many lines were dropped, once there is space for more. */
  constructor(onDropped: (lines: number) => void) {
    // What an agent prints goes to the same reader.
    for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {})
    this.#stream = openStream()
    this.#stream?.on('error', () => {
      this.#isLost = true
    })
    this.#stream?.on('drain', () => {
      const dropped = this.#dropped
      this.#dropped = 0
      if (dropped > 0) onDropped(dropped)
    })
  }

  write(line: string): void {
    if (this.#stream === undefined) writeToFile(line)
    else if (this.#stream.writableLength > MAX_WAITING_BYTES) this.#dropped += 1
    else if (!this.#isLost) this.#stream.write(line)
  }

  /** Resolves once every line has been written or is lost, and after `ms` at the latest. */
  flushed(ms: number): Promise<void> {
    return new Promise((resolve) => {
      if (this.#isLost || this.#stream === undefined) return resolve()
      this.#stream.write('', () => resolve())
      setTimeout(resolve, ms)
    })
  }
}

/** A stream of our own: those of `process` block the whole process while a pipe or a terminal is full. */
function openStream(): Socket | undefined {
  // Not a `WriteStream`, which blocks.
  if (isatty(STDOUT)) return new ReadStream(STDOUT)
  const file = fstatSync(STDOUT)
  return file.isFIFO() || file.isSocket() ? new Socket({ fd: STDOUT, readable: false, writable: true }) : undefined
}

function writeToFile(line: string): void {
  try {
    writeSync(STDOUT, line)
  } catch {
    // A full disk may have space for the next one.
  }
}
