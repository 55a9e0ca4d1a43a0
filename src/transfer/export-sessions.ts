import { createHash } from 'node:crypto'
import type { Writable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { DurableStore, SessionRow } from '../core/durable-store.ts'
import { counted, FORMAT, FORMAT_VERSION, faultOf, TransferError } from './export-format.ts'

/** So many rows are read at a time. */
const ROWS = 100
/** A line is no longer than about this, unless one row alone is. */
const LINE_LENGTH = 1024 * 1024

/** Writes every session of the store, the archived ones too. Resolves with how many there were. */
export async function exportSessions(store: DurableStore, out: Writable): Promise<number> {
  let sessions = 0
  const hash = createHash('sha256')
  async function* dump(): AsyncGenerator<string> {
    const head = { format: FORMAT, version: FORMAT_VERSION, created_at: new Date().toISOString() }
    for await (const line of linesOf(store, head, () => sessions++)) {
      hash.update(line)
      yield line
    }
    yield `${JSON.stringify({ sessions, sha256: hash.digest('hex') })}\n`
  }
  try {
    // Standard output cannot be ended.
    await pipeline(dump, out, { end: false })
  } catch (error) {
    throw new TransferError(`The export is not whole, it ended after ${counted(sessions)}: ${faultOf(error)}`)
  }
  return sessions
}

async function* linesOf(store: DurableStore, head: object, done: () => void): AsyncGenerator<string> {
  yield `${JSON.stringify(head)}\n`
  let page = await store.allSessions(0, ROWS)
  while (page.rows.length > 0) {
    for (const row of page.rows) {
      yield `${JSON.stringify({ session: row })}\n`
      yield* partsOf(store, row)
      done()
    }
    page = await store.allSessions(page.last, ROWS)
  }
}

async function* partsOf(store: DurableStore, { id, turnCount, messageCount, lastSeq }: SessionRow) {
  for (let offset = 0; offset < turnCount; offset += ROWS) {
    yield* sliced(await store.turns(id, { offset, limit: ROWS }), (turns) => `{"turns":${turns}}`)
  }
  for (let offset = 0; offset < messageCount; offset += ROWS) {
    const messages = await store.messages(id, { offset, limit: ROWS })
    yield* sliced(messages, (added, at) => `{"messages":{"from":${offset + at},"added":${added}}}`)
  }
  let before = lastSeq + 1
  for (;;) {
    // The newest first, as stores read them.
    const chunks = await store.chunks(id, { after: 0, before, maxBytes: LINE_LENGTH })
    const oldest = chunks.at(-1)
    if (oldest === undefined) break
    const rows = chunks.map(({ first, last, turn, bytes }) => ({ first, last, turn, frames: bytes.toString() }))
    yield* sliced(rows, (chunks) => `{"chunks":${chunks}}`)
    before = oldest.first
  }
  yield* sliced(await store.interactions(id), (interactions) => `{"interactions":${interactions}}`)
}

/** Lines of bounded length; `line` gets an array as JSON, and where in `rows` it begins. */
function* sliced(rows: readonly unknown[], line: (slice: string, at: number) => string): Generator<string> {
  let slice: string[] = []
  let length = 0
  let at = 0
  for (const row of rows) {
    const json = JSON.stringify(row)
    if (slice.length > 0 && length + json.length > LINE_LENGTH) {
      yield `${line(`[${slice.join(',')}]`, at)}\n`
      at += slice.length
      slice = []
      length = 0
    }
    slice.push(json)
    length += json.length
  }
  if (slice.length > 0) yield `${line(`[${slice.join(',')}]`, at)}\n`
}
