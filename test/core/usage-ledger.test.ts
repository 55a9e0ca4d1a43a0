import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { NO_USAGE, toUsage, type Usage, type UsageKeys, type UsageQuery } from '../../src/core/usage.ts'
import type { SpentTurn } from '../../src/core/usage-counts.ts'
import { UsageLedger } from '../../src/core/usage-ledger.ts'

const MINUTE = 60_000
/** The beginning of a minute. */
const START = Date.parse('2026-03-01T12:00:00Z')

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['Date'], now: START })
})
afterEach(() => {
  vi.useRealTimers()
})

const turn = (endedAt: number, input = 1, more: Partial<SpentTurn> = {}): SpentTurn => ({
  endedAt,
  durationMs: 10,
  usage: toUsage({ input_tokens: input, output_tokens: 0 }),
  modelCalls: 1,
  toolCalls: 2,
  ...more,
})
const byAgent = (ledger: UsageLedger, query: Partial<UsageQuery> = {}) =>
  Object.fromEntries(ledger.report({ groupBy: 'agent', ...query }).groups.map(({ key, turns }) => [String(key), turns]))

describe('a report', () => {
  test('sums turns, tokens with their cache counters, calls and times', () => {
    const ledger = new UsageLedger()
    const usage = toUsage({ input_tokens: 5, output_tokens: 7, cache_read_tokens: 3 })
    ledger.add({ agent: 'a' }, turn(START, 0, { usage }))
    ledger.add({ agent: 'a', model: 'm/1' }, turn(START + 2 * MINUTE, 0, { usage, durationMs: 90 }))
    expect(ledger.report({ groupBy: 'agent' }).groups).toEqual([
      {
        key: 'a',
        turns: 2,
        tokens: { input_tokens: 10, output_tokens: 14, total_tokens: 24, cache_read_tokens: 6 },
        tool_calls: 4,
        model_calls: 2,
        duration_ms: 100,
      },
    ])
  })

  test('tells turns apart by agent, by model or by a label, and those that have none are a group too', () => {
    const ledger = new UsageLedger()
    ledger.add({ agent: 'a', model: 'm/1', labels: { team: 'x', ['__proto__']: 'p' } }, turn(START, 3))
    ledger.add({ agent: 'b', model: 'm/2', labels: { team: 'x' } }, turn(START, 2))
    ledger.add({ agent: 'b' }, turn(START, 1))
    const by = (groupBy: UsageQuery['groupBy']) =>
      ledger.report({ groupBy }).groups.map(({ key, tokens }) => [key, tokens.total_tokens])
    const all = [
      ['a', 3],
      ['b', 3],
    ]
    expect(by('agent')).toEqual(all)
    expect(by('model')).toEqual([
      ['m/1', 3],
      ['m/2', 2],
      [null, 1],
    ])
    expect(by('label.team')).toEqual([
      ['x', 5],
      [null, 1],
    ])
    expect(by('label.__proto__')).toEqual([
      ['p', 3],
      [null, 3],
    ])
    expect(by('label.toString')).toEqual([[null, 6]])
  })

  test('begins with what cost most; then goes by key, and what has none is last', () => {
    const ledger = new UsageLedger()
    for (const [team, tokens] of [
      ['b', 1],
      ['a', 1],
      [undefined, 1],
      ['z', 9],
    ] as const) {
      ledger.add({ agent: 'x', labels: team === undefined ? {} : { team } }, turn(START, tokens))
    }
    expect(ledger.report({ groupBy: 'label.team' }).groups.map(({ key }) => key)).toEqual(['z', 'a', 'b', null])
  })

  test('has nothing to say where nothing was spent, and is complete', () => {
    expect(new UsageLedger().report({ groupBy: 'agent' })).toEqual({
      groups: [],
      from: START,
      to: START + MINUTE,
      groupBy: 'agent',
      complete: true,
    })
  })

  test('counts whole minutes: from is part of it, to is not, and both are rounded so that nothing is missing', () => {
    const ledger = new UsageLedger()
    for (const minute of [0, 1, 2]) ledger.add({ agent: `at ${minute}` }, turn(START + minute * MINUTE + 30_000))
    expect(byAgent(ledger, { from: START + MINUTE })).toEqual({ 'at 1': 1, 'at 2': 1 })
    expect(byAgent(ledger, { from: START + MINUTE + 59_999 })).toEqual({ 'at 1': 1, 'at 2': 1 })
    expect(byAgent(ledger, { to: START + MINUTE })).toEqual({ 'at 0': 1 })
    expect(byAgent(ledger, { to: START + MINUTE + 1 })).toEqual({ 'at 0': 1, 'at 1': 1 })
    const { from, to } = ledger.report({ groupBy: 'agent', from: START + 61_000, to: START + 121_000 })
    expect([from, to]).toEqual([START + MINUTE, START + 3 * MINUTE])
  })

  test('does not change when more is spent, nor does what it was told', () => {
    const ledger = new UsageLedger()
    const usage: Usage = toUsage({ input_tokens: 1, output_tokens: 1 })
    ledger.add({ agent: 'a' }, turn(START, 0, { usage }))
    const before = ledger.report({ groupBy: 'agent' })
    const copy = structuredClone(before)
    ledger.add({ agent: 'a' }, turn(START, 0, { usage }))
    expect(before).toEqual(copy)
    expect(usage).toEqual(toUsage({ input_tokens: 1, output_tokens: 1 }))
    expect(NO_USAGE.total_tokens).toBe(0)
  })
})

describe('the bound', () => {
  test('drops the oldest rows first, and a report that would have needed them says so', () => {
    const ledger = new UsageLedger({ maxRows: 3 })
    for (let minute = 0; minute < 5; minute++) ledger.add({ agent: `at ${minute}` }, turn(START + minute * MINUTE))
    expect(byAgent(ledger)).toEqual({ 'at 2': 1, 'at 3': 1, 'at 4': 1 })
    expect(ledger.report({ groupBy: 'agent' })).toMatchObject({ complete: false, from: START + 2 * MINUTE })
    expect(ledger.report({ groupBy: 'agent', from: START + 2 * MINUTE }).complete).toBe(true)
    expect(ledger.report({ groupBy: 'agent', from: START + 2 * MINUTE - 1 }).complete).toBe(false)
  })

  test('a minute of which a part was dropped is not complete', () => {
    const ledger = new UsageLedger({ maxRows: 2 })
    for (const agent of ['a', 'b', 'c']) ledger.add({ agent }, turn(START))
    expect(byAgent(ledger)).toEqual({ b: 1, c: 1 })
    expect(ledger.report({ groupBy: 'agent', from: START }).complete).toBe(false)
    expect(ledger.report({ groupBy: 'agent', from: START + MINUTE }).complete).toBe(true)
  })

  test('what was before the ledger began is not complete', () => {
    const ledger = new UsageLedger()
    expect(ledger.report({ groupBy: 'agent', from: START - 1 }).complete).toBe(false)
    expect(ledger.report({ groupBy: 'agent', from: START }).complete).toBe(true)
  })

  test('is kept by what rows are told apart by too, but the turn at hand is always counted', () => {
    const ledger = new UsageLedger({ maxCharacters: 1_000 })
    for (let i = 0; i < 10; i++) ledger.add({ agent: 'a', labels: { big: `${i}`.repeat(400) } }, turn(START))
    expect(byAgent(ledger)).toEqual({ a: 2 })
    ledger.add({ agent: 'b', labels: { huge: 'x'.repeat(5_000) } }, turn(START))
    expect(byAgent(ledger)).toEqual({ b: 1 })
  })

  test('holds 50,000 rows in some ten MiB, however many turns there are, and reports on them at once', () => {
    setFlagsFromString('--expose-gc')
    const collect = runInNewContext('gc') as () => void
    const ledger = new UsageLedger()
    const fill = (round: number) => {
      for (let i = 0; i < 60_000; i++) {
        ledger.add({ agent: 'a', model: 'm/1', labels: { user: `user ${i}` } }, turn(START + round * MINUTE))
      }
    }
    collect()
    const before = process.memoryUsage().heapUsed
    for (let round = 0; round < 4; round++) fill(round)
    collect()
    expect(process.memoryUsage().heapUsed - before).toBeLessThan(40 * 1024 * 1024)
    const { groups, complete } = ledger.report({ groupBy: 'label.user' })
    expect([groups.length, complete]).toEqual([50_000, false])
  })
})

test('a report of any range is what adding up the turns of these minutes gives', () => {
  const keys = fc.record(
    {
      agent: fc.constantFrom('a', 'b'),
      model: fc.constantFrom('m/1', 'm/2'),
      labels: fc.dictionary(fc.constantFrom('k', 'l'), fc.constantFrom('1', '2')),
    },
    { requiredKeys: ['agent'] },
  )
  const turns = fc.array(fc.tuple(keys, fc.integer({ min: 0, max: 5 * MINUTE }), fc.nat(9)), { maxLength: 40 })
  const range = fc.tuple(fc.integer({ min: 0, max: 5 }), fc.integer({ min: 1, max: 6 }))
  const groupings = fc.constantFrom<UsageQuery['groupBy']>('agent', 'model', 'label.k')
  fc.assert(
    fc.property(turns, range, groupings, (all, [first, minutes], groupBy) => {
      const ledger = new UsageLedger()
      for (const [key, at, tokens] of all) ledger.add(key, turn(START + at, tokens))
      const [from, to] = [START + first * MINUTE, START + (first + minutes) * MINUTE]
      const keyOf = ({ agent, model, labels }: UsageKeys) =>
        groupBy === 'agent' ? agent : groupBy === 'model' ? (model ?? null) : (labels?.k ?? null)
      const expected = new Map<string | null, { turns: number; tokens: number }>()
      for (const [key, at, tokens] of all) {
        if (START + at < from || START + at >= to) continue
        const sum = expected.get(keyOf(key)) ?? { turns: 0, tokens: 0 }
        expected.set(keyOf(key), { turns: sum.turns + 1, tokens: sum.tokens + tokens })
      }
      const { groups } = ledger.report({ groupBy, from, to })
      const found = groups.map(
        ({ key, turns: count, tokens }) => [key, { turns: count, tokens: tokens.total_tokens }] as const,
      )
      expect(new Map(found)).toEqual(expected)
    }),
  )
})
