import { describe, expect, test } from 'vitest'
import { inlineSkill, resolveSkills } from '../../../src/agents/skills/resolve-skills.ts'
import type { SkillCatalog } from '../../../src/agents/skills/skill.ts'
import { SkillNotFoundError, SkillResolutionError } from '../../../src/core/errors.ts'
import type { AgentOutput } from '../../../src/core/events.ts'

describe('a prompt refers to a skill', () => {
  test.each<[string, { id: string; rest: string }]>([
    ['/add', { id: 'add', rest: '' }],
    ['/add 1 2', { id: 'add', rest: '1 2' }],
    ['/a/b-c/d9 rest', { id: 'a/b-c/d9', rest: 'rest' }],
    ['/add\n', { id: 'add', rest: '' }],
    ['/add one\ntwo\nthree', { id: 'add', rest: 'one\ntwo\nthree' }],
    ['/add\n\none\n/two', { id: 'add', rest: 'one\n/two' }],
    ['/add\tx  ', { id: 'add', rest: 'x  ' }],
  ])('%j', (prompt, expected) => {
    expect(inlineSkill(prompt)).toEqual(expected)
  })

  test.each([
    'add',
    ' /add',
    'please /add',
    '/',
    '//add',
    '/add/',
    '/add/ x',
    '/Add',
    '/add.',
    '/add, x',
    '/a_b',
    '',
    '\n/add',
  ])('but not %j', (prompt) => {
    expect(inlineSkill(prompt)).toBeUndefined()
  })

  test('and a long one is judged at once', () => {
    const prompt = `/${'a/'.repeat(500_000)}!`
    const start = performance.now()
    expect(inlineSkill(prompt)).toBeUndefined()
    expect(performance.now() - start).toBeLessThan(2_000)
  })
})

const catalog: SkillCatalog = {
  list: async () => [],
  render: async (id, path) => {
    if (id === 'gone') throw new SkillNotFoundError(id, path)
    if (id === 'long') throw new SkillResolutionError('It is too long')
    if (id === 'bug') throw new Error('ENOENT /etc/secret')
    return `<skill id="${id}">é</skill>`
  },
}

async function resolve(references: string[]) {
  const events: AgentOutput[] = []
  const run = resolveSkills(catalog, references)
  for (;;) {
    const { done, value } = await run.next()
    if (done) return { events, text: value }
    events.push(value)
  }
}

describe('skills are resolved', () => {
  test('in their order, each once, and their size is told', async () => {
    const { events, text } = await resolve(['b', 'a/c', 'b'])
    expect(text).toBe('<skill id="b">é</skill>\n\n<skill id="a/c">é</skill>')
    expect(events).toEqual([
      { type: 'skills_resolved', skills: ['b', 'a/c'], injection_bytes: Buffer.byteLength(text) },
    ])
  })

  test('without those that fail, which are told one by one', async () => {
    const { events, text } = await resolve(['gone', 'a', 'long', 'bug'])
    const failed = (reference: string, error: string) => ({ type: 'skill_resolution_failed', reference, error })
    expect(text).toBe('<skill id="a">é</skill>')
    expect(events).toEqual([
      failed('gone', 'names a skill that is not here: gone; GET /skills lists them'),
      failed('long', 'It is too long'),
      failed('bug', 'the skill could not be read'),
      { type: 'skills_resolved', skills: ['a'], injection_bytes: Buffer.byteLength(text) },
    ])
  })

  test('to nothing where there are none, or all fail', async () => {
    expect(await resolve([])).toEqual({ events: [], text: '' })
    const { events, text } = await resolve(['gone'])
    expect([events.map(({ type }) => type), text]).toEqual([['skill_resolution_failed'], ''])
  })
})
