import { expect, test } from 'vitest'
import type { HookHandler } from '../../src/agents/hooks/hook.ts'
import { callHook } from '../../src/agents/hooks/hook-call.ts'
import type { Approval, SessionAgent, SessionAgentBuilder, TurnContext } from '../../src/core/agent.ts'
import { createIdle, settled, turnEvents, useService, useTimeouts } from './support.ts'

/** What authors write; the compiler reads this file as it reads theirs. */
const silent: SessionAgent = {
  async *run({ prompt }) {
    yield { type: 'text_delta', delta: prompt }
  },
}
const early: SessionAgent = {
  async *run({ prompt }) {
    if (prompt === '') return
    yield { type: 'text_delta', delta: prompt }
  },
}
const either: SessionAgent = {
  async *run({ prompt }) {
    yield { type: 'text_delta', delta: prompt }
    if (prompt !== '') return { stop_reason: 'end_turn' }
    return undefined
  },
}
class Noisy implements SessionAgent {
  async *run({ prompt }: { prompt: string }) {
    yield { type: 'text_delta' as const, delta: prompt }
  }
}

test.each(Object.entries({ silent, early, either, Noisy: new Noisy() }))(
  'an agent may return nothing: %s',
  async (name, agent) => {
    const { service } = useService({ agents: [{ name, buildAgent: () => agent }] satisfies SessionAgentBuilder[] })
    const { sessionId } = await service.createSession({ prompt: 'said' })
    expect(await service.turnEnded(sessionId, 1)).toMatchObject({
      status: 'completed',
      result: { text: 'said', stop_reason: 'end_turn' },
    })
  },
)

test('a hook may return nothing, now or later', async () => {
  const hooks: HookHandler[] = [() => {}, async () => {}, () => undefined]
  for (const hook of hooks) {
    const { signal } = new AbortController()
    expect(await callHook(hook, { point: 'run_started', session_id: 's' }, 1_000, signal)).toEqual({})
  }
})

/** A turn whose agent asks as `ask` says. */
async function asking(ask: (context: TurnContext) => Promise<Approval>) {
  const agent: SessionAgent = {
    async *run(_, context) {
      const { approved, reason } = await ask(context)
      yield { type: 'text_delta', delta: `${approved} ${reason ?? ''}` }
    },
  }
  const harness = useService({ agents: [{ name: 'asks', buildAgent: () => agent }] })
  const id = await createIdle(harness)
  const { turn } = await harness.service.startTurn(id, { prompt: 'p' })
  await settled()
  return { harness, id, turn }
}

test.each([
  ['no time', {}, 300_000],
  ['an undefined time', { timeoutMs: undefined }, 300_000],
  ['Infinity', { timeoutMs: Number.POSITIVE_INFINITY }, 2 ** 31 - 1],
  ['more than a timer can wait', { timeoutMs: 1e15 }, 2 ** 31 - 1],
])('approve with %s waits, and is answered', async (_, time, waitMs) => {
  useTimeouts()
  const before = Date.now()
  const { harness, id, turn } = await asking(({ approve }) =>
    approve({ id: 'c', name: 'rm', ...(time as { timeoutMs?: number }) }),
  )
  const { service } = harness
  expect(service.turn(id, turn).status).toBe('running')
  service.approve(id, turn, 'c', { approved: true })
  expect((await service.turnEnded(id, turn)).result?.text).toBe('true ')
  const asked = (await turnEvents(harness, id, turn)).find(({ type }) => type === 'tool_approval_requested')
  expect(asked).toMatchObject({ id: 'c', name: 'rm', args: {} })
  const { expires_at } = asked as unknown as { expires_at: string }
  expect(Date.parse(expires_at) - before - waitMs).toBeLessThan(60_000)
  expect(Date.parse(expires_at)).toBeGreaterThanOrEqual(before + waitMs)
})

test.each([-1, Number.NaN])('approve with %d says what is wrong', async (timeoutMs) => {
  const { harness, id, turn } = await asking(({ approve }) => approve({ id: 'c', name: 'rm', timeoutMs }))
  expect((await harness.service.turnEnded(id, turn)).status).toBe('failed')
  expect(harness.faults).toEqual([new TypeError(`Expected \`timeoutMs\` to be a number from 0 up, got ${timeoutMs}`)])
})
