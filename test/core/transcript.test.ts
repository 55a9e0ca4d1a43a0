import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { AgentOutput } from '../../src/core/events.ts'
import {
  assistantText,
  lastAssistantText,
  type Message,
  transcriptFault,
  withSystemPrompt,
} from '../../src/core/transcript.ts'
import { ModelCall } from '../../src/core/turn-transcript.ts'

const user = (content: string): Message => ({ role: 'user', content })
const system = (content: string): Message => ({ role: 'system', content })
const text = (...texts: string[]): Message => ({
  role: 'block_assistant',
  blocks: texts.map((text) => ({ block_type: 'text', data: { text } })),
  stop_reason: 'end_turn',
})
const asks = (...ids: string[]): Message => ({
  role: 'block_assistant',
  blocks: ids.map((id) => ({ block_type: 'tool_use', data: { id, name: 'n', args: {} } })),
  stop_reason: 'tool_use',
})
const answers = (...ids: string[]): Message => ({
  role: 'tool_results',
  results: ids.map((tool_use_id) => ({ tool_use_id, content: 'ok', is_error: false })),
})

describe('the text of a transcript', () => {
  test('is that of the text blocks, and of no other block or message', () => {
    const message: Message = {
      role: 'block_assistant',
      blocks: [
        { block_type: 'reasoning', data: { text: 'hm' } },
        { block_type: 'text', data: { text: 'one ' } },
        { block_type: 'tool_use', data: { id: '1', name: 'n', args: 'no' } },
        { block_type: 'text', data: { text: 'two' } },
      ],
      stop_reason: 'tool_use',
    }
    expect(assistantText(message)).toBe('one two')
    expect(assistantText(user('no'))).toBe('')
  })

  test('is that of the newest assistant message that has any', () => {
    expect(lastAssistantText([text('old'), text('new'), asks('1'), answers('1'), user('no')])).toBe('new')
    expect(lastAssistantText([text('old'), text('')])).toBe('old')
    expect(lastAssistantText([user('no'), asks('1')])).toBeUndefined()
    expect(lastAssistantText([])).toBeUndefined()
  })
})

describe('a system prompt', () => {
  test('goes first', () => {
    expect(withSystemPrompt([user('a')], 'be kind')).toEqual([system('be kind'), user('a')])
  })

  test('replaces the one that is there', () => {
    expect(withSystemPrompt([system('old'), user('a')], 'new')).toEqual([system('new'), user('a')])
  })

  test('stays when no other is given, in a transcript of its own', () => {
    const messages = [system('old'), user('a')]
    expect(withSystemPrompt(messages, undefined)).toEqual(messages)
    expect(withSystemPrompt(messages, undefined)).not.toBe(messages)
  })
})

describe('a transcript from outside', () => {
  test.each<[string, Message[]]>([
    ['nothing at all', []],
    ['a system prompt alone', [system('s')]],
    ['talk', [system('s'), user('a'), text('b'), user('c')]],
    ['tools that were answered', [user('a'), asks('1', '2'), answers('1', '2'), text('b')]],
    ['two users in a row, as an interrupted turn leaves them', [user('a'), user('b')]],
  ])('may be %s', (_, messages) => {
    expect(transcriptFault(messages)).toBeUndefined()
  })

  test.each<[string, Message[], number, string]>([
    ['a system message that is not first', [user('a'), system('s')], 1, 'a system message must come first'],
    ['a second system message', [system('s'), system('s')], 1, 'a system message must come first'],
    ['a tool use that nobody answers', [user('a'), asks('1')], 1, 'tool use 1 has no result'],
    ['a tool use with something else after it', [asks('1'), user('a'), answers('1')], 1, 'tool use 1 has no result'],
    ['results that nobody asked for', [user('a'), answers('1')], 1, ORDER()],
    ['results in another order', [asks('1', '2'), answers('2', '1')], 1, ORDER()],
    ['a result too many', [asks('1'), answers('1', '2')], 1, ORDER()],
    ['a result too few', [asks('1', '2'), answers('1')], 1, ORDER()],
    ['results twice', [asks('1'), answers('1'), answers('1')], 2, ORDER()],
  ])('may not have %s', (_, messages, index, message) => {
    expect(transcriptFault(messages)).toEqual({ index, message })
  })
})

function ORDER(): string {
  return 'tool results must answer the tool uses of the message before, in their order'
}

describe('a model call', () => {
  const request = (id: string, args: unknown = {}): AgentOutput => ({
    type: 'tool_call_requested',
    id,
    name: `n${id}`,
    args,
  })
  const result = (id: string, content = 'ok', is_error = false): AgentOutput => ({
    type: 'tool_execution_completed',
    id,
    name: `n${id}`,
    result: content,
    is_error,
    duration_ms: 1,
  })
  const fold = (...outputs: AgentOutput[]) => {
    const call = new ModelCall()
    for (const output of outputs) call.note(output)
    return call
  }

  test('becomes one message: what was thought, what was said, what was asked for', () => {
    const call = fold(
      { type: 'reasoning_delta', delta: 'h' },
      { type: 'reasoning_delta', delta: 'm' },
      { type: 'text_delta', delta: 'one ' },
      { type: 'text_delta', delta: 'two' },
      request('1', { a: 1 }),
      result('1', '3'),
    )
    expect(call.messages('tool_use')).toEqual([
      {
        role: 'block_assistant',
        blocks: [
          { block_type: 'reasoning', data: { text: 'hm' } },
          { block_type: 'text', data: { text: 'one two' } },
          { block_type: 'tool_use', data: { id: '1', name: 'n1', args: { a: 1 } } },
        ],
        stop_reason: 'tool_use',
      },
      { role: 'tool_results', results: [{ tool_use_id: '1', content: '3', is_error: false }] },
    ])
  })

  test('keeps results in the order in which the model asked, however they came in [R60]', () => {
    const call = fold(request('1'), request('2'), request('3'), result('3'), result('2', 'denied', true), result('1'))
    expect(call.messages('tool_use')[1]).toEqual({
      role: 'tool_results',
      results: [
        { tool_use_id: '1', content: 'ok', is_error: false },
        { tool_use_id: '2', content: 'denied', is_error: true },
        { tool_use_id: '3', content: 'ok', is_error: false },
      ],
    })
  })

  test('answers a tool that never answered, as an error [R30]', () => {
    const [, results] = fold(request('1'), request('2'), result('2')).messages('cancelled')
    expect(results).toEqual({
      role: 'tool_results',
      results: [
        {
          tool_use_id: '1',
          content: '{"error":"cancelled","message":"The turn ended before this tool answered"}',
          is_error: true,
        },
        { tool_use_id: '2', content: 'ok', is_error: false },
      ],
    })
  })

  test('is no message when it was cut off before it said anything, and an empty one when it had nothing to say', () => {
    expect(fold().messages('cancelled')).toEqual([])
    expect(fold().messages('end_turn')).toEqual([{ role: 'block_assistant', blocks: [], stop_reason: 'end_turn' }])
  })

  test('takes the whole text from the one who has it whole', () => {
    const call = fold(
      { type: 'text_delta', delta: 'a' },
      { type: 'text_complete', content: 'rewritten' },
      { type: 'reasoning_delta', delta: 'b' },
      { type: 'reasoning_complete', content: 'thought' },
    )
    expect(call).toMatchObject({ text: 'rewritten', textTold: true, reasoning: 'thought', reasoningTold: true })
  })

  test('is over as a tool round when every tool has answered', () => {
    const call = fold(request('1'), request('2'), result('1'))
    expect(call.isRoundOver).toBe(false)
    call.note(result('2'))
    expect(call.isRoundOver).toBe(true)
    expect(call.toolCalls).toBe(2)
    expect(fold({ type: 'text_delta', delta: 'a' }).isRoundOver).toBe(false)
  })

  test('is always acceptable to a provider, whatever was asked for and answered', () => {
    const step = fc.oneof(
      fc.integer({ min: 0, max: 5 }).map((id) => request(String(id))),
      fc.integer({ min: 0, max: 7 }).map((id) => result(String(id))),
      fc.string().map((delta): AgentOutput => ({ type: 'text_delta', delta })),
    )
    fc.assert(
      fc.property(
        fc.array(step, { maxLength: 20 }),
        fc.constantFrom('cancelled' as const, 'tool_use' as const),
        (steps, why) => {
          const seen = new Set<string>()
          // An id is one tool call's within its turn.
          const valid = steps.filter((step) => {
            if (step.type !== 'tool_call_requested') return true
            if (seen.has(step.id)) return false
            seen.add(step.id)
            return true
          })
          expect(transcriptFault(fold(...valid).messages(why))).toBeUndefined()
        },
      ),
    )
  })
})
