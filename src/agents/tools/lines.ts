import type { Readable } from 'node:stream'

/** Tells each line of a stream that is not blank, without what is over `maxLength` characters; nothing more is kept. */
export function eachLine(stream: Readable, maxLength: number, tell: (line: string) => void): void {
  let rest = ''
  const tellOne = (line: string) => {
    if (line.trim() !== '') tell(line.slice(0, maxLength))
  }
  stream.setEncoding('utf8')
  stream.on('data', (chunk: string) => {
    const lines = (rest + chunk).split('\n')
    rest = (lines.pop() ?? '').slice(0, maxLength)
    for (const line of lines) tellOne(line)
  })
  stream.on('end', () => tellOne(rest))
}
