import { expect, onTestFinished, test } from 'vitest'
import type { EventStream } from '../../src/core/event-stream.ts'
import type { NewEvent } from '../../src/core/events.ts'
import { PersistentSessionService } from '../../src/core/persistent-session-service.ts'
import { useSlowClock } from '../helpers/fake-server.ts'
import { chunkOf, deltas, FakeCluster, FakeStore, rowFor, stateFor, turnFor } from '../helpers/fake-store.ts'
import { parrot } from './support.ts'

const ID = 's'
const END = { type: 'run_failed', session_id: ID, error: 'oh', code: 'TURN_LOST' } as NewEvent
const DISMISSED: NewEvent = { type: 'interaction_failed', interaction_id: 'i', error: 'oh', code: 'INBOX_CLOSED' }

/** A server that reads what another one writes, of which one event is there. */
async function reader() {
  useSlowClock()
  const store = new FakeStore(new FakeCluster())
  store.put(rowFor(ID, { isActive: true, turnCount: 1 }), [turnFor(1)])
  store.say(ID, deltas('a'))
  store.cluster?.owners.set(ID, 'there')
  return { store, service: await serviceOver(store) }
}

async function serviceOver(store: FakeStore, maxSessions = 100) {
  const service = await PersistentSessionService.open({
    store,
    retention: { events: 1_000, bytes: 1_000_000 },
    idleEvictMs: 60_000,
    agents: [parrot],
    defaultAgent: parrot.name,
    maxSessions,
    maxActiveTurns: 100,
    maxQueuedTurns: 4,
    archiveDrainMs: 60_000,
  })
  onTestFinished(() => service.close({ drainMs: 0 }))
  return service
}

/** What happens between the next read of a session's row and whatever is read after it. */
function onceRead(store: FakeStore, happen: () => void): void {
  const read = store.session.bind(store)
  store.session = async (id) => {
    const row = await read(id)
    store.session = read
    happen()
    return row
  }
}

function readAll(stream: EventStream | undefined): string {
  let text = ''
  for (let bytes = stream?.read(); bytes !== undefined; bytes = stream?.read()) text += bytes.toString()
  return text
}

test('a turn that ends elsewhere while it is looked up is read to its end', async () => {
  const { store, service } = await reader()
  onceRead(store, () => {
    store.say(ID, [...deltas('b'), END], { isActive: false })
    store.put(store.kept.get(ID)?.row ?? rowFor(ID), [turnFor(1, { status: 'failed', endedAt: 9, lastSeq: 3 })])
  })
  const stream = await service.streamTurn(ID, 1)
  const events = [...deltas('a'), ...deltas('b'), END]
  expect(readAll(stream)).toBe(chunkOf(1, events).bytes.toString())
  expect(stream?.ended).toBe(true)
})

test('an interaction that ends elsewhere while it is looked up is read to its end', async () => {
  const { store, service } = await reader()
  onceRead(store, () => {
    store.say(ID, [DISMISSED])
    const state = stateFor({ turn: 1, firstSeq: 2, lastSeq: 2, terminal: DISMISSED })
    store.kept.get(ID)?.interactions.set('i', { id: 'i', state })
  })
  const stream = await service.streamInteraction(ID, 'i')
  expect(readAll(stream)).toBe(chunkOf(2, [DISMISSED]).bytes.toString())
  expect(stream?.ended).toBe(true)
})

test('who is refused is told which turn runs, also where another one is followed that nobody said was over', async () => {
  const { store, service } = await reader()
  await service.streamTurn(ID, 1)
  store.put(rowFor(ID, { isActive: true, turnCount: 2, lastSeq: 3 }), [
    turnFor(1, { status: 'failed', endedAt: 9, lastSeq: 2 }),
    turnFor(2, { firstSeq: 3 }),
  ])
  await expect(service.startTurn(ID, { prompt: 'x' })).rejects.toMatchObject({
    code: 'SESSION_BUSY',
    activeTurn: { turn: 2 },
  })
})

test('a session that leaves for another while older events of it are fetched is read all the same', async () => {
  const store = new FakeStore()
  store.put(rowFor(ID, { turnCount: 1 }), [turnFor(1, { status: 'failed', endedAt: 9, lastSeq: 2 })])
  store.say(ID, [...deltas('a'), END])
  const service = await serviceOver(store, 1)
  await service.turnEnded(ID, (await service.startTurn(ID, { prompt: 'second' })).turn as number)
  const read = store.chunks.bind(store)
  store.chunks = async (id, range) => {
    await service.createSession({ initial_turn: 'deferred' })
    return read(id, range)
  }
  expect(readAll(await service.streamTurn(ID, 1))).toBe(chunkOf(1, [...deltas('a'), END]).bytes.toString())
})
