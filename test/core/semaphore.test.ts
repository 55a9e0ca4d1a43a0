import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type Permit, Semaphore } from '../../src/core/semaphore.ts'

describe('a semaphore', () => {
  test('gives out as many permits as it has, and then none', () => {
    const semaphore = new Semaphore(2)
    expect(semaphore.tryAcquire()).toBeDefined()
    expect(semaphore.tryAcquire()).toBeDefined()
    expect(semaphore.tryAcquire()).toBeUndefined()
    expect(semaphore).toMatchObject({ max: 2, taken: 2 })
  })

  test('has a permit again once one is given back', () => {
    const semaphore = new Semaphore(1)
    semaphore.tryAcquire()?.release()
    expect(semaphore.taken).toBe(0)
    expect(semaphore.tryAcquire()).toBeDefined()
  })

  test('ignores a permit that is given back twice', () => {
    const semaphore = new Semaphore(2)
    const twice = semaphore.tryAcquire()
    semaphore.tryAcquire()
    twice?.release()
    twice?.release()
    expect(semaphore.taken).toBe(1)
  })

  test.each([0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53, '3' as unknown as number])(
    'refuses to be made with %s permits',
    (max) => {
      expect(() => new Semaphore(max)).toThrow(
        new TypeError(`Expected \`max\` to be an integer from 1 and up, got ${max}`),
      )
    },
  )

  test('never counts wrong, whatever is taken and given back in whatever order', () => {
    const step = fc.oneof(fc.constant('take' as const), fc.nat({ max: 20 }))
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 5 }), fc.array(step, { maxLength: 60 }), (max, steps) => {
        const semaphore = new Semaphore(max)
        const permits: Permit[] = []
        const held = new Set<Permit>()
        for (const step of steps) {
          if (step === 'take') {
            const permit = semaphore.tryAcquire()
            expect(permit !== undefined).toBe(held.size < max)
            if (permit !== undefined) {
              permits.push(permit)
              held.add(permit)
            }
          } else {
            const permit = permits[step]
            permit?.release()
            if (permit !== undefined) held.delete(permit)
          }
          expect(semaphore.taken).toBe(held.size)
        }
      }),
    )
  })
})
