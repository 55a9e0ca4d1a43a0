import { type ChildProcess, execFileSync, type StdioOptions, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import type { Answer, Memory } from './control.ts'
import { Databases } from './databases.ts'
import type { Plant } from './load/plant.ts'
import type { LoadCommand } from './load.ts'
import { BARE, type Started, start } from './start.ts'

const SERVER_CORE = 0
const LOAD_CORE = 1
const benchFolder = fileURLToPath(new URL('.', import.meta.url))

/** Who is measured. Several may be the same program with other settings. */
export interface Contestant {
  name: string
  kind: 'raw' | 'suricate'
  /** Settings of a Suricate server, by environment variable. `sqlite:` and `postgres:` get a store of their own. */
  env?: Record<string, string>
  /** Turns run at another server over the same store; the one that is measured has the readers. */
  hasWriter?: boolean
  token?: string
}

export interface StageOptions {
  /** The folder that `npm run build` made. */
  dist: string
  /** Another such folder, whose server then takes the place of the raw one. */
  base?: string | undefined
  plant?: Plant | undefined
  /** Folder for CPU profiles of the servers. */
  profiles?: string | undefined
}

/** Something on the stage failed; the message says what. */
export class StageError extends Error {}

/** True when processes can be bound to a core each. */
export const canPin = (() => {
  try {
    execFileSync('taskset', ['-c', `${SERVER_CORE},${LOAD_CORE}`, 'true'], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
})()

/**
 * The processes of a run: one load generator throughout, and a new server for every measurement, so that nothing that one
 * leaves behind is paid for by the next.
 */
export class Stage {
  readonly load: Child
  readonly databases = new Databases()
  readonly #options: StageOptions
  readonly #folder: string

  private constructor(options: StageOptions, folder: string, load: Child) {
    this.#options = options
    this.#folder = folder
    this.load = load
  }

  static async open(options: StageOptions): Promise<Stage> {
    const folder = compileBench()
    return new Stage(options, folder, new Child(join(folder, 'load.js'), { core: LOAD_CORE }))
  }

  /** A fresh server, which the load generator speaks to from now on. */
  async serve(contestant: Contestant): Promise<Server> {
    const { dist, base, plant, profiles } = this.#options
    const kind = base === undefined ? contestant.kind : 'suricate'
    const build = contestant.kind === 'raw' && base !== undefined ? base : dist
    const { env = {}, token, hasWriter = false } = contestant
    const storeUrl = env.STORE_URL === undefined ? undefined : await this.databases.place(env.STORE_URL)
    const settings = storeUrl === undefined ? env : { ...env, STORE_URL: storeUrl }
    const args = kind === 'raw' ? [] : [appUrl(build), JSON.stringify(settings)]
    const script = join(this.#folder, 'servers', `${kind}.js`)
    const child = new Child(script, { core: SERVER_CORE, node: ['--expose-gc'], args })
    const port = await child.port()
    const writer = hasWriter ? new Child(script, { core: LOAD_CORE, args }) : undefined
    const target = { kind, port: (await writer?.port()) ?? port, readersPort: port, token, plant }
    await this.load.ask('target', { target })
    const profile = profiles === undefined ? undefined : join(profiles, `${contestant.name}-${Date.now()}.cpuprofile`)
    return new Server(child, { profile, writer, storeUrl })
  }

  /** A process that nothing has been asked of yet, and the time until it answers. */
  start({ kind }: Contestant): Promise<Started> {
    const { dist, base } = this.#options
    const build = kind === 'raw' ? base : dist
    const cli = build === undefined ? undefined : join(build, 'cli.js')
    const program = {
      serve: [cli ?? '', 'serve', '--port', '0', '--log-format', 'json'],
      say: [cli ?? '', '--version'],
    }
    return start(cli === undefined ? BARE : program, canPin ? ['taskset', '-c', String(SERVER_CORE)] : [])
  }

  async close(): Promise<void> {
    await this.load.kill()
    await this.databases.remove()
    rmSync(this.#folder, { recursive: true, force: true })
  }
}

export class Server {
  /** Where it keeps its sessions, if that outlives it. */
  readonly storeUrl: string | undefined
  readonly #child: Child
  readonly #writer: Child | undefined
  readonly #profile: string | undefined

  constructor(
    child: Child,
    {
      profile,
      writer,
      storeUrl,
    }: Partial<Record<'profile' | 'storeUrl', string | undefined>> & { writer?: Child | undefined },
  ) {
    this.#child = child
    this.#writer = writer
    this.#profile = profile
    this.storeUrl = storeUrl
  }

  memory(): Promise<Memory> {
    return this.#child.ask('memory')
  }

  /** Agent runs that have begun and not ended. */
  agents(): Promise<number> {
    return this.#child.ask('agents')
  }

  /** Microseconds of CPU time that the server uses while `task` runs. This is what a profile covers, too. */
  async cpuDuring<T>(task: () => Promise<T>): Promise<{ cpuUs: number; value: T }> {
    if (this.#profile !== undefined) await this.#child.ask('startProfile')
    const before = await this.#child.ask<NodeJS.CpuUsage>('cpu')
    const value = await task()
    const after = await this.#child.ask<NodeJS.CpuUsage>('cpu')
    if (this.#profile !== undefined) await this.#child.ask('stopProfile', { file: this.#profile })
    return { cpuUs: after.user + after.system - before.user - before.system, value }
  }

  async stop(): Promise<void> {
    for (const child of this.#children) await child.ask('stop')
    for (const child of this.#children) await child.ended()
  }

  async kill(): Promise<void> {
    for (const child of this.#children) await child.kill()
  }

  get #children(): Child[] {
    return this.#writer === undefined ? [this.#child] : [this.#child, this.#writer]
  }
}

class Child {
  readonly #process: ChildProcess
  readonly #waiting = new Map<number, (answer: Answer | StageError) => void>()
  readonly #name: string
  #lastId = 0
  #fault: string | undefined
  #onPort: (port: number) => void = () => {}

  constructor(script: string, { core, node = [], args = [] }: { core: number; node?: string[]; args?: string[] }) {
    this.#name = script.slice(script.lastIndexOf('/') + 1)
    const command = [...node, script, ...args]
    const pinned = ['-c', String(core), process.execPath, ...command]
    // No pipe for the output: a server that logs would have to wait for this process to read it.
    const stdio: StdioOptions = ['ignore', 'ignore', 'inherit', 'ipc']
    // JSON has no NaN, which is what a delay is that was not measured.
    const options = { stdio, serialization: 'advanced' } as const
    this.#process = canPin ? spawn('taskset', pinned, options) : spawn(process.execPath, command, options)
    this.#process.on('message', (message: Answer | { fault: string } | { port: number }) => {
      if ('port' in message) {
        this.#onPort(message.port)
        return
      }
      if ('fault' in message) {
        this.#fault = message.fault
        return
      }
      this.#waiting.get(message.id)?.(message)
      this.#waiting.delete(message.id)
    })
    this.#process.on('exit', (code, signal) => {
      const problem = new StageError(this.#fault ?? `${this.#name} ended with ${code ?? signal}`)
      for (const settle of this.#waiting.values()) settle(problem)
      this.#waiting.clear()
    })
  }

  ask<T>(cmd: string | LoadCommand, args: object = {}): Promise<T> {
    const id = ++this.#lastId
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, (answer) => {
        if (answer instanceof StageError) reject(answer)
        else if ('error' in answer) reject(new StageError(answer.error))
        else resolve(answer.value as T)
      })
      this.#process.send({ id, cmd, ...args })
    })
  }

  /** Where a server listens, once it does. */
  port(): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#onPort = resolve
      this.#process.once('exit', (code) => reject(new StageError(`${this.#name} did not start: ${code}`)))
    })
  }

  async ended(): Promise<void> {
    if (this.#process.exitCode === null && this.#process.signalCode === null) await once(this.#process, 'exit')
  }

  async kill(): Promise<void> {
    this.#process.kill('SIGKILL')
    await this.ended()
  }
}

/**
 * Makes plain JavaScript of the benchmark, in a folder of its own: what is measured must not run through a loader, whose
 * helpers around every function would be measured too.
 */
function compileBench(): string {
  const folder = mkdtempSync(join(tmpdir(), 'suricate-bench-'))
  writeFileSync(join(folder, 'package.json'), '{"type":"module"}')
  const tsc = fileURLToPath(import.meta.resolve('typescript/package.json')).replace(/package\.json$/, 'bin/tsc')
  const entries = ['load.ts', 'servers/raw.ts', 'servers/suricate.ts']
  const inner = [
    'agent.ts',
    'control.ts',
    ...['connection', 'plant', 'samples', 'stream-check', 'target'].map((name) => `load/${name}.ts`),
  ]
  const files = [...entries, ...inner].map((name) => join(benchFolder, name))
  // Types are the business of `npm run types`; without them, and without what they lead to, this takes half a second.
  const options =
    '--ignoreConfig --noCheck --noResolve --module esnext --target es2023 --rewriteRelativeImportExtensions'
  const args = [tsc, ...options.split(' '), '--rootDir', benchFolder, '--outDir', folder, ...files]
  execFileSync(process.execPath, args, { stdio: 'inherit' })
  return folder
}

function appUrl(dist: string): string {
  const path = join(dist, 'app.js')
  if (!existsSync(path))
    throw new StageError(`There is no ${path}: run \`npm run build\` first, or name a build with --dist`)
  return pathToFileURL(dist).href
}
