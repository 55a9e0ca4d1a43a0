import { describe, expect, test } from 'vitest'
import { TurnBudget } from '../../../src/agents/llm/budget.ts'
import type { Spending } from '../../../src/core/agent.ts'
import { BudgetExhaustedError } from '../../../src/core/errors.ts'

const nothing: Spending = { tokens: 0, durationMs: 0, toolCalls: 0 }

function check(budget: TurnBudget) {
  const warnings = []
  try {
    for (const warning of budget.check()) warnings.push(warning)
  } catch (error) {
    expect(error).toBeInstanceOf(BudgetExhaustedError)
    return { warnings, error: (error as Error).message }
  }
  return { warnings, error: undefined }
}

describe('a budget', () => {
  test('without limits says nothing, whatever is spent', () => {
    const budget = new TurnBudget({}, { tokens: 1e9, durationMs: 1e9, toolCalls: 1e9 }, { max_tokens: 0 })
    budget.tokens = 1e9
    expect(check(budget)).toEqual({ warnings: [], error: undefined })
    expect(budget.remainingMs).toBeUndefined()
  })

  test('warns once when four fifths of it are used, with what is used and what the limit is', () => {
    const budget = new TurnBudget({ max_tokens: 100 }, { ...nothing, tokens: 50 }, {})
    budget.tokens = 29
    expect(check(budget).warnings).toEqual([])
    budget.tokens = 35
    expect(check(budget).warnings).toEqual([
      { type: 'budget_warning', budget_type: 'tokens', used: 85, limit: 100, percent: 0.85 },
    ])
    expect(check(budget).warnings).toEqual([])
  })

  test.each([
    ['tokens', { max_tokens: 10 }, 12, 10, 'The session has used 12 of its 10 tokens'],
    ['tool_calls', { max_tool_calls: 3 }, 4, 3, 'The session has used 4 of its 3 tool calls'],
    ['time', { max_duration_ms: 1_000 }, 5_000, 1_000, 'The session has used 5000 of its 1000 ms of run time'],
  ] as const)('of the session that is used up ends the turn: %s', (kind, limits, used, limit, message) => {
    const { warnings, error } = check(new TurnBudget(limits, { tokens: 12, durationMs: 5_000, toolCalls: 4 }, {}))
    expect(warnings).toMatchObject([{ budget_type: kind, percent: used / limit }])
    expect(error).toBe(message)
  })

  test('of 0 is used up at once', () => {
    expect(check(new TurnBudget({ max_tokens: 0 }, nothing, {}))).toEqual({
      warnings: [{ type: 'budget_warning', budget_type: 'tokens', used: 0, limit: 0, percent: 1 }],
      error: 'The session has used 0 of its 0 tokens',
    })
  })

  test('of more time than a timer can wait does not end the turn at once', () => {
    const { remainingMs } = new TurnBudget({ max_duration_ms: Number.MAX_SAFE_INTEGER }, nothing, {})
    expect(remainingMs).toBe(2 ** 31 - 1)
  })

  test('of the turn counts that turn alone', () => {
    const budget = new TurnBudget(
      {},
      { tokens: 500, durationMs: 0, toolCalls: 9 },
      { max_tokens: 100, max_tool_calls: 2 },
    )
    expect(check(budget).error).toBeUndefined()
    budget.toolCalls = 2
    expect(check(budget).error).toBe('The turn has used 2 of its 2 tool calls')
  })

  test('of time tells how much is left, the nearest limit counting', () => {
    const budget = new TurnBudget(
      { max_duration_ms: 60_000 },
      { ...nothing, durationMs: 59_000 },
      { max_duration_ms: 90_000 },
    )
    expect(budget.remainingMs).toBeGreaterThan(0)
    expect(budget.remainingMs).toBeLessThanOrEqual(1_000)
  })
})
