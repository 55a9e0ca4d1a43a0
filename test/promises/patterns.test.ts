import { readdirSync, readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startServer, type TestServer } from '../helpers/server.ts'

/**
 * A pattern may take longer than its text is long when something that repeats without a bound is itself repeated. This is
 * the conservative form of that: no quantifier on a group that has an unbounded quantifier, or alternatives, within.
 * Says where; nothing, if nowhere.
 */
function nestedQuantifier(source: string): string | undefined {
  const groups: { start: number; repeats: boolean }[] = []
  for (let i = 0; i < source.length; i++) {
    const char = source[i]
    if (char === '\\') {
      i++
    } else if (char === '[') {
      for (i++; i < source.length && source[i] !== ']'; i++) if (source[i] === '\\') i++
    } else if (char === '(') {
      groups.push({ start: i, repeats: false })
    } else if (char === ')') {
      const group = groups.pop()
      const quantifier = /^(?:[*+]|\{\d+,(?:\d*)\}|\{\d+\})/.exec(source.slice(i + 1))?.[0]
      if (group?.repeats && quantifier !== undefined) return source.slice(group.start, i + 1 + quantifier.length)
      const outer = groups.at(-1)
      if (outer !== undefined && (group?.repeats || quantifier !== undefined)) outer.repeats = true
    } else if (char === '*' || char === '+' || (char === '{' && /^\{\d+,\}/.test(source.slice(i)))) {
      const inner = groups.at(-1)
      if (inner !== undefined) inner.repeats = true
    } else if (char === '|') {
      const inner = groups.at(-1)
      if (inner !== undefined) inner.repeats = true
    }
  }
  return undefined
}

/** Every `pattern` in a document. */
function patternsIn(value: unknown, path = ''): [path: string, pattern: string][] {
  if (typeof value !== 'object' || value === null) return []
  return Object.entries(value).flatMap(([key, item]): [string, string][] => {
    if (key === 'pattern' && typeof item === 'string') return [[path, item]]
    return patternsIn(item, `${path}/${key}`)
  })
}

/** Every regular expression in a source text: literals, by what may stand before one. */
function literalsIn(text: string): string[] {
  const code = text.replace(/\/\*[\s\S]*?\*\/|(?<=^|[\s;,{}()])\/\/[^\n]*/g, '')
  const literal =
    /(?:^|[=(,:[!&|?{};]|=>|return)\s*\/((?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\[\n*])(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\[\n])*)\/[dgimsuvy]*/gm
  return [...code.matchAll(literal)].map(([, source]) => source as string)
}

describe('the patterns that requests are held against', () => {
  let server: TestServer
  beforeAll(async () => {
    server = await startServer()
  })
  afterAll(() => server.close())

  test('of the schemas have no nested quantifiers', async () => {
    const patterns = patternsIn(await server.app.openapi())
    expect(patterns.length).toBeGreaterThan(2)
    const faults = patterns.map(([path, pattern]) => [path, nestedQuantifier(pattern)])
    expect(faults.filter(([, fault]) => fault !== undefined)).toEqual([])
  })

  test('of the source have no nested quantifiers', () => {
    const folder = new URL('../../src/', import.meta.url)
    const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((path) => path.endsWith('.ts'))
    const found = files.flatMap((path) =>
      literalsIn(readFileSync(new URL(path, folder), 'utf8')).map((source) => ({ path, source })),
    )
    // Enough of them to know that they are found.
    expect(found.length).toBeGreaterThan(15)
    expect(found.filter(({ source }) => nestedQuantifier(source) !== undefined)).toEqual([])
  })
})

describe('the rule', () => {
  test.each(['(a+)+', '(a*)*', '(\\w+\\s?)+$', '([a-z]+){2,}', '(?:a|ab)*', '(?:x(?:y+)z)*', '(a{2,})+', '((a+))*b'])(
    'objects to %s',
    (pattern) => {
      expect(nestedQuantifier(pattern)).toBeDefined()
    },
  )

  test.each([
    '^[^=]+=',
    '\\S',
    '^[\\x20-\\x7e]+$',
    '^(?:a+|b)$',
    '(?:ab)+',
    '(?:ab)?c+',
    '[(+*)]+',
    '\\(a+\\)+',
    '^\\d{1,3}(?:\\.\\d{1,3}){3}$',
  ])('has nothing against %s', (pattern) => {
    expect(nestedQuantifier(pattern)).toBeUndefined()
  })

  test('finds literals where they may stand, and takes no division or comment for one', () => {
    const text = [
      'const a = /x(y)+/g',
      'f(/[/]z/.test(b), c)',
      'const d = e / f / g // not /this/ one',
      '/* nor /that/ */ return /w\\/v/i',
    ].join('\n')
    expect(literalsIn(text)).toEqual(['x(y)+', '[/]z', 'w\\/v'])
  })
})
