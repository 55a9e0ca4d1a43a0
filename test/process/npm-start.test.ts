import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { expect, onTestFinished, test } from 'vitest'
import { client, until } from '../helpers/http.ts'
import { types } from '../helpers/sse.ts'
import { RemoteSession } from './session.ts'

/** `npm start` in a process group of its own, without the build before it. */
async function npmStart() {
  const npm = spawn('npm', ['start', '--ignore-scripts', '--', '--port', '0', '--log-format', 'json'], {
    cwd: fileURLToPath(new URL('../../', import.meta.url)),
    env: { PATH: process.env.PATH, HOME: process.env.HOME, DRAIN_MS: '20000' },
    stdio: ['ignore', 'pipe', 'ignore'],
    detached: true,
  })
  const group = -(npm.pid as number)
  onTestFinished(() => {
    if (npm.exitCode === null) process.kill(group, 'SIGKILL')
  })
  let said = ''
  npm.stdout.on('data', (text) => {
    said += text
  })
  const exited = once(npm, 'exit')
  const url = await until('the server listens', () => /listens on (http:\/\/[\d.:]+)/.exec(said)?.[1])
  return { pid: npm.pid as number, group, url, exited }
}

test.each([
  ['npm alone', 'SIGTERM', ({ pid }: { pid: number }) => pid],
  ['the whole group, as a terminal does', 'SIGINT', ({ group }: { group: number }) => group],
] as const)('npm start ends with its server, once that has drained: a signal to %s', async (_, signal, target) => {
  const npm = await npmStart()
  const stream = await (await RemoteSession.create(npm.url)).run('wait 500\nsay done')
  process.kill(target(npm), signal)
  expect(await npm.exited).toEqual([0, null])
  expect(types(await stream.all()).at(-1)).toBe('run_completed')
  await expect(client(() => npm.url).get('/health')).rejects.toThrow('ECONNREFUSED')
})
