import { execFile } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import type { TSchema } from '@sinclair/typebox'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { flagName, settings } from '../src/config.ts'
import { eventSchemas } from '../src/core/events.ts'
import { problemStatus } from '../src/plugins/problems.ts'
import { send } from './helpers/http.ts'
import { has } from './helpers/programs.ts'
import { startServer, type TestServer } from './helpers/server.ts'

const root = new URL('../', import.meta.url)
const text = (path: string) => readFileSync(new URL(path, root), 'utf8')

const decisions = readdirSync(new URL('docs/decisions', root))
  .sort()
  .map((name) => `docs/decisions/${name}`)
const documents = [
  ...[
    'README.md',
    'CONTRIBUTING.md',
    'CHANGELOG.md',
    'AGENTS.md',
    'docs/protocol.md',
    'docs/models.md',
    'docs/operations.md',
    'bench/README.md',
  ],
  ...decisions,
]
const manifest = JSON.parse(text('package.json')) as { version: string; scripts: Record<string, string> }

let server: TestServer
beforeAll(async () => {
  server = await startServer()
})
afterAll(() => server.close())

describe('the tables', () => {
  test('of settings in the README is the schema of the code', () => {
    const expected = Object.entries(settings.properties).map(([name, { default: standard, description }]) => [
      name,
      `--${flagName(name)}`,
      String(standard),
      description,
    ])
    expect(table(text('README.md'), 'setting')).toEqual(expected)
  })

  test('of events in the protocol is the vocabulary of the code, with every field', () => {
    const expected = eventSchemas.map((schema: TSchema) => {
      const names = Object.keys(schema.properties as object)
      const stamp = names.includes('seq') ? ['type', 'seq', 'turn'] : ['type']
      return [schema.title, names.filter((name) => !stamp.includes(name)).join(', '), schema.description]
    })
    expect(table(text('docs/protocol.md'), 'type')).toEqual(expected)
  })

  test('of errors in the protocol is the table of the code, and says when each comes', () => {
    const rows = table(text('docs/protocol.md'), 'code')
    const expected = Object.entries(problemStatus).map(([code, status]) => [code, String(status)])
    expect(rows.map(([code, status]) => [code, status])).toEqual(expected)
    expect(rows.filter(([, , when = '']) => when.length < 10)).toEqual([])
  })

  test('of resources in the protocol has every operation of the OpenAPI document, and no other', async () => {
    const documented = table(text('docs/protocol.md'), 'request').map(
      ([request, operation]) => `${request} ${operation}`,
    )
    const { paths } = (await server.app.openapi()) as unknown as { paths: Record<string, Record<string, Operation>> }
    const served = Object.entries(paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, { operationId }]) => {
        const short = path.replace('{session_id}', '{id}')
        return `${method.toUpperCase()} ${short} ${operationId}`
      }),
    )
    expect(documented.sort()).toEqual(served.sort())
  })
})

describe('what is shown as run', () => {
  test.runIf(has('curl'))('the recipes of the README print what stands below each of them', async () => {
    const recipes = section(text('README.md'), 'Start') + section(text('README.md'), 'Five recipes')
    const blocks = fences(recipes).filter(({ code }) => !code.startsWith('git '))
    const script = blocks
      .map(({ language, code }) => (language === 'sh' ? code.replaceAll('\n', '\necho\n') : 'echo ======'))
      .join('\n')
    const printed = await bash(script.replaceAll('http://127.0.0.1:8080', server.url))
    const outputs = printed.replaceAll('\r', '').split('======\n')
    const shown = blocks.filter(({ language }) => language !== 'sh')
    expect(shown).toHaveLength(6)
    for (const [index, { code }] of shown.entries()) expectLines(outputs[index] ?? '', code)
  })

  test('the turn with a tool in the protocol is what the server says to that script', async () => {
    const [example] = fences(section(text('docs/protocol.md'), 'Events'))
    const prompt = 'say Let me see.\ntool add {"a": 19, "b": 23}\nsay It is 42.'
    for (const line of prompt.split('\n')) expect(text('docs/protocol.md')).toContain(`\`${line}\``)
    const answer = await send(`${server.url}/sessions/stream`, 'POST', { json: { agent: 'scripted', prompt } })
    const lines = [...answer.text.matchAll(/^data: (.*)$/gm)].map(([, data = '']) =>
      data.replace(/"duration_ms":\d+/, '"duration_ms":0'),
    )
    expect(lines).toHaveLength(String(example?.code).split('\n').length)
    expectLines(lines.join('\n'), String(example?.code))
  })

  test('the programs of the README are the examples that are tested', () => {
    const programs = fences(text('README.md')).filter(({ language }) => language === 'ts')
    const examples = ['my-agent.ts', 'custom-agent.ts', 'embed.ts'].map((name) =>
      text(`examples/${name}`)
        .replace(/^\/\/.*\n/gm, '')
        .replace("'../src/index.ts'", "'suricate'")
        .trim(),
    )
    expect(programs.map(({ code }) => code)).toEqual(examples)
  })
})

describe('what is referred to', () => {
  test('every relative link leads somewhere', () => {
    const links = documents.flatMap((file) =>
      [...text(file).matchAll(/\]\(([^)#\s]+)[^)]*\)/g)].map(([, target = '']) => ({ file, target })),
    )
    const relative = links.filter(({ target }) => !/^https?:/.test(target))
    expect(relative.length).toBeGreaterThan(10)
    expect(relative.filter(({ file, target }) => !existsSync(new URL(target, new URL(file, root))))).toEqual([])
  })

  test('every path of the source that is named is there', () => {
    const named = documents.flatMap((file) =>
      [...text(file).matchAll(/`((?:src|test|docs|examples|tools|scripts)\/[\w./-]*)`/g)].map(([, path = '']) => path),
    )
    expect(named.length).toBeGreaterThan(10)
    expect(named.filter((path) => !existsSync(new URL(path, root)))).toEqual([])
  })

  test('every npm command that is given is a script of the package', () => {
    const named = documents.flatMap((file) => [...text(file).matchAll(/npm (run [\w:]+|start|test)/g)])
    expect(named.length).toBeGreaterThan(5)
    for (const [, command = ''] of named) expect(manifest.scripts).toHaveProperty([command.replace('run ', '')])
  })

  test('the layers that CONTRIBUTING.md gives are those of the imports', () => {
    const layers = table(text('CONTRIBUTING.md'), 'folder')
    const folders = readdirSync(new URL('src', root), { withFileTypes: true }).filter((entry) => entry.isDirectory())
    expect(layers.map(([folder]) => folder).sort()).toEqual(folders.map(({ name }) => name).sort())
    for (const [folder = '', allowed = ''] of layers) {
      for (const { file, imported } of importsOf(folder)) {
        const target = imported.startsWith('.') ? new URL(imported, new URL(file, root)).pathname : imported
        const place = target.startsWith(root.pathname) ? target.slice(`${root.pathname}src/`.length).split('/')[0] : ''
        if (place !== '') expect(allowed.split(', '), `${file} imports ${imported}`).toContain(place)
        if (['core', 'agents', 'stores'].includes(folder)) {
          expect(target, file).not.toMatch(/^(@?fastify|node:(http|https|net)$)/)
        }
      }
    }
  })

  test('every decision has its number, the context, the choice and the cost, on half a page', () => {
    expect(decisions.length).toBeGreaterThan(10)
    for (const [index, path] of decisions.entries()) {
      expect(path).toMatch(new RegExp(`/${String(index + 1).padStart(4, '0')}-[a-z-]+\\.md$`))
      const document = text(path)
      expect(document).toMatch(new RegExp(`^# ${index + 1}\\. `))
      const parts = [...document.matchAll(/^\*\*(Context|Decision|What it costs)\.\*\*/gm)].map(([, part]) => part)
      expect(parts, path).toEqual(['Context', 'Decision', 'What it costs'])
      const prose = document.replace(/^\|.*$/gm, '')
      expect(prose.split(/\s+/).length, path).toBeLessThan(400)
    }
  })

  test('the newest version in the changelog is that of the package', () => {
    expect(/^## (?!Unreleased)(\S+)/m.exec(text('CHANGELOG.md'))?.[1]).toBe(manifest.version)
  })
})

interface Operation {
  operationId: string
}

interface Fence {
  language: string
  code: string
}

/** Every import of the TypeScript files below a folder of `src`. */
function importsOf(folder: string): { file: string; imported: string }[] {
  const files = readdirSync(new URL(`src/${folder}`, root), { recursive: true, encoding: 'utf8' })
  const found = files
    .filter((name) => name.endsWith('.ts'))
    .flatMap((name) => {
      const file = `src/${folder}/${name}`
      return [...text(file).matchAll(/(?:from|import\() ?'([^']+)'/g)].map(([, imported = '']) => ({ file, imported }))
    })
  expect(found.length, folder).toBeGreaterThan(0)
  return found
}

/** The rows of the table whose header begins with `| first |`, as cells without back-quotes. */
function table(markdown: string, first: string): string[][] {
  const lines = markdown.split('\n')
  const start = lines.findIndex((line) => line.startsWith(`| ${first} |`))
  expect(start, `a table that begins with ${first}`).toBeGreaterThan(-1)
  const rows: string[][] = []
  for (const line of lines.slice(start + 2)) {
    if (!line.startsWith('|')) break
    rows.push(
      line
        .split('|')
        .slice(1, -1)
        .map((cell) => cell.trim().replaceAll('`', '')),
    )
  }
  return rows
}

/** What stands under a heading of the second level. */
function section(markdown: string, title: string): string {
  const found = markdown.split(/^## /m).find((part) => part.startsWith(`${title}\n`))
  expect(found, `a section ${title}`).toBeDefined()
  return found ?? ''
}

function fences(markdown: string): Fence[] {
  return [...markdown.matchAll(/^```(\w*)\n(.*?)\n```$/gms)].map(([, language = '', code = '']) => ({ language, code }))
}

/** Expects these lines in this order, others between them; `…` stands for anything. Ids begin anew every few weeks. */
function expectLines(printed: string, shown: string): void {
  const lines = printed.split('\n')
  for (const wanted of shown.split('\n')) {
    const parts = wanted.replaceAll('01a2…', '…').split('…')
    const pattern = new RegExp(`^${parts.map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')).join('.*')}$`)
    const at = lines.findIndex((line) => pattern.test(line))
    expect(at, `${wanted}\n\nin\n\n${lines.join('\n')}`).toBeGreaterThan(-1)
    lines.splice(0, at + 1)
  }
}

function bash(script: string): Promise<string> {
  return new Promise((resolve) => {
    const child = execFile('bash', ['-s'], { env: { PATH: process.env.PATH } }, (_, stdout, stderr) =>
      resolve(stdout + stderr),
    )
    child.stdin?.end(`${script}\n`)
  })
}

test('the table of request members in the protocol has exactly those of the schemas', async () => {
  const { app, close } = await startServer()
  const protocol = readFileSync(new URL('../docs/protocol.md', import.meta.url), 'utf8')
  const rows = [...protocol.matchAll(/^\| ([\w, ]+) \| ((?:`\w+`).*) \|$/gm)]
  const { paths, components } = await app.openapi()
  const operations = Object.values(paths).flatMap((path) => Object.values(path))
  const compared: string[] = []
  for (const [, ids = '', members = ''] of rows) {
    for (const id of ids.split(', ')) {
      const body = operations.find(({ operationId }) => operationId === id)?.requestBody as
        | { content: Record<string, { schema: { $ref?: string } }> }
        | undefined
      const name = body?.content['application/json']?.schema.$ref?.split('/').at(-1) ?? ''
      const { properties, required = [] } = (components.schemas[name] ?? {}) as {
        properties?: object
        required?: string[]
      }
      if (properties === undefined) continue
      const said = [...members.replace(/\(.*?\)/g, '').matchAll(/`(\w+)`(\??)/g)]
      expect(said.map(([, member]) => member).sort(), id).toEqual(Object.keys(properties).sort())
      // The prompt is needed by one of the two ways to create a session only.
      const needed = said.filter(
        ([, member, optional]) => optional === '' && !(member === 'prompt' && /^create/.test(id)),
      )
      expect(needed.map(([, member]) => member).sort(), id).toEqual([...required].sort())
      compared.push(id)
    }
  }
  await close()
  expect(compared).toEqual(
    expect.arrayContaining(['createSession', 'startTurnStream', 'forkSession', 'injectInteraction']),
  )
})
