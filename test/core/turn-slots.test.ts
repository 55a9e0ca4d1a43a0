import { describe, expect, test, vi } from 'vitest'
import { Changes } from '../../src/core/changes.ts'
import type { Cluster } from '../../src/core/cluster.ts'
import { type Permit, Semaphore } from '../../src/core/semaphore.ts'
import { TurnSlots } from '../../src/core/turn-slots.ts'
import { partOf } from '../helpers/cluster.ts'
import { door, errorOf, settled } from './support.ts'

/** A server that may run ten turns, and a store that has `max` places for all of them. */
function server(max: number) {
  const free = Array.from({ length: max }, (_, slot) => slot)
  const takeSlot = vi.fn<Cluster['takeSlot']>(async () => free.shift())
  const freeSlot = vi.fn<Cluster['freeSlot']>(async (slot) => void free.push(slot))
  const activeTurns = new Semaphore(10)
  const changes = new Changes()
  const slots = new TurnSlots(partOf<Cluster>('cluster', { takeSlot, freeSlot }), max, activeTurns, changes)
  const permitted = () => activeTurns.tryAcquire() as Permit
  return {
    slots,
    free,
    takeSlot,
    freeSlot,
    /** Starts a turn, which goes on until its permit is given back. */
    start: () => slots.during(async () => permitted()),
    permitted,
    async end(permit: Permit) {
      permit.release()
      changes.announce()
      await settled()
    },
  }
}

describe('a place for a turn', () => {
  test('is taken before it starts, and free again after its end', async () => {
    const { start, end, free, takeSlot, freeSlot } = server(1)
    const permit = await start()
    await settled()
    expect(takeSlot.mock.calls).toEqual([[1]])
    expect([free, freeSlot.mock.calls]).toEqual([[], []])
    await end(permit)
    expect([free, freeSlot.mock.calls]).toEqual([[0], [[0]]])
  })

  test('is refused where all are taken, and nothing starts', async () => {
    const { slots, start, end } = server(1)
    const permit = await start()
    const starts = vi.fn(async () => undefined)
    const refusal = await errorOf(() => slots.during(starts))
    expect(refusal).toMatchObject({ code: 'SESSION_CAPACITY_REACHED', retryAfter: 1 })
    expect(refusal.message).toBe('Max running turns reached (1/1)')
    expect(starts).not.toHaveBeenCalled()
    await end(permit)
    expect(await start()).toBeDefined()
  })

  test('is free again where the start fails, or starts no turn', async () => {
    const { slots, free } = server(1)
    await expect(slots.during(() => Promise.reject(new Error('refused')))).rejects.toThrow('refused')
    await settled()
    expect(free).toEqual([0])
    expect(await slots.during(async () => 'nothing to do')).toBe('nothing to do')
    await settled()
    expect(free).toEqual([0])
  })

  test('is not taken where the store cannot be reached', async () => {
    const { start, takeSlot, free, end } = server(1)
    takeSlot.mockRejectedValueOnce(new Error('gone'))
    await expect(start()).rejects.toThrow('gone')
    await end(await start())
    expect(free).toEqual([0])
  })

  test("is each start's own, also of those that are under way", async () => {
    const { slots, free, permitted, end } = server(2)
    const go = door()
    const [first, second] = [1, 2].map(() =>
      slots.during(async () => {
        await go.promise
        return permitted()
      }),
    )
    await expect(slots.during(async () => undefined)).rejects.toMatchObject({ code: 'SESSION_CAPACITY_REACHED' })
    expect(free).toEqual([])
    go.open()
    const permits = await Promise.all([first, second])
    await settled()
    expect(free).toEqual([])
    for (const permit of permits) await end(permit as Permit)
    expect(free.sort()).toEqual([0, 1])
  })

  test('that cannot be given back serves the next turn', async () => {
    const { start, end, free, takeSlot, freeSlot } = server(1)
    freeSlot.mockRejectedValueOnce(new Error('gone'))
    await end(await start())
    expect([free, freeSlot.mock.calls]).toEqual([[], [[0]]])
    const permit = await start()
    expect(takeSlot).toHaveBeenCalledTimes(1)
    await end(permit)
    expect([free, freeSlot.mock.calls]).toEqual([[0], [[0], [0]]])
  })

  test('that cannot be given back is so at the next change', async () => {
    const { slots, start, end, free, freeSlot } = server(2)
    freeSlot.mockRejectedValueOnce(new Error('gone'))
    const [first, second] = [await start(), await start()]
    await end(first)
    expect(free).toEqual([])
    await end(second)
    expect(free.sort()).toEqual([0, 1])
    expect(await slots.during(async () => 'done')).toBe('done')
  })

  test('is given back once, however much changes meanwhile', async () => {
    const { start, end, permitted, freeSlot } = server(1)
    const isFreed = door()
    freeSlot.mockImplementationOnce(() => isFreed.promise)
    await end(await start())
    await end(permitted())
    isFreed.open()
    await settled()
    expect(freeSlot.mock.calls).toEqual([[0]])
  })
})
