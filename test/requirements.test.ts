import { readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'
import { citations, type Requirement, requirements } from './requirements.ts'

const all: [string, Requirement][] = Object.entries(requirements)

/** Titles that end in a tag: the first argument of a call, as they stand in the file. */
function titles(source: string): string[] {
  return [...source.matchAll(/\(\s*(['"`])([^\n]*?\[R\d+(?: R\d+)*\])\1,/g)].map(([, , title = '']) => title)
}

/** A file that holds items to account leaves out none of its tests. */
function skips(source: string): boolean {
  return /\b(?:test|it|describe)\b[.\w]*\.(?:skip|skipIf|runIf|todo|only|fails)\b/.test(source)
}

function testFiles(): string[] {
  return readdirSync(import.meta.dirname, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts') && !path.basename(file).startsWith('requirements'))
    .map((file) => path.join(import.meta.dirname, file))
}

/** What is wrong between the items and the titles that name them. */
function gaps(items: readonly [string, Requirement][], sources: readonly string[]): string[] {
  const cited = new Set<string>()
  const found: string[] = []
  for (const source of sources) {
    const ids = titles(source).flatMap(citations)
    for (const id of ids) cited.add(id)
    if (ids.length > 0 && skips(source)) found.push(`a test is left out beside ${ids[0]}`)
    // Outside of a title a tag says nothing: it is a mistake, or an old one.
    if (citations(source).length > ids.length) found.push('a tag stands outside of a title')
  }
  const known = new Set(items.map(([id]) => id))
  for (const [id, { later }] of items) {
    if (later === undefined && !cited.has(id)) found.push(`${id} is not tested`)
    if (later !== undefined && cited.has(id)) found.push(`${id} is tested and yet for later`)
  }
  for (const id of cited) if (!known.has(id)) found.push(`${id} is no requirement`)
  return found
}

describe('the requirements', () => {
  test('are each held to account by a test that names them, or are for later', () => {
    expect(
      gaps(
        all,
        testFiles().map((file) => readFileSync(file, 'utf8')),
      ),
    ).toEqual([])
  })

  test('are numbered without a gap, and say something each', () => {
    expect(all.map(([id]) => id)).toEqual(all.map((_, at) => `R${at + 1}`))
    for (const [id, { says, later }] of all) {
      expect(says, id).toMatch(/^\S.{20,}[^.\s]$/)
      expect(later ?? 'because', id).toMatch(/\S/)
    }
    expect(new Set(all.map(([, { says }]) => says)).size).toBe(all.length)
  })
})

describe('the gate fails for', () => {
  const one: [string, Requirement][] = [['R1', { tag: 'seed', says: 'x' }]]
  const postponed: [string, Requirement][] = [['R1', { tag: 'seed', says: 'x', later: 'why' }]]
  // Put together here, so that this file cites nothing.
  const tag = (ids: string) => `[${ids}]`
  const line = (call: string, ids: string) => `${call}('a sentence ${tag(ids)}', () => {})`

  test.each<[string, [string, Requirement][], string[], string[]]>([
    ['an item that nobody names', one, [''], ['R1 is not tested']],
    ['a tag in a comment', one, [line('test', 'R1'), `// ${tag('R1')}`], ['a tag stands outside of a title']],
    ['a test that is left out', one, [line('test.skip', 'R1')], ['a test is left out beside R1']],
    [
      'a test that is left out beside it',
      one,
      [`${line('test', 'R1')}\n${line('test.only', 'R1')}`],
      ['a test is left out beside R1'],
    ],
    ['an item that is tested and yet for later', postponed, [line('test', 'R1')], ['R1 is tested and yet for later']],
    ['a number that is no item', one, [line('test', 'R1 R999')], ['R999 is no requirement']],
  ])('%s', (_, items, sources, expected) => {
    expect(gaps(items, sources)).toEqual(expected)
  })

  test('nothing that is as it should be', () => {
    expect(gaps(one, [line('test', 'R1')])).toEqual([])
    expect(gaps(one, [line('test.each([1, 2])', 'R1')])).toEqual([])
    expect(gaps(one, [`test.each([\n  ['x', 1],\n])('a sentence [${'R1'}]', () => {})`])).toEqual([])
    expect(gaps(postponed, [''])).toEqual([])
  })
})
