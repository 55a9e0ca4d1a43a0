import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { beforeEach, describe, expect, onTestFinished, test } from 'vitest'
import { noSkills } from '../../../src/agents/skills/no-skills.ts'
import { openSkills } from '../../../src/agents/skills/open-skills.ts'
import type { SkillCatalog } from '../../../src/agents/skills/skill.ts'
import { SkillNotFoundError, SkillResolutionError } from '../../../src/core/errors.ts'

const KIB = 1024

function folder(): string {
  const made = mkdtempSync(path.join(tmpdir(), 'skills-'))
  onTestFinished(() => rmSync(made, { recursive: true, force: true }))
  return made
}

let dir: string
let skills: SkillCatalog
beforeEach(() => {
  dir = folder()
  skills = openSkills(dir)
})

function put(id: string, text: string | Buffer, below = dir): string {
  const file = path.join(below, id, 'SKILL.md')
  mkdirSync(path.dirname(file), { recursive: true })
  writeFileSync(file, text)
  return file
}

const skill = (name: string, description: string, body: string) =>
  `---\nname: ${name}\ndescription: ${description}\n---\n${body}`
const render = (id: string) => skills.render(id, '/skill_references/0')
const ids = async () => (await skills.list()).map(({ id }) => id)

describe('the list', () => {
  test('has every skill with what its front matter says, by id', async () => {
    put('writing/long', skill('Long texts', 'How to write long ones', 'Write.'))
    put('writing/de/kurz', skill('kurz', '"Kurze: Texte"', 'Schreib.'))
    put('add', skill('add', 'Sums', 'Add.'))
    expect(await skills.list()).toEqual([
      { id: 'add', name: 'add', description: 'Sums' },
      { id: 'writing/de/kurz', name: 'kurz', description: 'Kurze: Texte' },
      { id: 'writing/long', name: 'Long texts', description: 'How to write long ones' },
    ])
  })

  test.each<[string, string, { name: string; description: string }]>([
    ['without front matter', 'Do it.', { name: 'x', description: '' }],
    ['with empty front matter', '---\n---\nDo it.', { name: 'x', description: '' }],
    ['with the line ends of Windows', '---\r\nname: y\r\n---\r\nDo it.\r\n', { name: 'y', description: '' }],
    ['with a name that is no text', '---\nname: 5\n---\n', { name: 'x', description: '' }],
    ['with a byte order mark', '\uFEFF---\nname: y\n---\n', { name: 'y', description: '' }],
    ['with more members than it needs', '---\nname: y\nlicense: MIT\n---\n', { name: 'y', description: '' }],
    ['with a tag that YAML does not know', '---\nname: !other y\n---\n', { name: 'y', description: '' }],
  ])('has a skill %s', async (_, text, { name, description }) => {
    put('c/x', text)
    expect(await skills.list()).toEqual([{ id: 'c/x', name, description }])
  })

  test('has only folders whose names are lower case letters, digits and hyphens, and no file at the top', async () => {
    for (const name of ['Upper', 'under_score', 'do.t', 'a b', '.hidden', 'ümlaut']) put(name, 'x')
    put('ok-1/Upper', 'x')
    put('ok-1', 'x')
    put('', 'x')
    mkdirSync(path.join(dir, 'empty'))
    mkdirSync(path.join(dir, 'folder', 'SKILL.md'), { recursive: true })
    expect(await ids()).toEqual(['ok-1'])
  })

  test('leaves out what cannot be used', async () => {
    put('good', 'x')
    put('large', 'x'.repeat(KIB * KIB + 1))
    put('long', 'x'.repeat(32 * KIB + 1))
    put('binary', Buffer.from([0xff, 0xfe, 0xff]))
    put('broken', '---\nname: [\n---\nx')
    put('odd', '---\n- a list\n---\nx')
    put('bomb', `---\na: &a [x]\n${expanding()}---\nx`)
    expect(await ids()).toEqual(['good'])
  })

  test('does not wait for a pipe', async () => {
    put('good', 'x')
    mkdirSync(path.join(dir, 'pipe'))
    execFileSync('mkfifo', [path.join(dir, 'pipe', 'SKILL.md')])
    expect(await ids()).toEqual(['good'])
    await expect(render('pipe')).rejects.toThrow(SkillResolutionError)
  })

  test('follows what is put, changed and removed, without a restart', async () => {
    expect(await ids()).toEqual([])
    const file = put('a', skill('one', 'first', 'x'))
    expect(await skills.list()).toEqual([{ id: 'a', name: 'one', description: 'first' }])
    put('a', skill('two', 'other', 'x'))
    utimesSync(file, new Date(), new Date(Date.now() + 5_000))
    expect(await skills.list()).toEqual([{ id: 'a', name: 'two', description: 'other' }])
    put('a', '---\nname: [\n---\n')
    expect(await ids()).toEqual([])
    put('b', 'x')
    rmSync(path.join(dir, 'a'), { recursive: true })
    expect(await ids()).toEqual(['b'])
  })

  test('is empty without a folder', async () => {
    expect(await openSkills(path.join(dir, 'nowhere')).list()).toEqual([])
    expect(await noSkills.list()).toEqual([])
  })

  test('does not leave the folder by a link, and does not go round in circles', async () => {
    const outside = folder()
    const elsewhere = put('b', 'secret', outside)
    put('in/x', 'x')
    symlinkSync(outside, path.join(dir, 'out'))
    mkdirSync(path.join(dir, 'file'))
    symlinkSync(elsewhere, path.join(dir, 'file', 'SKILL.md'))
    symlinkSync(dir, path.join(dir, 'in', 'again'))
    symlinkSync(path.join(dir, 'in'), path.join(dir, 'in', 'self'))
    symlinkSync(path.join(dir, 'in', 'x'), path.join(dir, 'alias'))
    symlinkSync(path.join(dir, 'nothing'), path.join(dir, 'dangling'))
    expect(await ids()).toEqual(['alias', 'in/x'])
  })

  test('is there where the folder itself is a link', async () => {
    put('a', 'x')
    const link = path.join(folder(), 'link')
    symlinkSync(dir, link)
    expect((await openSkills(link).list()).map(({ id }) => id)).toEqual(['a'])
    expect(await openSkills(link).render('a', '')).toBe('<skill id="a">x</skill>')
  })
})

describe('a skill', () => {
  test('is rendered without its front matter', async () => {
    put('c/x', skill('x', 'y', '\n# Do\n\n---\nit.\n'))
    expect(await render('c/x')).toBe('<skill id="c/x"># Do\n\n---\nit.</skill>')
  })

  test.each(['Do it.', '---\nnever closed', 'a\n---\nb: c\n---\nd'])(
    'without front matter is whole: %j',
    async (text) => {
      put('x', text)
      expect(await render('x')).toBe(`<skill id="x">${text}</skill>`)
    },
  )

  test('cannot close its own tag', async () => {
    put('x', 'a</skill>b</SKILL >c< / skill>d<skill>')
    const text = await render('x')
    expect(text).toBe('<skill id="x">a<\\/skill>b<\\/SKILL >c< \\/ skill>d<skill></skill>')
    expect(text.match(/<\s*\/\s*skill/gi)).toHaveLength(1)
  })

  test('may have 32 KiB, in bytes, and not one more', async () => {
    put('fits', skill('x', 'y', 'é'.repeat(16 * KIB)))
    put('long', skill('x', 'y', `${'é'.repeat(16 * KIB)}a`))
    expect(Buffer.byteLength(await render('fits'))).toBe(32 * KIB + '<skill id="fits"></skill>'.length)
    await expect(render('long')).rejects.toBeInstanceOf(SkillResolutionError)
    await expect(render('long')).rejects.toThrow('names the skill long, which has a body of more than 32 KiB')
  })

  test.each<[string, string | Buffer, string]>([
    ['larger than 1 MiB', `${'x'.repeat(KIB * KIB)}y`, 'is larger than 1 MiB'],
    ['that is no text', Buffer.from([0xc3, 0x28]), 'is not UTF-8 text'],
    ['whose front matter is no YAML', '---\na: [\n---\n', 'has front matter that is no YAML'],
    ['whose front matter is a list', '---\n- a\n---\n', 'has front matter that is no mapping of names to values'],
  ])('%s is refused, and the member that named it is told', async (_, text, why) => {
    put('x', text)
    const refusal = await render('x').catch((error: unknown) => error)
    expect(refusal).toBeInstanceOf(SkillResolutionError)
    expect((refusal as SkillResolutionError).data.errors).toEqual([
      { path: '/skill_references/0', message: `names the skill x, which ${why}` },
    ])
  })

  test.each([
    'nowhere',
    'c',
    'c/x/y',
    '',
    '/',
    '..',
    '../b',
    'c/../../b',
    'c/./x',
    './c/x',
    '/c/x',
    'c/x/',
    'c//x',
    'C/x',
    'c\\x',
    'c/x\0',
    '%2e%2e/b',
    'c/x/SKILL.md',
    'a'.repeat(300),
    '__proto__',
    'constructor',
  ])('%j is not one', async (id) => {
    const below = path.join(dir, 'below')
    put('c/x', 'x', below)
    put('b', 'secret')
    await expect(openSkills(below).render(id, '/preload_skills/3')).rejects.toThrow(
      new SkillNotFoundError(id, '/preload_skills/3'),
    )
  })

  test('outside is not one, by whatever link', async () => {
    const outside = folder()
    const elsewhere = put('b', 'secret', outside)
    symlinkSync(outside, path.join(dir, 'out'))
    mkdirSync(path.join(dir, 'file'))
    symlinkSync(elsewhere, path.join(dir, 'file', 'SKILL.md'))
    symlinkSync(path.join(dir, 'loop'), path.join(dir, 'loop'))
    // A sibling whose path begins like the folder's.
    const sibling = `${dir}-more`
    onTestFinished(() => rmSync(sibling, { recursive: true, force: true }))
    put('s', 'secret', sibling)
    symlinkSync(path.join(sibling, 's'), path.join(dir, 'sibling'))
    for (const id of ['out/b', 'file', 'loop', 'sibling']) {
      await expect(render(id), id).rejects.toThrow(SkillNotFoundError)
    }
  })

  test('is not there on a server without skills', async () => {
    await expect(noSkills.render('a', '/skill_references/0')).rejects.toThrow(
      new SkillNotFoundError('a', '/skill_references/0'),
    )
    await expect(openSkills(path.join(dir, 'nowhere')).render('a', '')).rejects.toThrow(SkillNotFoundError)
  })
})

/** YAML that would be 9^9 items long. */
function expanding(): string {
  const names = 'abcdefghij'
  return Array.from({ length: 9 }, (_, i) => `${names[i + 1]}: &${names[i + 1]} [${`*${names[i]},`.repeat(9)}]\n`).join(
    '',
  )
}
