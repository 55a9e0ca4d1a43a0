import { randomUUID } from 'node:crypto'
import { describe, expect, onTestFinished, test } from 'vitest'
import type { DurableStore, InteractionRow, SessionRow, TurnRow } from '../../src/core/durable-store.ts'
import { StoreRefusedError } from '../../src/core/errors.ts'
import type { Chunk } from '../../src/core/memory-event-log.ts'
import type { Message } from '../../src/core/transcript.ts'
import { NO_USAGE } from '../../src/core/usage.ts'
import { openDurableStore } from '../../src/stores/index.ts'
import { SWEEP_NOTHING, sessionRow, sessionWrite } from '../helpers/rows.ts'
import { patience } from '../helpers/slowness.ts'
import { durableUsageConformance } from './durable-usage.ts'

export interface DurablePlace {
  /** The URL of a store that nobody has used. */
  newUrl(): Promise<string>
  /** What an administrator does in a store that nobody has open. */
  run(url: string, sql: string): Promise<void>
}

const NASTY = 'é 😀 "quoted" \\ \n \u2028 \u0000 \ud800 {a,b} \\x00 \u001f'
const EVERYTHING = { after: 0, before: Number.MAX_SAFE_INTEGER, maxBytes: 1_000_000 }
/** Of the version before it. */
const UNDO_USAGE = `
  drop table spent_turn; drop table usage_keys; drop table usage_sum; drop table usage_state;
  delete from migration where name = '2026-11-29-usage'`
const ALL = { limit: 10_000, offset: 0 }

function turnRow(turn: number, given: Partial<TurnRow> = {}): TurnRow {
  return {
    turn,
    status: 'completed',
    prompt: `Turn ${turn}`,
    skillReferences: undefined,
    isHost: false,
    createdAt: 1,
    startedAt: 2,
    endedAt: 3,
    durationMs: 1,
    firstSeq: turn * 10 - 9,
    lastSeq: turn * 10,
    messageEnd: turn * 2,
    runs: 1,
    result: undefined,
    error: undefined,
    ...given,
  }
}

/** Without the members that are `undefined`, which a store need not keep. */
const plain = <T>(value: T): T => JSON.parse(JSON.stringify(value))
const say = (content: string): Message => ({ role: 'user', content })
const chunk = (first: number, last: number, bytes: Buffer | number): Chunk => ({
  first,
  last,
  turn: 1,
  bytes: typeof bytes === 'number' ? Buffer.alloc(bytes, first) : bytes,
})
const interaction = (id: string, isOver = false): InteractionRow => ({
  id,
  state: {
    id,
    kind: 'event',
    source: NASTY,
    isSubscribed: false,
    isDismissal: false,
    text: NASTY,
    turn: 0,
    firstSeq: 0,
    lastSeq: 0,
    ...(isOver ? { terminal: { type: 'text_delta', delta: NASTY } } : {}),
  },
})
const key = (entryKey: string, sessionId: string, createdAt = 1) => ({
  entryKey,
  fingerprint: 'f',
  sessionId,
  handle: { turn: 1, odd: NASTY },
  createdAt,
})
const firsts = (chunks: Chunk[]) => chunks.map(({ first }) => first)
const ids = (rows: SessionRow[]) => rows.map(({ id }) => id)

async function open(url: string): Promise<DurableStore> {
  const store = await openDurableStore(url)
  if (store === undefined) throw new Error('The store is not durable')
  let closing: Promise<void> | undefined
  const close = store.close.bind(store)
  store.close = () => (closing ??= close())
  onTestFinished(() => store.close())
  return store
}

async function openedAgain(url: string): Promise<{ store: DurableStore; reopen: () => Promise<DurableStore> }> {
  return { store: await open(url), reopen: () => open(url) }
}

/** All that a store says of a session. */
async function everything(store: DurableStore, id: string) {
  return plain({
    row: await store.session(id),
    turns: await store.turns(id, ALL),
    messages: await store.messages(id, ALL),
    chunks: (await store.chunks(id, EVERYTHING)).map((one) => ({ ...one, bytes: one.bytes.toString('hex') })),
    interactions: await store.interactions(id),
    listed: await store.sessions(ALL),
  })
}

/** What any durable store has to do, whatever it keeps its rows in. */
export function durableStoreConformance(name: string, { newUrl, run }: DurablePlace): void {
  const opened = async () => open(await newUrl())

  describe(`a ${name} store`, () => {
    test('has nothing at first', async () => {
      const store = await opened()
      expect(await store.session(randomUUID())).toBeUndefined()
      expect(await store.sessions(ALL)).toEqual({ rows: [], total: 0 })
      expect(await store.turns('x', ALL)).toEqual([])
      expect(await store.messages('x', ALL)).toEqual([])
      expect(await store.chunks('x', EVERYTHING)).toEqual([])
      expect(await store.interactions('x')).toEqual([])
      expect(await store.named('x')).toBeUndefined()
      expect(await store.key('x')).toBeUndefined()
      expect([...(await store.allNamed()), ...(await store.orphans())]).toEqual([])
      expect(await store.sweep({ archived: Date.now(), keys: Date.now(), spent: Date.now(), usage: Date.now() })).toBe(
        false,
      )
      await store.commit([])
    })

    test('gives back what was written, and does so when it is opened again', async () => {
      const url = await newUrl()
      const store = await open(url)
      const id = randomUUID()
      const row = sessionRow({
        id,
        isActive: true,
        metadata: { agent: 'echo', comms_name: NASTY, labels: { [NASTY]: NASTY, '': '' }, model: NASTY },
        messageCount: 3,
        turnCount: 2,
        lastSeq: 9,
        lastText: NASTY,
      })
      const turns = [
        turnRow(1, { prompt: NASTY, skillReferences: [NASTY] }),
        turnRow(2, {
          status: 'failed',
          startedAt: undefined,
          error: { code: 'TURN_LOST', message: NASTY, data: { session_id: id } },
        }),
      ]
      const bytes = Buffer.from(Array.from({ length: 512 }, (_, i) => i % 256))
      const chunks = [chunk(1, 4, bytes), chunk(5, 9, Buffer.from('é😀'))]
      const added = [say(NASTY), say(''), say('x'.repeat(300_000))]
      const interactions = [interaction('a'), interaction('b', true)]
      const keys = [key(`${NASTY}${'k'.repeat(4_000)}`, id), key('', id)]
      await store.commit([sessionWrite(row, { row, turns, messages: { from: 0, added }, chunks, interactions, keys })])
      const check = async (from: DurableStore) => {
        expect(await from.session(id)).toEqual(row)
        expect(await from.turns(id, ALL)).toEqual(plain(turns))
        expect(await from.messages(id, ALL)).toEqual(added)
        expect(await from.messages(id, { limit: 1, offset: 1 })).toEqual([say('')])
        expect(await from.chunks(id, EVERYTHING)).toEqual([...chunks].reverse())
        expect(await from.interactions(id)).toEqual(interactions)
        for (const one of keys) expect(await from.key(one.entryKey)).toEqual(one)
        expect(await from.named(NASTY)).toEqual(row)
        expect(await from.orphans()).toEqual([row])
      }
      await check(store)
      await store.close()
      await check(await open(url))
    })

    test('changes what is there, and leaves the rest', async () => {
      const store = await opened()
      const id = randomUUID()
      const metadata = { agent: 'echo', labels: { a: 'b' } }
      const first = { turns: [turnRow(1, { status: 'running' })], messages: { from: 0, added: [say('1')] } }
      await store.commit([sessionWrite({ id, metadata, isActive: true }, first)])
      const later = { turns: [turnRow(1), turnRow(2)], messages: { from: 1, added: [say('2')] } }
      const row = { id, metadata, updatedAt: 7, messageCount: 2, turnCount: 2, lastSeq: 4, lastText: '', ranMs: 9 }
      await store.commit([sessionWrite(row, { isNew: false, ...later })])
      expect(await store.session(id)).toEqual(sessionRow(row))
      expect((await store.turns(id, ALL)).map(({ status }) => status)).toEqual(['completed', 'completed'])
      expect(await store.messages(id, ALL)).toEqual([say('1'), say('2')])
      expect((await store.sessions({ ...ALL, labels: [['a', 'b']] })).total).toBe(1)
    })

    test('changes nothing of a row that has only grown but how far it is, beside others that have changed', async () => {
      const store = await opened()
      const [talking, ended, made] = [randomUUID(), randomUUID(), randomUUID()]
      const row = { isActive: true, turnCount: 1, lastText: 'so far', usage: { ...NO_USAGE, input_tokens: 1 } }
      await store.commit([talking, ended].map((id) => sessionWrite({ id, ...row })))
      const over = { id: ended, updatedAt: 9, turnCount: 1, messageCount: 2, lastSeq: 7 }
      await store.commit([
        sessionWrite(
          { id: talking, isActive: true, lastSeq: 5 },
          { isNew: false, hasOnlyGrown: true, chunks: [chunk(1, 5, 9)] },
        ),
        sessionWrite(over, { isNew: false }),
        sessionWrite({ id: made, lastText: 'new' }),
      ])
      expect(await store.session(talking)).toEqual(sessionRow({ id: talking, ...row, lastSeq: 5 }))
      expect(await store.session(ended)).toEqual(sessionRow(over))
      expect(await store.session(made)).toEqual(sessionRow({ id: made, lastText: 'new' }))
      expect(await store.chunks(talking, EVERYTHING)).toEqual([chunk(1, 5, 9)])
    })

    test('pages through a thousand turns and messages', async () => {
      const store = await opened()
      const id = randomUUID()
      const turns = Array.from({ length: 1_000 }, (_, i) => turnRow(i + 1))
      const added = Array.from({ length: 2_000 }, (_, i) => say(String(i)))
      await store.commit([sessionWrite({ id }, { turns, messages: { from: 0, added } })])
      expect(await store.turns(id, ALL)).toEqual(plain(turns))
      expect((await store.turns(id, { limit: 3, offset: 500 })).map(({ turn }) => turn)).toEqual([501, 502, 503])
      expect(await store.messages(id, { limit: 2, offset: 1_998 })).toEqual([say('1998'), say('1999')])
      expect(await store.messages(id, { limit: 2, offset: 2_000 })).toEqual([])
    })

    test('writes a hundred sessions at once, and lists them in that order', async () => {
      const store = await opened()
      const all = Array.from({ length: 100 }, (_, i) => ({ id: randomUUID(), lastText: String(i) }))
      await store.commit(all.map((row) => sessionWrite(row, { messages: { from: 0, added: [say(row.lastText)] } })))
      const { rows, total } = await store.sessions(ALL)
      expect([ids(rows), total]).toEqual([ids(all as SessionRow[]), 100])
      expect(await store.messages(all[42]?.id ?? '', ALL)).toEqual([say('42')])
    })

    test('begins anew under an id that was used before', async () => {
      const store = await opened()
      const [id, other] = [randomUUID(), randomUUID()]
      const metadata = { agent: 'echo', comms_name: 'n', labels: { a: 'b' } }
      const given = {
        turns: [turnRow(1), turnRow(2)],
        messages: { from: 0, added: [say('1'), say('2')] },
        chunks: [chunk(1, 5, 10)],
        interactions: [interaction('i')],
        keys: [key('k', id)],
      }
      await store.commit([
        sessionWrite({ id, metadata, lastSeq: 5, isArchived: true }, given),
        sessionWrite({ id: other }),
      ])
      await store.commit([
        sessionWrite({ id, metadata: { agent: 'echo' } }, { messages: { from: 0, added: [say('3')] } }),
      ])
      expect(await store.messages(id, ALL)).toEqual([say('3')])
      expect([await store.turns(id, ALL), await store.interactions(id)]).toEqual([[], []])
      expect(await store.chunks(id, EVERYTHING)).toEqual([])
      expect([await store.key('k'), await store.named('n')]).toEqual([undefined, undefined])
      expect((await store.sessions({ ...ALL, labels: [['a', 'b']] })).total).toBe(0)
      const { rows, total } = await store.sessions(ALL)
      expect([ids(rows), total]).toEqual([[other, id], 2])
    })

    test('knows the highest seq that an id ever had, whatever became of its session', async () => {
      const store = await opened()
      const id = randomUUID()
      expect(await store.highestSeq(id)).toBe(0)
      await store.commit([sessionWrite({ id, lastSeq: 5, isArchived: true, updatedAt: 5 })])
      expect(await store.highestSeq(id)).toBe(5)
      await store.sweep({ ...SWEEP_NOTHING, archived: 10 })
      expect([await store.session(id), await store.highestSeq(id)]).toEqual([undefined, 5])
      await store.commit([sessionWrite({ id, lastSeq: 7, isArchived: true })])
      await store.commit([sessionWrite({ id, lastSeq: 3 })])
      expect(await store.highestSeq(id)).toBe(7)
    })

    test('keeps as many events of a session that begins late as of any other', async () => {
      const store = await opened()
      const id = randomUUID()
      const given = { retain: { events: 10, bytes: 1_000 } }
      await store.commit([sessionWrite({ id, lastSeq: 1_000 }, given)])
      for (const first of [1_001, 1_004, 1_007]) {
        const write = { ...given, isNew: false, chunks: [chunk(first, first + 2, 30)] }
        await store.commit([sessionWrite({ id, lastSeq: first + 2 }, write)])
      }
      expect(firsts(await store.chunks(id, EVERYTHING))).toEqual([1_007, 1_004, 1_001])
    })

    test('takes a commit again whose answer was lost', async () => {
      const store = await opened()
      const [id, young] = [randomUUID(), randomUUID()]
      await store.commit([
        sessionWrite({ id, lastSeq: 4 }, { messages: { from: 0, added: [say('1')] }, chunks: [chunk(1, 4, 40)] }),
      ])
      const both = [
        sessionWrite(
          { id, lastSeq: 12, isActive: true },
          {
            isNew: false,
            retain: { events: 8, bytes: 1_000 },
            turns: [turnRow(1)],
            messages: { from: 1, added: [say('2'), say('3')] },
            chunks: [chunk(5, 8, 40), chunk(9, 12, 40)],
            interactions: [interaction('i1'), interaction('i2')],
            keys: [key('k', id)],
          },
        ),
        sessionWrite(
          { id: young, lastSeq: 9, metadata: { agent: 'echo', comms_name: 'n', labels: { a: 'b' } } },
          {
            retain: { events: 3, bytes: 1_000 },
            messages: { from: 0, added: [say('1')] },
            chunks: [chunk(1, 3, 5), chunk(4, 6, 5), chunk(7, 9, 5)],
            interactions: [interaction('i3')],
          },
        ),
      ]
      await store.commit(both)
      const state = async () => [await everything(store, id), await everything(store, young)]
      const once = await state()
      expect(firsts(await store.chunks(id, EVERYTHING))).toEqual([9, 5])
      expect(firsts(await store.chunks(young, EVERYTHING))).toEqual([7])
      await store.commit(both)
      await store.commit(both)
      expect(await state()).toEqual(once)
      // What is kept was not counted twice: 80 bytes are there, and 20 more are allowed.
      const more = { isNew: false, retain: { events: 100, bytes: 100 }, chunks: [chunk(13, 13, 20)] }
      await store.commit([sessionWrite({ id, lastSeq: 13 }, more)])
      expect(firsts(await store.chunks(id, EVERYTHING))).toEqual([13, 9, 5])
    })

    test('writes all or nothing', async () => {
      const store = await opened()
      const [one, two] = [randomUUID(), randomUUID()]
      const writes = [sessionWrite({ id: one }), sessionWrite({ id: two, createdAt: Number.NaN })]
      await expect(store.commit(writes)).rejects.toThrow(StoreRefusedError)
      expect(await store.sessions(ALL)).toEqual({ rows: [], total: 0 })
      await store.commit(writes.slice(0, 1))
      expect(ids((await store.sessions(ALL)).rows)).toEqual([one])
    })

    test('keeps so many events and bytes of a session, in whole chunks, and always the newest', async () => {
      const store = await opened()
      const id = randomUUID()
      const kept = async () => firsts(await store.chunks(id, EVERYTHING))
      const ten = Array.from({ length: 10 }, (_, i) => chunk(i * 10 + 1, i * 10 + 10, 100))
      await store.commit([sessionWrite({ id, lastSeq: 100 }, { chunks: ten, retain: { events: 45, bytes: 10_000 } })])
      expect(await kept()).toEqual([91, 81, 71, 61])
      const next = { isNew: false, chunks: [chunk(101, 110, 100)] }
      await store.commit([sessionWrite({ id, lastSeq: 110 }, { ...next, retain: { events: 1_000, bytes: 250 } })])
      expect(await kept()).toEqual([101, 91])
      const large = { isNew: false, chunks: [chunk(111, 120, 5_000)] }
      await store.commit([sessionWrite({ id, lastSeq: 120 }, { ...large, retain: { events: 5, bytes: 10 } })])
      expect(await kept()).toEqual([111])
    })

    test('reads events between two places, newest first, as many bytes as are asked for', async () => {
      const store = await opened()
      const [id, other] = [randomUUID(), randomUUID()]
      const chunks = Array.from({ length: 5 }, (_, i) => chunk(i * 10 + 1, i * 10 + 10, 100))
      await store.commit([
        sessionWrite({ id, lastSeq: 50 }, { chunks }),
        sessionWrite({ id: other, lastSeq: 50 }, { chunks }),
      ])
      const read = async (range: Partial<typeof EVERYTHING>) =>
        firsts(await store.chunks(id, { ...EVERYTHING, ...range }))
      expect(await read({})).toEqual([41, 31, 21, 11, 1])
      expect(await read({ after: 20 })).toEqual([41, 31, 21])
      expect(await read({ after: 19 })).toEqual([41, 31, 21, 11])
      expect(await read({ before: 31 })).toEqual([21, 11, 1])
      expect(await read({ before: 32 })).toEqual([31, 21, 11, 1])
      expect(await read({ after: 15, before: 41 })).toEqual([31, 21, 11])
      expect(await read({ after: 50 })).toEqual([])
      expect(await read({ before: 1 })).toEqual([])
      expect(await read({ maxBytes: 1 })).toEqual([41])
      expect(await read({ maxBytes: 200 })).toEqual([41, 31])
      expect(await read({ maxBytes: 201 })).toEqual([41, 31, 21])
    })

    test('lists by labels and by whether a turn runs, in pages, with a total', async () => {
      const store = await opened()
      const rows = Array.from({ length: 12 }, (_, i) => ({
        id: randomUUID(),
        isActive: i % 2 === 0,
        metadata: {
          agent: 'echo',
          labels: { third: String(i % 3), all: '😀'.repeat(1_024), ...(i === 5 ? { five: '' } : {}) },
        },
      }))
      await store.commit(rows.map((row) => sessionWrite(row)))
      const at = (...indexes: number[]) => indexes.map((i) => rows[i]?.id)
      const list = async (query: Partial<Parameters<DurableStore['sessions']>[0]>) => {
        const { rows, total } = await store.sessions({ ...ALL, ...query })
        return [ids(rows), total]
      }
      expect(await list({ limit: 3, offset: 2 })).toEqual([at(2, 3, 4), 12])
      expect(await list({ limit: 0 })).toEqual([[], 12])
      expect(await list({ offset: 12 })).toEqual([[], 12])
      expect(await list({ active: true })).toEqual([at(0, 2, 4, 6, 8, 10), 6])
      expect(await list({ active: false, limit: 1 })).toEqual([at(1), 6])
      expect(await list({ labels: [['third', '1']] })).toEqual([at(1, 4, 7, 10), 4])
      expect(await list({ labels: [['third', '1']], active: true, offset: 1 })).toEqual([at(10), 2])
      expect(await list({ labels: [['all', '😀'.repeat(1_024)]], limit: 1, offset: 11 })).toEqual([at(11), 12])
      const five: [string, string][] = [
        ['third', '2'],
        ['five', ''],
      ]
      expect(await list({ labels: five })).toEqual([at(5), 1])
      expect(await list({ labels: [...five, ['third', '1']] })).toEqual([[], 0])
      await store.commit([sessionWrite({ ...rows[1], id: rows[1]?.id ?? '', isArchived: true }, { isNew: false })])
      expect(await list({ limit: 2 })).toEqual([at(0, 2), 11])
      expect(await list({ labels: [['third', '1']] })).toEqual([at(4, 7, 10), 3])
      expect((await store.session(rows[1]?.id ?? ''))?.isArchived).toBe(true)
      const page = await store.allSessions(0, 5)
      expect(ids(page.rows)).toEqual(at(0, 1, 2, 3, 4))
      expect(ids((await store.allSessions(page.last, 100)).rows)).toEqual(at(5, 6, 7, 8, 9, 10, 11))
    })

    test('has a name once among sessions that are not archived', async () => {
      const store = await opened()
      const [one, two] = [randomUUID(), randomUUID()]
      const metadata = { agent: 'echo', comms_name: 'n' }
      await store.commit([sessionWrite({ id: one, metadata })])
      const [three, other] = [randomUUID(), randomUUID()]
      const keys = [key('k', two)]
      const twice = [sessionWrite({ id: two, metadata }, { keys }), sessionWrite({ id: other })]
      expect(await store.commit(twice)).toEqual([two])
      expect(ids((await store.sessions(ALL)).rows)).toEqual([one, other])
      expect(await store.key('k')).toBeUndefined()
      const both = [two, three].map((id) => sessionWrite({ id, metadata: { agent: 'echo', comms_name: 'm' } }))
      expect(await store.commit(both)).toEqual([three])
      await store.commit([sessionWrite({ id: two, metadata, isArchived: true }, { isNew: false })])
      await store.commit([
        sessionWrite({ id: one, metadata, isArchived: true }, { isNew: false }),
        sessionWrite({ id: two, metadata }),
      ])
      expect((await store.named('n'))?.id).toBe(two)
      expect(ids(await store.allNamed())).toEqual([two])
    })

    test('keeps interactions in order, and forgets old ones that are over', async () => {
      const store = await opened()
      const [id, other] = [randomUUID(), randomUUID()]
      const many = Array.from({ length: 1_030 }, (_, i) => interaction(`i${i}`, i !== 2))
      await store.commit([
        sessionWrite({ id }, { interactions: many }),
        sessionWrite({ id: other }, { interactions: [interaction('o', true)] }),
      ])
      const kept = async () => (await store.interactions(id)).map((one) => one.id)
      expect(await kept()).toEqual(['i2', ...many.slice(6).map((one) => one.id)])
      await store.commit([
        sessionWrite({ id }, { isNew: false, interactions: [interaction('i2', true), interaction('new')] }),
      ])
      expect(await kept()).toEqual([...many.slice(7).map((one) => one.id), 'new'])
      expect(await store.interactions(other)).toEqual([interaction('o', true)])
    })

    test('has the newest of a key, and none of a session that is archived', async () => {
      const store = await opened()
      const [id, other] = [randomUUID(), randomUUID()]
      await store.commit([
        sessionWrite({ id }, { keys: [key('k', id), key('k', id, 2), key('own', id)] }),
        sessionWrite({ id: other }, { keys: [key('k', other, 3)] }),
      ])
      expect(await store.key('k')).toEqual(key('k', other, 3))
      await store.commit([sessionWrite({ id, isArchived: true }, { isNew: false, keys: [key('late', id)] })])
      expect([await store.key('own'), await store.key('late')]).toEqual([undefined, undefined])
      expect(await store.key('k')).toEqual(key('k', other, 3))
    })

    test('sweeps old keys and what was archived long ago, a slice at a time', async () => {
      const store = await opened()
      const all = Array.from({ length: 130 }, (_, i) => ({
        id: randomUUID(),
        isArchived: i < 120,
        isActive: i === 119,
        updatedAt: i === 118 ? 200 : 50,
        metadata: { agent: 'echo', labels: { a: 'b' } },
      }))
      const [gone, live] = [all[0]?.id ?? '', all[129]?.id ?? '']
      const given = {
        turns: [turnRow(1)],
        messages: { from: 0, added: [say('1')] },
        chunks: [chunk(1, 1, 1)],
      }
      await store.commit(all.map((row) => sessionWrite({ ...row, lastSeq: 1 }, given)))
      const keys = Array.from({ length: 5 }, (_, i) => key(`k${i}`, live, i * 50))
      await store.commit([sessionWrite({ id: live }, { isNew: false, keys })])
      expect(await store.sweep({ ...SWEEP_NOTHING, archived: 100, keys: 100 })).toBe(true)
      expect(await store.sweep({ ...SWEEP_NOTHING, archived: 100, keys: 100 })).toBe(false)
      const left = await Promise.all(all.map(async ({ id }) => (await store.session(id)) !== undefined))
      expect(left.lastIndexOf(false)).toBe(117)
      expect(left.indexOf(true)).toBe(118)
      expect([await store.turns(gone, ALL), await store.messages(gone, ALL)]).toEqual([[], []])
      expect(await store.chunks(gone, EVERYTHING)).toEqual([])
      expect((await store.messages(live, ALL)).length).toBe(1)
      expect(await Promise.all(keys.map(async ({ entryKey }) => (await store.key(entryKey))?.createdAt))).toEqual([
        undefined,
        undefined,
        100,
        150,
        200,
      ])
      expect((await store.sessions({ ...ALL, labels: [['a', 'b']] })).total).toBe(10)
      expect((await store.sessions({ ...ALL, limit: 0 })).total).toBe(10)
    })

    test('knows which sessions were running', async () => {
      const url = await newUrl()
      const store = await open(url)
      const rows = Array.from({ length: 3 }, (_, i) => ({ id: randomUUID(), isActive: i !== 1, isArchived: i === 2 }))
      await store.commit(rows.map((row) => sessionWrite(row)))
      await store.close()
      const again = await open(url)
      expect(ids(await again.orphans())).toEqual([rows[0]?.id, rows[2]?.id])
    })

    test('shows a commit to a reader whole or not at all', async () => {
      const store = await opened()
      const id = randomUUID()
      await store.commit([sessionWrite({ id })])
      let isDone = false
      const reading = (async () => {
        const odd: number[] = []
        while (!isDone) {
          const { length } = await store.messages(id, ALL)
          if (length % 50 !== 0) odd.push(length)
          // The store may answer without ever leaving the tick.
          await new Promise(setImmediate)
        }
        return odd
      })()
      for (let from = 0; from < 1_000; from += 50) {
        const added = Array.from({ length: 50 }, (_, i) => say(String(from + i)))
        await store.commit([sessionWrite({ id }, { isNew: false, messages: { from, added } })])
        expect((await store.messages(id, ALL)).length).toBe(from + 50)
      }
      isDone = true
      expect(await reading).toEqual([])
    })

    test('refuses what a newer version has made', async () => {
      const url = await newUrl()
      await (await open(url)).close()
      await run(url, "insert into migration values ('9999-newer', '')")
      await expect(openDurableStore(url)).rejects.toThrow(/was made by a newer version of Suricate \(9999-newer\)/)
    })

    test('refuses a second opener until the first has closed, where it is not for several', {
      timeout: patience(30_000),
    }, async () => {
      const url = await newUrl()
      const store = await open(url)
      if (store.cluster !== undefined) {
        const other = await open(url)
        await other.commit([sessionWrite({ id: randomUUID() })])
        expect((await store.sessions(ALL)).total).toBe(1)
        return
      }
      await expect(openDurableStore(url)).rejects.toThrow(/is in use by another/)
      await store.close()
      const next = await open(url)
      await next.commit([sessionWrite({ id: randomUUID() })])
    })

    test('rejects once it is closed', async () => {
      const store = await opened()
      await store.close()
      await expect(store.commit([sessionWrite({ id: randomUUID() })])).rejects.toMatchObject({
        code: 'STORE_UNAVAILABLE',
      })
      await expect(store.session('x')).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' })
    })
  })

  const usedUrl = async () => {
    const url = await newUrl()
    const store = await open(url)
    await store.commit([sessionWrite({ id: randomUUID() })])
    await store.close()
    await run(url, UNDO_USAGE)
    return url
  }
  durableUsageConformance(
    name,
    async () => openedAgain(await newUrl()),
    async () => openedAgain(await usedUrl()),
  )
}
