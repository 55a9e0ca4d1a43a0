/** One line of a script. */
export type Directive =
  | { do: 'say'; text: string }
  | { do: 'deltas'; count: number; bytes: number }
  | { do: 'wait'; ms: number }
  | { do: 'think'; text: string }
  | { do: 'tool'; name: string; args: string }
  | { do: 'usage'; input: number; output: number }
  | { do: 'fail'; message: string }
  | { do: 'throw' }
  | { do: 'hang' }
  | { do: 'deaf' }

/** Bounds that keep a demo from becoming a load test. */
const MAX_DELTAS = 1_000_000
const MAX_DELTA_BYTES = 65_536
const MAX_WAIT_MS = 600_000

const patterns: readonly [RegExp, (match: RegExpMatchArray) => Directive | undefined][] = [
  [/^say (.*)$/s, ([, text = '']) => ({ do: 'say', text })],
  [/^think (.*)$/s, ([, text = '']) => ({ do: 'think', text })],
  [
    /^deltas (\d{1,7})(?: (\d{1,5}))?$/,
    ([, count, bytes = '8']) => within({ do: 'deltas', count: Number(count), bytes: Number(bytes) }),
  ],
  [/^wait (\d{1,6})$/, ([, ms]) => (Number(ms) <= MAX_WAIT_MS ? { do: 'wait', ms: Number(ms) } : undefined)],
  [/^tool (\S+)(?: (.*))?$/s, ([, name = '', args = '{}']) => ({ do: 'tool', name, args })],
  [
    /^usage (\d{1,9}) (\d{1,9})$/,
    ([, input, output]) => ({ do: 'usage', input: Number(input), output: Number(output) }),
  ],
  [/^fail(?: (.*))?$/s, ([, message = '']) => ({ do: 'fail', message: message || 'The script failed' })],
  [/^throw$/, () => ({ do: 'throw' })],
  [/^hang$/, () => ({ do: 'hang' })],
  [/^deaf$/, () => ({ do: 'deaf' })],
]

function within(directive: Extract<Directive, { do: 'deltas' }>): Directive | undefined {
  return directive.count <= MAX_DELTAS && directive.bytes >= 1 && directive.bytes <= MAX_DELTA_BYTES
    ? directive
    : undefined
}

/** Reads a prompt as a script. Empty lines mean nothing; a line that is no directive is said as it is. */
export function parseScript(prompt: string): Directive[] {
  const directives: Directive[] = []
  for (const line of prompt.split(/\r\n|\n|\r/)) {
    if (line.trim() === '') continue
    directives.push(parseLine(line.trimEnd()) ?? parseLine(line.trim()) ?? { do: 'say', text: line })
  }
  return directives
}

function parseLine(line: string): Directive | undefined {
  for (const [pattern, make] of patterns) {
    const match = line.match(pattern)
    if (match !== null) return make(match)
  }
  return undefined
}
