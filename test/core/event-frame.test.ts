import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { decodeFrames, encodeEvent, encodeNotice } from '../../src/core/event-frame.ts'
import type { LoggedEvent, NewEvent, StreamNotice } from '../../src/core/events.ts'
import { FrameBuffer } from '../../src/core/frame-buffer.ts'
import { toUsage } from '../../src/core/usage.ts'
import { type Decoder, decoders, eventSource, type Message } from './sse-decoders.ts'

const ID = '0199d3c0-0000-7000-8000-000000000000'

/** Text that has broken one framing or another, mixed with any other text. */
const nasty = fc.oneof(
  fc.string({ unit: 'binary' }),
  fc
    .array(
      fc.constantFrom(
        '\r',
        '\n',
        '\r\n',
        '\n\n',
        '\n\nid: 7\n',
        '\ndata: x',
        'event: done',
        ': ping',
        '\u2028',
        '\u2029',
        '\u0085',
        '\0',
        '\ufeff',
        '\ud800',
        '\udfff',
        '😀',
        '\\n',
        '"',
        '\v\f\u001c',
        'x',
      ),
      { maxLength: 12 },
    )
    .map((parts) => parts.join('')),
  // Any sequence of UTF-16 code units, so lone surrogates too.
  fc.array(fc.nat({ max: 0xffff }), { maxLength: 20 }).map((units) => String.fromCharCode(...units)),
)

const json = fc.jsonValue({ stringUnit: 'binary' })

const newEvents: fc.Arbitrary<NewEvent> = fc.oneof(
  nasty.map((delta): NewEvent => ({ type: 'text_delta', delta })),
  nasty.map((content): NewEvent => ({ type: 'text_complete', content })),
  nasty.map((prompt): NewEvent => ({ type: 'run_started', session_id: ID, prompt })),
  nasty.map((error): NewEvent => ({ type: 'run_failed', session_id: ID, error, code: 'AGENT_ERROR' })),
  fc
    .tuple(nasty, nasty, fc.oneof(json, nasty))
    .map(([id, name, args]): NewEvent => ({ type: 'tool_call_requested', id, name, args })),
  fc.nat().map(
    (tokens): NewEvent => ({
      type: 'turn_completed',
      stop_reason: 'end_turn',
      usage: toUsage({ input_tokens: tokens, output_tokens: 1 }),
    }),
  ),
)

const numbered = fc.array(fc.tuple(newEvents, fc.nat({ max: 3 })), { minLength: 1, maxLength: 6 })

/** What a client has to see: JSON cannot carry a lone surrogate as a character, only escaped, and -0 not at all. */
function stamped(event: NewEvent, seq: number, turn: number): unknown {
  return JSON.parse(JSON.stringify({ ...event, seq, turn }))
}

function frames(events: readonly [NewEvent, number][], first = 1): string {
  return events.map(([event, turn], at) => encodeEvent(event, first + at, turn)).join('')
}

function inPieces(bytes: Buffer, cuts: readonly number[]): Buffer[] {
  const places = [...new Set(cuts.map((cut) => cut % (bytes.length + 1)))].sort((a, b) => a - b)
  return [0, ...places].map((place, at) => bytes.subarray(place, places[at] ?? bytes.length))
}

describe('a frame', () => {
  test('is an event, one line of data and an id, each ended by a line feed, and a blank line [R49]', () => {
    expect(encodeEvent({ type: 'text_delta', delta: 'a\nb' }, 7, 2)).toBe(
      'event: text_delta\ndata: {"type":"text_delta","seq":7,"turn":2,"delta":"a\\nb"}\nid: 7\n\n',
    )
    expect(encodeEvent({ type: 'text_complete', content: 'a\r\nb' }, 8, 2)).toBe(
      'event: text_complete\ndata: {"type":"text_complete","seq":8,"turn":2,"content":"a\\r\\nb"}\nid: 8\n\n',
    )
  })

  test('of a notice has no id, so that a cursor stays where it is', () => {
    expect(encodeNotice({ type: 'done', session_id: ID })).toBe(
      `event: done\ndata: {"type":"done","session_id":"${ID}"}\n\n`,
    )
  })

  test('comes back as the event that went in, whatever its text is [R49]', () => {
    fc.assert(
      fc.property(numbered, fc.integer({ min: 1, max: 2 ** 40 }), (events, first) => {
        const decoded = decodeFrames(Buffer.from(frames(events, first)))
        expect(decoded).toEqual(events.map(([event, turn], at) => stamped(event, first + at, turn)))
      }),
      { numRuns: 300 },
    )
  })

  test('contains no line end but its own, so that no text can forge a field', () => {
    fc.assert(
      fc.property(newEvents, (event) => {
        const frame = encodeEvent(event, 5, 1)
        expect(frame).toMatch(/^event: [a-z_]+\ndata: [^\r\n\u0085\u2028\u2029]+\nid: 5\n\n$/)
        // Well-formed: nothing is replaced on the way into bytes and back.
        expect(Buffer.from(frame).toString()).toBe(frame)
      }),
      { numRuns: 300 },
    )
  })
})

describe('a buffer of frames', () => {
  const places = fc.oneof(
    fc.integer({ min: 1, max: 1_000 }),
    fc.integer({ min: 2 ** 31 - 3, max: 2 ** 31 + 3 }),
    fc.maxSafeInteger().filter((seq) => seq > 0),
  )
  const long = fc
    .tuple(nasty, fc.nat({ max: 40_000 }))
    .map(([end, length]): NewEvent => ({ type: 'text_delta', delta: 'x'.repeat(length) + end }))

  test('holds byte for byte what each event’s frame is', () => {
    const events = fc.array(
      fc.tuple(fc.oneof({ weight: 9, arbitrary: newEvents }, { weight: 1, arbitrary: long }), places, places),
      { minLength: 1, maxLength: 30 },
    )
    fc.assert(
      fc.property(events, fc.boolean(), fc.nat(2_000), (events, together, retained) => {
        const buffer = new FrameBuffer()
        const kept: [Buffer, string][] = []
        let text = ''
        for (const [event, seq, turn] of events) {
          buffer.append(event, seq, turn)
          text += encodeEvent(event, seq, turn)
          expect(buffer.length).toBe(Buffer.byteLength(text))
          if (together) continue
          kept.push([buffer.take(retained), text])
          text = ''
        }
        // Looked at last: what is taken later must not be written over it.
        for (const [bytes, frame] of kept) expect(bytes.toString()).toBe(frame)
        if (together) expect(buffer.take(0).equals(Buffer.from(text))).toBe(true)
        expect(buffer.length).toBe(0)
      }),
      { numRuns: 200 },
    )
  })

  test('writes all digits of a place', () => {
    const buffer = new FrameBuffer()
    for (const seq of [1, 9, 10, 99, 100, 2 ** 31 - 1, 2 ** 31, Number.MAX_SAFE_INTEGER]) {
      buffer.append({ type: 'text_delta', delta: 'x' }, seq, 0)
      expect(decodeFrames(buffer.take(0))).toEqual([{ type: 'text_delta', seq, turn: 0, delta: 'x' }])
    }
  })

  test('gives away memory that it does not use again', () => {
    const buffer = new FrameBuffer()
    buffer.append({ type: 'text_delta', delta: 'first' }, 1, 1)
    const first = buffer.take(0)
    const before = first.toString()
    buffer.append({ type: 'text_delta', delta: 'other' }, 2, 1)
    new FrameBuffer().append({ type: 'text_delta', delta: 'third' }, 3, 1)
    expect(first.toString()).toBe(before)
    expect(first.buffer.byteLength).toBe(first.length)
  })

  test('is as it was after an event that JSON cannot say', () => {
    const buffer = new FrameBuffer()
    buffer.append({ type: 'text_delta', delta: 'a' }, 1, 1)
    expect(() => buffer.append({ type: 'tool_call_requested', id: '1', name: 'n', args: 1n }, 2, 1)).toThrow()
    buffer.append({ type: 'text_delta', delta: 'b' }, 2, 1)
    expect(decodeFrames(buffer.take(0)).map((event) => 'seq' in event && event.seq)).toEqual([1, 2])
  })
})

describe.each(Object.entries(decoders))('%s', (_, decode) => {
  test('sees exactly the events of a stream, however it is cut to pieces', async () => {
    await fc.assert(
      fc.asyncProperty(numbered, fc.array(fc.nat(), { maxLength: 8 }), (events, cuts) => holds(decode, events, cuts)),
      { numRuns: 150 },
    )
  })

  test('keeps its cursor over a notice', async () => {
    const notices: StreamNotice[] = [
      { type: 'heartbeat' },
      { type: 'stream_truncated', reason: 'retention', missed_from: 2, missed_to: 4 },
    ]
    const text = encodeEvent({ type: 'text_delta', delta: 'x' }, 1, 1) + notices.map(encodeNotice).join('')
    const messages = await decode([Buffer.from(text)])
    expect(messages.map(({ id, event }) => [id, event])).toEqual([
      ['1', 'text_delta'],
      ['1', 'heartbeat'],
      ['1', 'stream_truncated'],
    ])
  })
})

test('the EventSource class sees exactly the events of a stream', async () => {
  await fc.assert(
    fc.asyncProperty(numbered, fc.array(fc.nat(), { maxLength: 8 }), (events, cuts) =>
      holds(eventSource(events.map(([event]) => event.type)), events, cuts),
    ),
    { numRuns: 40 },
  )
})

async function holds(decode: Decoder, events: readonly [NewEvent, number][], cuts: readonly number[]): Promise<void> {
  const messages: Message[] = await decode(inPieces(Buffer.from(frames(events)), cuts))
  expect(messages.map(({ id, event }) => ({ id, event }))).toEqual(
    events.map(([event], at) => ({ id: String(at + 1), event: event.type })),
  )
  const seen = messages.map(({ data }) => JSON.parse(data) as LoggedEvent)
  expect(seen).toEqual(events.map(([event, turn], at) => stamped(event, at + 1, turn)))
}
