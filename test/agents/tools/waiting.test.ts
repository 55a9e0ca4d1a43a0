import { expect, test } from 'vitest'
import { waitedFor, withinTime } from '../../../src/agents/tools/waiting.ts'

const never = new Promise<never>(() => {})

test('what is waited for comes, or fails', async () => {
  const { signal } = new AbortController()
  expect(await waitedFor(Promise.resolve(1), signal)).toBe(1)
  await expect(waitedFor(Promise.reject(new Error('failed')), signal)).rejects.toThrow('failed')
  expect(await withinTime(Promise.resolve(2), 10_000)).toBe(2)
})

test('who leaves waits no longer', async () => {
  const leaving = new AbortController()
  const waiting = waitedFor(never, leaving.signal)
  leaving.abort(new Error('left'))
  await expect(waiting).rejects.toThrow('left')
})

test('who has left does not wait, and what fails then fails unheard', async () => {
  const left = AbortSignal.abort(new Error('left'))
  await expect(waitedFor(never, left)).rejects.toThrow('left')
  // An unhandled rejection would fail the run.
  await expect(waitedFor(Promise.reject(new Error('failed')), left)).rejects.toThrow('left')
})

test('time that is up is an error that says so', async () => {
  await expect(withinTime(never, 10)).rejects.toThrow('It did not answer within 10 ms')
})
