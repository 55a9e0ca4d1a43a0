import { writeFileSync } from 'node:fs'
import { Session } from 'node:inspector/promises'

/** What one process of the benchmark asks of another. `id` comes back with the answer. */
export interface Command {
  id: number
  cmd: string
  [argument: string]: unknown
}

export type Answer = { id: number; value: unknown } | { id: number; error: string }

/** Answers commands that come over IPC. The process ends with its parent. */
export function answerCommands(commands: Record<string, (command: never) => unknown>): void {
  process.on('message', (command: Command) => {
    answer(commands, command).then(
      (value) => process.send?.({ id: command.id, value }),
      (error) => process.send?.({ id: command.id, error: error instanceof Error ? error.message : String(error) }),
    )
  })
  process.on('disconnect', () => process.exit(0))
}

async function answer(commands: Record<string, (command: never) => unknown>, command: Command): Promise<unknown> {
  const run = commands[command.cmd]
  if (run === undefined) throw new TypeError(`No command "${command.cmd}"`)
  return run(command as never)
}

export interface Memory {
  heapUsed: number
  rss: number
  external: number
}

/**
 * What every server under test does once it listens: says so, and answers about itself until it is told to stop.
 * `agents` counts the agent's runs that have begun and not ended.
 */
export function serve(port: number, agents: () => number): void {
  process.stdout.write(`${JSON.stringify({ port })}\n`)
  process.send?.({ port })
  answerCommands({
    memory: measureMemory,
    cpu: () => process.cpuUsage(),
    startProfile,
    stopProfile,
    agents,
    stop: () => {
      setImmediate(() => process.exit(0))
    },
  })
}

/** Memory after garbage collection; needs `--expose-gc`. */
async function measureMemory(): Promise<Memory> {
  for (let round = 0; round < 3; round++) {
    globalThis.gc?.()
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
  const { heapUsed, rss, external } = process.memoryUsage()
  return { heapUsed, rss, external }
}

let profiler: Session | undefined

/** Begins a CPU profile; it covers what is measured and not how the server starts. */
async function startProfile(): Promise<void> {
  profiler = new Session()
  profiler.connect()
  await profiler.post('Profiler.enable')
  await profiler.post('Profiler.setSamplingInterval', { interval: 200 })
  await profiler.post('Profiler.start')
}

async function stopProfile({ file }: { file: string }): Promise<void> {
  const { profile } = (await profiler?.post('Profiler.stop')) ?? {}
  profiler?.disconnect()
  writeFileSync(file, JSON.stringify(profile))
}
