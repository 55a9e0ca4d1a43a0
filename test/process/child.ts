import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, statSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

const root = new URL('../../', import.meta.url)
const running = new Set<ChildProcess>()

/** The built command line where it is as new as its sources, which starts four times as fast; else the sources themselves. */
export const isBuilt = builtIsNew()
export const CLI = isBuilt ? ['dist/cli.js'] : ['--import', 'tsx', 'src/cli.ts']

function builtIsNew(): boolean {
  const modified = (path: string) => statSync(new URL(path, root)).mtimeMs
  try {
    return readdirSync(new URL('src/', root), { recursive: true, encoding: 'utf8' })
      .filter((path) => path.endsWith('.ts'))
      .every((path) => modified(`src/${path}`) <= modified('dist/.built'))
  } catch {
    return false
  }
}

export interface Finished {
  code: number | null
  signal: NodeJS.Signals | null
  stdout: string
  stderr: string
}

export interface ChildOptions {
  /** A module that runs before the command line does. */
  preload?: URL
  /** A channel for what a test has to say to a preload. */
  ipc?: boolean
  /** What it reads on standard input; nothing is there otherwise. */
  input?: string | Buffer
}

/** The real command line in a process of its own, with only the environment that is given. */
export function suricate(
  args: readonly string[],
  env: Record<string, string> = {},
  { preload, ipc = false, input }: ChildOptions = {},
): ChildProcess {
  const before = preload === undefined ? [] : ['--import', preload.href]
  const child = spawn(process.execPath, [...before, ...CLI, ...args], {
    cwd: fileURLToPath(root),
    env: { PATH: process.env.PATH, ...env },
    stdio: [input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe', ...(ipc ? ['ipc' as const] : [])],
  })
  // It may end before it has read all.
  child.stdin?.on('error', () => {}).end(input)
  running.add(child)
  child.once('exit', () => running.delete(child))
  return child
}

/** Runs to the end. */
export async function run(
  args: readonly string[],
  env: Record<string, string> = {},
  options: ChildOptions = {},
): Promise<Finished> {
  return finish(suricate(args, env, options))
}

export async function finish(child: ChildProcess): Promise<Finished> {
  const [stdout, stderr, [code, signal]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    once(child, 'close') as Promise<[number | null, NodeJS.Signals | null]>,
  ])
  return { code, signal, stdout, stderr }
}

async function text(stream: ChildProcess['stdout']): Promise<string> {
  let all = ''
  // A character may come in two pieces.
  for await (const chunk of stream?.setEncoding('utf8') ?? []) all += chunk
  return all
}

export interface Served {
  child: ChildProcess
  url: string
  port: number
  /** Every line of standard output so far, as it came. */
  lines: string[]
  /** The same, parsed: every one of them is JSON. */
  readonly logs: Record<string, unknown>[]
  /** Resolves with the exit code; `null` when a signal ended it. */
  exited: Promise<number | null>
}

/** A served process once it listens. Its log is JSON. */
export async function serve(env: Record<string, string> = {}, options: ChildOptions = {}): Promise<Served> {
  const child = suricate(['serve', '--port', '0', '--log-format', 'json'], env, options)
  const lines: string[] = []
  const exited = once(child, 'close').then(([code]) => code as number | null)
  let complaint = ''
  child.stderr?.on('data', (chunk) => {
    complaint += chunk
  })
  const url = await new Promise<string>((resolve, reject) => {
    createInterface({ input: child.stdout as NodeJS.ReadableStream }).on('line', (line) => {
      lines.push(line)
      const address = /listens on (http:\/\/[^,]+),/.exec(line)?.[1]
      if (address !== undefined) resolve(address)
    })
    exited.then((code) => reject(new Error(`the server ended with ${code} before it listened: ${complaint}`)))
  })
  return {
    child,
    url,
    port: Number(new URL(url).port),
    lines,
    get logs() {
      return lines.map((line) => JSON.parse(line) as Record<string, unknown>)
    },
    exited,
  }
}

/** Ends what a failed test left behind. */
export function killLeftovers(): void {
  for (const child of running) child.kill('SIGKILL')
}
