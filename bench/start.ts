import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { setTimeout as pause } from 'node:timers/promises'

/** What is started: the arguments of Node that serve, and those that only say something and end. */
export interface Program {
  serve: string[]
  say: string[]
}

/** As little as a process can be that answers over HTTP. */
export const BARE: Program = {
  serve: [
    '-e',
    `require('node:http').createServer((_, response) => response.end()).listen(0, '127.0.0.1', function () {
      console.log('listens on http://127.0.0.1:' + this.address().port + ',') })`,
  ],
  say: ['-e', '0'],
}

export interface Started {
  /** Milliseconds from the start of the process until its first answer. */
  healthMs: number
  /** MiB that it has when it has been idle for a second. */
  rss: number
  /** Milliseconds that the process takes that says something and ends. */
  sayMs: number
}

/** Starts both; `pinned` is what stands before Node to bind a process to a core. */
export async function start({ serve, say }: Program, pinned: readonly string[]): Promise<Started> {
  const node = (args: string[]) => {
    const [command = '', ...rest] = [...pinned, process.execPath, ...args]
    return spawn(command, rest, { stdio: ['ignore', 'pipe', 'inherit'], env: { PATH: process.env.PATH } })
  }
  const began = performance.now()
  const server = node(serve)
  await (await fetch(`${await addressOf(server)}/health`)).text()
  const healthMs = performance.now() - began
  await pause(1_000)
  const rss = Number(execFileSync('ps', ['-o', 'rss=', '-p', String(server.pid)])) / 1_024
  server.kill('SIGTERM')
  await once(server, 'exit')

  const asked = performance.now()
  await once(node(say), 'exit')
  return { healthMs, rss, sayMs: performance.now() - asked }
}

async function addressOf({ stdout }: ChildProcess): Promise<string> {
  for await (const line of createInterface({ input: stdout as NodeJS.ReadableStream })) {
    const [, url] = /listens on (http:[^,]+),/.exec(line) ?? []
    if (url !== undefined) return url
  }
  throw new Error('it ended before it listened')
}
