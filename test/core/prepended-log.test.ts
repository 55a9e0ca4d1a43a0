import { expect, test } from 'vitest'
import { decodeFrames } from '../../src/core/event-frame.ts'
import { MemoryEventLog } from '../../src/core/memory-event-log.ts'
import { chunkOf, deltas } from '../helpers/fake-store.ts'

/** A chunk as version 0.1 stored it. */
function oldChunk(first: number, said: readonly string[]) {
  const frames = said.map((delta, at) => {
    const event = { type: 'text_delta', seq: first + at, turn: 1, delta }
    return `id: ${first + at}\nevent: text_delta\ndata: ${JSON.stringify(event)}\n\n`
  })
  return { first, last: first + said.length - 1, turn: 1, bytes: Buffer.from(frames.join('')) }
}

test('frames that version 0.1 stored are read in the form of today, from any place', () => {
  const log = new MemoryEventLog({ events: 100, bytes: 1_000_000 }, { lastSeq: 4, keep: (_, show) => show() })
  log.ingest(oldChunk(5, ['e\u2028', 'id: 6\n\nid: 7\n', 'g']))
  log.prepend(oldChunk(1, ['a', 'b\u0085', 'ä', 'd']))
  const frame = (seq: number, json: string) =>
    `event: text_delta\ndata: {"type":"text_delta","seq":${seq},"turn":1,"delta":"${json}"}\nid: ${seq}\n\n`
  expect(log.read(1)?.bytes.toString()).toBe(frame(2, 'b\\u0085') + frame(3, 'ä') + frame(4, 'd'))
  expect(log.read(4)?.bytes.toString()).toBe(frame(5, 'e\\u2028') + frame(6, 'id: 6\\n\\nid: 7\\n') + frame(7, 'g'))
  expect(log.read(6)?.bytes.toString()).toBe(frame(7, 'g'))
  expect(whole(log).bytes).toBe(log.bytes)
})

function whole(log: MemoryEventLog): { text: string; bytes: number } {
  let text = ''
  let bytes = 0
  let position = log.firstSeq - 1
  for (let page = log.read(position); page !== undefined; page = log.read(position)) {
    for (const event of decodeFrames(page.bytes)) if (event.type === 'text_delta') text += event.delta
    bytes += page.bytes.length
    position = page.last
  }
  return { text, bytes }
}

test('what retention took off a chunk is taken off once, when older events come back before it', () => {
  const log = new MemoryEventLog({ events: 4, bytes: 1_000_000 }, { lastSeq: 0, keep: (_, show) => show() })
  log.ingest(chunkOf(1, deltas('abcd')))
  log.ingest(chunkOf(5, deltas('ef')))
  expect([log.firstSeq, whole(log).text]).toEqual([3, 'cdef'])
  log.prepend(chunkOf(1, deltas('ab')))
  expect([log.firstSeq, whole(log)]).toEqual([1, { text: 'abcdef', bytes: log.bytes }])
  for (const [i, letter] of [...'ghijklm'].entries()) {
    log.ingest(chunkOf(7 + i, deltas(letter)))
    expect(whole(log).bytes).toBe(log.bytes)
  }
  expect(whole(log).text).toBe('jklm')
})
