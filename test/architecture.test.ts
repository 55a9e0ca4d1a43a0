import { existsSync, readdirSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, test } from 'vitest'

const SRC = path.resolve(import.meta.dirname, '../src')
const MAX_LINES = 400

/** What may be in `src` beside folders: the top, which puts everything together. */
const TOP = [
  'app.ts',
  'cli.ts',
  'closing.ts',
  'config.ts',
  'embed.ts',
  'index.ts',
  'log-output.ts',
  'logger.ts',
  'main.ts',
  'version.ts',
]
/** Nobody else asks the environment. */
const READS_ENVIRONMENT = ['cli.ts', 'config.ts']
/** Nobody else gives out what is not theirs. */
const BARRELS = ['index.ts']

const NETWORK = ['node:http', 'node:https', 'node:net', 'node:http2', 'node:tls', 'node:dgram']
/** What a route sees of `core`: contracts and schemas, nothing that runs. */
const CONTRACTS = [
  'core/comms.ts',
  'core/count.ts',
  'core/errors.ts',
  'core/event-stream.ts',
  'core/events.ts',
  'core/page.ts',
  'core/session-service.ts',
  'core/session-views.ts',
  'core/string-enum.ts',
  'core/time.ts',
  'core/uuid.ts',
  'core/transcript.ts',
  'core/usage.ts',
]
/** Of these a route may only see types. */
const TYPES_ONLY = ['core/event-stream.ts']

const isFastify = (library: string) => /^(fastify$|fastify-|fastify\/|@fastify\/)/.test(library)

interface Rule {
  /** Says yes to a file of `src`, by its path there. */
  file(target: string): boolean
  library(name: string): boolean
}

const within =
  (...folders: string[]) =>
  (target: string) =>
    folders.some((folder) => target.startsWith(`${folder}/`))

/** Who may import what. A folder that is not here may not be. */
const RULES: Readonly<Record<string, Rule>> = {
  core: {
    file: within('core'),
    library: (name) =>
      (name.startsWith('node:') && !NETWORK.includes(name)) ||
      ['@sinclair/typebox', '@sinclair/typebox/compiler', 'lru-cache', 'uuid'].includes(name),
  },
  agents: { file: within('core', 'agents'), library: (name) => !isFastify(name) },
  stores: { file: within('core', 'stores'), library: (name) => !isFastify(name) },
  transfer: {
    file: within('core', 'transfer'),
    library: (name) => (name.startsWith('node:') && !NETWORK.includes(name)) || name.startsWith('@sinclair/typebox'),
  },
  plugins: {
    file: (target) => within('core', 'agents', 'stores', 'plugins')(target) || target === 'config.ts',
    library: () => true,
  },
  routes: {
    file: (target) => within('routes')(target) || CONTRACTS.includes(target),
    library: () => true,
  },
}

interface Import {
  from: string
  /** Types alone: gone when the program runs. */
  typeOnly: boolean
}

/** The program without its comments, and without the insides of its template strings. */
function code(source: string): string {
  return source.replace(/\/\*[\s\S]*?\*\//g, '').replace(/(^|[^:'"`])\/\/.*$/gm, '$1')
}

function importsOf(source: string): Import[] {
  const imports: Import[] = []
  const program = code(source)
  const statement = /\b(import|export)\b\s*(type\b)?\s*([\w$*\s{},]*?)\s*(?:\bfrom\s*)?(['"])([^'"\n]+)\4/g
  for (const [, , type, names = '', , from = ''] of program.matchAll(statement)) {
    const braces =
      /\{([^}]*)\}/
        .exec(names)?.[1]
        ?.split(',')
        .filter((name) => name.trim() !== '') ?? []
    const onlyTypes = braces.length > 0 && !/^\s*[\w$*]/.test(names) && braces.every((name) => /^\s*type\s/.test(name))
    imports.push({ from, typeOnly: type !== undefined || onlyTypes })
  }
  for (const [, , from = ''] of program.matchAll(/\b(?:import|require)\s*\(\s*(['"`])([^'"`\n]+)\1/g)) {
    imports.push({ from, typeOnly: false })
  }
  return imports
}

/** What is wrong with one file of `src`, given its path there. */
function faults(file: string, source: string, exists: (target: string) => boolean = () => true): string[] {
  const found: string[] = []
  const [folder = '', ...rest] = file.split('/')
  const isTop = rest.length === 0
  const rule = isTop ? undefined : RULES[folder]
  if (isTop && !TOP.includes(file)) found.push(`${file} has no place at the top`)
  if (!isTop && rule === undefined) found.push(`there is no rule for the folder ${folder}`)

  for (const { from, typeOnly } of importsOf(source)) {
    if (!from.startsWith('.')) {
      if (rule !== undefined && !rule.library(from)) found.push(`${folder} may not import ${from}`)
      continue
    }
    const target = path.posix.join(path.posix.dirname(file), from)
    if (target.startsWith('..')) continue
    if (!target.endsWith('.ts') || !exists(target)) found.push(`${from} is no file of this program`)
    if (rule !== undefined && !rule.file(target)) found.push(`${folder} may not import ${target}`)
    if (folder === 'routes' && TYPES_ONLY.includes(target) && !typeOnly) {
      found.push(`routes may import only types of ${target}`)
    }
  }

  const program = code(source)
  if (/\bprocess\s*(?:\?\.|\.)\s*env\b|\bprocess\s*\[/.test(program) && !READS_ENVIRONMENT.includes(file)) {
    found.push('only the configuration reads the environment')
  }
  if (
    /\{[^}]*\benv\b[^}]*\}\s*=\s*process\b/.test(program) ||
    importsOf(source).some(({ from }) => from === 'node:process')
  ) {
    found.push('only the configuration reads the environment')
  }
  if (/^\s*export\b[^;=()]*?\bfrom\s*['"]/m.test(program) && !BARRELS.includes(file)) {
    found.push('only the index gives out what is not its own')
  }
  const lines = source.replace(/\n$/, '').split('\n').length
  if (lines > MAX_LINES) found.push(`${lines} lines; ${MAX_LINES} are the most`)
  return found
}

const files = readdirSync(SRC, { recursive: true, encoding: 'utf8' })
  .map((file) => file.split(path.sep).join('/'))
  .filter((file) => file.endsWith('.ts'))
  .sort()

describe('the source', () => {
  test.each(files)('%s keeps to the architecture', (file) => {
    const source = readFileSync(path.join(SRC, file), 'utf8')
    expect(faults(file, source, (target) => existsSync(path.join(SRC, target)))).toEqual([])
  })

  test('has every folder and every file at the top that there is a rule for', () => {
    expect([...new Set(files.filter((file) => file.includes('/')).map((file) => file.split('/')[0]))].sort()).toEqual(
      Object.keys(RULES).sort(),
    )
    expect(files.filter((file) => !file.includes('/'))).toEqual(TOP)
  })

  test('is TypeScript alone', () => {
    const others = readdirSync(SRC, { recursive: true, withFileTypes: true }).filter(
      (entry) => entry.isFile() && !entry.name.endsWith('.ts'),
    )
    expect(others.map(({ name }) => name)).toEqual([])
  })

  test('is understood: no import statement escapes the check', () => {
    for (const file of files) {
      const source = readFileSync(path.join(SRC, file), 'utf8')
      const statements = source.match(/^(?:import '[^']+'|(?:(?:import|export) .*|\} )from '[^']+')$/gm) ?? []
      expect(importsOf(source).length, file).toBeGreaterThanOrEqual(statements.length)
    }
  })
})

describe('the check finds', () => {
  test.each<[string, string, string, string]>([
    ['a framework in the core', 'core/x.ts', "import Fastify from 'fastify'", 'core may not import fastify'],
    [
      'its types in the core',
      'core/x.ts',
      "import type { FastifyInstance } from 'fastify'",
      'core may not import fastify',
    ],
    ['a network in the core', 'core/x.ts', "import { createServer } from 'node:http'", 'core may not import node:http'],
    ['a library in the core', 'core/x.ts', "import pino from 'pino'", 'core may not import pino'],
    [
      'an agent in the core',
      'core/x.ts',
      "import { echo } from '../agents/echo.ts'",
      'core may not import agents/echo.ts',
    ],
    [
      'an import over several lines',
      'core/x.ts',
      "import {\n  type A,\n  b,\n} from '../routes/start.ts'",
      'core may not import routes/start.ts',
    ],
    ['an import for its effect', 'core/x.ts', "import '../plugins/sse.ts'", 'core may not import plugins/sse.ts'],
    ['an import at run time', 'core/x.ts', "const x = await import('fastify')", 'core may not import fastify'],
    [
      'a store in an agent',
      'agents/x.ts',
      "import { openStore } from '../stores/index.ts'",
      'agents may not import stores/index.ts',
    ],
    [
      'an agent in a store',
      'stores/a/x.ts',
      "import { echo } from '../../agents/echo.ts'",
      'stores may not import agents/echo.ts',
    ],
    [
      'a framework in a store',
      'stores/x.ts',
      "import fp from 'fastify-plugin'",
      'stores may not import fastify-plugin',
    ],
    [
      'a store in a transfer',
      'transfer/x.ts',
      "import { openDurableStore } from '../stores/index.ts'",
      'transfer may not import stores/index.ts',
    ],
    [
      'a route in a plugin',
      'plugins/x.ts',
      "import { a } from '../routes/start.ts'",
      'plugins may not import routes/start.ts',
    ],
    ['the top in a plugin', 'plugins/x.ts', "import { buildApp } from '../app.ts'", 'plugins may not import app.ts'],
    [
      'a plugin in a route',
      'routes/x.ts',
      "import { problems } from '../plugins/problems.ts'",
      'routes may not import plugins/problems.ts',
    ],
    [
      'the engine in a route',
      'routes/x.ts',
      "import type { EphemeralSessionService } from '../core/ephemeral-session-service.ts'",
      'routes may not import core/ephemeral-session-service.ts',
    ],
    [
      'the configuration in a route',
      'routes/x.ts',
      "import { loadConfig } from '../config.ts'",
      'routes may not import config.ts',
    ],
    [
      'more than types of a stream in a route',
      'routes/x.ts',
      "import { LogStream } from '../core/event-stream.ts'",
      'routes may import only types of core/event-stream.ts',
    ],
    ['a folder that nobody knows', 'utils/x.ts', '', 'there is no rule for the folder utils'],
    ['a file that has no place', 'helpers.ts', '', 'helpers.ts has no place at the top'],
    [
      'an import without its ending',
      'core/x.ts',
      "import { a } from './errors'",
      './errors is no file of this program',
    ],
    [
      'the environment',
      'plugins/x.ts',
      'const port = process.env.PORT',
      'only the configuration reads the environment',
    ],
    [
      'the environment by another door',
      'main.ts',
      'const { env } = process',
      'only the configuration reads the environment',
    ],
    [
      'the environment by its module',
      'main.ts',
      "import { env } from 'node:process'",
      'only the configuration reads the environment',
    ],
    ['a barrel', 'core/index.ts', "export { a } from './errors.ts'", 'only the index gives out what is not its own'],
    [
      'a barrel of everything',
      'agents/index.ts',
      "export * from './echo.ts'",
      'only the index gives out what is not its own',
    ],
    [
      'a barrel of types',
      'core/x.ts',
      "export type { A } from './errors.ts'",
      'only the index gives out what is not its own',
    ],
    ['a file that is too long', 'core/x.ts', '\n'.repeat(401), '401 lines; 400 are the most'],
  ])('%s', (_, file, source, fault) => {
    expect(faults(file, source)).toContain(fault)
  })

  test.each<[string, string, string]>([
    ['types of a stream in a route', 'routes/x.ts', "import type { EventStream } from '../core/event-stream.ts'"],
    ['types of a stream among others', 'routes/x.ts', "import { type EventStream } from '../core/event-stream.ts'"],
    ['the public index', 'index.ts', "export { buildApp } from './app.ts'"],
    ['the environment where it is read', 'cli.ts', 'loadConfig({ env: process.env })'],
    ['a comment about it', 'core/x.ts', "// import Fastify from 'fastify'\n/* process.env */"],
    [
      'what the core may use',
      'core/x.ts',
      "import { v7 } from 'uuid'\nimport { setTimeout } from 'node:timers/promises'",
    ],
    [
      'an export of its own',
      'core/x.ts',
      "export function from(a: string) {\n  return a === 'x'\n}\nexport const b = 'c'",
    ],
    ['four hundred lines', 'core/x.ts', '// x\n'.repeat(400)],
  ])('nothing wrong with %s', (_, file, source) => {
    expect(faults(file, source)).toEqual([])
  })
})
