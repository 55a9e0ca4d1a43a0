import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { MemoryEventLog } from '../../src/core/memory-event-log.ts'
import { Semaphore } from '../../src/core/semaphore.ts'
import { SessionRegistry } from '../../src/core/session-registry.ts'
import { SessionTask } from '../../src/core/session-task.ts'
import { NO_USAGE } from '../../src/core/usage.ts'
import { useClock } from './support.ts'

const AMPLE = { events: 1_000_000, bytes: 1024 * 1024 * 1024 }

/** A session that no service knows of. Archiving one of these is the registry's business alone. */
function session(id: string, labels?: Record<string, string>): SessionTask {
  const permit = new Semaphore(1).tryAcquire()
  if (permit === undefined) throw new Error('no permit')
  return new SessionTask(
    {
      id,
      createdAt: 0,
      metadata: labels === undefined ? { agent: 'a' } : { agent: 'a', labels },
      messages: [],
      usage: NO_USAGE,
    },
    new MemoryEventLog(AMPLE),
    {
      observer: {},
      maxQueuedTurns: 0,
      archiveDrainMs: 0,
      buildAgent: () => {
        throw new Error('nothing is run here')
      },
      commsOf: () => ({
        peers: async () => [],
        send: async () => {
          throw new Error('nothing is sent here')
        },
      }),
      changed: () => {},
      settled: (_, then) => then(),
      turnEnded: () => {},
      turnsEnded: () => {},
      retired: () => {},
    },
    permit,
  )
}

const everything = { offset: 0, limit: 1_000 }

function ids(registry: SessionRegistry, query: Parameters<SessionRegistry['list']>[0] = everything): string[] {
  return registry.list(query).sessions.map(({ id }) => id)
}

/** One that is over, with so many events. */
function retired(registry: SessionRegistry, id: string, events: number): void {
  const one = session(id)
  registry.add(one)
  for (let i = 0; i < events; i++) one.log.append({ type: 'text_delta', delta: 'x' }, 1)
  registry.archive(one)
  registry.retire(one)
}

function registryOf(...sessions: SessionTask[]): SessionRegistry {
  const registry = new SessionRegistry()
  for (const session of sessions) registry.add(session)
  return registry
}

function letters(count: number): SessionTask[] {
  return Array.from({ length: count }, (_, at) => session(String.fromCharCode(97 + at)))
}

describe('the last seq of an id', () => {
  test('is that of the session that had most events under it, once that is over', () => {
    const registry = new SessionRegistry()
    expect(registry.lastSeqOf('a')).toBe(0)
    retired(registry, 'a', 3)
    retired(registry, 'a', 2)
    expect([registry.lastSeqOf('a'), registry.lastSeqOf('b')]).toEqual([3, 0])
  })

  test('of one that still drains leaves room for all that it may say', () => {
    const draining = session('a')
    const registry = registryOf(draining)
    registry.archive(draining)
    const last = registry.lastSeqOf('a')
    for (let i = 0; i < 1_000; i++) draining.log.append({ type: 'text_delta', delta: 'x' }, 1)
    expect(last).toBeGreaterThan(draining.log.lastSeq)
  })

  test('is never less than it was, however many sessions came since', () => {
    const registry = new SessionRegistry(2)
    retired(registry, 'first', 5)
    for (const id of ['b', 'c', 'd']) retired(registry, id, 1)
    expect(registry.lastSeqOf('first')).toBe(5)
    expect(registry.lastSeqOf('d')).toBe(1)
    // It cannot be told from the first any more.
    expect(registry.lastSeqOf('new')).toBe(5)
  })
})

describe('the list of sessions', () => {
  test('stays in order when one of them is archived [R17]', () => {
    const [a, b, c, d] = letters(4) as [SessionTask, SessionTask, SessionTask, SessionTask]
    const registry = registryOf(a, b, c, d)
    registry.archive(a)
    expect(ids(registry)).toEqual(['b', 'c', 'd'])
    registry.archive(c)
    expect(ids(registry)).toEqual(['b', 'd'])
    expect(registry.size).toBe(2)
  })

  test('skips before it limits, and is empty beyond its end [R18]', () => {
    const registry = registryOf(...letters(5))
    expect(ids(registry, { offset: 1, limit: 2 })).toEqual(['b', 'c'])
    expect(ids(registry, { offset: 4, limit: 2 })).toEqual(['e'])
    expect(ids(registry, { offset: 5, limit: 2 })).toEqual([])
    expect(ids(registry, { offset: 99, limit: 2 })).toEqual([])
    expect(ids(registry, { offset: 0, limit: 0 })).toEqual([])
    expect(registry.list({ offset: 99, limit: 0 }).total).toBe(5)
  })

  test('has only those whose labels match in all pairs, and counts those [R39]', () => {
    const registry = registryOf(
      session('a', { team: 'x', env: 'prod' }),
      session('b', { team: 'x' }),
      session('c'),
      session('d', { team: 'y', env: 'prod' }),
    )
    const labelled = (...labels: [string, string][]) => registry.list({ offset: 0, limit: 1, labels })
    expect(ids(registry, { ...everything, labels: [['team', 'x']] })).toEqual(['a', 'b'])
    expect(labelled(['team', 'x'])).toMatchObject({ sessions: [{ id: 'a' }], total: 2 })
    expect(labelled(['team', 'x'], ['env', 'prod'])).toMatchObject({ sessions: [{ id: 'a' }], total: 1 })
    expect(labelled(['team', 'x'], ['team', 'y'])).toMatchObject({ sessions: [], total: 0 })
    expect(labelled(['toString', 'x'])).toMatchObject({ sessions: [], total: 0 })
    expect(labelled(['team', 'undefined'])).toMatchObject({ sessions: [], total: 0 })
    expect(labelled().total).toBe(4)
  })

  test('has only those that are active, or those that are not', () => {
    const [a, b, c] = letters(3) as [SessionTask, SessionTask, SessionTask]
    const registry = registryOf(a, b, c)
    b.claim()
    expect(ids(registry, { ...everything, active: true })).toEqual(['b'])
    expect(ids(registry, { ...everything, active: false })).toEqual(['a', 'c'])
  })

  test('is the same as a plain array would be, whatever comes and goes', () => {
    const step = fc.oneof(
      { weight: 3, arbitrary: fc.constant('add' as const) },
      { weight: 2, arbitrary: fc.nat({ max: 30 }) },
    )
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const registry = new SessionRegistry()
        const model: SessionTask[] = []
        let made = 0
        for (const step of steps) {
          if (step === 'add') {
            const added = session(String(made))
            made++
            registry.add(added)
            model.push(added)
          } else if (model.length > 0) {
            const [gone] = model.splice(step % model.length, 1)
            registry.archive(gone as SessionTask)
          }
          expect(ids(registry)).toEqual(model.map(({ id }) => id))
        }
      }),
    )
  })
})

describe('an archived session', () => {
  test('is found by readers only, while it drains and when it is over', () => {
    const [a] = letters(1) as [SessionTask]
    const registry = registryOf(a)
    registry.archive(a)
    expect([registry.get('a'), registry.getReadable('a')]).toEqual([undefined, a])
    expect(registry.residents()).toEqual([a])
    registry.retire(a)
    expect([registry.get('a'), registry.getReadable('a')]).toEqual([undefined, a])
    expect(registry.residents()).toEqual([])
  })

  test('makes room for one with the same id', () => {
    const old = session('a')
    const young = session('a')
    const registry = registryOf(old)
    registry.archive(old)
    registry.retire(old)
    registry.add(young)
    expect(registry.getReadable('a')).toBe(young)
  })

  test('that still drains does not come back over one with the same id', () => {
    const old = session('a')
    const young = session('a')
    const registry = registryOf(old)
    registry.archive(old)
    registry.add(young)
    registry.retire(old)
    expect(registry.getReadable('a')).toBe(young)
    registry.archive(young)
    registry.retire(young)
    expect(registry.getReadable('a')).toBe(young)
  })

  test('that still drains is not forgotten when one with the same id is archived too', () => {
    const old = session('a')
    const young = session('a')
    const registry = registryOf(old)
    registry.archive(old)
    registry.add(young)
    registry.archive(young)
    expect([old, young].map((session) => registry.residents().includes(session))).toEqual([true, true])
    registry.retire(old)
    expect(registry.getReadable('a')).toBe(young)
    registry.retire(young)
    expect(registry.getReadable('a')).toBe(young)
  })

  test('that still drains when one with the same id is over already does not hide that one', () => {
    const old = session('a')
    const young = session('a')
    const registry = registryOf(old)
    registry.archive(old)
    registry.add(young)
    registry.archive(young)
    registry.retire(young)
    expect(registry.getReadable('a')).toBe(young)
    registry.retire(old)
    expect(registry.getReadable('a')).toBe(young)
    expect(registry.residents()).toEqual([])
  })

  test('is forgotten after ten minutes', () => {
    const clock = useClock()
    const [a] = letters(1) as [SessionTask]
    const registry = registryOf(a)
    registry.archive(a)
    registry.retire(a)
    clock.pass(9 * 60_000)
    expect(registry.getReadable('a')).toBe(a)
    clock.pass(2 * 60_000)
    expect(registry.getReadable('a')).toBeUndefined()
  })

  test('is forgotten when 256 others came after it', () => {
    const registry = new SessionRegistry()
    for (let at = 0; at < 257; at++) {
      const one = session(String(at))
      registry.add(one)
      registry.archive(one)
      registry.retire(one)
    }
    expect(registry.getReadable('0')).toBeUndefined()
    expect(registry.getReadable('1')?.id).toBe('1')
  })

  test('is forgotten when those after it hold 64 MiB of events', () => {
    const registry = new SessionRegistry()
    for (const at of [0, 1, 2]) {
      const one = session(String(at))
      Object.assign(one.log, { bytes: 25 * 1024 * 1024 })
      registry.add(one)
      registry.archive(one)
      registry.retire(one)
    }
    expect(['0', '1', '2'].map((id) => registry.getReadable(id)?.id)).toEqual([undefined, '1', '2'])
  })
})
