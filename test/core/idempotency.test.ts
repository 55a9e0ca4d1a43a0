import { describe, expect, test } from 'vitest'
import { IdempotencyKeys } from '../../src/core/idempotency.ts'
import type { TurnHandle } from '../../src/core/session-service.ts'
import { codeOf, door, settled, useClock } from './support.ts'

const HOUR_MS = 3_600_000

function handle(turn: number): TurnHandle {
  return { sessionId: 's', turn, attached: false }
}

/** A registry, and how often it started something. */
function keys() {
  const registry = new IdempotencyKeys()
  const told: string[] = []
  let starts = 0
  return {
    registry,
    told,
    get starts() {
      return starts
    },
    once: (
      scope: string,
      key?: string,
      fingerprint = 'same',
      start: () => TurnHandle | Promise<TurnHandle> = () => handle(starts),
    ) =>
      registry.once(
        scope,
        key === undefined ? {} : { idempotency: { key, fingerprint } },
        () => {
          starts++
          return start()
        },
        (_, entryKey) => told.push(entryKey),
      ),
  }
}

describe('an idempotency key', () => {
  test('starts one turn, and a repeat attaches to it', async () => {
    const once = keys()
    expect(await once.once('create', 'k')).toEqual({ sessionId: 's', turn: 1, attached: false })
    expect(await once.once('create', 'k')).toEqual({ sessionId: 's', turn: 1, attached: true })
    expect(once.starts).toBe(1)
    expect(once.told).toHaveLength(1)
  })

  test('attaches a repeat that comes while the first is still being started', async () => {
    const once = keys()
    const built = door<TurnHandle>()
    const first = once.once('create', 'k', 'same', () => built.promise)
    const second = once.once('create', 'k', 'same', () => built.promise)
    built.open(handle(7))
    expect(await first).toMatchObject({ turn: 7, attached: false })
    expect(await second).toMatchObject({ turn: 7, attached: true })
    expect(once.starts).toBe(1)
  })

  test('is refused with another body, and starts nothing', async () => {
    const once = keys()
    await once.once('create', 'k', 'one')
    expect(await codeOf(() => once.once('create', 'k', 'other'))).toBe('IDEMPOTENCY_KEY_REUSED')
    expect(once.starts).toBe(1)
  })

  test('is one key in each scope', async () => {
    const once = keys()
    await once.once('create', 'k')
    expect((await once.once('session', 'k')).attached).toBe(false)
    expect((await once.once('sess', 'ion k')).attached).toBe(false)
    expect(once.starts).toBe(3)
  })

  test('can be sent again after a start that failed, at once or later', async () => {
    const once = keys()
    const sync = () => {
      throw new Error('refused')
    }
    await expect(once.once('create', 'k', 'same', sync)).rejects.toThrow('refused')
    await expect(once.once('create', 'k', 'same', () => Promise.reject(new Error('failed')))).rejects.toThrow('failed')
    await settled()
    expect((await once.once('create', 'k')).attached).toBe(false)
    expect(once.told).toHaveLength(1)
  })

  test('fails for all who wait on a start that fails', async () => {
    const once = keys()
    const built = door<TurnHandle>()
    const all = [1, 2, 3].map(() => once.once('create', 'k', 'same', () => built.promise))
    built.fail(new Error('failed'))
    expect((await Promise.allSettled(all)).map(({ status }) => status)).toEqual(['rejected', 'rejected', 'rejected'])
    expect(once.starts).toBe(1)
  })

  test('is forgotten on demand, by the name that its start was told', async () => {
    const once = keys()
    await once.once('create', 'k')
    await once.once('create', 'other')
    await settled()
    once.registry.forget(once.told.slice(0, 1))
    expect((await once.once('create', 'k')).attached).toBe(false)
    expect((await once.once('create', 'other')).attached).toBe(true)
  })

  test('is kept for 24 hours and no longer', async () => {
    const clock = useClock()
    const once = keys()
    await once.once('create', 'k')
    clock.pass(24 * HOUR_MS - 60_000)
    expect((await once.once('create', 'k')).attached).toBe(true)
    clock.pass(120_000)
    expect((await once.once('create', 'k')).attached).toBe(false)
  })
})

describe('all keys together', () => {
  test('are 100,000 at most, of which the oldest go first', async () => {
    const once = keys()
    for (let n = 0; n <= 100_000; n++) await once.once('create', String(n))
    expect((await once.once('create', '1')).attached).toBe(true)
    expect((await once.once('create', '0')).attached).toBe(false)
  })

  test('take no room before they are there', () => {
    const used = () => process.memoryUsage().heapUsed + process.memoryUsage().arrayBuffers
    const before = used()
    const registries = Array.from({ length: 50 }, () => new IdempotencyKeys())
    expect((used() - before) / registries.length).toBeLessThan(500_000)
  })
})

describe('without a key', () => {
  test('every request starts something', async () => {
    const once = keys()
    await once.once('create')
    expect((await once.once('create')).attached).toBe(false)
    expect(once.starts).toBe(2)
    expect(once.told).toEqual([])
  })

  test('"undefined" is a key like any other', async () => {
    const once = keys()
    await once.once('create')
    expect((await once.once('create', 'undefined')).attached).toBe(false)
  })
})

describe('a request that only wants to go on reading', () => {
  const never = () => {
    throw new Error('started')
  }

  test('attaches to the turn that its key started', async () => {
    const once = keys()
    await once.once('s', 'k')
    const options = { idempotency: { key: 'k', fingerprint: 'same' }, attachOnly: true }
    expect(await once.registry.once('s', options, never, never)).toMatchObject({ turn: 1, attached: true })
  })

  test.each([
    ['has no key', { attachOnly: true }],
    ['has a key that started nothing', { attachOnly: true, idempotency: { key: 'k', fingerprint: 'same' } }],
  ])('is refused when it %s', async (_, options) => {
    expect(await codeOf(() => new IdempotencyKeys().once('s', options, never, never))).toBe('INVALID_PARAMS')
  })
})
