import { PassThrough } from 'node:stream'
import { expect, test } from 'vitest'
import { eachLine } from '../../../src/agents/tools/lines.ts'
import { within } from '../../helpers/http.ts'

async function linesOf(chunks: readonly (string | Buffer)[], maxLength = 100): Promise<string[]> {
  const stream = new PassThrough()
  const lines: string[] = []
  eachLine(stream, maxLength, (line) => lines.push(line))
  const end = new Promise<void>((resolve) => stream.on('end', resolve))
  for (const chunk of chunks) stream.write(chunk)
  stream.end()
  await within('the end of the stream', end)
  return lines
}

const [first, second] = [Buffer.from('é').subarray(0, 1), Buffer.from('é').subarray(1)] as const

test.each<[string, (string | Buffer)[], string[]]>([
  ['however they come', ['one\ntw', 'o\nthr', 'ee\n'], ['one', 'two', 'three']],
  ['with characters that come in halves', ['caf', first, second, '\n'], ['café']],
  ['without those that are blank', ['\n', ' \n', 'one\n\n'], ['one']],
  ['and the last one without its end', ['one\ntwo'], ['one', 'two']],
])('lines are told %s', async (_, chunks, expected) => {
  expect(await linesOf(chunks)).toEqual(expected)
})

test('a line without end is cut, and the next is whole', async () => {
  expect(await linesOf(['x'.repeat(8), 'y'.repeat(8), 'z'.repeat(8), '\nnext\n'], 10)).toEqual(['xxxxxxxxyy', 'next'])
  expect(await linesOf([`${'x'.repeat(20)}\n`], 10)).toEqual(['x'.repeat(10)])
})
