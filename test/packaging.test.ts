import { execFile, spawn } from 'node:child_process'
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { type ConfigError, loadConfig, settings } from '../src/config.ts'
import { send } from './helpers/http.ts'

/** Starting programs and installing packages takes its time where cores and network are shared. */
const START_MS = 60_000
const INSTALL_MS = 240_000

const root = fileURLToPath(new URL('../', import.meta.url))
const text = (path: string) => readFileSync(join(root, path), 'utf8')
const manifest = JSON.parse(text('package.json')) as {
  version: string
  bin: { suricate: string }
  scripts: Record<string, string>
}
const KEYS = '[{"key":"for-the-test"}]'

beforeAll(() => {
  expect(existsSync(join(root, 'dist/cli.js')), 'dist is packed as it is: run `npm run build` first').toBe(true)
})

describe('the Dockerfile', () => {
  const stages = parseDockerfile(text('Dockerfile'))
  const image = stages.at(-1) ?? []
  const one = (name: string) => image.find((line) => line.name === name)?.value ?? ''
  const variables = Object.fromEntries(
    one('ENV')
      .split(' ')
      .map((pair) => pair.split('=') as [string, string]),
  )
  const copies = image.filter(({ name }) => name === 'COPY')

  test('builds from files that are there and that .dockerignore lets through', () => {
    const allowed = text('.dockerignore').split('\n')
    expect(allowed.filter((line) => !line.startsWith('#'))[0]).toBe('*')
    const sources = stages
      .flat()
      .filter(({ name, value }) => name === 'COPY' && !value.startsWith('--from'))
      .flatMap(({ value }) => value.split(' ').slice(0, -1))
    expect(sources).toContain('package-lock.json')
    for (const source of sources) {
      expect(existsSync(join(root, source)), source).toBe(true)
      expect(allowed).toContain(`!${source}`)
    }
    for (const { value } of stages.flat().filter(({ name }) => name === 'RUN')) {
      for (const [, script = ''] of value.matchAll(/npm run (\S+)/g)) expect(manifest.scripts).toHaveProperty(script)
    }
  })

  test('runs what `npm start` runs, as nobody special, on the port that the settings know', () => {
    // In the shell of npm the server takes the shell's place, so that it gets npm's signals.
    expect(`exec ${(JSON.parse(one('CMD')) as string[]).join(' ')}`).toBe(manifest.scripts.start)
    expect(one('USER')).toBe('node')
    expect(one('EXPOSE')).toBe(String(settings.properties.PORT.default))
    const { NODE_ENV, ...own } = variables
    expect(NODE_ENV).toBe('production')
    expect(Object.keys(own).filter((name) => !Object.hasOwn(settings.properties, name))).toEqual([])
    expect(own).toMatchObject({ PORT: one('EXPOSE'), HOST: '0.0.0.0' })
  })

  test('copies all that the server needs, which is healthy with keys and ends at SIGTERM', {
    timeout: START_MS,
  }, async () => {
    const folder = imageFolder(copies)
    const [command = '', ...args] = JSON.parse(one('CMD')) as string[]
    const env = { PATH: process.env.PATH, ...variables, PORT: '0', API_KEYS: KEYS }
    const child = spawn(command, args, { cwd: folder, env, stdio: ['ignore', 'pipe', 'inherit'] })
    const exited = new Promise<number | null>((resolve) => child.once('exit', resolve))
    onTestFinished(() => void child.kill('SIGKILL'))
    const started = new Promise<string>((resolve, reject) => {
      createInterface(child.stdout).once('line', resolve)
      void exited.then(() => reject(new Error('The server ended before it listened')))
    })
    const PORT = /:(\d+)/.exec(String(JSON.parse(await started).msg))?.[1]
    expect(await send(`http://127.0.0.1:${PORT}/playground`, 'GET')).toMatchObject({ status: 200 })

    const [check = '', ...checkArgs] = JSON.parse(one('HEALTHCHECK').replace(/^.*?CMD /, '')) as string[]
    const healthy = () => run(check, checkArgs, folder, { PATH: process.env.PATH, PORT })
    expect(await healthy()).toEqual({ code: 0, output: '' })
    child.kill('SIGTERM')
    expect(await exited).toBe(0)
    expect(await healthy()).toEqual({ code: 1, output: '' })
  })

  test('without keys ends at once with the sentence that the settings have for it', { timeout: START_MS }, async () => {
    const folder = imageFolder(copies)
    const [command = '', ...args] = JSON.parse(one('CMD')) as string[]
    const { code, output } = await run(command, args, folder, { PATH: process.env.PATH, ...variables })
    expect(output).toBe(`suricate: ${refusalOf(variables)}\n`)
    expect(code).toBe(1)
  })
})

test('the package holds what runs and what is read, and nothing of the workshop', async () => {
  const [packed] = JSON.parse(await npm(['pack', '--dry-run', '--json', '--ignore-scripts'], root)) as Packed[]
  const paths = packed?.files.map(({ path }) => path) ?? []
  const needed = ['package.json', 'README.md', 'CHANGELOG.md', 'LICENSE', 'docs/protocol.md', 'openapi/openapi.json']
  needed.push('dist/index.js', 'dist/index.d.ts', manifest.bin.suricate.replace('./', ''), 'playground/index.html')
  expect(needed.filter((path) => !paths.includes(path))).toEqual([])
  const folders = new Set(paths.filter((path) => path.includes('/')).map((path) => path.split('/', 1)[0]))
  expect([...folders].sort()).toEqual(['dist', 'docs', 'openapi', 'playground'])
  const built = paths.filter((path) => path.startsWith('dist/'))
  expect(built.filter((path) => !/\.(js|js\.map|d\.ts)$/.test(path))).toEqual(['dist/licenses.txt'])
})

test('a source map of the package brings its sources, which are not in there', () => {
  const map = JSON.parse(text('dist/cli.js.map')) as { sources: string[]; sourcesContent?: string[] }
  expect(map.sourcesContent).toEqual(map.sources.map((source) => text(join('dist', source))))
})

test('the package, installed in an empty folder, fits this Node and serves an agent of ten lines', {
  timeout: INSTALL_MS,
}, async () => {
  const folder = temporaryFolder()
  const [packed] = JSON.parse(
    await npm(['pack', '--json', '--ignore-scripts', '--pack-destination', folder], root),
  ) as Packed[]
  writeFileSync(join(folder, 'package.json'), '{"private":true,"type":"module"}')
  // With `--engine-strict` a dependency that is for another Node fails the installation; otherwise it is a warning.
  await npm(
    ['install', '--prefer-offline', '--engine-strict', '--no-audit', '--no-fund', join(folder, packed?.filename ?? '')],
    folder,
  )
  writeFileSync(join(folder, 'program.js'), PROGRAM)
  const env = { PATH: process.env.PATH }
  expect(await run(process.execPath, ['program.js'], folder, env)).toEqual({ code: 0, output: '201 HEY\n' })
  writeFileSync(join(folder, 'served.js'), SERVED)
  const served = await run(process.execPath, ['served.js'], folder, { ...env, LOG_LEVEL: 'silent', PORT: '0' })
  expect(served).toEqual({ code: 0, output: '201 HEY\n' })
  writeFileSync(join(folder, 'my-agent.ts'), MODULE)
  writeFileSync(join(folder, 'ask.js'), ASK)
  const ownAgent = await run(process.execPath, ['ask.js'], folder, env)
  expect(ownAgent).toEqual({ code: 0, output: '201 HEY\n500 AGENT_ERROR /sessions is not my business\n' })
  const version = await run(join(folder, 'node_modules/.bin/suricate'), ['--version'], folder, env)
  expect(version).toEqual({ code: 0, output: `${manifest.version}\n` })
})

const SHOUT = `
const shout = {
  name: 'shout',
  buildAgent: () => ({
    async *run({ prompt }) {
      yield { type: 'text_delta', delta: prompt.toUpperCase() }
    },
  }),
}
const ask = async (url) => {
  const headers = { 'content-type': 'application/json' }
  const answer = await fetch(url + '/sessions', { method: 'POST', headers, body: '{"prompt":"hey"}' })
  console.log(answer.status, (await answer.json()).text)
}
`

const PROGRAM = `
import { buildApp, loadConfig } from 'suricate'
${SHOUT}
const app = await buildApp(loadConfig({ env: {} }), { agents: [shout], defaultAgent: 'shout' })
await ask(await app.listen({ port: 0 }))
await app.close()
`

const SERVED = `
import { loadConfig, serve } from 'suricate'
${SHOUT}
const app = await serve(loadConfig({ env: process.env }), { agents: [shout], defaultAgent: 'shout' })
await ask(app.listeningOrigin)
process.kill(process.pid, 'SIGTERM')
`

/** Values from the package too: they must be those that the server knows. */
const MODULE = `
import { AgentError, type SessionAgentBuilder } from 'suricate'

export default {
  name: 'shout',
  buildAgent: () => ({
    async *run({ prompt }) {
      if (prompt.startsWith('/')) throw new AgentError(prompt + ' is not my business')
      yield { type: 'text_delta', delta: prompt.toUpperCase() }
      return {}
    },
  }),
} satisfies SessionAgentBuilder
`

const ASK = `
import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
const args = ['serve', '--agent', './my-agent.ts', '--default-agent', 'shout', '--port', '0', '--log-format', 'json']
const child = spawn('node_modules/.bin/suricate', args, { stdio: ['ignore', 'pipe', 'inherit'] })
createInterface(child.stdout).on('line', async (line) => {
  const [, url] = /listens on (http:[^,]+),/.exec(line) ?? []
  if (url === undefined) return
  for (const prompt of ['hey', '/sessions']) {
    const headers = { 'content-type': 'application/json' }
    const answer = await fetch(url + '/sessions', { method: 'POST', headers, body: JSON.stringify({ prompt }) })
    const { text, code, detail } = await answer.json()
    console.log(answer.status, text ?? code + ' ' + detail)
  }
  child.kill('SIGTERM')
})
`

interface Packed {
  filename: string
  files: { path: string }[]
}

interface Instruction {
  name: string
  value: string
}

/** The instructions of each stage: continued lines joined, comments gone. */
function parseDockerfile(source: string): Instruction[][] {
  const lines = source
    .replace(/^#.*\n/gm, '')
    .replace(/\\\n\s*/g, '')
    .split('\n')
    .filter((line) => line.trim() !== '')
  const stages: Instruction[][] = []
  for (const line of lines) {
    const at = line.indexOf(' ')
    const instruction = { name: line.slice(0, at), value: line.slice(at + 1) }
    if (instruction.name === 'FROM') stages.push([])
    stages.at(-1)?.push(instruction)
  }
  return stages
}

/** A folder with what the last stage copies, and nothing else. What was installed is a link, since it is large. */
function imageFolder(copies: Instruction[]): string {
  const folder = temporaryFolder()
  for (const { value } of copies) {
    const [source = '', target = ''] = value.replace(/^--from=build \/app\//, '').split(' ')
    if (source === 'node_modules') symlinkSync(join(root, source), join(folder, target))
    else cpSync(join(root, source), join(folder, target), { recursive: true })
  }
  return folder
}

function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'suricate-packaging-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** What `loadConfig` says against these variables. */
function refusalOf(env: Record<string, string>): string {
  try {
    loadConfig({ env })
  } catch (error) {
    return (error as ConfigError).message
  }
  throw new Error('The settings have nothing against it')
}

function run(command: string, args: string[], cwd: string, env: NodeJS.ProcessEnv) {
  return new Promise<{ code: unknown; output: string }>((resolve) => {
    execFile(command, args, { cwd, env }, (error, stdout, stderr) =>
      resolve({ code: error === null ? 0 : error.code, output: stdout + stderr }),
    )
  })
}

/** What npm prints. The whole environment is passed on: proxies, cache and registry are configured there. */
function npm(args: string[], cwd: string): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile('npm', args, { cwd, maxBuffer: 64 * 1024 * 1024 }, (error, stdout, stderr) => {
      if (error === null) resolve(stdout)
      else reject(new Error(`npm ${args[0]} failed: ${stderr}`))
    })
  })
}
