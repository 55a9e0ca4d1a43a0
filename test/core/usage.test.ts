import fc from 'fast-check'
import { expect, test } from 'vitest'
import { addUsage, NO_USAGE, type TokenCounts, toUsage, type Usage } from '../../src/core/usage.ts'

const tokens = fc.nat({ max: 1_000_000 })
const counts: fc.Arbitrary<TokenCounts> = fc.record(
  { input_tokens: tokens, output_tokens: tokens, cache_creation_tokens: tokens, cache_read_tokens: tokens },
  { requiredKeys: ['input_tokens', 'output_tokens'] },
)

test('the total is input plus output, without what came from a cache [R38]', () => {
  expect(toUsage({ input_tokens: 3, output_tokens: 4, cache_creation_tokens: 100, cache_read_tokens: 200 })).toEqual({
    input_tokens: 3,
    output_tokens: 4,
    total_tokens: 7,
    cache_creation_tokens: 100,
    cache_read_tokens: 200,
  })
})

test('a cache counter that nobody reported stays away', () => {
  expect(Object.keys(toUsage({ input_tokens: 1, output_tokens: 2 }))).toEqual([
    'input_tokens',
    'output_tokens',
    'total_tokens',
  ])
  expect(
    addUsage(toUsage({ input_tokens: 1, output_tokens: 1 }), toUsage({ input_tokens: 1, output_tokens: 1 })),
  ).toEqual({ input_tokens: 2, output_tokens: 2, total_tokens: 4 })
})

test('a counter that only one side reported counts as that', () => {
  const cached = toUsage({ input_tokens: 1, output_tokens: 1, cache_read_tokens: 5 })
  const plain = toUsage({ input_tokens: 1, output_tokens: 1 })
  expect(addUsage(plain, cached).cache_read_tokens).toBe(5)
  expect(addUsage(cached, plain).cache_read_tokens).toBe(5)
  for (const counter of ['cache_creation_tokens', 'cache_read_tokens'] as const) {
    const nothingElse = toUsage({ input_tokens: 0, output_tokens: 0, [counter]: 5 })
    expect(addUsage(nothingElse, plain)).toEqual({ ...plain, [counter]: 5 })
  }
})

test('every counter of a sum is the sum of that counter, whatever was reported [R38]', () => {
  const keys = ['input_tokens', 'output_tokens', 'cache_creation_tokens', 'cache_read_tokens'] as const
  fc.assert(
    fc.property(fc.array(counts, { maxLength: 6 }), (reports) => {
      const sum: Usage = reports.map(toUsage).reduce(addUsage, NO_USAGE)
      for (const key of keys) {
        const reported = reports.map((report) => report[key]).filter((count) => count !== undefined)
        const optional = key.startsWith('cache_') && reported.length === 0
        expect(sum[key]).toBe(optional ? undefined : reported.reduce((a, b) => a + b, 0))
      }
      expect(sum.total_tokens).toBe(sum.input_tokens + sum.output_tokens)
    }),
  )
})

test('the sum of nothing cannot be changed by accident', () => {
  expect(Object.isFrozen(NO_USAGE)).toBe(true)
})

test('a sum of which a part was estimated says so', () => {
  const counted = toUsage({ input_tokens: 1, output_tokens: 1 })
  const estimated = toUsage({ input_tokens: 2, output_tokens: 2, estimated: true })
  const sum = { input_tokens: 3, output_tokens: 3, total_tokens: 6, estimated: true }
  expect(addUsage(counted, estimated)).toEqual(sum)
  expect(addUsage(estimated, counted)).toEqual(sum)
  expect(addUsage(counted, counted)).not.toHaveProperty('estimated')
})
