import { expect, onTestFinished, test } from 'vitest'
import type { HookHandler, HookInvocation, HookResponse, Hooks } from '../../../src/agents/hooks/hook.ts'
import { createHooks, type Hook } from '../../../src/agents/hooks/hook-registry.ts'
import type { AgentOutput, HookPoint } from '../../../src/core/events.ts'
import { until, within } from '../../helpers/http.ts'

function hook(id: string, handler: HookHandler, more: Partial<Hook> = {}): Hook {
  const standard = { priority: 100, timeoutMs: 5_000, allowDisable: false, handler }
  return {
    id,
    point: 'run_completed',
    mode: 'foreground',
    capability: 'guardrail',
    failurePolicy: 'fail_closed',
    ...standard,
    ...more,
  }
}

const inBackground = { mode: 'background', capability: 'rewrite', failurePolicy: 'fail_open' } as const

/** A registry whose reports are kept; nothing of it outlives the test. */
function registry(...hooks: Hook[]) {
  const reports: string[] = []
  const made = createHooks(hooks, (message, id) => reports.push(`${id} ${message}`))
  onTestFinished(made.close)
  return { hooks: made, reports }
}

async function run(hooks: Hooks, more: Partial<HookInvocation> = {}, signal = new AbortController().signal) {
  const events: AgentOutput[] = []
  const outputs = hooks.run({ point: 'run_completed', session_id: 's', ...more }, signal)
  for (;;) {
    const next = await outputs.next()
    if (next.done) return { events, kinds: events.map(({ type }) => type), outcome: next.value }
    events.push(next.value)
  }
}

/** A handler that answers once it is let go, and how often it was asked. */
function held(answer?: HookResponse) {
  const waiting: (() => void)[] = []
  const handler: HookHandler = () => new Promise((resolve) => waiting.push(() => resolve(answer)))
  return { handler, waiting, release: () => waiting.splice(0).forEach((go) => void go()) }
}

test('32 hooks run in the background at a time; the next is skipped, and that is reported', async () => {
  const { handler, waiting, release } = held()
  const ids = Array.from({ length: 33 }, (_, i) => `h${i}`)
  const { hooks, reports } = registry(...ids.map((id) => hook(id, handler, inBackground)))
  expect((await run(hooks.forSession([]))).kinds).toEqual(Array(32).fill('hook_started'))
  expect(waiting).toHaveLength(32)
  expect(reports).toEqual(['h32 was skipped: 32 background hooks are running'])
  // The number is that of the server, not of a session.
  expect((await run(hooks.forSession([]))).kinds).toEqual([])
  release()
  await until('there is room again', async () => (await run(hooks.forSession([]))).kinds.length > 0)
})

test('many hooks that wait for one signal are no leak to warn of', async () => {
  const warnings: Error[] = []
  const note = (warning: Error) => warnings.push(warning)
  process.on('warning', note)
  onTestFinished(() => void process.off('warning', note))
  const { handler, waiting, release } = held()
  const { hooks } = registry(hook('slow', handler), hook('later', handler, inBackground))
  const session = hooks.forSession([])
  const { signal } = new AbortController()
  const runs = Array.from({ length: 12 }, () => run(session, {}, signal))
  await until('all wait', () => waiting.length === 12)
  release()
  await Promise.all(runs)
  expect(waiting).toHaveLength(12)
  // Warnings are emitted one turn of the event loop later.
  await new Promise((resolve) => setImmediate(resolve))
  expect(warnings).toEqual([])
})

test('what background hooks propose is published once, at any later point, with a revision that rises', async () => {
  const { handler, release } = held({
    patches: [
      { patch_type: 'run_result', text: 'better' },
      { patch_type: 'tool_args', args: {} },
    ],
  })
  const { hooks } = registry(hook('a', handler, inBackground), hook('b', handler, inBackground))
  const session = hooks.forSession([])
  const other = hooks.forSession([])
  const first = await run(session)
  expect(first).toMatchObject({ kinds: ['hook_started', 'hook_started'], outcome: { patches: [] } })
  expect(session.has('turn_boundary')).toBe(false)
  release()
  await until('something is to be published', () => session.has('turn_boundary'))
  const { events } = await run(session, { point: 'turn_boundary' })
  const envelope = (hook_id: string, revision: number) => ({
    type: 'hook_patch_published',
    hook_id,
    point: 'run_completed',
    envelope: {
      revision,
      hook_id,
      point: 'run_completed',
      patch: { patch_type: 'run_result', text: 'better' },
      published_at: expect.stringMatching(/^\d{4}-.*Z$/),
    },
  })
  expect(events).toEqual([envelope('a', 1), envelope('b', 2)])
  expect((await run(session, { point: 'turn_boundary' })).events).toEqual([])
  await run(session)
  release()
  await until('more is to be published', () => session.has('turn_boundary'))
  expect((await run(session, { point: 'turn_boundary' })).events).toMatchObject([
    { envelope: { revision: 3 } },
    { envelope: { revision: 4 } },
  ])
  expect(other.has('turn_boundary')).toBe(false)
})

test('a background hook that only observes proposes nothing', async () => {
  const { handler, release } = held({ patches: [{ patch_type: 'run_result', text: 'better' }] })
  const after = held()
  const { hooks } = registry(
    hook('look', handler, { ...inBackground, capability: 'observe' }),
    hook('after', after.handler, { ...inBackground, point: 'run_failed' }),
  )
  const session = hooks.forSession([])
  await run(session)
  release()
  expect((await run(session, { point: 'run_failed' })).kinds).toEqual(['hook_started'])
  expect(session.has('turn_boundary')).toBe(false)
})

test('a background hook that fails or is late is for the log alone', async () => {
  const throws: HookHandler = () => {
    throw new Error('an internal matter')
  }
  const never: HookHandler = () => new Promise(() => {})
  const { hooks, reports } = registry(
    hook('throws', throws, inBackground),
    hook('late', never, { ...inBackground, timeoutMs: 10 }),
  )
  const session = hooks.forSession([])
  expect((await run(session)).kinds).toEqual(['hook_started', 'hook_started'])
  await until('both are reported', () => reports.length === 3)
  expect(reports).toEqual([
    'throws threw',
    'throws failed: failed unexpectedly',
    'late failed: did not answer within 10 ms',
  ])
  expect((await run(session, { point: 'turn_boundary' })).events).toEqual([])
})

test('a server that closes stops what runs in the background, without a word', async () => {
  let stopped: Promise<void> | undefined
  const { hooks, reports } = registry(
    hook(
      'long',
      (_, { signal }) => {
        stopped = new Promise((resolve) => signal.addEventListener('abort', () => resolve()))
        return new Promise(() => {})
      },
      { ...inBackground, timeoutMs: 600_000 },
    ),
  )
  await run(hooks.forSession([]))
  hooks.close()
  await within('the hook to hear of it', stopped ?? Promise.reject())
  expect(reports).toEqual([])
})

test("an interrupt ends a hook at once, with the signal's reason, and that is no failure of the hook", async () => {
  const interrupt = new AbortController()
  const { handler } = held()
  const { hooks, reports } = registry(hook('slow', handler))
  const outputs = hooks.forSession([]).run({ point: 'run_completed', session_id: 's' }, interrupt.signal)
  expect((await outputs.next()).value).toMatchObject({ type: 'hook_started' })
  const next = outputs.next()
  const reason = new Error('interrupted')
  interrupt.abort(reason)
  await expect(within('the end of the hook', next)).rejects.toBe(reason)
  expect(reports).toEqual([])
})

const cycle: { self?: unknown } = {}
cycle.self = cycle
const denial = { decision: 'deny', reason_code: 'policy_violation', message: 'no' } as const

test.each<[string, unknown, string]>([
  ['too much', { decision: { ...denial, message: 'x'.repeat(200_000) } }, 'answered with more than 128 KiB'],
  ['a circle', { decision: { ...denial, payload: cycle } }, 'answered with something that is no hook response'],
  ['null', null, 'answered with something that is no hook response'],
  ['a function', () => {}, 'answered with something that is no hook response'],
  ['a decision of its own', { decision: 'deny' }, 'answered with something that is no hook response'],
  ['a patch of its own', { patches: [{ patch_type: 'all' }] }, 'answered with something that is no hook response'],
])('a hook that answers with %s has failed [R69]', async (_, answer, message) => {
  const { hooks } = registry(hook('odd', () => answer as HookResponse))
  const denied = { hook_id: 'odd', reason_code: 'runtime_error', message }
  expect(await run(hooks.forSession([]))).toMatchObject({
    kinds: ['hook_started', 'hook_denied'],
    outcome: { denied, patches: [] },
  })
  const open = registry(hook('odd', () => answer as HookResponse, { failurePolicy: 'fail_open' }))
  const { events, outcome } = await run(open.hooks.forSession([]))
  expect(events).toMatchObject([{ type: 'hook_started' }, { type: 'hook_failed', error: message }])
  expect(outcome).toEqual({ patches: [] })
})

test('what an answer was is settled when it comes', async () => {
  const answer = { patches: [{ patch_type: 'tool_args' as const, args: { a: 1 } }] }
  const { hooks } = registry(hook('own', () => answer, { point: 'pre_tool_execution', capability: 'rewrite' }))
  const { outcome } = await run(hooks.forSession([]), { point: 'pre_tool_execution' })
  answer.patches[0] = { patch_type: 'tool_args', args: { a: 2 } }
  expect(outcome).toEqual({ patches: [{ hook_id: 'own', patch: { patch_type: 'tool_args', args: { a: 1 } } }] })
})

test.each<[HookPoint, Partial<HookInvocation>, object]>([
  [
    'pre_tool_execution',
    { tool_call: { tool_use_id: 'c', name: 'delete', args: Array(100_000).fill(1) } },
    { tool_call: { tool_use_id: 'c', name: 'delete', args: '… [too long to be shown]' } },
  ],
  [
    'pre_llm_request',
    { llm_request: { max_tokens: 5, message_count: 1, provider_params: { list: Array(100_000).fill(1) } } },
    { llm_request: { max_tokens: 5, message_count: 1, provider_params: { note: '… [too long to be shown]' } } },
  ],
  [
    'post_llm_response',
    { llm_response: { assistant_text: 'x'.repeat(100_000), tool_call_names: Array(50_000).fill('delete') } },
    {
      llm_response: {
        assistant_text: `${'x'.repeat(64)}… [100000 characters]`,
        tool_call_names: [...Array(1_000).fill('delete'), '… [50000 names]'],
      },
    },
  ],
])('a hook at %s sees that something is there, however much it is', async (point, facts, shown) => {
  const seen: HookInvocation[] = []
  const look: HookHandler = (invocation) => {
    seen.push(invocation)
    return undefined
  }
  const { hooks } = registry(hook('look', look, { point }))
  await run(hooks.forSession([]), { point, ...facts })
  expect(seen).toEqual([{ point, session_id: 's', ...shown }])
})
