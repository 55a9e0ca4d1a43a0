import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { onTestFinished } from 'vitest'
import { until } from '../helpers/http.ts'
import { has, pathOf } from '../helpers/programs.ts'
import { CLI } from './child.ts'

/** The one of util-linux, which runs a program in a pseudo-terminal of its own; other systems' takes other flags. */
export const withTerminal = process.platform === 'linux' && has('script')

/** A server in a terminal, once it listens. */
export async function serveInTerminal(env: Record<string, string> = {}) {
  const folder = mkdtempSync(join(tmpdir(), 'suricate-terminal-'))
  const code = join(folder, 'code')
  // The shell passes the end of the terminal on, as an interactive one does, and outlives it to say how the server ended.
  const command = `trap 'kill -HUP $pid' HUP
    '${process.execPath}' ${CLI.join(' ')} serve --port 0 & pid=$!; echo "pid $pid,"
    wait $pid; code=$?; [ $code -ne 129 ] || { wait $pid; code=$?; }; echo $code >${code}`
  const script = spawn(pathOf('script') as string, ['-qec', command, '/dev/null'], {
    cwd: fileURLToPath(new URL('../../', import.meta.url)),
    env: { PATH: process.env.PATH, SHELL: '/bin/sh', ...env },
    stdio: ['pipe', 'pipe', 'ignore'],
  })
  let said = ''
  script.stdout.on('data', (text) => {
    said += text
  })
  const isGone = () => existsSync(code) && readFileSync(code, 'utf8').endsWith('\n')
  onTestFinished(() => {
    script.kill('SIGKILL')
    const pid = Number(/pid (\d+),/.exec(said)?.[1])
    if (!isGone() && pid > 0) process.kill(pid, 'SIGKILL')
    rmSync(folder, { recursive: true })
  })
  const [pid, url] = await until('the server listens in its terminal', () => {
    const [, number] = /pid (\d+),/.exec(said) ?? []
    const [, address] = /listens on (http:\/\/[\d.:]+)/.exec(said) ?? []
    return number !== undefined && address !== undefined && ([Number(number), address] as const)
  })
  return {
    url,
    /** Nobody reads what the server prints any more, but its terminal is there. */
    leave: () => script.stdout.pause(),
    close: () => script.kill('SIGKILL'),
    signal: (signal: NodeJS.Signals) => process.kill(pid, signal),
    /** Resolves with the exit code. */
    exited: () => until('the server is gone', () => isGone() && Number(readFileSync(code, 'utf8'))),
  }
}
