import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { estimateTokens, KEPT_TURNS, shownTo, summaryEnd } from '../../../src/agents/llm/history.ts'
import type { Message } from '../../../src/core/transcript.ts'

const user = (content: string): Message => ({ role: 'user', content })
const said = (text: string): Message => ({
  role: 'block_assistant',
  blocks: [{ block_type: 'text', data: { text } }],
  stop_reason: 'end_turn',
})
const system: Message = { role: 'system', content: 'be brief' }
const turns = (from: number, to: number) =>
  Array.from({ length: to - from + 1 }, (_, i) => [user(`q${from + i}`), said(`a${from + i}`)]).flat()
const summary = (summarises: number): Message => ({ role: 'user', content: 'so far', summarises })

describe('what a model is shown', () => {
  test('is the transcript as it is, while nothing was summarised', () => {
    const messages = [system, ...turns(1, 3)]
    expect(shownTo(messages)).toEqual(messages)
    expect(shownTo(turns(1, 2))).toEqual(turns(1, 2))
  })

  test('has preloaded skills behind the system prompt, or in its place', () => {
    expect(shownTo([system, user('q')], 'a skill')).toEqual([
      { role: 'system', content: 'be brief\n\na skill' },
      user('q'),
    ])
    expect(shownTo([user('q')], 'a skill')).toEqual([{ role: 'system', content: 'a skill' }, user('q')])
  })

  test('is the summary in place of what it summarises, and the system prompt before it', () => {
    const messages = [system, ...turns(1, 5), user('q6'), summary(5), said('a6')]
    expect(shownTo(messages)).toEqual([system, user('so far'), ...turns(3, 5), user('q6'), said('a6')])
  })

  test('is the newest summary alone, where there are several', () => {
    const messages = [...turns(1, 5), user('q6'), summary(4), said('a6'), ...turns(7, 9), user('q10'), summary(11)]
    expect(shownTo(messages)).toEqual([user('so far'), said('a6'), ...turns(7, 9), user('q10')])
  })
})

describe('what may be summarised', () => {
  test('is all before the newest turns, which stay whole', () => {
    expect(summaryEnd([system, ...turns(1, 4), user('q5')])).toBe(3)
    expect(summaryEnd([...turns(1, 6), user('q7')])).toBe(6)
  })

  test('is nothing where there are no more than those', () => {
    expect(summaryEnd([system, ...turns(1, KEPT_TURNS)])).toBeUndefined()
    expect(summaryEnd([])).toBeUndefined()
  })

  test('is nothing for a while after a summary', () => {
    const before = [...turns(1, 5), user('q6'), summary(4), said('a6')]
    expect(summaryEnd([...before, user('q7')])).toBeUndefined()
    expect(summaryEnd([...before, ...turns(7, 8), user('q9')])).toBe(10)
  })

  test('never cuts a tool call from its results, wherever they are', () => {
    const called: Message = {
      role: 'block_assistant',
      blocks: [{ block_type: 'tool_use', data: { id: 't', name: 'n', args: {} } }],
      stop_reason: 'tool_use',
    }
    const answered: Message = { role: 'tool_results', results: [{ tool_use_id: 't', content: '', is_error: false }] }
    const turn = fc
      .integer({ min: 0, max: 3 })
      .map((rounds) => [user('q'), ...Array.from({ length: rounds }, () => [called, answered]).flat(), said('a')])
    fc.assert(
      fc.property(fc.array(turn, { maxLength: 12 }), (all) => {
        const messages = all.flat()
        const end = summaryEnd(messages)
        if (end === undefined) return all.length <= KEPT_TURNS
        return messages[end]?.role === 'user' && all.slice(-KEPT_TURNS).flat().length === messages.length - end
      }),
    )
  })
})

test('tokens are estimated as a quarter of the bytes', () => {
  expect(estimateTokens([])).toBe(0)
  expect(estimateTokens([user('é'.repeat(400))])).toBe(Math.ceil((800 + JSON.stringify(user('')).length) / 4))
})
