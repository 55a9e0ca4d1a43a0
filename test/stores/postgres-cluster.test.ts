import { randomUUID } from 'node:crypto'
import { expect, onTestFinished, test } from 'vitest'
import type { Cluster, Notice } from '../../src/core/cluster.ts'
import type { DurableStore, SessionWrite } from '../../src/core/durable-store.ts'
import { openDurableStore } from '../../src/stores/index.ts'
import { until } from '../helpers/http.ts'
import { newDatabase, sharedPostgres } from '../helpers/postgres.ts'
import { sessionWrite } from '../helpers/rows.ts'

interface Joined {
  store: DurableStore
  cluster: Cluster & { id: string }
  heard: Notice[]
}

async function joined(url: string): Promise<Joined> {
  const store = (await openDurableStore(url)) as DurableStore
  onTestFinished(() => store.close())
  const cluster = store.cluster as Joined['cluster']
  const heard: Notice[] = []
  await cluster.join((notice) => heard.push(notice))
  return { store, cluster, heard }
}

/** Two servers that know of one another. */
async function pair(): Promise<{ url: string; a: Joined; b: Joined }> {
  const url = await newDatabase()
  const [a, b] = [await joined(url), await joined(url)]
  expect([await a.cluster.beat(), await b.cluster.beat()]).toEqual([1, 1])
  return { url, a, b }
}

/** As if the server had not been heard for longer than its lease. */
async function silence(url: string, { cluster }: Joined): Promise<void> {
  const database = new URL(url).pathname.slice(1)
  await (await sharedPostgres()).as(database, (sql) =>
    sql.unsafe("update node set lease_until = clock_timestamp() - interval '1 second' where id = $1", [cluster.id]),
  )
}

const write = (id: string, epoch: number, given: Partial<SessionWrite> = {}, row = {}) =>
  sessionWrite({ id, isActive: true, ...row }, { isNew: false, epoch, ...given })

const isOrphan = async ({ store }: Joined, id: string) => (await store.orphans()).some((row) => row.id === id)

test('a session is with the server that made it, until it is idle', async () => {
  const { a, b } = await pair()
  const id = randomUUID()
  await a.store.commit([sessionWrite({ id, isActive: true })])
  expect(await b.cluster.claim([id, randomUUID()])).toEqual([{ id, before: 1, epoch: undefined, owner: a.cluster.id }])
  expect(await a.cluster.owned()).toEqual([id])
  expect(await isOrphan(b, id)).toBe(false)
  await a.store.commit([write(id, 1, {}, { isActive: false })])
  expect(await a.cluster.owned()).toEqual([])
  expect(await b.cluster.claim([id])).toEqual([{ id, before: 1, epoch: 2, owner: undefined }])
  expect(await b.cluster.owned()).toEqual([id])
})

test('who has been taken for gone writes nothing any more, and the others of its commit are written', async () => {
  const { url, a, b } = await pair()
  const [id, other] = [randomUUID(), randomUUID()]
  await a.store.commit([sessionWrite({ id, isActive: true }), sessionWrite({ id: other, isActive: true })])
  await silence(url, a)
  expect(await isOrphan(b, id)).toBe(true)
  expect(await b.cluster.claim([id])).toMatchObject([{ before: 1, epoch: 2, owner: a.cluster.id }])
  const message = { role: 'user' as const, content: 'too late' }
  const chunks = [{ first: 1, last: 1, turn: 1, bytes: Buffer.from('x') }]
  const late = { messages: { from: 0, added: [message] }, chunks }
  const row = { lastSeq: 1, messageCount: 1 }
  expect(await a.store.commit([write(id, 1, late, row), write(other, 1, late, row)])).toEqual([id])
  expect(await b.store.session(id)).toMatchObject({ lastSeq: 0, messageCount: 0 })
  expect(await b.store.messages(id, { limit: 10, offset: 0 })).toEqual([])
  expect(await b.store.chunks(id, { after: 0, before: 9, maxBytes: 100 })).toEqual([])
  expect(await b.store.session(other)).toMatchObject({ lastSeq: 1, messageCount: 1 })
  expect(await b.store.commit([write(id, 2, late, row)])).toEqual([])
  expect(await b.store.session(id)).toMatchObject({ lastSeq: 1 })
})

test('a claim that was made twice is made', async () => {
  const { a, b } = await pair()
  const id = randomUUID()
  await a.store.commit([sessionWrite({ id })])
  const claims = await Promise.all([a.cluster.claim([id]), a.cluster.claim([id]), b.cluster.claim([id])])
  const taken = claims.map(([claim]) => claim?.epoch).filter((epoch) => epoch !== undefined)
  expect(taken.length).toBeLessThanOrEqual(2)
  expect(new Set(taken).size).toBe(taken.length)
  expect([...(await a.cluster.owned()), ...(await b.cluster.owned())]).toEqual([id])
})

test('what was claimed in vain is given back, unless somebody has claimed it since', async () => {
  const { a, b } = await pair()
  const id = randomUUID()
  await a.store.commit([sessionWrite({ id })])
  await a.cluster.claim([id])
  await a.cluster.release(id, 1)
  expect(await a.cluster.owned()).toEqual([id])
  await a.cluster.release(id, 2)
  expect(await b.cluster.claim([id])).toMatchObject([{ before: 2, epoch: 3 }])
})

test('a new session does not take the place of one that another server goes on with', async () => {
  const { a, b } = await pair()
  const [id, gone] = [randomUUID(), randomUUID()]
  await a.store.commit([sessionWrite({ id }), sessionWrite({ id: gone, isArchived: true })])
  // The same again, of a commit whose answer was lost; and another one with its id.
  expect(await a.store.commit([sessionWrite({ id })])).toEqual([])
  expect(await b.store.commit([sessionWrite({ id })])).toEqual([id])
  await b.cluster.claim([id])
  expect(await a.store.commit([sessionWrite({ id }), sessionWrite({ id: gone, createdAt: 7 })])).toEqual([id])
  expect(await b.store.session(gone)).toMatchObject({ createdAt: 7, isArchived: false })
})

test('a server that leaves leaves its sessions to the others, and says so', async () => {
  const { a, b } = await pair()
  const id = randomUUID()
  await a.store.commit([sessionWrite({ id, isActive: true })])
  await a.cluster.leave()
  expect(await isOrphan(b, id)).toBe(true)
  await until('b heard', async () => b.heard.some(({ kind }) => kind === 'left'))
  expect(await b.cluster.beat()).toBe(0)
})

test('what is new is announced to the others, and can be read from where one is', async () => {
  const { a, b } = await pair()
  const ids = Array.from({ length: 400 }, () => randomUUID()).sort()
  const frames = (seq: number) => Buffer.from(`event ${seq}`)
  const chunks = [1, 2].map((seq) => ({ first: seq, last: seq, turn: 1, bytes: frames(seq) }))
  await a.store.commit(ids.map((id) => sessionWrite({ id, lastSeq: 2 }, { chunks })))
  const heard = () => b.heard.flatMap((notice) => (notice.kind === 'events' ? notice.sessionIds : []))
  await until('b heard of all', async () => heard().length >= 400)
  expect([...heard()].sort()).toEqual(ids)
  expect(a.heard.filter(({ kind }) => kind === 'events')).toEqual([])
  const [one, two] = ids as [string, string]
  const positions = [
    { id: one, after: 1 },
    { id: two, after: 2 },
    { id: randomUUID(), after: 0 },
  ]
  expect(await b.cluster.news(positions)).toMatchObject([
    { row: { id: one, lastSeq: 2 }, chunks: [chunks[1]] },
    { row: { id: two }, chunks: [] },
  ])
})

test('an owner does what it is asked for once, and its answer comes back', async () => {
  const { a, b } = await pair()
  const command = { sessionId: 's', operation: 'interrupt', args: '{"turn":1}' }
  const number = await a.cluster.ask(b.cluster.id, command)
  await until('b heard', async () => b.heard.some(({ kind }) => kind === 'command'))
  expect(await a.cluster.commands()).toEqual([])
  expect(await b.cluster.commands()).toEqual([{ number, ...command }])
  expect(await b.cluster.commands()).toEqual([])
  expect(await a.cluster.replies([number])).toEqual([])
  expect(await a.cluster.withdraw(number)).toBe(false)
  await b.cluster.reply(number, '{}')
  await until('a heard', async () => a.heard.some(({ kind }) => kind === 'reply'))
  expect(await a.cluster.replies([number])).toEqual([{ number, reply: '{}' }])
  expect(await a.cluster.replies([number])).toEqual([])
})

test('a command that was not begun can be taken back, and that its owner is gone is known', async () => {
  const { url, a, b } = await pair()
  const command = { sessionId: 's', operation: 'interrupt', args: '{}' }
  const number = await a.cluster.ask(b.cluster.id, command)
  expect(await a.cluster.withdraw(number)).toBe(true)
  expect(await b.cluster.commands()).toEqual([])
  const other = await a.cluster.ask(b.cluster.id, command)
  await silence(url, b)
  expect(await a.cluster.replies([other])).toEqual([{ number: other, reply: undefined }])
})

test('a key is for the one that was first, until it has come to something or is gone', async () => {
  const { url, a, b } = await pair()
  expect(await a.cluster.reserve('k', 'f')).toBe('reserved')
  expect([await a.cluster.reserve('k', 'f'), await b.cluster.reserve('k', 'f')]).toEqual(['taken', 'taken'])
  await b.cluster.unreserve('k')
  expect(await b.cluster.reserve('k', 'f')).toBe('taken')
  const sessionId = randomUUID()
  const kept = { entryKey: 'k', fingerprint: 'f', sessionId, handle: { turn: 1 }, createdAt: 1 }
  await a.store.commit([sessionWrite({ id: sessionId }, { keys: [kept] })])
  await a.cluster.unreserve('k')
  expect(await b.cluster.reserve('k', 'f')).toEqual(kept)
  expect(await a.cluster.reserve('other', 'f')).toBe('reserved')
  await silence(url, a)
  expect(await b.cluster.reserve('other', 'f')).toBe('reserved')
})

test('there are as many places as there may be, however many ask, and those of the gone are free', async () => {
  const { url, a, b } = await pair()
  const asked = Array.from({ length: 12 }, (_, i) => (i % 2 === 0 ? a : b).cluster.takeSlot(5))
  const taken = (await Promise.all(asked)).filter((slot) => slot !== undefined)
  expect([...taken].sort()).toEqual([0, 1, 2, 3, 4])
  expect(await b.cluster.takeSlot(5)).toBeUndefined()
  expect(await b.cluster.takeSlot(6)).toBe(5)
  await b.cluster.freeSlot(5)
  expect(await a.cluster.takeSlot(6)).toBe(5)
  await silence(url, a)
  expect(await b.cluster.takeSlot(6)).toBeTypeOf('number')
})

test('a database of the first schema is brought up to date, with its sessions', async () => {
  const url = await newDatabase()
  const id = randomUUID()
  const database = new URL(url).pathname.slice(1)
  const { migrations } = await import('../../src/stores/postgres/migrations.ts')
  const [first] = migrations
  await (await sharedPostgres()).as(database, async (sql) => {
    await sql.unsafe('create table migration (name text primary key, applied_at text not null)')
    await sql.unsafe(`${first?.sql}; insert into migration values ('${first?.name}', 'then')`)
    await sql.unsafe(`insert into session (id, is_active, created_at, updated_at, metadata, usage, ran_ms, tool_calls,
      message_count, turn_count, last_seq) values ('${id}', true, 1, 2, '{"agent":"echo"}', '{"total_tokens":0}', 0, 0, 0, 0, 0)`)
  })
  const stores = await Promise.all([joined(url), joined(url), joined(url)])
  expect(await stores[0]?.store.session(id)).toMatchObject({ id, isActive: true, createdAt: 1 })
  expect(await isOrphan(stores[1] as Joined, id)).toBe(true)
  expect(await stores[2]?.cluster.claim([id])).toMatchObject([{ before: 0, epoch: 1 }])
})
