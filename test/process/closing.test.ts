import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { describe, expect, onTestFinished, test } from 'vitest'
import { within } from '../helpers/http.ts'
import { isBuilt } from './child.ts'

const here = (path: string) => new URL(path, import.meta.url)
const [module, execArgv] = isBuilt
  ? [here('../../dist/closing.js'), []]
  : [here('../../src/closing.ts'), ['--import', 'tsx']]

async function program(kind: string, { withinMs = 60_000, repeatMs = 0 } = {}) {
  const args = [module.href, kind, String(withinMs), String(repeatMs)]
  const child = fork(fileURLToPath(here('./closing-process.mjs')), args, { execArgv, stdio: 'ignore' })
  onTestFinished(() => void child.kill('SIGKILL'))
  const exit = once(child, 'exit') as Promise<[number | null, NodeJS.Signals | null]>
  await once(child, 'message')
  return { child, exited: () => within('the process ends', exit) }
}

describe('a process that closes', () => {
  test.each(['SIGHUP', 'SIGQUIT'] as const)('ends with 0 after %s', async (signal) => {
    const { child, exited } = await program('ends')
    child.kill(signal)
    expect(await exited()).toEqual([0, null])
  })

  test.each(['SIGABRT', 'SIGSEGV', 'SIGUSR2'] as const)('does not catch %s', async (signal) => {
    const { child, exited } = await program('waits')
    child.kill(signal)
    expect(await exited()).toEqual([null, signal])
  })

  test.each([
    ['fails', 60_000, 1, null],
    ['throws', 60_000, 1, null],
    ['waits', 600, 1, null],
    ['spins', 600, null, 'SIGKILL'],
    ['blocks', 600, null, 'SIGKILL'],
  ] as const)('is gone in time where closing %s', async (kind, withinMs, ...end) => {
    const { child, exited } = await program(kind, { withinMs })
    child.kill('SIGTERM')
    expect(await exited()).toEqual(end)
  })

  test('ends with 1 after an error that nobody caught', async () => {
    const { child, exited } = await program('ends')
    child.send('throw')
    expect(await exited()).toEqual([1, null])
  })

  test('takes a signal that is repeated at once for the same one, where it is told to', async () => {
    const { child, exited } = await program('waits', { withinMs: 800, repeatMs: 60_000 })
    const began = performance.now()
    child.kill('SIGINT')
    child.kill('SIGTERM')
    expect(await exited()).toEqual([1, null])
    expect(performance.now() - began).toBeGreaterThanOrEqual(300)
  })
})
