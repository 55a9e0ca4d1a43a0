import { createHash } from 'node:crypto'
import type { DurableStore, InteractionRow, SessionRow, TurnRow } from '../core/durable-store.ts'
import type { Chunk } from '../core/memory-event-log.ts'
import type { Message } from '../core/transcript.ts'
import {
  counted,
  type ExportLine,
  FORMAT,
  FORMAT_VERSION,
  faultOf,
  isExportLine,
  TransferError,
} from './export-format.ts'

/** More than any row has, and less than a text can hold. */
const MAX_LINE_BYTES = 256 * 1024 * 1024
const NEWLINE = 10

export interface Imported {
  imported: number
  skipped: number
}

/** One session as far as it has been read. */
interface Draft {
  row: SessionRow
  /** It is there already: what comes of it is read over. */
  isSkipped: boolean
  turns: TurnRow[]
  messages: Message[]
  chunks: Chunk[]
  interactions: InteractionRow[]
}

/**
 * Takes an export into a store. A session is one commit, so that it is there whole or not at all; those that came before a
 * mistake stay. `note` gets a sentence for each session that is left out.
 */
export async function importSessions(
  store: DurableStore,
  input: AsyncIterable<Uint8Array>,
  note: (sentence: string) => void,
): Promise<Imported> {
  const reader = new ExportReader(store, note)
  try {
    for await (const line of linesOf(input)) await reader.take(line)
    reader.assertWhole()
  } catch (error) {
    const reason = error instanceof TransferError ? error.message : faultOf(error)
    const { imported } = reader.result
    const rest =
      imported === 0
        ? 'nothing was imported'
        : `${counted(imported)} imported before that ${imported === 1 ? 'stays' : 'stay'}`
    throw new TransferError(`${reason}; ${rest}`)
  }
  return reader.result
}

class ExportReader {
  readonly result: Imported = { imported: 0, skipped: 0 }
  readonly #store: DurableStore
  readonly #note: (sentence: string) => void
  readonly #hash = createHash('sha256')
  #line = 0
  #sessions = 0
  #draft: Draft | undefined
  #isOver = false

  constructor(store: DurableStore, note: (sentence: string) => void) {
    this.#store = store
    this.#note = note
  }

  async take(bytes: Buffer): Promise<void> {
    this.#line++
    if (this.#isOver) throw new TransferError(`Line ${this.#line} comes after the last line of the export`)
    const value = this.#parse(bytes)
    if (this.#line === 1) assertHead(value)
    else if (!isExportLine(value)) throw new TransferError(`Line ${this.#line} is not a line of an export`)
    else if ('sha256' in value) await this.#end(value)
    else if ('session' in value) await this.#begin(value.session)
    else this.#add(value)
    this.#hash.update(bytes)
  }

  assertWhole(): void {
    if (this.#line === 0) throw new TransferError('There is no export on standard input')
    if (!this.#isOver) throw new TransferError(`The export is cut off: it has no last line after line ${this.#line}`)
  }

  #parse(bytes: Buffer): unknown {
    try {
      return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
    } catch {
      const isCut = this.#line > 1 && bytes.at(-1) !== NEWLINE
      throw new TransferError(
        isCut ? `The export is cut off in the middle of line ${this.#line}` : `Line ${this.#line} is not JSON`,
      )
    }
  }

  async #begin(row: SessionRow): Promise<void> {
    await this.#keep()
    this.#sessions++
    const reason = await this.#reasonToSkip(row)
    if (reason !== undefined) {
      this.result.skipped++
      this.#note(`skipped ${row.id}: ${reason}`)
    }
    const isSkipped = reason !== undefined
    this.#draft = { row, isSkipped, turns: [], messages: [], chunks: [], interactions: [] }
  }

  async #reasonToSkip({ id, isArchived, lastSeq, metadata }: SessionRow): Promise<string | undefined> {
    const there = await this.#store.session(id)
    if (there?.isArchived === false) return 'it is already there'
    const seen = await this.#store.highestSeq(id)
    if (seen > lastSeq) return `it had ${seen} events there, and has ${lastSeq} in the export`
    const { comms_name: name } = metadata
    const namesake = isArchived || name === undefined ? undefined : await this.#store.named(name)
    return namesake === undefined ? undefined : `its name "${name}" is that of ${namesake.id}`
  }

  #add(part: Exclude<ExportLine, { session: unknown } | { sha256: unknown }>): void {
    const draft = this.#draft
    if (draft === undefined) throw new TransferError(`Line ${this.#line} belongs to no session`)
    if (draft.isSkipped) return
    if ('turns' in part) draft.turns.push(...part.turns)
    else if ('interactions' in part) draft.interactions.push(...part.interactions)
    else if ('chunks' in part) {
      for (const { frames, ...range } of part.chunks) draft.chunks.push({ ...range, bytes: Buffer.from(frames) })
    } else {
      const { from, added } = part.messages
      if (from !== draft.messages.length) {
        throw new TransferError(`Messages are missing before line ${this.#line}`)
      }
      draft.messages.push(...added)
    }
  }

  /** Writes the session that was read last, if there is one. */
  async #keep(): Promise<void> {
    const draft = this.#draft
    this.#draft = undefined
    if (draft === undefined || draft.isSkipped) return
    const { row, turns, messages, chunks, interactions } = draft
    if (turns.length !== row.turnCount || messages.length !== row.messageCount) {
      throw new TransferError(`Session ${row.id} is not whole before line ${this.#line}`)
    }
    const refused = await this.#store.commit([
      {
        isNew: true,
        epoch: 1,
        // What the source has kept is kept; the next server trims it as its settings say.
        retain: { events: Number.MAX_SAFE_INTEGER, bytes: Number.MAX_SAFE_INTEGER },
        row,
        hasOnlyGrown: false,
        turns,
        // It was not spent here.
        spent: [],
        messages: { from: 0, added: messages },
        chunks: chunks.sort((a, b) => a.first - b.first),
        interactions,
        keys: [],
      },
    ])
    if (refused.length === 0) this.result.imported++
    else {
      this.#note(`skipped ${row.id}: it, or its name, came there meanwhile`)
      this.result.skipped++
    }
  }

  async #end({ sessions, sha256 }: Extract<ExportLine, { sha256: unknown }>): Promise<void> {
    if (sha256 !== this.#hash.copy().digest('hex') || sessions !== this.#sessions) {
      throw new TransferError('The export was altered: it does not have the checksum that its last line gives')
    }
    await this.#keep()
    this.#isOver = true
  }
}

function assertHead(value: unknown): void {
  const { format, version } = (value ?? {}) as { format?: unknown; version?: unknown }
  if (format !== FORMAT) throw new TransferError('Line 1 does not say that this is an export of Suricate')
  if (version === FORMAT_VERSION) return
  throw new TransferError(
    `This is an export of version ${JSON.stringify(version)}, and this Suricate reads version ${FORMAT_VERSION}`,
  )
}

/** Lines with their ends; the last may have none. */
async function* linesOf(input: AsyncIterable<Uint8Array>): AsyncGenerator<Buffer> {
  let parts: Uint8Array[] = []
  let size = 0
  for await (const chunk of input) {
    let start = 0
    for (let end = chunk.indexOf(NEWLINE); end !== -1; end = chunk.indexOf(NEWLINE, start)) {
      yield Buffer.concat([...parts, chunk.subarray(start, end + 1)])
      parts = []
      size = 0
      start = end + 1
    }
    parts.push(chunk.subarray(start))
    size += chunk.length - start
    if (size > MAX_LINE_BYTES) throw new TransferError('A line is longer than any of an export')
  }
  if (size > 0) yield Buffer.concat(parts)
}
