import { expect, test, vi } from 'vitest'
import type { SessionRow, TurnRow } from '../../src/core/durable-store.ts'
import type { NewEvent } from '../../src/core/events.ts'
import { Interaction } from '../../src/core/interaction.ts'
import type { MemoryEventLog } from '../../src/core/memory-event-log.ts'
import { recordOf } from '../../src/core/session-rows.ts'
import type { SessionTask } from '../../src/core/session-task.ts'
import { textIn, useParts } from '../helpers/fake-server.ts'
import { deltas, FakeCluster, FakeStore, rowFor, stateFor, turnFor } from '../helpers/fake-store.ts'
import { door, parrot, settled } from './support.ts'

const ID = 's'
const END = { type: 'run_failed', session_id: ID, error: 'oh', code: 'TURN_LOST' } as NewEvent
const ENDED = {
  status: 'failed',
  endedAt: 9,
  lastSeq: 2,
  error: { code: 'TURN_LOST', message: 'oh', data: {} },
} as const

/** A session that another server writes, and what follows it here. */
function setup(more: Partial<SessionRow> = {}, turns: readonly TurnRow[] = []) {
  const cluster = new FakeCluster()
  const store = new FakeStore(cluster)
  store.put(rowFor(ID, { isActive: true, ...more }), turns)
  cluster.owners.set(ID, 'there')
  const parts = useParts(store, { agents: [parrot] })
  const open = () => parts.followers.open(store.kept.get(ID)?.row as SessionRow)
  const pull = () => parts.followers.pull([ID])
  return { ...parts, cluster, open, pull }
}

const terminal: NewEvent = { type: 'interaction_failed', interaction_id: 'i', error: 'oh', code: 'INBOX_CLOSED' }

test('what another server writes is read when it is said to be there', async () => {
  const { store, followers, open, pull } = setup()
  const log = await open()
  await followers.follow(ID, log)
  store.say(ID, deltas('ab'))
  store.say(ID, deltas('c'))
  await pull()
  expect(textIn(log)).toBe('abc')
})

test('nothing is asked for where nobody follows', async () => {
  const { cluster, pull } = setup()
  await pull()
  expect(cluster.asked).toEqual([])
})

test('on a store of one server nothing is followed', async () => {
  const store = new FakeStore()
  store.put(rowFor(ID))
  const { followers } = useParts(store, { agents: [parrot] })
  const log = await followers.open(rowFor(ID))
  const record = recordOf(ID, turnFor(1))
  await followers.follow(ID, log, { turns: [record] })
  expect(followers.turn(ID, 1)).toBeUndefined()
})

test('a log that is behind its row is brought up to it', async () => {
  const { store, cluster, open } = setup()
  const log = await open()
  store.say(ID, deltas('ab'))
  expect(await open()).toBe(log)
  expect(textIn(log)).toBe('ab')
  expect(await open()).toBe(log)
  expect(cluster.asked).toHaveLength(1)
})

test('a log that cannot be brought up to its row gives way to another', async () => {
  const { store, cluster, open } = setup()
  const log = await open()
  store.say(ID, deltas('ab'))
  vi.spyOn(cluster, 'news').mockRejectedValueOnce(new Error('not now'))
  const other = await open()
  expect([log.isLost, other === log, other.lastSeq]).toEqual([true, false, 2])
})

test('what is asked for while it is read is in the next one', async () => {
  const { store, cluster, followers, open, pull } = setup()
  const log = await open()
  await followers.follow(ID, log)
  const waiting = door()
  const news = cluster.news.bind(cluster)
  vi.spyOn(cluster, 'news').mockImplementationOnce(async (positions) => {
    const answer = await news(positions)
    await waiting.promise
    return answer
  })
  const first = pull()
  store.say(ID, deltas('a'))
  const second = pull()
  const third = pull()
  waiting.open()
  await Promise.all([first, second, third])
  expect(textIn(log)).toBe('a')
})

test('a part of it is followed by the rest', async () => {
  const { store, cluster, followers, open, pull } = setup()
  const log = await open()
  await followers.follow(ID, log)
  for (const letter of 'abc') store.say(ID, deltas(letter))
  cluster.atATime = 1
  await pull()
  expect(textIn(log)).toBe('abc')
  expect(cluster.asked.map((positions) => positions[0]?.after)).toEqual([0, 0, 1, 2])
})

test('a row that is ahead of all that is retained is not asked for again at once', async () => {
  const { store, cluster, followers, open } = setup()
  const log = await open()
  store.put(rowFor(ID, { isActive: true, lastSeq: 5 }))
  await followers.follow(ID, log)
  expect(cluster.asked).toHaveLength(1)
})

test('what could not be read is read the next time, with nothing said', async () => {
  const { store, followers, open, pull } = setup()
  const log = await open()
  store.say(ID, deltas('a'))
  store.isAway = true
  await followers.follow(ID, log)
  expect(textIn(log)).toBe('')
  store.isAway = false
  await followers.pull([])
  expect(textIn(log)).toBe('a')
  await pull()
  expect(textIn(log)).toBe('a')
})

test('a session that is over ends its log', async () => {
  const { store, followers, open, pull } = setup()
  const log = await open()
  await followers.follow(ID, log)
  store.say(ID, deltas('a'), { isArchived: true })
  await pull()
  expect(log.sealed).toBe(false)
  store.say(ID, deltas('b'), { isArchived: true, isActive: false })
  await pull()
  expect([textIn(log), log.sealed]).toEqual(['ab', true])
})

test('who waits for a turn is told of its end', async () => {
  const { store, followers, open, pull } = setup({ turnCount: 2 }, [turnFor(1), turnFor(2, { status: 'queued' })])
  const [record, queued] = [recordOf(ID, turnFor(1)), recordOf(ID, turnFor(2, { status: 'queued' }))]
  const told = vi.fn()
  const ended = record.ended().then(told)
  const log = await open()
  await followers.follow(ID, log, { turns: [record, queued] })
  expect(followers.turn(ID, 1)).toBe(record)
  store.say(ID, deltas('a'))
  await pull()
  expect([record.isOver, told.mock.calls.length]).toEqual([false, 0])
  store.say(ID, [END])
  store.put(store.kept.get(ID)?.row as SessionRow, [turnFor(1, ENDED)])
  await pull()
  await ended
  expect(record).toMatchObject({ status: 'failed', lastSeq: 2, error: { code: 'TURN_LOST', message: 'oh' } })
  expect([followers.turn(ID, 1), followers.turn(ID, 2)]).toEqual([undefined, queued])
})

test('a turn is looked up for what begins or ends it, and for nothing else', async () => {
  const { store, followers, open, pull } = setup({ turnCount: 1 }, [turnFor(1)])
  await followers.follow(ID, await open(), { turns: [recordOf(ID, turnFor(1))] })
  const turns = vi.spyOn(store, 'turns')
  store.say(ID, deltas('"type":"run_'))
  await pull()
  expect(turns).not.toHaveBeenCalled()
  store.say(ID, [{ type: 'run_started', session_id: ID, prompt: 'x' }])
  await pull()
  expect(turns).toHaveBeenCalledTimes(1)
})

test('a turn of which there is nothing stays as it is', async () => {
  const { followers, open } = setup()
  const record = recordOf(ID, turnFor(1))
  await followers.follow(ID, await open(), { turns: [record] })
  expect([record.status, followers.turn(ID, 1)]).toEqual(['running', record])
})

test('there is one record of a turn, and who waits for another is told too', async () => {
  const { store, followers, open, pull } = setup({ turnCount: 1 }, [turnFor(1)])
  const [record, other] = [recordOf(ID, turnFor(1)), recordOf(ID, turnFor(1))]
  const log = await open()
  await followers.follow(ID, log, { turns: [record] })
  await followers.follow(ID, log, { turns: [record, other] })
  expect(followers.turn(ID, 1)).toBe(record)
  const ended = other.ended()
  store.say(ID, [END])
  store.put(store.kept.get(ID)?.row as SessionRow, [turnFor(1, ENDED)])
  await pull()
  await ended
  expect(other).toMatchObject({ status: 'failed', endedAt: 9 })
})

test('what a turn did that is held is known for another log of the session', async () => {
  const { journal, followers, open } = setup({ turnCount: 1 }, [turnFor(1)])
  const record = recordOf(ID, turnFor(1))
  await followers.follow(ID, await open(), { turns: [record] })
  await followers.follow(ID, journal.newLog(ID))
  expect(followers.turn(ID, 1)).toBe(record)
})

test('an interaction is followed until it is over', async () => {
  const { store, followers, open, pull } = setup()
  const [mine, another] = [Interaction.restored(stateFor()), Interaction.restored(stateFor())]
  const kept = store.kept.get(ID)
  kept?.interactions.set('i', { id: 'i', state: stateFor({ turn: 1, firstSeq: 3 }) })
  kept?.interactions.set('j', { id: 'j', state: stateFor({ id: 'j' }) })
  const log = await open()
  await followers.follow(ID, log, { interactions: [mine, another] })
  expect(followers.interaction(ID, 'i')).toBe(mine)
  expect([mine.firstSeq, another.firstSeq]).toEqual([3, 0])
  kept?.interactions.set('i', { id: 'i', state: stateFor({ turn: 1, firstSeq: 3, lastSeq: 4, terminal }) })
  store.say(ID, [terminal])
  await pull()
  expect([mine.isOver, mine.lastSeq, followers.interaction(ID, 'i')]).toEqual([true, 4, undefined])
})

test('what is written here is not read', async () => {
  const { cluster, journal, ownership, followers, create } = setup()
  const session = await create()
  const log = session.log as MemoryEventLog
  expect(ownership.has(session.id)).toBe(true)
  await followers.follow(session.id, log)
  expect(cluster.asked).toEqual([])
  session.emit({ type: 'skills_resolved', skills: ['a'], injection_bytes: 1 })
  ownership.giveUp(session.id)
  await followers.pull([session.id])
  expect(cluster.asked).toEqual([])
  await journal.flush()
  await followers.pull([session.id])
  expect(cluster.asked).toHaveLength(1)
})

test('a session that comes here while it is read is not read any further', async () => {
  const { store, ownership, followers, open, pull, residents } = setup({ turnCount: 1 }, [turnFor(1)])
  const log = await open()
  await followers.follow(ID, log, { turns: [recordOf(ID, turnFor(1))] })
  store.say(ID, [END])
  const turns = store.turns.bind(store)
  vi.spyOn(store, 'turns').mockImplementationOnce(async (id, page) => {
    ownership.hold({ id: ID } as SessionTask)
    return turns(id, page)
  })
  await pull()
  expect([log.lastSeq, residents.get(ID)]).toEqual([0, undefined])
})

test('a session that is on its way here is still read', async () => {
  const { store, cluster, ownership, followers, open, pull } = setup()
  const log = await open()
  await followers.follow(ID, log)
  ownership.hold({ id: ID } as SessionTask)
  store.say(ID, deltas('a'))
  await pull()
  expect(textIn(log)).toBe('')
  cluster.owners.delete(ID)
  const claim = ownership.claim(ID)
  await pull()
  expect(textIn(log)).toBe('a')
  await claim
})

test('what nobody waits for is forgotten, not at the first look', async () => {
  const { store, followers, open, pull } = setup()
  const log = await open()
  await followers.follow(ID, log)
  await followers.pullAll()
  store.say(ID, deltas('a'))
  await pull()
  expect(textIn(log)).toBe('a')
  await followers.pullAll()
  store.say(ID, deltas('b'))
  await pull()
  expect(textIn(log)).toBe('a')
})

test('a log that is watched is not forgotten', async () => {
  const { store, followers, open } = setup()
  const log = await open()
  log.watch(() => {})
  await followers.follow(ID, log)
  for (const letter of 'abc') {
    store.say(ID, deltas(letter))
    await followers.pullAll()
  }
  expect(textIn(log)).toBe('abc')
})

test('a turn that is waited for is not forgotten', async () => {
  const { followers, open } = setup({ turnCount: 1 }, [turnFor(1)])
  const record = recordOf(ID, turnFor(1))
  const leaving = new AbortController()
  const ended = record.ended(leaving.signal)
  await followers.follow(ID, await open(), { turns: [record] })
  for (let look = 0; look < 3; look++) await followers.pullAll()
  expect(followers.turn(ID, 1)).toBe(record)
  leaving.abort()
  await expect(ended).rejects.toThrow()
  for (let look = 0; look < 2; look++) await followers.pullAll()
  expect(followers.turn(ID, 1)).toBeUndefined()
})

test('what is forgotten while the store is away is not read later', async () => {
  const { store, cluster, followers, open } = setup()
  await followers.follow(ID, await open())
  store.isAway = true
  await followers.pullAll()
  await followers.pullAll()
  store.isAway = false
  const { length } = cluster.asked
  await followers.pull([])
  expect(cluster.asked).toHaveLength(length)
})

test('what is forgotten while it is read is not shown', async () => {
  const { store, cluster, followers, open, pull } = setup()
  const log = await open()
  await followers.follow(ID, log)
  await followers.pullAll()
  store.say(ID, deltas('a'))
  const waiting = door()
  const news = cluster.news.bind(cluster)
  vi.spyOn(cluster, 'news').mockImplementationOnce(async (positions) => {
    await waiting.promise
    return news(positions)
  })
  const pulled = pull()
  const looked = followers.pullAll()
  waiting.open()
  await Promise.all([pulled, looked])
  expect(textIn(log)).toBe('')
})

test('what was held of a log that is lost goes on with the one that follows', async () => {
  const { store, cluster, followers, open } = setup({ turnCount: 1 }, [turnFor(1)])
  const record = recordOf(ID, turnFor(1))
  const interaction = Interaction.restored(stateFor())
  const ended = record.ended()
  const log = await open()
  await followers.follow(ID, log, { turns: [record], interactions: [interaction] })
  log.abandon()
  const { length } = cluster.asked
  await followers.pull([ID])
  expect(cluster.asked).toHaveLength(length)
  store.say(ID, deltas('a'))
  await followers.pullAll()
  expect([followers.turn(ID, 1), followers.interaction(ID, 'i')]).toEqual([record, interaction])
  store.say(ID, [END])
  store.put(store.kept.get(ID)?.row as SessionRow, [turnFor(1, ENDED)])
  await followers.pull([ID])
  await ended
  expect(record.status).toBe('failed')
})

test('turns that were here are followed where they went on', async () => {
  const { followers } = setup({ turnCount: 2 }, [turnFor(1, ENDED), turnFor(2)])
  const [first, second] = [recordOf(ID, turnFor(1)), recordOf(ID, turnFor(2))]
  const interaction = Interaction.restored(stateFor())
  const ended = first.ended()
  followers.takeOver(ID, [first], [])
  followers.takeOver(ID, [second], [interaction])
  expect([followers.turn(ID, 1), followers.turn(ID, 2)]).toEqual([first, second])
  expect([followers.interaction(ID, 'i'), followers.interaction(ID, 'j')]).toEqual([interaction, undefined])
  await followers.pullAll()
  await ended
  expect([followers.turn(ID, 1), followers.turn(ID, 2)]).toEqual([undefined, second])
})

test('turns of a session that is gone are forgotten', async () => {
  const { followers } = setup()
  const record = recordOf('gone', turnFor(1))
  followers.takeOver('gone', [record], [])
  await followers.pullAll()
  expect(followers.turn('gone', 1)).toBeUndefined()
})

test('what was here is not forgotten while the store is away', async () => {
  const { store, followers } = setup({ turnCount: 1 }, [turnFor(1)])
  const record = recordOf(ID, turnFor(1))
  followers.takeOver(ID, [record], [])
  store.isAway = true
  await expect(followers.pullAll()).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' })
  expect(followers.turn(ID, 1)).toBe(record)
  await settled()
})
