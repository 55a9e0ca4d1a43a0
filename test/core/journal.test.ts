import { expect, test, vi } from 'vitest'
import { StoreUnavailableError } from '../../src/core/errors.ts'
import { Journal } from '../../src/core/journal.ts'
import { Ownership } from '../../src/core/ownership.ts'
import type { SessionTask } from '../../src/core/session-task.ts'
import { holdUp, say, silently, useJournal, waiting, wordsIn } from '../helpers/fake-server.ts'
import type { FakeCluster } from '../helpers/fake-store.ts'
import { agentOf, door, parrot, settled } from './support.ts'

const PLENTY = { events: 1_000, bytes: 1_000_000 }

test('a session is unwritten until its first commit is done', async () => {
  const { store, journal, create } = useJournal()
  const gate = holdUp(store)
  const session = await create()
  expect(journal.isUnwritten(session.id)).toBe(true)
  await settled()
  expect([journal.isUnwritten(session.id), journal.isSettled(session.id)]).toEqual([true, false])
  gate.open()
  await settled()
  expect([journal.isUnwritten(session.id), journal.isSettled(session.id)]).toEqual([false, true])
  expect(store.commits.map(([write]) => write?.isNew)).toEqual([true])
})

test.each([
  [3, 12],
  [10, 12],
  [30, 2],
])('after a commit that took %i ms there is a pause of %i ms', async (took, pause) => {
  const { store, clock, kept } = useJournal()
  const session = await kept()
  store.committed = () => clock.pass(took)
  say(session, 'one')
  await settled()
  say(session, 'two')
  say(session, 'three')
  clock.pass(pause - 2)
  await settled()
  expect(wordsIn(store, session)).toEqual(['one'])
  clock.pass(2)
  await settled()
  expect(wordsIn(store, session)).toEqual(['one', 'two', 'three'])
  expect(store.commits).toHaveLength(3)
})

test('who waits for more than an event gets a commit of that session in the pause, and the others keep theirs', async () => {
  const { store, journal, clock, kept } = useJournal()
  const [session, other] = [await kept(), await kept()]
  store.committed = () => clock.pass(3)
  say(other, 'one')
  await settled()
  store.committed = () => {}
  say(session, 'two')
  say(other, 'three')
  let isSettled = false
  journal.whenSettled(session.id, () => {
    isSettled = true
  })
  await settled()
  expect([isSettled, wordsIn(store, session), wordsIn(store, other)]).toEqual([true, ['two'], ['one']])
  clock.pass(11)
  await settled()
  expect(wordsIn(store, other)).toEqual(['one'])
  clock.pass(1)
  await settled()
  expect(wordsIn(store, other)).toEqual(['one', 'three'])
  expect(store.commits.slice(-3).map((writes) => writes.map(({ row }) => row.id))).toEqual([
    [other.id],
    [session.id],
    [other.id],
  ])
})

test('where the pause is over, all goes with what somebody waits for', async () => {
  const { store, journal, clock, kept } = useJournal()
  const [session, other] = [await kept(), await kept()]
  clock.pass(100)
  say(other, 'one')
  say(session, 'two')
  await journal.settled(session.id)
  expect([wordsIn(store, session), wordsIn(store, other)]).toEqual([['two'], ['one']])
})

test('nobody is served before the others while the store is away', async () => {
  const { store, journal, clock, retried, kept } = useJournal()
  const session = await kept()
  store.isAway = true
  say(session, 'one')
  await settled()
  const { length } = store.commits
  journal.whenSettled(session.id, () => {})
  await settled()
  clock.pass(249)
  await settled()
  expect(store.commits).toHaveLength(length)
  store.isAway = false
  await retried()
  expect(wordsIn(store, session)).toEqual(['one'])
})

test('of a session that talks only how far it is is written, unless nobody knows what was written last', async () => {
  const { store, clock, retried, kept } = useJournal()
  const session = await kept()
  const wrote = async (word: string) => {
    clock.pass(100)
    say(session, word)
    await settled()
    return store.commits.at(-1)?.map(({ hasOnlyGrown }) => hasOnlyGrown)
  }
  expect(await wrote('one')).toEqual([true])
  session.updatedAt++
  expect([await wrote('two'), await wrote('three')]).toEqual([[false], [true]])
  store.committed = () => {
    throw new StoreUnavailableError()
  }
  expect(await wrote('four')).toEqual([true])
  store.committed = () => {}
  await retried()
  expect([store.commits.at(-1)?.[0]?.hasOnlyGrown, await wrote('five')]).toEqual([false, [true]])
})

test('all that waits can be written at once', async () => {
  const { store, journal, kept } = useJournal()
  const session = await kept()
  const gate = holdUp(store)
  say(session, 'one')
  await settled()
  say(session, 'two')
  await settled()
  const flushed = journal.flush()
  gate.open()
  await flushed
  expect(wordsIn(store, session)).toEqual(['one', 'two'])
  const { length } = store.commits
  await journal.flush()
  expect(store.commits).toHaveLength(length)
})

test('while the store is away nothing is seen, and then all of it', async () => {
  const { store, journal, clock, retried, faults, kept } = useJournal()
  const [session, other] = [await kept(), await kept()]
  store.isAway = true
  say(session, 'one')
  await settled()
  expect([journal.isAvailable, session.log.read(0)]).toEqual([false, undefined])
  say(session, 'two')
  say(other, 'three')
  for (let i = 0; i < 3; i++) {
    await retried()
  }
  expect([faults.length, store.commits.length]).toEqual([1, 6])
  store.isAway = false
  clock.pass(249)
  await settled()
  expect(journal.isAvailable).toBe(false)
  clock.pass(1)
  await settled()
  expect([journal.isAvailable, wordsIn(store, session), wordsIn(store, other)]).toEqual([
    true,
    ['one', 'two'],
    ['three'],
  ])
  expect(session.log.read(0)?.last).toBe(1)
})

test('what comes while a commit fails follows it', async () => {
  const { store, retried, kept } = useJournal()
  const [session, other] = [await kept(), await kept()]
  const gate = holdUp(store)
  say(session, 'one')
  await settled()
  say(session, 'two')
  say(other, 'three')
  await settled()
  gate.fail(new StoreUnavailableError())
  await settled()
  store.committing = () => {}
  await retried()
  expect([wordsIn(store, session), wordsIn(store, other)]).toEqual([['one', 'two'], ['three']])
})

test('after long everybody who waits is told that the store is away, until it is back', async () => {
  const { journal, clock, faults } = useJournal()
  const { away } = journal
  journal.unreachable(new Error('one'))
  journal.unreachable(new Error('two'))
  expect(faults).toEqual([new Error('one')])
  clock.pass(4_999)
  expect(away.aborted).toBe(false)
  clock.pass(1)
  expect(away.reason).toMatchObject({ code: 'OUTCOME_UNKNOWN' })
  journal.reachable()
  expect([journal.isAvailable, journal.away.aborted]).toEqual([true, false])
})

test('a store that is back soon was away for nobody', async () => {
  const { journal, clock } = useJournal()
  const { away } = journal
  journal.unreachable(new Error('one'))
  clock.pass(4_000)
  journal.reachable()
  clock.pass(4_000)
  expect([away.aborted, journal.away === away]).toEqual([false, true])
})

test('where something waits the next commit says whether the store is back', async () => {
  const { store, journal, retried, kept } = useJournal()
  const session = await kept()
  store.isAway = true
  say(session, 'one')
  await settled()
  journal.reachable()
  expect(journal.isAvailable).toBe(false)
  const gate = holdUp(store)
  await retried()
  journal.reachable()
  expect(journal.isAvailable).toBe(false)
  store.isAway = false
  gate.open()
  await settled()
  expect(journal.isAvailable).toBe(true)
})

test('who waits is served with the commit of what there was, not with later ones', async () => {
  const { store, journal, kept } = useJournal()
  const [session, other] = [await kept(), await kept()]
  const told: string[] = []
  await journal.settled(session.id)
  journal.whenSettled(session.id, () => told.push('at once'))
  const gate = holdUp(store)
  say(session, 'one')
  journal.whenSettled(session.id, () => told.push('waits'))
  await settled()
  journal.whenSettled(session.id, () => told.push('is under way'))
  const promised = journal.settled(session.id).then(() => told.push('is promised'))
  say(session, 'two')
  say(other, 'three')
  await settled()
  const second = door()
  journal.whenSettled(session.id, () => told.push('is later'))
  store.committing = () => second.promise
  expect(told).toEqual(['at once'])
  gate.open()
  await promised
  await settled()
  expect(told).toEqual(['at once', 'waits', 'is under way', 'is promised'])
  second.open()
  await settled()
  expect(told.at(-1)).toBe('is later')
})

test('who waits for a commit that failed waits for the next', async () => {
  const { store, journal, retried, kept } = useJournal()
  const session = await kept()
  const told = vi.fn()
  const gate = holdUp(store)
  say(session, 'one')
  await settled()
  journal.whenSettled(session.id, told)
  gate.fail(new StoreUnavailableError())
  await settled()
  expect(told).not.toHaveBeenCalled()
  store.committing = () => {}
  await retried()
  expect(told).toHaveBeenCalledTimes(1)
})

test('who waits for long is told that the store is away', async () => {
  const { store, journal, clock, kept } = useJournal()
  const session = await kept()
  const gate = holdUp(store)
  say(session, 'one')
  const refused = expect(journal.settled(session.id)).rejects.toMatchObject({ code: 'OUTCOME_UNKNOWN' })
  await settled()
  const served = journal.settled(session.id)
  clock.pass(5_000)
  await refused
  const later = journal.settled(session.id)
  gate.open()
  await expect(served).rejects.toMatchObject({ code: 'OUTCOME_UNKNOWN' })
  await later
})

test('who waits for a session that is lost is told so, or nothing', async () => {
  const { store, journal, engine, kept } = useJournal()
  const [session, other] = [await kept(), await kept()]
  const exported = engine.exportSession(session.id)
  const told = vi.fn()
  const gate = holdUp(store)
  say(session, 'one')
  say(other, 'two')
  const refused = expect(journal.settled(session.id)).rejects.toMatchObject({ code: 'OUTCOME_UNKNOWN' })
  journal.whenSettled(session.id, told)
  const fine = journal.settled(other.id)
  engine.parts.registry.remove(session)
  journal.lose(session)
  await engine.importSession(exported)
  await refused
  gate.open()
  await fine
  expect(told).not.toHaveBeenCalled()
  expect([wordsIn(store, session), wordsIn(store, other)]).toEqual([[], ['two']])
})

test('a session that changes while nobody has it is taken back first', async () => {
  const { store, ownership, kept } = useJournal({ shared: true })
  const session = await kept()
  expect(ownership.has(session.id)).toBe(false)
  say(session, 'one')
  await settled()
  expect(store.commits.at(-1)).toMatchObject([{ isNew: false, epoch: 2 }])
  expect([wordsIn(store, session), ownership.has(session.id)]).toEqual([['one'], false])
})

test('a session that cannot be taken back for now is so later', async () => {
  const { store, journal, retried, kept } = useJournal({ shared: true })
  const session = await kept()
  store.isAway = true
  say(session, 'one')
  await settled()
  expect([journal.isAvailable, store.commits.length]).toEqual([false, 1])
  store.isAway = false
  await retried()
  expect([journal.isAvailable, wordsIn(store, session)]).toEqual([true, ['one']])
})

test.each([
  ['is with another server', (cluster: FakeCluster, id: string) => cluster.owners.set(id, 'there')],
  ['was with another server', (cluster: FakeCluster, id: string) => cluster.epochs.set(id, 3)],
])('a session that %s is lost, and the rest is written', async (_, take) => {
  const { store, cluster, residents, kept } = useJournal({ shared: true })
  const [session, other] = [await kept(), await kept()]
  take(cluster, session.id)
  say(session, 'one')
  await settled()
  expect([residents.get(session.id), session.log.isLost, store.commits.length]).toEqual([undefined, true, 2])
  take(cluster, other.id)
  const third = await kept()
  say(other, 'two')
  say(third, 'three')
  await settled()
  expect([residents.get(other.id), wordsIn(store, other), wordsIn(store, third)]).toEqual([undefined, [], ['three']])
})

test('a session that the store refuses is lost, with what was said there', async () => {
  const lost = vi.fn()
  const { store, residents, engine, create, kept } = useJournal({ observer: { sessionLost: lost } })
  const [session, other] = [await create({ agent: 'waiting', prompt: 'x' }), await kept()]
  store.refused.add(session.id)
  const { turn } = session.activeTurn()
  say(session, 'one')
  say(other, 'two')
  await settled()
  expect([residents.get(session.id), session.log.isLost]).toEqual([undefined, true])
  expect(lost).toHaveBeenCalledWith({ session_id: session.id, turn })
  expect(wordsIn(store, other)).toEqual(['two'])
  expect(engine.stats).toMatchObject({ residents: 1, turnsRunning: 0 })
})

test('a session that is lost while its commit fails is not written again', async () => {
  const { store, journal, retried, kept } = useJournal()
  const [session, other] = [await kept(), await kept()]
  const gate = holdUp(store)
  say(session, 'one')
  say(other, 'two')
  await settled()
  journal.lose(session)
  gate.fail(new StoreUnavailableError())
  await settled()
  store.committing = () => {}
  await retried()
  expect([wordsIn(store, session), wordsIn(store, other)]).toEqual([[], ['two']])
})

test('turns of whose end the store may know more are those that are not kept', async () => {
  const { store, journal, engine, create } = useJournal({ agents: [parrot, waiting] })
  const session = await create({ prompt: 'one' })
  await engine.turnEnded(session.id, 1)
  await settled()
  const gate = holdUp(store)
  await engine.startTurn(session.id, { prompt: 'two' })
  await settled()
  expect(journal.lose(session).map(({ turn }) => turn)).toEqual([2])
  expect(journal.lose(session)).toEqual([])
  gate.open()
})

test('an idle session that is lost can be read on', async () => {
  const { journal, kept } = useJournal({ shared: true })
  const session = await kept()
  journal.lose(session)
  expect([session.log.isLost, journal.findLog(session.id)]).toEqual([false, session.log])
})

test('nothing is kept of what a journal has not seen', async () => {
  const { store, journal, create } = useJournal()
  const session = await create({ prompt: 'one' })
  await settled()
  const other = new Journal(store, PLENTY, new Ownership(undefined), () => {})
  expect(other.lose(session)).toEqual(session.turns)
  expect([session.turns.length, session.log.isLost, journal.findLog(session.id)]).toEqual([1, true, session.log])
})

test('a session that is over goes once the last of it is kept', async () => {
  const { store, journal, engine, kept } = useJournal()
  const session = await kept()
  const gate = holdUp(store)
  engine.archive(session.id)
  await settled()
  gate.open()
  await settled()
  expect(store.kept.get(session.id)?.row).toMatchObject({ isArchived: true })
  const { length } = store.commits
  journal.changed(session)
  await settled()
  expect([store.commits.length, journal.lose(session)]).toEqual([length, []])
})

test('a session whose agent takes long to go is over once that is done', async () => {
  const gate = door()
  const slow = agentOf('slow', silently, { dispose: () => gate.promise })
  const { store, journal, engine, kept } = useJournal({ agents: [slow] })
  const session = await kept()
  engine.archive(session.id)
  await settled()
  const { length } = store.commits
  journal.changed(session)
  await settled()
  expect(store.commits).toHaveLength(length + 1)
  gate.open()
  await settled()
  journal.changed(session)
  await settled()
  expect(store.commits).toHaveLength(length + 1)
})

test('one that goes makes no room of its successor', async () => {
  const { store, journal, engine, kept } = useJournal()
  const session = await kept()
  const exported = engine.exportSession(session.id)
  const gate = holdUp(store)
  engine.archive(session.id)
  await settled()
  await engine.importSession(exported)
  const successor = engine.parts.registry.get(session.id) as SessionTask
  gate.open()
  await settled()
  journal.changed(session)
  say(successor, 'one')
  await settled()
  expect(wordsIn(store, successor)).toEqual(['one'])
  expect(store.commits.map(([write]) => write?.isNew)).toEqual([true, false, true, false])
})

test('one that is lost takes nothing from its successor', async () => {
  const { store, journal, engine, kept } = useJournal()
  const session = await kept()
  const exported = engine.exportSession(session.id)
  engine.parts.registry.remove(session)
  await engine.importSession(exported)
  const successor = engine.parts.registry.get(session.id) as SessionTask
  say(successor, 'one')
  journal.lose(session)
  await settled()
  expect([session.log.isLost, journal.findLog(session.id)]).toEqual([true, successor.log])
  expect(wordsIn(store, successor)).toEqual(['one'])
})

test('a key is kept with what it started', async () => {
  const { store, engine } = useJournal()
  const idempotency = { key: 'k', fingerprint: 'f' }
  const { sessionId } = await engine.createSession({ initial_turn: 'deferred' }, { idempotency })
  await settled()
  expect(store.keys).toMatchObject([{ fingerprint: 'f', sessionId, handle: { sessionId, turn: 0 } }])
})
