import { describe, expect, test } from 'vitest'
import { ModelFault } from '../../../src/agents/llm/model.ts'
import { withRetries } from '../../../src/agents/llm/retry.ts'
import { ProviderError } from '../../../src/core/errors.ts'
import type { AgentReport } from '../../../src/core/events.ts'

const quick = { maxRetries: 3, firstDelayMs: 1, maxDelayMs: 4 }
const never = new AbortController().signal

/** Fails with each of these in turn, then succeeds. */
function failing(...faults: Error[]) {
  let tries = 0
  return {
    get tries() {
      return tries
    },
    async *attempt(): AsyncGenerator<AgentReport, string, undefined> {
      const fault = faults[tries++]
      yield { type: 'text_delta', delta: `try ${tries}` }
      if (fault !== undefined) throw fault
      return 'done'
    },
  }
}

async function drain(run: AsyncGenerator<AgentReport, string, undefined>) {
  const events: AgentReport[] = []
  for (;;) {
    const next = await run.next()
    if (next.done) return { events, result: next.value }
    events.push(next.value)
  }
}

const passing = (options: { retryAfterMs?: number } = {}) => new ModelFault('the model is busy', true, options)

describe('a model call', () => {
  test('that succeeds is made once', async () => {
    const call = failing()
    expect(await drain(withRetries(call.attempt, never, quick))).toEqual({
      events: [{ type: 'text_delta', delta: 'try 1' }],
      result: 'done',
    })
  })

  test('that fails in passing is made again, after an event that says so', async () => {
    const { events, result } = await drain(withRetries(failing(passing(), passing()).attempt, never, quick))
    expect(result).toBe('done')
    expect(events.map(({ type }) => type)).toEqual(['text_delta', 'retrying', 'text_delta', 'retrying', 'text_delta'])
    expect(events.filter(({ type }) => type === 'retrying')).toMatchObject([
      { attempt: 1, max_attempts: 3, error: 'the model is busy' },
      { attempt: 2, max_attempts: 3 },
    ])
  })

  test('waits twice as long with each try, give or take a tenth, and never longer than the most', async () => {
    const policy = { maxRetries: 3, firstDelayMs: 40, maxDelayMs: 90 }
    const { events } = await drain(withRetries(failing(passing(), passing(), passing()).attempt, never, policy))
    const delays = events.flatMap((event) => (event.type === 'retrying' ? [event.delay_ms] : []))
    for (const [i, expected] of [40, 80, 90].entries()) {
      expect(delays[i]).toBeGreaterThanOrEqual(expected * 0.9 - 1)
      expect(delays[i]).toBeLessThanOrEqual(expected * 1.1 + 1)
    }
  })

  test('waits as long as the provider asks', async () => {
    const { events } = await drain(withRetries(failing(passing({ retryAfterMs: 7 })).attempt, never, quick))
    expect(events[1]).toMatchObject({ type: 'retrying', delay_ms: 7 })
  })

  test('that keeps failing is given up after four tries', async () => {
    const call = failing(passing(), passing(), passing(), passing(), passing())
    await expect(drain(withRetries(call.attempt, never, quick))).rejects.toThrow(new ProviderError('the model is busy'))
    expect(call.tries).toBe(4)
  })

  test.each([
    ['cannot succeed', new ModelFault('no such model', false)],
    ['asks for more patience than there is', passing({ retryAfterMs: 3_600_000 })],
  ])('that %s is made once', async (_, fault) => {
    const call = failing(fault)
    await expect(drain(withRetries(call.attempt, never, quick))).rejects.toThrow(ProviderError)
    expect(call.tries).toBe(1)
  })

  test('that fails for a reason of ours is left as it is', async () => {
    const bug = new TypeError('a bug')
    await expect(drain(withRetries(failing(bug).attempt, never, quick))).rejects.toBe(bug)
  })

  test('does not wait on once the turn is interrupted', async () => {
    const turn = new AbortController()
    const run = withRetries(failing(passing({ retryAfterMs: 60_000 })).attempt, turn.signal, quick)
    await run.next()
    expect((await run.next()).value).toMatchObject({ type: 'retrying' })
    const next = run.next()
    turn.abort()
    await expect(next).rejects.toThrow('aborted')
  })
})
