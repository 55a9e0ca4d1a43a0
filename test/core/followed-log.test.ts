import { expect, onTestFinished, test, vi } from 'vitest'
import type { SessionAgentBuilder } from '../../src/core/agent.ts'
import { decodeFrames } from '../../src/core/event-frame.ts'
import type { Retention } from '../../src/core/event-log.ts'
import { LogStream } from '../../src/core/event-stream.ts'
import { type Chunk, MemoryEventLog } from '../../src/core/memory-event-log.ts'
import { recordOf, refreshed, spentTurnOf, turnRowOf } from '../../src/core/session-rows.ts'
import type { RunResult } from '../../src/core/session-service.ts'
import type { SessionTask } from '../../src/core/session-task.ts'
import { NO_USAGE, NOTHING_SPENT } from '../../src/core/usage.ts'
import { holdUp, say, useJournal, wordsIn } from '../helpers/fake-server.ts'
import { chunkOf, deltas, turnFor } from '../helpers/fake-store.ts'
import { door, parrot, settled } from './support.ts'

const RESULT: RunResult = {
  session_id: 's',
  turn: 1,
  text: 'ab',
  stop_reason: 'end_turn',
  turns: 1,
  tool_calls: 0,
  usage: NO_USAGE,
  session_usage: NO_USAGE,
}
const FAILED = { status: 'failed', endedAt: 9, lastSeq: 2 } as const
const DEFERRED = { initial_turn: 'deferred' } as const
/** Not plain ASCII, which is written letter by letter. */
const MUCH = `ä${'x'.repeat(40 * 1024 * 1024)}`
const PLENTY = { events: 1_000, bytes: 1_000_000 }

/** A log that is kept elsewhere, and what waits there to be seen. */
function backed(lastSeq = 0, retention: Retention = PLENTY) {
  const waiting: { chunk: Chunk; show: () => void }[] = []
  const log = new MemoryEventLog(retention, { lastSeq, keep: (chunk, show) => void waiting.push({ chunk, show }) })
  const keepAll = () => {
    for (const { show } of waiting.splice(0)) show()
  }
  return { log, waiting, keepAll }
}

/** All that can be read after `after`: the numbers and the text. */
function readAll(log: MemoryEventLog, after: number): [number[], string] {
  const seqs: number[] = []
  let text = ''
  let position = Math.max(after, log.firstSeq - 1)
  for (let page = log.read(position); page !== undefined; page = log.read(position)) {
    for (const event of decodeFrames(page.bytes)) {
      if ('seq' in event) seqs.push(event.seq)
      if (event.type === 'text_delta') text += event.delta
    }
    position = page.last
  }
  return [seqs, text]
}

function bytesFrom(log: MemoryEventLog, after: number): number {
  let bytes = 0
  let position = after
  for (let page = log.read(position); page !== undefined; page = log.read(position)) {
    bytes += page.bytes.length
    position = page.last
  }
  return bytes
}

test('a log goes on where the store is', async () => {
  const { log, keepAll } = backed(7)
  expect([log.firstSeq, log.lastSeq, log.bytes]).toEqual([8, 7, 0])
  expect(log.append({ type: 'text_delta', delta: 'a' }, 1)).toBe(8)
  await settled()
  keepAll()
  expect(readAll(log, 7)).toEqual([[8], 'a'])
})

test('an event is seen once it is kept', async () => {
  const { log, waiting, keepAll } = backed()
  const woken = vi.fn()
  log.watch(woken)
  expect(log.isAhead).toBe(false)
  log.append({ type: 'text_delta', delta: 'a' }, 1)
  expect([log.isAhead, waiting.length]).toEqual([true, 0])
  await settled()
  expect([log.isAhead, waiting.length, log.read(0)]).toEqual([true, 1, undefined])
  expect(woken).not.toHaveBeenCalled()
  keepAll()
  expect([log.isAhead, woken.mock.calls.length]).toEqual([false, 1])
  expect(readAll(log, 0)).toEqual([[1], 'a'])
})

test('a log is sealed once all of it is seen', () => {
  const { log, keepAll } = backed()
  log.append({ type: 'text_delta', delta: 'a' }, 1)
  log.seal()
  log.seal()
  expect(log.sealed).toBe(false)
  keepAll()
  expect(log.sealed).toBe(true)
})

test('what was said can be handed on before the tick ends', () => {
  const { log, waiting } = backed()
  log.append({ type: 'text_delta', delta: 'a' }, 1)
  log.flush()
  expect(waiting).toHaveLength(1)
  expect([log.isAhead, log.read(0)]).toEqual([true, undefined])
})

test('a log is watched as long as somebody listens', () => {
  const { log } = backed()
  const [one, other] = [vi.fn(), vi.fn()]
  log.unwatch(one)
  expect(log.isWatched).toBe(false)
  log.watch(one)
  log.watch(other)
  log.unwatch(one)
  log.unwatch(one)
  expect(log.isWatched).toBe(true)
  log.ingest(chunkOf(1, deltas('a')))
  log.unwatch(other)
  expect(log.isWatched).toBe(false)
  log.ingest(chunkOf(2, deltas('b')))
  expect([one.mock.calls.length, other.mock.calls.length]).toEqual([0, 1])
})

test('what another server wrote follows what is here', () => {
  const { log } = backed(2)
  log.ingest(chunkOf(3, deltas('cd')))
  log.ingest(chunkOf(5, deltas('e')))
  expect([log.firstSeq, log.lastSeq]).toEqual([3, 5])
  expect(readAll(log, 2)).toEqual([[3, 4, 5], 'cde'])
})

test('what is here already is not taken in again', () => {
  const { log } = backed()
  log.ingest(chunkOf(1, deltas('ab')))
  const { bytes } = log
  log.ingest(chunkOf(1, deltas('ab')))
  log.ingest(chunkOf(2, deltas('b')))
  expect(log.bytes).toBe(bytes)
  expect(readAll(log, 0)).toEqual([[1, 2], 'ab'])
})

test('readers are told of what is no longer retained elsewhere', () => {
  const { log } = backed()
  log.ingest(chunkOf(1, deltas('ab')))
  log.ingest(chunkOf(8, deltas('h')))
  expect([log.firstSeq, log.lastSeq, log.bytes]).toEqual([8, 8, chunkOf(8, deltas('h')).bytes.length])
  const stream = new LogStream({ sessionId: 's', log, position: 2 })
  const events = [stream.read(), stream.read()].flatMap((bytes) => decodeFrames(bytes ?? Buffer.alloc(0)))
  expect(events).toMatchObject([
    { type: 'stream_truncated', missed_from: 3, missed_to: 7 },
    { type: 'text_delta', delta: 'h' },
  ])
})

test('a gap before the first event is no gap for who comes later', () => {
  const { log } = backed()
  log.ingest(chunkOf(4, deltas('d')))
  expect(log.firstSeq).toBe(4)
  expect(readAll(log, 0)).toEqual([[4], 'd'])
})

test('older events come before those that are here', () => {
  const { log } = backed(4)
  log.ingest(chunkOf(5, deltas('e')))
  log.prepend(chunkOf(3, deltas('cd')))
  log.prepend(chunkOf(1, deltas('ab')))
  expect(log.firstSeq).toBe(1)
  expect(readAll(log, 0)).toEqual([[1, 2, 3, 4, 5], 'abcde'])
  expect(readAll(log, 3)).toEqual([[4, 5], 'de'])
  expect(log.bytes).toBe(bytesFrom(log, 0))
})

test('older events come before a log that is empty', () => {
  const { log } = backed(2)
  log.prepend(chunkOf(1, deltas('ab')))
  expect(readAll(log, 0)).toEqual([[1, 2], 'ab'])
  log.ingest(chunkOf(3, deltas('c')))
  expect(readAll(log, 1)[1]).toBe('bc')
})

test('so many events are retained, of chunks that were taken in too', () => {
  const { log } = backed(0, { events: 3, bytes: 1_000_000 })
  log.ingest(chunkOf(1, deltas('abcd')))
  log.ingest(chunkOf(5, deltas('e')))
  expect(log.firstSeq).toBe(3)
  expect(readAll(log, 0)).toEqual([[3, 4, 5], 'cde'])
  expect(log.bytes).toBe(bytesFrom(log, 2))
})

test('so many bytes are retained, of chunks that were taken in too', () => {
  const size = chunkOf(1, deltas('a')).bytes.length
  const { log } = backed(0, { events: 1_000, bytes: 2 * size })
  log.ingest(chunkOf(1, deltas('abc')))
  expect(readAll(log, 0)).toEqual([[2, 3], 'bc'])
  log.ingest(chunkOf(4, [{ type: 'text_delta', delta: 'x'.repeat(3 * size) }]))
  expect([log.firstSeq, log.bytes]).toEqual([5, 0])
})

test('many small chunks of a turn become one', () => {
  const { log } = backed()
  for (let seq = 1; seq <= 64; seq++) log.ingest(chunkOf(seq, deltas('x')))
  expect(log.read(0)?.last).toBe(64)
  expect(readAll(log, 10)[0]).toEqual(Array.from({ length: 54 }, (_, i) => i + 11))
})

test('a merge keeps turns apart, and what is large as it is', () => {
  const { log } = backed()
  log.ingest(chunkOf(1, [{ type: 'text_delta', delta: 'x'.repeat(64 * 1024) }], 2))
  log.ingest(chunkOf(2, deltas('a'), 2))
  for (let seq = 3; seq <= 64; seq++) log.ingest(chunkOf(seq, deltas('x'), 2))
  expect([log.read(0)?.last, log.read(1)?.last]).toEqual([1, 64])
  for (let seq = 65; seq <= 127; seq++) log.ingest(chunkOf(seq, deltas('y'), 3))
  log.ingest(chunkOf(128, deltas('z'), 4))
  expect([log.read(64)?.last, log.read(127)?.last]).toEqual([65, 128])
})

test('who reads a log that goes on elsewhere gets what is here, and has to come again', () => {
  const { log } = backed()
  log.ingest(chunkOf(1, deltas('a')))
  const stream = new LogStream({ sessionId: 's', log, position: 0 })
  const woken = vi.fn()
  stream.onReadable(woken)
  log.abandon()
  log.abandon()
  expect(woken).toHaveBeenCalledTimes(1)
  expect(String(stream.read())).toContain('"delta":"a"')
  expect(() => stream.read()).toThrow(expect.objectContaining({ code: 'STORE_UNAVAILABLE' }))
})

test('who talks on in a log that goes on elsewhere is heard by nobody', async () => {
  const { log, waiting, keepAll } = backed()
  log.append({ type: 'text_delta', delta: 'a' }, 1)
  log.flush()
  log.append({ type: 'text_delta', delta: 'b' }, 1)
  log.abandon()
  expect(log.append({ type: 'text_delta', delta: 'c' }, 1)).toBe(3)
  await settled()
  expect(waiting).toHaveLength(1)
  keepAll()
  expect([log.read(0), log.bytes]).toEqual([undefined, 0])
})

test('a log is opened anew where it is behind the store', () => {
  const { journal } = useJournal()
  const log = journal.openLog('s', 3)
  expect([journal.openLog('s', 2), journal.openLog('s', 3)]).toEqual([log, log])
  const next = journal.openLog('s', 4)
  expect([log.isLost, next.lastSeq, journal.findLog('s') === next]).toEqual([true, 4, true])
})

test('logs that nobody has any more are forgotten, a thousand at a time', () => {
  const asked = new Map<MemoryEventLog, number>()
  const alive = new Set<MemoryEventLog>()
  class Weak {
    readonly #log: MemoryEventLog
    constructor(log: MemoryEventLog) {
      this.#log = log
    }
    deref() {
      asked.set(this.#log, (asked.get(this.#log) ?? 0) + 1)
      return alive.has(this.#log) ? this.#log : undefined
    }
  }
  vi.stubGlobal('WeakRef', Weak)
  onTestFinished(() => {
    vi.unstubAllGlobals()
  })
  const { journal } = useJournal()
  const logs = Array.from({ length: 999 }, (_, i) => journal.newLog(`${i}`))
  alive.add(logs[5] as MemoryEventLog)
  expect(asked.size).toBe(0)
  for (let i = 999; i < 2_000; i++) logs.push(journal.newLog(`${i}`))
  expect(logs.slice(4, 7).map((log) => asked.get(log))).toEqual([1, 2, 1])
})

/** A turn that says as much while the store is away. */
async function talkAway(
  { store, journal, create }: ReturnType<typeof useJournal>,
  mebibytes: number,
): Promise<SessionTask> {
  store.isAway = true
  journal.unreachable(new Error('away'))
  const session = await create({ agent: 'loud', prompt: `${mebibytes}` })
  await settled()
  return session
}

test('who talks on while the store is away is stopped when much waits', async () => {
  const parts = useJournal()
  await parts.kept()
  const session = await talkAway(parts, 63)
  expect(session.turns[0]?.status).toBe('running')
  const other = await talkAway(parts, 2)
  expect([session.turns[0]?.status, other.turns[0]?.status]).toEqual(['running', 'interrupted'])
  parts.store.isAway = false
  await parts.retried()
  expect(parts.store.kept.get(other.id)?.turns.get(1)?.status).toBe('interrupted')
})

test('what waited and was written counts no more', async () => {
  const parts = useJournal()
  await parts.kept()
  await talkAway(parts, 40)
  parts.store.isAway = false
  await parts.retried()
  const session = await talkAway(parts, 40)
  expect(session.turns[0]?.status).toBe('running')
})

test('what waits of a session that is lost counts no more', async () => {
  const parts = useJournal()
  await parts.kept()
  await parts.residents.lose(await talkAway(parts, 40))
  const session = await talkAway(parts, 40)
  expect(session.turns[0]?.status).toBe('running')
})

test('nor does what was under way when the session was lost', async () => {
  const parts = useJournal()
  const gate = holdUp(parts.store)
  const lost = await talkAway(parts, 0)
  lost.log.append({ type: 'text_delta', delta: MUCH }, 1)
  gate.open()
  await settled()
  const second = holdUp(parts.store)
  await parts.retried()
  await parts.residents.lose(lost)
  second.open()
  await settled()
  const session = await talkAway(parts, 40)
  expect([parts.journal.isAvailable, session.turns[0]?.status]).toEqual([false, 'running'])
})

test('nor does what the store refused, or was never made', async () => {
  const parts = useJournal()
  const { store, journal, create, clock } = parts
  const refused = await create({ agent: 'loud', prompt: '40' })
  store.refused.add(refused.id)
  const log = journal.newLog('never')
  log.append({ type: 'text_delta', delta: MUCH }, 1)
  log.flush()
  await settled()
  clock.pass(20)
  await settled()
  journal.forget('never')
  const session = await talkAway(parts, 40)
  expect([journal.isAvailable, session.turns[0]?.status]).toEqual([false, 'running'])
})

test('what is said before a session is made waits for it', async () => {
  const gate = door()
  const early: SessionAgentBuilder = {
    name: 'early',
    buildAgent: async (request, session) => {
      session.emit({ type: 'skills_resolved', skills: ['early'], injection_bytes: 1 })
      await gate.promise
      return parrot.buildAgent(request, session)
    },
  }
  const { store, journal, create, kept } = useJournal({ agents: [parrot, early] })
  const made = create({ ...DEFERRED, agent: 'early' })
  await settled()
  const other = await kept()
  say(other, 'other')
  await settled()
  expect([wordsIn(store, other), store.kept.size]).toEqual([['other'], 1])
  say(other, 'more')
  journal.forget(other.id)
  gate.open()
  const session = await made
  await settled()
  expect([wordsIn(store, other), wordsIn(store, session)]).toEqual([['other', 'more'], ['early']])
})

test('what was said in a session that is never made waits for nothing', async () => {
  const { store, journal, kept } = useJournal()
  const log = journal.newLog('never')
  log.append({ type: 'text_delta', delta: 'x' }, 1)
  log.flush()
  expect(journal.isSettled('never')).toBe(false)
  journal.forget('never')
  journal.forget('unknown')
  expect(journal.isSettled('never')).toBe(true)
  await kept()
  expect(store.commits).toHaveLength(1)
})

test('a turn is the same after it was in the store', () => {
  const error = { code: 'TURN_LOST', message: 'oh', data: { turn: 2 } } as const
  const failed = turnFor(2, { ...FAILED, error, skillReferences: ['a'], isHost: true, spent: NOTHING_SPENT })
  expect(turnRowOf(recordOf('s', failed))).toEqual(failed)
  const done = turnFor(1, { status: 'completed', endedAt: 5, result: RESULT, spent: NOTHING_SPENT })
  expect(turnRowOf(recordOf('s', done))).toEqual(done)
})

test('a turn of an older version had spent nothing', () => {
  const record = refreshed(recordOf('s', turnFor(1, { spent: { ...NOTHING_SPENT, toolCalls: 3 } })), turnFor(1))
  expect(record.spent).toEqual(NOTHING_SPENT)
  expect(spentTurnOf(record)).toEqual({ endedAt: 0, durationMs: 0, ...NOTHING_SPENT })
})
