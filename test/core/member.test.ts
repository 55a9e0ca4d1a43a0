import { expect, onTestFinished, test, vi } from 'vitest'
import { StoreUnavailableError } from '../../src/core/errors.ts'
import { keepHouse } from '../../src/core/housekeeping.ts'
import { Lease } from '../../src/core/lease.ts'
import { Member } from '../../src/core/member.ts'
import type { MemoryEventLog } from '../../src/core/memory-event-log.ts'
import { OwnerRequests } from '../../src/core/owner-requests.ts'
import type { SessionTask } from '../../src/core/session-task.ts'
import { say, useParts, useSlowClock, waiting } from '../helpers/fake-server.ts'
import { FakeCluster, FakeStore, rowFor, turnFor } from '../helpers/fake-store.ts'
import { door, parrot, settled } from './support.ts'

/** A server that has joined. */
async function setup({ others = 0, maxSessions = 100 } = {}) {
  const clock = useSlowClock()
  const cluster = new FakeCluster()
  cluster.others = others
  const store = new FakeStore(cluster)
  const lost = vi.fn()
  const parts = useParts(store, { agents: [parrot, waiting], observer: { sessionLost: lost }, maxSessions })
  const { journal, ownership, residents, followers, faults } = parts
  const requests = new OwnerRequests(cluster, async (operation) => operation)
  const changed = vi.fn(async () => {})
  const fault = (error: unknown) => void faults.push(error)
  const lease = new Lease()
  const member = new Member({
    store,
    cluster,
    lease,
    journal,
    ownership,
    residents,
    followers,
    requests,
    changed,
    fault,
  })
  await member.join()
  onTestFinished(() => member.leave())
  /** A session whose turn runs here. */
  const running = async () => {
    const session = await parts.create({ agent: 'waiting', prompt: 'x' })
    for (let i = 0; i < 2; i++) await settled()
    return session
  }
  return { ...parts, clock, cluster, member, requests, changed, lost, running }
}

const isHere = ({ residents }: Awaited<ReturnType<typeof setup>>, session: SessionTask) =>
  residents.get(session.id) === session

test('a server says every second that it is there, until it leaves', async () => {
  const { cluster, clock, member, changed } = await setup()
  const beat = vi.spyOn(cluster, 'beat')
  await clock.pass(3_000)
  expect([cluster.isThere, beat.mock.calls.length, changed.mock.calls.length]).toEqual([true, 3, 3])
  await member.leave()
  await clock.pass(3_000)
  expect([cluster.isThere, beat.mock.calls.length, changed.mock.calls.length]).toEqual([false, 3, 3])
})

test('what is still asked for when it leaves fails without a word: the store is closed next', async () => {
  const { cluster, journal, changed, faults, clock, member } = await setup()
  const [beat, look] = [door(), door()]
  cluster.beating = () => beat.promise
  changed.mockImplementationOnce(() => look.promise)
  await clock.pass(1_000)
  await member.leave()
  for (const gate of [beat, look]) gate.fail(new StoreUnavailableError())
  await clock.pass(1_000)
  expect([changed.mock.calls.length, journal.isAvailable, faults]).toEqual([1, true, []])
})

test('it waits for the answer before it says so again', async () => {
  const { cluster, clock } = await setup()
  const gate = door()
  const beat = vi.spyOn(cluster, 'beat')
  cluster.beating = () => gate.promise
  await clock.pass(3_000)
  expect(beat).toHaveBeenCalledTimes(1)
  gate.open()
  await clock.pass(1_000)
  expect(beat).toHaveBeenCalledTimes(2)
})

test('a store that does not answer is away until it does', async () => {
  const { store, journal, faults, clock } = await setup()
  store.isAway = true
  await clock.pass(2_000)
  expect([journal.isAvailable, faults.length]).toEqual([false, 1])
  store.isAway = false
  await clock.pass(1_000)
  expect(journal.isAvailable).toBe(true)
})

test('what runs is stopped before others may take it for gone', async () => {
  const parts = await setup({ others: 1 })
  const { store, ownership, clock, lost, running } = parts
  const session = await running()
  ownership.hold({ id: 'unknown' } as SessionTask)
  await clock.pass(1_000)
  store.isAway = true
  await clock.pass(3_750)
  expect(isHere(parts, session)).toBe(true)
  await clock.pass(250)
  expect([isHere(parts, session), session.log.isLost, session.isActive]).toEqual([false, true, false])
  expect(lost).toHaveBeenCalledWith({ session_id: session.id, turn: 1 })
})

test('it is stopped once, and again after the server was heard', async () => {
  const { store, cluster, ownership, residents, clock } = await setup({ others: 1 })
  await clock.pass(1_000)
  const held = vi.spyOn(ownership, 'held', 'get')
  store.isAway = true
  await clock.pass(5_000)
  expect(held).toHaveBeenCalledTimes(1)
  store.isAway = false
  await clock.pass(1_000)
  expect([residents.isComing('x'), ownership.isInDoubt, cluster.isThere]).toEqual([false, false, true])
  held.mockClear()
  store.isAway = true
  await clock.pass(5_000)
  expect(held).toHaveBeenCalledTimes(1)
})

test('alone it goes on, and compares what it has once it is heard', async () => {
  const parts = await setup()
  const { store, cluster, clock, running } = parts
  const [kept, taken] = [await running(), await running()]
  await clock.pass(1_000)
  store.isAway = true
  await clock.pass(6_000)
  expect([isHere(parts, kept), isHere(parts, taken)]).toEqual([true, true])
  cluster.owners.set(taken.id, 'there')
  store.isAway = false
  await clock.pass(1_000)
  expect([isHere(parts, kept), isHere(parts, taken)]).toEqual([true, false])
  expect(taken.log.isLost).toBe(true)
})

test('it compares nothing when it was heard in time', async () => {
  const parts = await setup()
  const { store, cluster, clock, running } = parts
  const session = await running()
  cluster.owners.set(session.id, 'there')
  await clock.pass(1_000)
  store.isAway = true
  await clock.pass(3_000)
  store.isAway = false
  await clock.pass(1_000)
  expect(isHere(parts, session)).toBe(true)
})

test('what the store has not yet is no reason to stop', async () => {
  const parts = await setup()
  const { store, cluster, ownership, journal, clock, running } = parts
  const [changing, leaving] = [await running(), await running()]
  await clock.pass(1_000)
  store.isAway = true
  await clock.pass(5_000)
  const unwritten = await running()
  say(changing, 'word')
  for (const { id } of [changing, leaving]) cluster.owners.delete(id)
  const commit = door()
  store.committing = () => commit.promise
  const owned = vi.spyOn(cluster, 'owned').mockImplementationOnce(async () => {
    expect([journal.isUnwritten(unwritten.id), journal.isSettled(leaving.id)]).toEqual([true, true])
    commit.open()
    await settled()
    expect(journal.isSettled(unwritten.id)).toBe(true)
    say(changing, 'more')
    ownership.giveUp(leaving.id)
    return []
  })
  store.isAway = false
  await clock.pass(1_000)
  expect([owned.mock.calls.length > 0, journal.isAvailable]).toEqual([true, true])
  for (const session of [changing, leaving, unwritten]) expect(isHere(parts, session)).toBe(true)
})

test('a comparison that cannot be made is a store that is away', async () => {
  const { store, cluster, journal, clock, faults } = await setup()
  await clock.pass(1_000)
  store.isAway = true
  await clock.pass(6_000)
  store.isAway = false
  vi.spyOn(cluster, 'owned').mockRejectedValueOnce(new StoreUnavailableError())
  await clock.pass(1_000)
  expect([journal.isAvailable, faults.length]).toEqual([false, 2])
})

test('what a server left that is gone is taken up', async () => {
  const { store, residents, clock } = await setup()
  store.put(rowFor('orphan', { isActive: true, turnCount: 1 }), [turnFor(1)])
  await clock.pass(1_000)
  expect(store.kept.get('orphan')).toMatchObject({ row: { isActive: false } })
  expect(store.kept.get('orphan')?.turns.get(1)).toMatchObject({ status: 'failed', error: { code: 'TURN_LOST' } })
  expect(residents.get('orphan')).toBeDefined()
})

test('who is leaving takes up nothing more', async () => {
  const { store, cluster, residents, ownership, changed, member, clock } = await setup()
  member.retire()
  ownership.isInDoubt = true
  store.put(rowFor('orphan', { isActive: true, turnCount: 1 }), [turnFor(1)])
  store.put(rowFor('left'))
  cluster.owners.set('left', 'here')
  await clock.pass(2_000)
  expect([residents.get('orphan'), residents.get('left'), changed.mock.calls.length]).toEqual([undefined, undefined, 2])
})

test('what this server claimed without knowing is taken up', async () => {
  const { store, cluster, residents, ownership, clock, running } = await setup()
  const session = await running()
  store.put(rowFor('left', { isActive: true, turnCount: 1 }), [turnFor(1)])
  cluster.owners.set('left', 'here')
  await clock.pass(1_000)
  expect(residents.get('left')).toBeUndefined()
  ownership.isInDoubt = true
  await clock.pass(1_000)
  expect([ownership.isInDoubt, store.kept.get('left')?.row.isActive]).toEqual([false, false])
  expect([residents.get('left') !== undefined, residents.get(session.id)]).toEqual([true, session])
})

test('what is on its way here is not taken up as well', async () => {
  const { store, cluster, residents, ownership, clock } = await setup()
  store.put(rowFor('coming'))
  cluster.owners.set('coming', 'here')
  ownership.isInDoubt = true
  const gate = door()
  const session = store.session.bind(store)
  vi.spyOn(store, 'session').mockImplementationOnce(async (id) => {
    await gate.promise
    return session(id)
  })
  const adopted = vi.spyOn(residents, 'adopt')
  const came = residents.with('coming', () => 'came')
  await clock.pass(1_000)
  expect(adopted.mock.calls).toEqual([[[]], [[]]])
  gate.open()
  expect(await came).toBe('came')
})

test('what is lost while it is dealt with is not said to be missing', async () => {
  const { engine, residents, running } = await setup()
  const session = await running()
  const dealtWith = residents.with(session.id, async () => {
    void residents.lose(session)
    engine.interrupt(session.id)
  })
  await expect(dealtWith).rejects.toThrow(StoreUnavailableError)
})

test('what there is no room for is tried again', async () => {
  const { store, cluster, engine, residents, ownership, clock, running } = await setup({ maxSessions: 1 })
  const session = await running()
  store.put(rowFor('left', { isActive: true, turnCount: 1 }), [turnFor(1)])
  const claim = vi.spyOn(cluster, 'release').mockResolvedValue()
  cluster.owners.set('left', 'here')
  ownership.isInDoubt = true
  await clock.pass(1_000)
  expect([residents.get('left'), ownership.isInDoubt]).toEqual([undefined, true])
  expect(claim).toHaveBeenCalled()
  engine.archive(session.id, 'cancel')
  await clock.pass(2_000)
  expect([residents.get('left') !== undefined, ownership.isInDoubt]).toEqual([true, false])
})

test('what goes wrong is told, and done again', async () => {
  const { journal, ownership, changed, faults, clock } = await setup()
  changed.mockRejectedValueOnce(new Error('oh'))
  await clock.pass(1_000)
  expect([faults, journal.isAvailable, ownership.isInDoubt]).toEqual([[new Error('oh')], true, true])
  changed.mockRejectedValueOnce(new StoreUnavailableError())
  const heard = vi.spyOn(journal, 'unreachable')
  await clock.pass(1_000)
  expect([heard.mock.calls.length, faults.at(-1)]).toEqual([1, new StoreUnavailableError()])
  await clock.pass(1_000)
  expect([journal.isAvailable, ownership.isInDoubt, changed.mock.calls.length]).toEqual([true, false, 3])
})

test('it looks around once at a time', async () => {
  const { cluster, changed, clock } = await setup()
  const gate = door()
  changed.mockImplementationOnce(() => gate.promise)
  cluster.hear({ kind: 'left' })
  await clock.pass(2_000)
  cluster.hear({ kind: 'gap' })
  await settled()
  expect(changed).toHaveBeenCalledTimes(1)
  gate.open()
  await settled()
  cluster.hear({ kind: 'gap' })
  await settled()
  expect(changed).toHaveBeenCalledTimes(2)
})

test('what others ask for is done when they say so', async () => {
  const { cluster } = await setup()
  cluster.commandsWaiting = [{ number: 7, sessionId: 's', operation: 'interrupt', args: '{}' }]
  cluster.hear({ kind: 'command' })
  await settled()
  expect(cluster.answers).toEqual(new Map([[7, '{"value":"interrupt"}']]))
})

test('a reply is looked for when it is said to be there', async () => {
  const { cluster, requests } = await setup()
  const replies = vi.spyOn(cluster, 'replies')
  const answer = requests.ask('there', 'interrupt', 's', {})
  await settled()
  replies.mockResolvedValueOnce([{ number: 1, reply: '{"value":"done"}' }])
  cluster.hear({ kind: 'reply' })
  expect(await answer).toBe('done')
})

test('what is new is read when it is said to be there', async () => {
  const { store, cluster, followers } = await setup()
  const row = rowFor('s', { isActive: true })
  store.put(row)
  cluster.owners.set('s', 'there')
  const log: MemoryEventLog = await followers.open(row)
  await followers.follow('s', log)
  store.say('s', [{ type: 'text_delta', delta: 'a' }])
  cluster.hear({ kind: 'events', sessionIds: ['s'] })
  await settled()
  expect(log.lastSeq).toBe(1)
})

test('a notice that cannot be followed is nothing to tell', async () => {
  const { store, cluster, faults, journal } = await setup()
  store.isAway = true
  cluster.hear({ kind: 'command' })
  await settled()
  expect([faults, journal.isAvailable]).toEqual([[], true])
})

/** What lets sessions go and sweeps. */
async function keepingHouse(idleEvictMs: number) {
  const clock = useSlowClock()
  const store = new FakeStore()
  const parts = useParts(store, { agents: [parrot] })
  const { residents, faults } = parts
  const end = keepHouse({ residents, store, idleEvictMs, fault: (error) => faults.push(error) })
  onTestFinished(end)
  return { ...parts, clock, store, end }
}

test.each([
  [10, 1_000],
  [30_000, 30_000],
  [3_600_000, 60_000],
])('where sessions may idle for %i ms, it is tidied every %i ms', async (idleEvictMs, every) => {
  const { clock, store } = await keepingHouse(idleEvictMs)
  await clock.pass(every - 1)
  expect(store.swept).toHaveLength(0)
  await clock.pass(1)
  expect(store.swept).toHaveLength(1)
  await clock.pass(every)
  expect(store.swept).toHaveLength(2)
})

test('a sweep that has more to do goes on soon', async () => {
  const { clock, store } = await keepingHouse(1_000)
  store.more = [true, true, false]
  for (const ms of [1_000, 100, 100]) await clock.pass(ms)
  expect(store.swept).toHaveLength(3)
  const [{ archived, spent, keys, usage } = { archived: 0, spent: 0, keys: 0, usage: 0 }] = store.swept
  expect([archived > spent, spent > keys, keys > usage]).toEqual([true, true, true])
  await clock.pass(900)
  expect(store.swept).toHaveLength(3)
})

test('sessions that were not used for long leave memory', async () => {
  const { clock, residents, create } = await keepingHouse(1_000)
  const session = await create()
  residents.used(session.id)
  await clock.pass(500)
  expect(residents.get(session.id)).toBe(session)
  await clock.pass(1_500)
  expect(residents.get(session.id)).toBeUndefined()
})

test('a sweep that goes wrong is told, and made again', async () => {
  const { clock, store, faults } = await keepingHouse(1_000)
  store.isAway = true
  await clock.pass(1_000)
  expect([faults.length, store.swept.length]).toEqual([1, 1])
  store.isAway = false
  await clock.pass(1_000)
  expect([faults.length, store.swept.length]).toEqual([1, 2])
})

test('once it is ended nothing is tidied, whatever was under way', async () => {
  const { clock, store, end } = await keepingHouse(1_000)
  const gate = door()
  vi.spyOn(store, 'sweep').mockImplementationOnce(async () => {
    await gate.promise
    return true
  })
  await clock.pass(1_000)
  end()
  gate.open()
  await clock.pass(3_000)
  expect([store.swept.length, vi.getTimerCount()]).toEqual([0, 0])
})
