import { syncBuiltinESMExports } from 'node:module'
import timers from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest'
import { type Cluster, LEASE_MS } from '../../src/core/cluster.ts'
import type { DurableStore, KeyRow } from '../../src/core/durable-store.ts'
import { SessionNotRunningError, StoreUnavailableError } from '../../src/core/errors.ts'
import { IdempotencyKeys } from '../../src/core/idempotency.ts'
import { Lease } from '../../src/core/lease.ts'
import type { StartOptions, TurnHandle } from '../../src/core/session-service.ts'
import { StartKeys } from '../../src/core/start-keys.ts'
import { partOf } from '../helpers/cluster.ts'
import { codeOf, door, errorOf, settled, useClock } from './support.ts'

// Fake timers leave the promise of Node alone, so here it waits for the timer that they replace.
const { setTimeout: original } = timers
beforeAll(() => {
  timers.setTimeout = ((ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms))) as typeof original
  syncBuiltinESMExports()
})
afterAll(() => {
  timers.setTimeout = original
  syncBuiltinESMExports()
})

const ENTRY = IdempotencyKeys.entryKey('s', { key: 'k', fingerprint: 'f' })
const withKey = (fingerprint = 'f', more: StartOptions = {}): StartOptions => ({
  idempotency: { key: 'k', fingerprint },
  ...more,
})
const handle = (turn: number): TurnHandle => ({ sessionId: 's', turn, attached: false })
const keyRow = (turn: number, fingerprint = 'f'): KeyRow => ({
  entryKey: ENTRY,
  fingerprint,
  sessionId: 's',
  handle: { ...handle(turn) },
  createdAt: 0,
})
const neverStarted = () => Promise.reject(new Error('started'))

/** What servers share: keys that are kept, and those that one of them holds. */
class SharedKeys {
  readonly kept = new Map<string, KeyRow>()
  readonly held = new Set<string>()

  /** One of the servers. `more` is what the store does otherwise for it. */
  server(more: Partial<Cluster> = {}) {
    const cluster = partOf<Cluster>('cluster', {
      reserve: async (entryKey) => {
        const kept = this.kept.get(entryKey)
        if (kept !== undefined) return kept
        if (this.held.has(entryKey)) return 'taken'
        this.held.add(entryKey)
        return 'reserved'
      },
      unreserve: async (entryKey) => void this.held.delete(entryKey),
      ...more,
    })
    return serverOf(cluster, this.kept)
  }
}

function serverOf(cluster: Cluster | undefined, kept: ReadonlyMap<string, KeyRow>) {
  const memory = new IdempotencyKeys()
  const lease = new Lease()
  const read = vi.fn<DurableStore['key']>(async (entryKey) => kept.get(entryKey))
  const keys = new StartKeys(memory, partOf<DurableStore>('store', { cluster, key: read }), lease)
  return { keys, memory, lease, read }
}

/** A start that ends when the test says so. */
function starting() {
  const end = door<TurnHandle>()
  const start = vi.fn((_: () => void) => end.promise)
  return { start, end }
}

describe('without a key', () => {
  test('every request starts something, and nothing can take that from it', async () => {
    const { keys, read } = new SharedKeys().server()
    const start = vi.fn(async (assertHeld: () => void) => {
      assertHeld()
      return handle(start.mock.calls.length)
    })
    expect([await keys.once('s', {}, start), await keys.once('s', {}, start)]).toEqual([handle(1), handle(2)])
    expect(read).not.toHaveBeenCalled()
  })
})

describe('a key, where there is one server,', () => {
  test('starts what it has not started yet', async () => {
    const { keys } = serverOf(undefined, new Map())
    const start = async (assertHeld: () => void) => {
      assertHeld()
      return handle(1)
    }
    expect(await keys.once('s', withKey(), start)).toEqual(handle(1))
  })

  test('attaches to what it started before the server did', async () => {
    const { keys } = serverOf(undefined, new Map([[ENTRY, keyRow(4)]]))
    expect(await keys.once('s', withKey(), neverStarted)).toEqual({ ...handle(4), attached: true })
    expect(await codeOf(() => keys.once('s', withKey('other'), neverStarted))).toBe('IDEMPOTENCY_KEY_REUSED')
  })

  test('is not looked for in the store while it is remembered', async () => {
    const { keys, memory, read } = serverOf(undefined, new Map())
    await memory.once(
      's',
      withKey(),
      () => handle(1),
      () => {},
    )
    const again = { ...handle(1), attached: true }
    expect(await keys.once('s', withKey(), async () => again)).toEqual(again)
    expect(read).not.toHaveBeenCalled()
  })
})

describe('a key, where there are several,', () => {
  test('is held while something is started with it, and no longer', async () => {
    const shared = new SharedKeys()
    const { start, end } = starting()
    const started = shared.server().keys.once('s', withKey(), start)
    await settled()
    expect([...shared.held]).toEqual([ENTRY])
    end.open(handle(1))
    expect(await started).toEqual(handle(1))
    expect(shared.held.size).toBe(0)
  })

  test('attaches to what it started, wherever that was', async () => {
    const shared = new SharedKeys()
    const { keys } = shared.server()
    shared.kept.set(ENTRY, keyRow(4))
    expect(await keys.once('s', withKey(), neverStarted)).toEqual({ ...handle(4), attached: true })
    expect(await codeOf(() => keys.once('s', withKey('other'), neverStarted))).toBe('IDEMPOTENCY_KEY_REUSED')
  })

  test('attaches to what is kept before it could be held', async () => {
    const { keys } = new SharedKeys().server({ reserve: async () => keyRow(4) })
    expect(await keys.once('s', withKey(), neverStarted)).toEqual({ ...handle(4), attached: true })
    expect(await codeOf(() => keys.once('s', withKey('other'), neverStarted))).toBe('IDEMPOTENCY_KEY_REUSED')
  })

  test('attaches to what this server is about to start', async () => {
    const { keys } = new SharedKeys().server()
    const { start, end } = starting()
    const first = keys.once('s', withKey(), start)
    await settled()
    const second = keys.once('s', withKey(), neverStarted)
    expect(await codeOf(() => keys.once('s', withKey('other'), neverStarted))).toBe('IDEMPOTENCY_KEY_REUSED')
    end.open(handle(1))
    expect(await Promise.all([first, second])).toEqual([handle(1), { ...handle(1), attached: true }])
    expect(start).toHaveBeenCalledTimes(1)
  })

  test('attaches to what this server has begun while it was looked for in the store', async () => {
    const { keys, read } = new SharedKeys().server()
    const looked = door<undefined>()
    const { start, end } = starting()
    read.mockReturnValueOnce(looked.promise)
    const second = keys.once('s', withKey(), neverStarted)
    const first = keys.once('s', withKey(), start)
    await settled()
    expect(start).toHaveBeenCalledTimes(1)
    looked.open(undefined)
    await settled()
    end.open(handle(1))
    expect(await Promise.all([first, second])).toEqual([handle(1), { ...handle(1), attached: true }])
  })

  test('starts it again where what was about to be started is not', async () => {
    const { keys } = new SharedKeys().server()
    const { start, end } = starting()
    const first = keys.once('s', withKey(), start)
    await settled()
    const second = keys.once('s', withKey(), async () => handle(2))
    end.fail(new SessionNotRunningError('s'))
    expect(await codeOf(() => first)).toBe('SESSION_NOT_RUNNING')
    expect(await second).toEqual(handle(2))
  })

  test('starts one thing, whoever comes with it at the same time', async () => {
    const clock = useClock()
    const shared = new SharedKeys()
    const [here, there] = [shared.server(), shared.server()]
    const start = vi.fn(async () => {
      await settled()
      shared.kept.set(ENTRY, keyRow(1))
      return handle(1)
    })
    const all = [here, here, there, there].map(({ keys }) => keys.once('s', withKey(), start))
    for (let looks = 0; looks < 5; looks++) {
      await settled()
      clock.pass(50)
    }
    const handles = await Promise.all(all)
    expect(handles.map(({ turn }) => turn)).toEqual([1, 1, 1, 1])
    expect(handles.filter(({ attached }) => !attached)).toHaveLength(1)
    expect(start).toHaveBeenCalledTimes(1)
  })

  test('that another server holds is looked at again, until that has started something', async () => {
    const clock = useClock()
    const shared = new SharedKeys()
    shared.held.add(ENTRY)
    const { keys, read } = shared.server()
    const started = keys.once('s', withKey(), neverStarted)
    await settled()
    expect(read).toHaveBeenCalledTimes(1)
    clock.pass(49)
    await settled()
    expect(read).toHaveBeenCalledTimes(1)
    shared.kept.set(ENTRY, keyRow(4))
    clock.pass(1)
    expect(await started).toEqual({ ...handle(4), attached: true })
  })

  test('that another server holds starts something once that has not', async () => {
    const clock = useClock()
    const shared = new SharedKeys()
    shared.held.add(ENTRY)
    const started = shared.server().keys.once('s', withKey(), async () => handle(1))
    await settled()
    shared.held.delete(ENTRY)
    clock.pass(50)
    expect(await started).toEqual(handle(1))
    expect(shared.held.size).toBe(0)
  })

  test('that another server holds for long is given up', async () => {
    const clock = useClock()
    const shared = new SharedKeys()
    shared.held.add(ENTRY)
    const { keys, read } = shared.server()
    const seen = { isOver: false }
    const started = keys.once('s', withKey(), neverStarted).finally(() => {
      seen.isOver = true
    })
    started.catch(() => {})
    await settled()
    clock.pass(29_999)
    await settled()
    expect(seen.isOver).toBe(false)
    clock.pass(50)
    await settled()
    expect(seen.isOver).toBe(true)
    expect(await codeOf(() => started)).toBe('OUTCOME_UNKNOWN')
    expect(read).toHaveBeenCalledTimes(2)
    expect(shared.held.size).toBe(1)
  })

  test('is started anew where only this server remembers it', async () => {
    const { keys, memory } = new SharedKeys().server()
    await memory.once(
      's',
      withKey(),
      () => handle(1),
      () => {},
    )
    const start = async () => {
      expect(memory.has(ENTRY)).toBe(false)
      return handle(2)
    }
    expect(await keys.once('s', withKey(), start)).toEqual(handle(2))
  })

  test('has started something, even where it cannot be let go of', async () => {
    const unreserve = vi.fn(() => Promise.reject(new StoreUnavailableError()))
    const { keys } = new SharedKeys().server({ unreserve })
    expect(await keys.once('s', withKey(), async () => handle(1))).toEqual(handle(1))
    expect(unreserve).toHaveBeenCalledTimes(1)
  })

  test('is let go of where the start fails, which says why', async () => {
    const shared = new SharedKeys()
    const start = () => Promise.reject(new SessionNotRunningError('s'))
    expect(await codeOf(() => shared.server().keys.once('s', withKey(), start))).toBe('SESSION_NOT_RUNNING')
    expect(shared.held.size).toBe(0)
  })

  test('fails where it can neither be held nor not', async () => {
    const { keys } = new SharedKeys().server({ reserve: () => Promise.reject(new StoreUnavailableError()) })
    expect(await codeOf(() => keys.once('s', withKey(), neverStarted))).toBe('STORE_UNAVAILABLE')
  })

  test('that has started nothing starts nothing for a request that only wants to go on reading', async () => {
    const shared = new SharedKeys()
    const { keys } = shared.server({ reserve: () => Promise.reject(new Error('reserved')) })
    const attach = () => keys.once('s', withKey('f', { attachOnly: true }), neverStarted)
    expect(await errorOf(attach)).toMatchObject({
      code: 'INVALID_PARAMS',
      data: { errors: [{ path: '/last-event-id' }] },
    })
    shared.kept.set(ENTRY, keyRow(4))
    expect(await attach()).toEqual({ ...handle(4), attached: true })
  })

  test("may be another's once the lease has run out in which it was held", async () => {
    const clock = useClock()
    const shared = new SharedKeys()
    const { keys } = shared.server()
    const go = door()
    const started = vi.fn()
    const outcome = codeOf(() =>
      keys.once('s', withKey(), async (assertHeld) => {
        assertHeld()
        await go.promise
        assertHeld()
        started()
        return handle(1)
      }),
    )
    await settled()
    clock.pass(LEASE_MS)
    go.open()
    expect(await outcome).toBe('STORE_UNAVAILABLE')
    expect(started).not.toHaveBeenCalled()
    expect(shared.held.size).toBe(0)
  })
})

describe('a lease', () => {
  /** The clock from nought, by which sums are exact. */
  function useNow() {
    const clock = { now: 0 }
    const spy = vi.spyOn(performance, 'now').mockImplementation(() => clock.now)
    onTestFinished(() => spy.mockRestore())
    return clock
  }

  test('runs out a second before others may take the server for gone', () => {
    const clock = useNow()
    const lease = new Lease()
    const assertHeld = lease.hold()
    clock.now = LEASE_MS - 1_001
    expect(lease.isRunningOut).toBe(false)
    expect(assertHeld).not.toThrow()
    clock.now = LEASE_MS - 1_000
    expect(lease.isRunningOut).toBe(true)
    expect(assertHeld).toThrow(StoreUnavailableError)
  })

  test('goes on from when the server asked to be heard, and so does what is held', () => {
    const clock = useNow()
    const lease = new Lease()
    const assertHeld = lease.hold()
    clock.now = LEASE_MS + 1_000
    expect(lease.heard(LEASE_MS)).toBe(false)
    expect(assertHeld).not.toThrow()
    clock.now = 2 * LEASE_MS - 1_000
    expect(assertHeld).toThrow(StoreUnavailableError)
  })

  test('that had run out is a new one, in which nothing is held that was before', () => {
    const clock = useNow()
    const lease = new Lease()
    const before = lease.hold()
    clock.now = LEASE_MS + 1
    expect(lease.heard(clock.now)).toBe(true)
    expect(lease.isRunningOut).toBe(false)
    expect(before).toThrow(StoreUnavailableError)
    expect(lease.hold()).not.toThrow()
  })
})
