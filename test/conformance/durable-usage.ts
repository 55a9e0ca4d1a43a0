import { randomUUID } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import type { DurableStore, SpentRow } from '../../src/core/durable-store.ts'
import { toUsage, type UsageKeys } from '../../src/core/usage.ts'
import { type MinuteRange, minuteOf, type UsageSum, usageKeysOf } from '../../src/core/usage-counts.ts'
import { SWEEP_NOTHING, sessionWrite } from '../helpers/rows.ts'

const MINUTE = 60_000
const DAY = 24 * 60 * MINUTE
/** The beginning of a day. */
const START = Date.parse('2026-03-01T00:00:00Z')
const NASTY = 'é 😀 "quoted" \\ \n \u2028 \u0000 \ud800 {a,b} \\x00 \u001f'
const ALWAYS: MinuteRange = { first: undefined, end: undefined }
/** Sums up all there is. */
const SUM_UP = { ...SWEEP_NOTHING, spent: Number.MAX_SAFE_INTEGER }

function spent(
  turn: number,
  endedAt: number,
  keys: UsageKeys = { agent: 'a' },
  more: Partial<SpentRow> = {},
): SpentRow {
  return {
    turn,
    endedAt,
    keys: usageKeysOf(keys),
    durationMs: 10,
    usage: toUsage({ input_tokens: turn, output_tokens: 1 }),
    modelCalls: 2,
    toolCalls: 3,
    ...more,
  }
}

const write = (id: string, rows: readonly SpentRow[], isNew = true) => sessionWrite({ id }, { isNew, spent: rows })

/** One sum for all that have their keys in common, in the order of these. */
async function sumsOf(store: DurableStore, range: MinuteRange = ALWAYS): Promise<UsageSum[]> {
  const sums = new Map<string, UsageSum>()
  for (const { keys, ...sum } of (await store.usage(range)).sums) {
    const key = JSON.stringify(keys)
    const known = sums.get(key)
    sums.set(key, known === undefined ? { keys, ...sum } : added(known, { keys, ...sum }))
  }
  return [...sums.keys()].sort().map((key) => sums.get(key) as UsageSum)
}

function added(a: UsageSum, b: UsageSum): UsageSum {
  const { cache_creation_tokens: created, cache_read_tokens: read } = { ...a.tokens, ...b.tokens }
  const both = (name: 'cache_creation_tokens' | 'cache_read_tokens') => (a.tokens[name] ?? 0) + (b.tokens[name] ?? 0)
  return {
    keys: a.keys,
    turns: a.turns + b.turns,
    tokens: toUsage({
      input_tokens: a.tokens.input_tokens + b.tokens.input_tokens,
      output_tokens: a.tokens.output_tokens + b.tokens.output_tokens,
      ...(created === undefined ? {} : { cache_creation_tokens: both('cache_creation_tokens') }),
      ...(read === undefined ? {} : { cache_read_tokens: both('cache_read_tokens') }),
    }),
    tool_calls: a.tool_calls + b.tool_calls,
    model_calls: a.model_calls + b.model_calls,
    duration_ms: a.duration_ms + b.duration_ms,
  }
}

async function sweepAll(store: DurableStore, limits: Parameters<DurableStore['sweep']>[0]): Promise<number> {
  let sweeps = 1
  while (await store.sweep(limits)) sweeps++
  return sweeps
}

const turnsOf = async (store: DurableStore, range: MinuteRange = ALWAYS) =>
  Object.fromEntries((await sumsOf(store, range)).map(({ keys, turns }) => [keys.agent, turns]))

/** What any durable store has to do so that turns are counted once, and for long. */
export function durableUsageConformance(
  name: string,
  open: () => Promise<{ store: DurableStore; reopen: () => Promise<DurableStore> }>,
  beforeUsage: () => Promise<{ store: DurableStore }>,
): void {
  describe(`what turns cost, in a ${name} store`, () => {
    test('is nothing at first, and complete from then on', async () => {
      const before = minuteOf(Date.now())
      const { store } = await open()
      const { sums, oldest, completeFrom, isWhole } = await store.usage(ALWAYS)
      expect([[...sums], oldest, isWhole]).toEqual([[], undefined, true])
      expect([before, before + 1]).toContain(completeFrom)
    })

    test('is complete from the next minute on where there were sessions before it was counted', async () => {
      const before = minuteOf(Date.now())
      const { store } = await beforeUsage()
      expect([before + 1, before + 2]).toContain((await store.usage(ALWAYS)).completeFrom)
    })

    test.each([
      ['as it was committed', async () => {}],
      ['once it is summed up', (store: DurableStore) => store.sweep(SUM_UP)],
    ])('is told by what turns are counted under, %s', async (_, between) => {
      const { store, reopen } = await open()
      const odd = {
        agent: NASTY,
        model: NASTY,
        labels: { [NASTY]: NASTY, ['__proto__']: 'p', long: 'x'.repeat(9_000) },
      }
      const cached = toUsage({ input_tokens: 5, output_tokens: 7, cache_read_tokens: 3 })
      const created = toUsage({ input_tokens: 1, output_tokens: 1, cache_creation_tokens: 4 })
      await store.commit([
        write(randomUUID(), [spent(1, START), spent(2, START + 1, undefined, { usage: cached })]),
        write(randomUUID(), [spent(1, START, { agent: 'a', labels: {} }), spent(2, START, { agent: 'a', model: 'm' })]),
        write(randomUUID(), [spent(1, START, odd)]),
      ])
      await between(store)
      await store.commit([write(randomUUID(), [spent(1, START, undefined, { usage: created })])])
      await between(store)
      const one = { turns: 1, tool_calls: 3, model_calls: 2, duration_ms: 10 }
      const expected = [
        {
          keys: usageKeysOf({ agent: 'a', model: 'm' }),
          ...one,
          tokens: toUsage({ input_tokens: 2, output_tokens: 1 }),
        },
        {
          keys: usageKeysOf({ agent: 'a' }),
          turns: 4,
          tool_calls: 12,
          model_calls: 8,
          duration_ms: 40,
          tokens: {
            ...toUsage({ input_tokens: 8, output_tokens: 10 }),
            cache_creation_tokens: 4,
            cache_read_tokens: 3,
          },
        },
        { keys: usageKeysOf(odd), ...one, tokens: toUsage({ input_tokens: 1, output_tokens: 1 }) },
      ]
      const byKeys = (a: { keys: UsageKeys }, b: { keys: UsageKeys }) =>
        JSON.stringify(a.keys) < JSON.stringify(b.keys) ? -1 : 1
      expect(await sumsOf(store)).toEqual(expected.sort(byKeys))
      await store.close()
      expect(await sumsOf(await reopen())).toEqual(expected)
    })

    test('is counted once when a commit is repeated, and not for what was refused', async () => {
      const { store } = await open()
      const [id, young] = [randomUUID(), randomUUID()]
      await store.commit([write(id, [])])
      const both = [write(id, [spent(1, START), spent(2, START)], false), write(young, [spent(1, START)])]
      for (let i = 0; i < 3; i++) await store.commit(both)
      expect(await turnsOf(store)).toEqual({ a: 3 })
      // The same turn of a session that was begun anew is another one.
      await store.commit([sessionWrite({ id: young, isArchived: true }, { isNew: false })])
      await store.commit([write(young, [spent(1, START + 1)])])
      expect(await turnsOf(store)).toEqual({ a: 4 })
      const metadata = { agent: 'a', comms_name: 'n' }
      await store.commit([sessionWrite({ id: randomUUID(), metadata })])
      const late = sessionWrite({ id: randomUUID(), metadata }, { spent: [spent(1, START)] })
      expect(await store.commit([late])).toEqual([late.row.id])
      expect(await turnsOf(store)).toEqual({ a: 4 })
    })

    test('outlasts its sessions', async () => {
      const { store } = await open()
      const id = randomUUID()
      await store.commit([sessionWrite({ id, isArchived: true, updatedAt: 1 }, { spent: [spent(1, START)] })])
      await sweepAll(store, { ...SWEEP_NOTHING, archived: 2 })
      expect(await store.session(id)).toBeUndefined()
      expect(await turnsOf(store)).toEqual({ a: 1 })
      await sweepAll(store, SUM_UP)
      expect(await turnsOf(store)).toEqual({ a: 1 })
    })

    test('adds up for every range of minutes, whether summed up or not', async () => {
      const { store } = await open()
      const turns = Array.from({ length: 2_500 }, (_, i) => {
        const endedAt = START + ((i * 7_919) % 4_321) * MINUTE + (i % 60) * 1_000
        return spent(i + 1, endedAt, { agent: `agent ${i % 3}` })
      })
      const ranges = [
        [undefined, undefined],
        [0, 1],
        [0, 60],
        [1, 59],
        [30, 1_500],
        [1_439, 1_441],
        [61, 4_319],
        [1_440, undefined],
        [undefined, 2_881],
        [2_000, 2_000],
        [9_000, undefined],
      ].map(([first, end]) => ({
        first: first === undefined ? undefined : first + START / MINUTE,
        end: end === undefined ? undefined : end + START / MINUTE,
      }))
      const expected = ranges.map(({ first = 0, end = Number.MAX_SAFE_INTEGER }) => {
        const counts: Record<string, number> = {}
        for (const { endedAt, keys } of turns) {
          const minute = minuteOf(endedAt)
          if (minute >= first && minute < end) counts[keys.agent] = (counts[keys.agent] ?? 0) + 1
        }
        return counts
      })
      const found = () => Promise.all(ranges.map((range) => turnsOf(store, range)))
      await store.commit([write(randomUUID(), turns.slice(0, 1_500))])
      // What is young is left as it is.
      await sweepAll(store, { ...SWEEP_NOTHING, spent: Date.now() - DAY })
      await store.commit([write(randomUUID(), turns.slice(1_500))])
      expect(await found()).toEqual(expected)
      expect(await store.sweep(SUM_UP)).toBe(true)
      expect(await found()).toEqual(expected)
      expect(await sweepAll(store, SUM_UP)).toBeGreaterThan(1)
      expect(await found()).toEqual(expected)
      expect((await store.usage(ALWAYS)).oldest).toBe(minuteOf(START))
    })

    test('has no trouble with numbers that are as large as can be', async () => {
      const { store } = await open()
      const most = Number.MAX_SAFE_INTEGER
      const usage = toUsage({ input_tokens: most, output_tokens: 0, cache_read_tokens: most })
      const rows = Array.from({ length: 3_000 }, (_, i) => spent(i + 1, START, undefined, { usage, toolCalls: most }))
      await store.commit([write(randomUUID(), rows)])
      await sweepAll(store, SUM_UP)
      const [sum] = await sumsOf(store)
      expect(sum?.turns).toBe(3_000)
      expect((sum?.tokens.input_tokens ?? 0) / most).toBeCloseTo(3_000)
    })

    test('is forgotten by days, a slice at a time, and says so', async () => {
      const { store } = await open()
      const rows = Array.from({ length: 1_200 }, (_, i) => spent(i + 1, START + i * MINUTE))
      const later = spent(1, START + 3 * DAY, { agent: 'b' })
      await store.commit([write(randomUUID(), rows), write(randomUUID(), [later])])
      await sweepAll(store, SUM_UP)
      const before = await store.usage(ALWAYS)
      await sweepAll(store, { ...SWEEP_NOTHING, usage: START + DAY - 1 })
      expect(await turnsOf(store)).toEqual({ a: 1_200, b: 1 })
      expect((await store.usage(ALWAYS)).isWhole).toBe(true)
      expect(await sweepAll(store, { ...SWEEP_NOTHING, usage: START + DAY + 1 })).toBeGreaterThan(1)
      expect(await turnsOf(store)).toEqual({ b: 1 })
      const after = await store.usage(ALWAYS)
      expect([after.isWhole, after.oldest]).toEqual([false, minuteOf(START + 3 * DAY)])
      // It was counted from later on anyway.
      expect(after.completeFrom).toBe(before.completeFrom)
      const tomorrow = Date.now() + DAY
      await sweepAll(store, { ...SWEEP_NOTHING, usage: tomorrow })
      const completeFrom = Math.floor(tomorrow / DAY) * 1_440
      expect(await store.usage(ALWAYS)).toMatchObject({ oldest: undefined, completeFrom })
    })
  })
}
