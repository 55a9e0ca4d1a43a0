import { expect, test } from 'vitest'
import { decodeFrames } from '../../src/core/event-frame.ts'
import { MemoryEventLog } from '../../src/core/memory-event-log.ts'
import { chunkOf, deltas } from '../helpers/fake-store.ts'

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
