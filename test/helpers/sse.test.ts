import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openStream } from './sse.ts'

/** The reader that judges all streams must itself be able to say no. */

let body = ''
let cut = false
const fake = http.createServer((_, response) => {
  response.writeHead(200, { 'content-type': 'text/event-stream' })
  response.write(body, () => {
    if (cut) response.destroy()
    else response.end()
  })
})
let url = ''

beforeAll(async () => {
  await new Promise<void>((resolve) => fake.listen(0, '127.0.0.1', resolve))
  url = `http://127.0.0.1:${(fake.address() as AddressInfo).port}`
})
afterAll(() => {
  fake.close()
})

const first = 'retry: 1000\nevent: a\ndata: {"type":"a","seq":1,"turn":1}\nid: 1\n\n'
const second = 'event: b\ndata: {"type":"b","seq":2,"turn":1}\nid: 2\n\n'

async function read(bytes: string, { destroyed = false } = {}) {
  body = bytes
  cut = destroyed
  const stream = await openStream(url)
  await stream.all()
  return stream
}

describe('the reader of the tests', () => {
  test('takes a stream that keeps all rules', async () => {
    const truncated = 'event: stream_truncated\ndata: {"type":"stream_truncated","missed_from":3,"missed_to":4}\n\n'
    const third = 'event: c\ndata: {"type":"c","seq":5,"turn":1}\nid: 5\n\n'
    const stream = await read(`${first}: ping\n: ping\n${second}${truncated}${third}`)
    expect(stream.end).toBe('clean')
    expect(stream.frames.map((frame) => [frame.id, frame.event])).toEqual([
      ['1', 'a'],
      ['2', 'b'],
      [undefined, 'stream_truncated'],
      ['5', 'c'],
    ])
    expect(stream.comments).toEqual([': ping', ': ping'])
  })

  test('tells a clean end from a broken one', async () => {
    expect((await read(first)).end).toBe('clean')
    expect((await read(first, { destroyed: true })).end).toBe('destroyed')
  })

  test.each<[string, string]>([
    ['CR LF', first.replaceAll('\n', '\r\n')],
    ['a lone CR', `${first}event: b\rid: 2\n\n`],
    ['no retry in the first block', second],
    ['a retry alone', `retry: 1000\n\n${second}`],
    ['another retry', first.replace('1000', '3000')],
    ['a second retry', first + first.replaceAll('1,', '2,').replace('id: 1', 'id: 2')],
    ['a comment inside a block', `${first}event: b\n: ping\ndata: {"type":"b","seq":2,"turn":1}\nid: 2\n\n`],
    ['a comment with a blank line', `${first}: ping\n\n${second}`],
    ['a number that is left out', first + second.replaceAll('2', '3')],
    ['a number that comes twice', first + first.replace('retry: 1000\n', '')],
    ['a number that goes back', first + second.replaceAll('2', '0')],
    ['an id that is not its seq', first + second.replace('id: 2', 'id: 3')],
    ['a name that is not its type', first + second.replace('event: b', 'event: c')],
    ['an event without a turn', first + second.replace(',"turn":1', '')],
    ['members in another order', first + second.replace('"type":"b","seq":2', '"seq":2,"type":"b"')],
    ['data before event', `${first}data: {"type":"b","seq":2,"turn":1}\nevent: b\nid: 2\n\n`],
    ['the id first', `${first}id: 2\nevent: b\ndata: {"type":"b","seq":2,"turn":1}\n\n`],
    ['a line separator in the data', first + second.replace('"turn":1', '"turn":1,"x":"\u2028"')],
    ['two lines of data', first + second.replace(',"seq"', '\ndata: ,"seq"')],
    ['data that is no JSON', first + second.replace('}', '')],
    ['an event that must have an id', first + second.replace('id: 2\n', '')],
    [
      'a gap that is announced wrongly',
      `${first}event: stream_truncated\ndata: {"type":"stream_truncated","missed_from":3,"missed_to":4}\n\n`,
    ],
    ['a clean end inside a block', `${first}event: b\nid: 2\n`],
    ['a byte order mark', `\ufeff${first}`],
  ])('refuses %s', async (_, bytes) => {
    await expect(read(bytes)).rejects.toThrow(/Framing/)
  })
})
