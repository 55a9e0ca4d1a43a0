import { type TSchema, Type } from '@sinclair/typebox'
import { Value } from '@sinclair/typebox/value'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { assertAgentOutput, assertTurnOutcome } from '../../src/core/agent-output.ts'
import { AgentError } from '../../src/core/errors.ts'
import { AgentOutputs } from '../../src/core/events.ts'
import { Usage } from '../../src/core/usage.ts'

const usage = { input_tokens: 1, output_tokens: 2, total_tokens: 3 }

/** One good event of each type that an agent may yield. */
const good: Record<keyof typeof AgentOutputs, Record<string, unknown>> = {
  text_delta: { delta: 'x' },
  text_complete: { content: 'x' },
  reasoning_delta: { delta: 'x' },
  reasoning_complete: { content: 'x' },
  tool_call_requested: { id: '1', name: 'n', args: null },
  tool_execution_started: { id: '1', name: 'n' },
  tool_execution_completed: { id: '1', name: 'n', result: 'x', is_error: false, duration_ms: 0 },
  tool_execution_timed_out: { id: '1', name: 'n', timeout_ms: 5 },
  tool_result_received: { id: '1', name: 'n', is_error: true },
  turn_completed: { stop_reason: 'tool_use', usage },
  retrying: { attempt: 1, max_attempts: 3, error: 'x', delay_ms: 500 },
  hook_started: { hook_id: 'h', point: 'run_started' },
  hook_completed: { hook_id: 'h', point: 'run_started', duration_ms: 1 },
  hook_failed: { hook_id: 'h', point: 'run_started', error: 'x' },
  hook_denied: { hook_id: 'h', point: 'run_started', reason_code: 'policy_violation', message: 'x' },
  hook_rewrite_applied: { hook_id: 'h', point: 'run_started', patch: { patch_type: 'assistant_text', text: 'x' } },
  hook_patch_published: {
    hook_id: 'h',
    point: 'run_started',
    envelope: { revision: 1, hook_id: 'h', point: 'run_started', patch: {}, published_at: '2026-11-24T00:00:00Z' },
  },
  skills_resolved: { skills: ['a'], injection_bytes: 7 },
  skill_resolution_failed: { reference: 'a', error: 'x' },
  budget_warning: { budget_type: 'tokens', used: 8, limit: 10, percent: 0.8 },
  compaction_started: { input_tokens: 1, estimated_history_tokens: 1, message_count: 1 },
  compaction_completed: { summary_tokens: 1, messages_before: 4, messages_after: 2 },
  compaction_failed: { error: 'x' },
}
const examples = Object.entries(good).map(([type, fields]) => ({ type, ...fields }) as Record<string, unknown>)

describe('what an agent may yield', () => {
  test('is every type of the vocabulary that is not the engine’s', () => {
    expect(Object.keys(good).sort()).toEqual(Object.keys(AgentOutputs).sort())
  })

  test.each(examples)('$type passes as it should be', (event) => {
    expect(() => assertAgentOutput(event)).not.toThrow()
  })

  test.each(examples)('$type fails without any one of its members, and says which', (event) => {
    for (const key of Object.keys(event)) {
      if (key === 'type') continue
      const { [key]: _, ...rest } = event
      expect(() => assertAgentOutput(rest)).toThrow(
        new RegExp(`^The agent yielded a ${event.type} whose /${key} is wrong: `),
      )
    }
  })

  test.each(examples)('$type fails with a member of another kind, and says which', (event) => {
    for (const key of Object.keys(event)) {
      // `args` may be anything.
      if (key === 'type' || key === 'args') continue
      expect(() => assertAgentOutput({ ...event, [key]: Symbol('no') })).toThrow(`/${key}`)
    }
  })

  test.each([
    ['nothing', undefined],
    ['null', null],
    ['a string', 'text_delta'],
    ['a number', 7],
    ['an object without a type', { delta: 'x' }],
    ['a type that is no string', { type: 7 }],
  ])('is not %s', (_, value) => {
    expect(() => assertAgentOutput(value)).toThrow(new AgentError('The agent yielded something that is no event'))
  })

  test.each([
    'run_started',
    'run_completed',
    'run_failed',
    'run_interrupted',
    'turn_started',
    'done',
    'heartbeat',
    'session_loaded',
    'stream_truncated',
    'text',
    'toString',
    'constructor',
    '__proto__',
    '',
  ])('is not "%s", which is the engine’s or nobody’s [R46]', (type) => {
    const event = { type, session_id: 's', delta: 'x', error: 'x', code: 'x', prompt: 'x' }
    expect(() => assertAgentOutput(event)).toThrow(
      new AgentError(`The agent yielded "${type}", which agents may not yield`),
    )
  })

  test('is no function that looks like an event', () => {
    const disguised = Object.assign(() => {}, { type: 'text_complete', content: 'x' })
    expect(() => assertAgentOutput(disguised)).toThrow('The agent yielded a text_complete whose shape is wrong')
  })

  test('is never anything that does not fit the published schema', () => {
    const anyEvent = fc
      .tuple(fc.constantFrom(...examples), fc.dictionary(fc.constantFrom(...keysOf(examples)), fc.anything()))
      .map(([example, changes]): Record<string, unknown> => ({ ...example, ...changes, type: example.type }))
    fc.assert(
      fc.property(anyEvent, (event) => {
        const schema: TSchema = AgentOutputs[event.type as keyof typeof AgentOutputs]
        const fits = Value.Check(Type.Omit(schema, ['seq', 'turn']), [Usage], event)
        if (fits) expect(() => assertAgentOutput(event)).not.toThrow()
        else expect(() => assertAgentOutput(event)).toThrow(AgentError)
      }),
      { numRuns: 400 },
    )
  })
})

describe('what a run may return', () => {
  test.each([
    [{}],
    [{ text: '' }],
    [{ stop_reason: 'max_tokens' }],
    [{ usage: { input_tokens: 0, output_tokens: 1, cache_read_tokens: 2 } }],
    [{ structured_output: null }],
    [{ structured_output: { deep: [1, 'two', { three: false }] } }],
    [{ schema_warnings: [{ provider: 'p', path: '/a', message: 'm' }] }],
  ])('is %j', (outcome) => {
    expect(() => assertTurnOutcome(outcome)).not.toThrow()
  })

  test.each([
    ['text', { text: 5 }],
    ['stop_reason', { stop_reason: 'cancelled' }],
    ['stop_reason', { stop_reason: 'tool_use' }],
    ['usage', { usage: null }],
    ['usage/input_tokens', { usage: { input_tokens: -1, output_tokens: 0 } }],
    ['usage/output_tokens', { usage: { input_tokens: 1, output_tokens: 0.5 } }],
    ['usage/cache_read_tokens', { usage: { input_tokens: 1, output_tokens: 0, cache_read_tokens: '1' } }],
    ['schema_warnings', { schema_warnings: 5 }],
    ['schema_warnings/0/path', { schema_warnings: [{ provider: 'p', path: 1, message: 'm' }] }],
  ])('has no other %s', (path, outcome) => {
    expect(() => assertTurnOutcome(outcome)).toThrow(
      new RegExp(`^The agent returned an outcome whose /${path} is wrong: `),
    )
  })

  test.each([
    ['a string', 'done'],
    ['a number', 5],
    ['true', true],
  ])('is not %s', (_, outcome) => {
    expect(() => assertTurnOutcome(outcome)).toThrow('The agent returned an outcome whose shape is wrong')
  })

  test('has no structured output that JSON cannot say', () => {
    const circular: { self?: unknown } = {}
    circular.self = circular
    for (const structured_output of [1n, circular, [{ deep: 1n }]]) {
      expect(() => assertTurnOutcome({ structured_output })).toThrow(
        'The agent returned a structured_output that JSON cannot say',
      )
    }
  })
})

function keysOf(records: readonly Record<string, unknown>[]): string[] {
  return [...new Set(records.flatMap((record) => Object.keys(record)))]
}
