import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { decodeFrames, encodeEvent } from '../../src/core/event-frame.ts'
import type { EventLog, Retention } from '../../src/core/event-log.ts'
import type { NewEvent } from '../../src/core/events.ts'
import type { SessionStore } from '../../src/core/session-store.ts'

const AMPLE: Retention = { events: 100_000, bytes: 64 * 1024 * 1024 }
const SESSION = '0199d3c0-0000-7000-8000-000000000000'

/** What any store has to do, whatever it keeps its events in. `open` is called for every test. */
export function storeConformance(name: string, open: (retention: Retention) => SessionStore): void {
  const newLog = (retention: Partial<Retention> = {}) => open({ ...AMPLE, ...retention }).openLog(SESSION)

  describe(`the log of a ${name} store`, () => {
    test('begins empty', () => {
      const log = newLog()
      expect(stateOf(log)).toEqual({ lastSeq: 0, firstSeq: 1, bytes: 0, sealed: false })
      expect(log.read(0)).toBeUndefined()
    })

    test('numbers events from 1 without gaps, and says so at once [R47]', () => {
      const log = newLog()
      expect([say(log, 'a'), say(log, 'b'), say(log, 'c', 2)]).toEqual([1, 2, 3])
      expect(log.lastSeq).toBe(3)
    })

    test('shows what was appended within the tick, as the frames that every reader gets', async () => {
      const log = newLog()
      say(log, 'a')
      say(log, 'b')
      await nextTick()
      const text = framesOf([delta('a'), 1], [delta('b'), 1])
      expect(readAll(log, 0)).toBe(text)
      expect(log.bytes).toBe(Buffer.byteLength(text))
    })

    test('reads from any place to the end, and says how far that was [R48]', async () => {
      const log = newLog()
      for (let i = 1; i <= 10; i++) say(log, String(i), i < 6 ? 1 : 2)
      await nextTick()
      for (let after = 0; after <= 10; after++) {
        expect(seqsOf(readAll(log, after))).toEqual(range(after + 1, 10))
      }
      expect(log.read(10)).toBeUndefined()
    })

    test('never puts two turns on one page', async () => {
      const log = newLog()
      for (const turn of [1, 1, 0, 0, 2, 2, 3]) say(log, 'x', turn)
      await nextTick()
      for (let after = 0; after < 7; after++) {
        const page = log.read(after)
        const events = decodeFrames(page?.bytes ?? Buffer.alloc(0)) as { turn: number; seq: number }[]
        expect(new Set(events.map((event) => event.turn)).size).toBe(1)
        expect(events.at(-1)?.seq).toBe(page?.last)
      }
    })

    test('calls a listener after what was appended can be read, and not after it left', async () => {
      const log = newLog()
      const seen: number[] = []
      const listener = () => seen.push(seqsOf(readAll(log, 0)).length)
      log.watch(listener)
      say(log, 'a')
      await nextTick()
      say(log, 'b')
      await nextTick()
      log.unwatch(listener)
      say(log, 'c')
      await nextTick()
      expect(seen).toEqual([1, 2])
    })

    test('calls every listener, also when one of them leaves while they are called', async () => {
      const log = newLog()
      const called: string[] = []
      const first = () => {
        called.push('first')
        log.unwatch(first)
      }
      log.watch(first)
      log.watch(() => called.push('second'))
      say(log, 'a')
      await nextTick()
      say(log, 'b')
      await nextTick()
      expect(called).toEqual(['first', 'second', 'second'])
    })

    test('has no trouble with a listener that never came or left before', () => {
      const log = newLog()
      log.unwatch(() => {})
      log.seal()
    })

    test('shows everything when it is sealed, and tells its listeners', () => {
      const log = newLog()
      const sealed: boolean[] = []
      log.watch(() => sealed.push(log.sealed))
      say(log, 'a')
      log.seal()
      expect(seqsOf(readAll(log, 0))).toEqual([1])
      expect(sealed.at(-1)).toBe(true)
    })

    test('can be sealed twice', () => {
      const log = newLog()
      let calls = 0
      log.watch(() => calls++)
      log.seal()
      log.seal()
      expect({ calls, ...stateOf(log) }).toEqual({ calls: 1, lastSeq: 0, firstSeq: 1, bytes: 0, sealed: true })
    })

    test('wakes readers of a log that is sealed with nothing new in it', async () => {
      const log = newLog()
      say(log, 'a')
      await nextTick()
      let calls = 0
      log.watch(() => calls++)
      log.seal()
      expect(calls).toBe(1)
    })

    test('keeps so many events and no more', async () => {
      const log = newLog({ events: 3 })
      for (let i = 1; i <= 5; i++) {
        say(log, String(i))
        await nextTick()
        expect([log.firstSeq, log.lastSeq]).toEqual([Math.max(1, i - 2), i])
      }
      expect(seqsOf(readAll(log, 2))).toEqual([3, 4, 5])
    })

    test('keeps so many bytes and no more', async () => {
      const size = Buffer.byteLength(encodeEvent(delta('x'), 1, 1))
      const log = newLog({ bytes: 3 * size })
      for (let i = 1; i <= 5; i++) {
        say(log, 'x')
        await nextTick()
        expect([log.firstSeq, log.lastSeq, log.bytes]).toEqual([Math.max(1, i - 2), i, Math.min(i, 3) * size])
      }
    })

    test('gives up no more than it has to for a surplus of one byte', async () => {
      const frames = [delta('x'), delta('x'), delta('x')].map((event, at) => encodeEvent(event, at + 1, 1))
      const log = newLog({ bytes: Buffer.byteLength(frames.join('')) - 1 })
      for (const _ of frames) say(log, 'x')
      await nextTick()
      expect(log.firstSeq).toBe(2)
      expect(readAll(log, 1)).toBe(frames.slice(1).join(''))
    })

    test('keeps nothing of an event that is larger than all it may keep, and goes on after it', async () => {
      const log = newLog({ bytes: 200 })
      say(log, 'x'.repeat(500))
      await nextTick()
      expect(stateOf(log)).toMatchObject({ lastSeq: 1, firstSeq: 2, bytes: 0 })
      expect(log.read(1)).toBeUndefined()
      say(log, 'y')
      await nextTick()
      expect(seqsOf(readAll(log, 1))).toEqual([2])
    })

    test('loses nothing for a reader that keeps up, however little is kept [R53]', async () => {
      const log = newLog({ events: 1, bytes: 100 })
      let position = 0
      let text = ''
      let missed = 0
      log.watch(() => {
        if (position + 1 < log.firstSeq) missed++
        for (let page = log.read(position); page !== undefined; page = log.read(position)) {
          text += page.bytes.toString()
          position = page.last
        }
      })
      for (let i = 1; i <= 300; i++) {
        say(log, 'x'.repeat(i % 7), 1 + Math.floor(i / 50))
        if (i % 11 === 0) await nextTick()
      }
      log.seal()
      expect(seqsOf(text)).toEqual(range(1, 300))
      expect(missed).toBe(0)
    })

    test('leaves what a slow reader has in its hands as it was', async () => {
      const log = newLog({ events: 20 })
      const pages: { bytes: Buffer; copy: string }[] = []
      for (let i = 1; i <= 200; i++) {
        say(log, String(i))
        if (i % 3 !== 0) continue
        await nextTick()
        const page = log.read(Math.max(log.firstSeq - 1, i - 10))
        if (page !== undefined) pages.push({ bytes: page.bytes, copy: page.bytes.toString() })
      }
      log.append({ type: 'run_failed', session_id: SESSION, error: 'x', code: 'AGENT_ERROR' }, 1)
      await nextTick()
      expect(pages.length).toBeGreaterThan(50)
      for (const { bytes, copy } of pages) expect(bytes.toString()).toBe(copy)
    })

    test('has no hole where an event could not be written down', async () => {
      const log = newLog()
      say(log, 'a')
      const impossible: NewEvent = { type: 'tool_call_requested', id: '1', name: 'n', args: 1n }
      expect(() => log.append(impossible, 1)).toThrow()
      expect(log.lastSeq).toBe(1)
      expect(say(log, 'b')).toBe(2)
      await nextTick()
      expect(seqsOf(readAll(log, 0))).toEqual([1, 2])
      expect(seqsOf(readAll(log, 1))).toEqual([2])
    })

    test('is not another session’s log', async () => {
      const store = open(AMPLE)
      const one = store.openLog(SESSION)
      const other = store.openLog('0199d3c0-0000-7000-8000-000000000001')
      say(one, 'a')
      say(other, 'b')
      say(one, 'c')
      await nextTick()
      expect(readAll(one, 0)).toBe(framesOf([delta('a'), 1], [delta('c'), 1]))
      expect(readAll(other, 0)).toBe(framesOf([delta('b'), 1]))
    })

    test('gives back what was appended, from every place that is retained, in any order of events', async () => {
      const sizes = fc.oneof(
        { weight: 9, arbitrary: fc.nat({ max: 60 }) },
        { weight: 1, arbitrary: fc.nat({ max: 40_000 }) },
      )
      const step = fc.record({
        size: sizes,
        turnEnds: fc.boolean(),
        tick: fc.boolean(),
      })
      const retention = fc.record({
        events: fc.integer({ min: 1, max: 200 }),
        bytes: fc.integer({ min: 1, max: 60_000 }),
      })
      await fc.assert(
        fc.asyncProperty(
          fc.oneof(retention, fc.constant(AMPLE)),
          fc.array(step, { maxLength: 120, size: 'max' }),
          async (retention, steps) => {
            const log = newLog(retention)
            const frames: string[] = []
            let turn = 1
            for (const { size, turnEnds, tick } of steps) {
              const event = turnEnds && size < 60 ? terminal : delta('x'.repeat(size))
              frames.push(encodeEvent(event, frames.length + 1, turn))
              expect(log.append(event, turn)).toBe(frames.length)
              if (event === terminal) turn++
              if (!tick) continue
              await nextTick()
              check(log, frames, retention)
            }
            log.seal()
            check(log, frames, retention)
          },
        ),
        { numRuns: 60 },
      )
    })
  })
}

/** A log that has made everything visible holds exactly the newest frames that fit. */
function check(log: EventLog, frames: readonly string[], { events, bytes }: Retention): void {
  let first = frames.length + 1
  let size = 0
  while (first > 1 && frames.length - first + 2 <= events) {
    const next = Buffer.byteLength(frames[first - 2] ?? '')
    if (size + next > bytes) break
    size += next
    first--
  }
  expect(stateOf(log)).toMatchObject({ firstSeq: first, lastSeq: frames.length, bytes: size })
  const places = new Set([first - 1, first, Math.floor((first + frames.length) / 2), frames.length - 1])
  for (const after of places) {
    if (after < first - 1 || after > frames.length) continue
    expect(readAll(log, after) === frames.slice(after).join('')).toBe(true)
  }
}

const terminal: NewEvent = { type: 'run_failed', session_id: SESSION, error: 'x', code: 'AGENT_ERROR' }

function delta(text: string): NewEvent {
  return { type: 'text_delta', delta: text }
}

function say(log: EventLog, text: string, turn = 1): number {
  return log.append(delta(text), turn)
}

function framesOf(...events: [NewEvent, number][]): string {
  return events.map(([event, turn], at) => encodeEvent(event, at + 1, turn)).join('')
}

function readAll(log: EventLog, after: number): string {
  let text = ''
  for (let page = log.read(after); page !== undefined; page = log.read(page.last)) text += page.bytes.toString()
  return text
}

function seqsOf(text: string): number[] {
  return decodeFrames(Buffer.from(text)).map((event) => (event as { seq: number }).seq)
}

function stateOf({ lastSeq, firstSeq, bytes, sealed }: EventLog) {
  return { lastSeq, firstSeq, bytes, sealed }
}

function range(from: number, to: number): number[] {
  return Array.from({ length: Math.max(0, to - from + 1) }, (_, i) => from + i)
}

/** What an append of this tick has become by then. */
function nextTick(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}
