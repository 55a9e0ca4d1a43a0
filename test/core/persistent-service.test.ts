import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import type { SessionAgentBuilder } from '../../src/core/agent.ts'
import type { DurableStore } from '../../src/core/durable-store.ts'
import { StoreUnavailableError } from '../../src/core/errors.ts'
import type { AgentEvent } from '../../src/core/events.ts'
import { PersistentSessionService } from '../../src/core/persistent-session-service.ts'
import { SqliteStore } from '../../src/stores/sqlite/sqlite-store.ts'
import { NOBODY } from '../helpers/contract.ts'
import { until } from '../helpers/http.ts'
import { door } from './support.ts'

/** Does what its prompt says, and then waits for ever where that ends in "hang". */
const talker: SessionAgentBuilder = {
  name: 'talker',
  buildAgent: () => ({
    async *run({ prompt }, { signal }) {
      yield { type: 'text_delta', delta: 'first' }
      if (prompt.includes('retry')) {
        yield { type: 'retrying', attempt: 1, max_attempts: 3, error: 'busy', delay_ms: 0 }
        yield { type: 'text_delta', delta: 'again' }
      }
      if (prompt.includes('tool')) {
        yield { type: 'tool_call_requested', id: 'c', name: 't', args: {} }
        yield { type: 'tool_execution_completed', id: 'c', name: 't', result: 'r', is_error: false, duration_ms: 0 }
        yield { type: 'text_delta', delta: 'second' }
      }
      if (prompt.includes('hang')) await new Promise((resolve) => signal.addEventListener('abort', resolve))
      return {}
    },
  }),
}

async function openStore(): Promise<SqliteStore> {
  const folder = mkdtempSync(join(tmpdir(), 'suricate-core-'))
  const store = await SqliteStore.open(join(folder, 'test.db'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  return store
}

function open(store: DurableStore, more: { maxSessions?: number; maxActiveTurns?: number } = {}, agents = [talker]) {
  return PersistentSessionService.open({
    store,
    retention: { events: 1_000, bytes: 1_000_000 },
    idleEvictMs: 60_000,
    agents,
    defaultAgent: 'talker',
    maxSessions: 100,
    maxActiveTurns: 100,
    maxQueuedTurns: 4,
    archiveDrainMs: 60_000,
    ...more,
  })
}

/** What a process leaves that does not come to its end: another takes up its store. */
async function afterCrash(prompts: readonly string[], more: object = {}) {
  const store = await openStore()
  const first = await open(store)
  const { sessionId } = await first.createSession({ initial_turn: 'deferred', ...more })
  for (const prompt of prompts) {
    await first.startTurn(sessionId, { prompt, on_busy: 'enqueue', ...(more === hosting ? { host_mode: true } : {}) })
  }
  await until('it is said', async () => (await eventsOf(first, sessionId)).some(({ type }) => type === 'text_delta'))
  const second = await open(store)
  onTestFinished(() => second.close({ drainMs: 0 }))
  return { first, second, sessionId }
}

const hosting = { comms_name: 'host' }

async function eventsOf(service: PersistentSessionService, sessionId: string): Promise<AgentEvent[]> {
  const signal = AbortSignal.timeout(50)
  const events: AgentEvent[] = []
  for await (const event of service.events(sessionId, { after: 0, signal })) events.push(event)
  return events
}

test.each([
  ['hang', ['first']],
  ['retry hang', ['again']],
  ['tool hang', ['first', 'second']],
])('of a turn that is lost in %j the transcript keeps what was said', async (prompt, texts) => {
  const { second, sessionId } = await afterCrash([prompt])
  const turn = await second.turn(sessionId, 1)
  expect(turn).toMatchObject({ status: 'failed', error: { code: 'TURN_LOST' } })
  const { messages } = await second.messages(sessionId, { offset: 0, limit: 100 })
  const said = messages.flatMap((message) =>
    message.role === 'block_assistant'
      ? message.blocks.flatMap((block) => (block.block_type === 'text' ? [block.data.text] : []))
      : [],
  )
  expect(said).toEqual(texts)
})

test('turns in line run after it, when there is room for them', async () => {
  const { second, sessionId } = await afterCrash(['hang', 'next', 'last'])
  await until('they are over', async () => (await second.turn(sessionId, 3)).status === 'completed')
  expect((await second.turns(sessionId, { offset: 0, limit: 10 })).turns.map(({ status }) => status)).toEqual([
    'failed',
    'completed',
    'completed',
  ])
})

test('a host that waited is over, and what it had done stays', async () => {
  const { second, sessionId } = await afterCrash(['hello'], hosting)
  const before = await second.messages(sessionId, { offset: 0, limit: 100 })
  expect(before.messages).toHaveLength(2)
  expect(await second.turn(sessionId, 1)).toMatchObject({ status: 'failed', error: { code: 'TURN_LOST' } })
})

test('a session that is not in memory answers as one that is', async () => {
  const store = await openStore()
  const service = await open(store, { maxSessions: 1 })
  onTestFinished(() => service.close({ drainMs: 0 }))
  const { sessionId } = await service.createSession({ prompt: 'hello' })
  await service.turnEnded(sessionId, 1)
  await service.createSession({ initial_turn: 'deferred' })
  expect(await service.turnEnded(sessionId, 1)).toMatchObject({ status: 'completed' })
  await expect(service.interrupt(sessionId)).rejects.toMatchObject({ code: 'SESSION_NOT_RUNNING' })
  await expect(service.approve(sessionId, 1, 'c', { approved: true })).rejects.toMatchObject({
    code: 'APPROVAL_NOT_FOUND',
  })
  await expect(service.approve(sessionId, 9, 'c', { approved: true })).rejects.toMatchObject({ code: 'TURN_NOT_FOUND' })
  await expect(service.turn(sessionId, 9)).rejects.toMatchObject({ code: 'TURN_NOT_FOUND' })
  await expect(service.turn(sessionId, 0)).rejects.toMatchObject({ code: 'TURN_NOT_FOUND' })
  await expect(service.streamTurn(sessionId, 1, { after: 99 })).rejects.toMatchObject({ code: 'INVALID_PARAMS' })
  await expect(service.streamSession(sessionId, { after: 99 })).rejects.toMatchObject({ code: 'INVALID_PARAMS' })
  await expect(service.streamInteraction(sessionId, NOBODY)).rejects.toMatchObject({ code: 'INTERACTION_NOT_FOUND' })
  await expect(service.read(NOBODY)).rejects.toMatchObject({ code: 'SESSION_NOT_FOUND' })
  await service.waitSessionRegistered()
  await service.waitSessionRegistered(sessionId)
  const exported = await service.exportSession(sessionId)
  await expect(service.importSession(exported)).rejects.toMatchObject({ code: 'SESSION_EXISTS' })
  const types: string[] = []
  for await (const { type } of service.events(sessionId, { turn: 1 })) types.push(type)
  expect(types.at(-1)).toBe('run_completed')
  expect(await service.streamTurn(sessionId, 1, { after: 6 })).toBeUndefined()
  await service.archive(sessionId)
  await expect(service.inject(sessionId, { body: 'x' })).rejects.toMatchObject({ code: 'INBOX_CLOSED' })
  await expect(service.send(sessionId, { kind: 'peer_message', to: 'x' })).rejects.toMatchObject({
    code: 'INBOX_CLOSED',
  })
  await expect(service.fork(sessionId)).rejects.toMatchObject({ code: 'SESSION_NOT_FOUND' })
  await service.importSession(exported)
  expect((await service.list({ offset: 0, limit: 10, active: false })).total).toBe(2)
})

test('what is said while a commit is under way, or while it fails, is kept after it, in its order', async () => {
  const store = await openStore()
  let failures = 2
  const slow = new Proxy(store, {
    get(target, name: keyof SqliteStore) {
      const method = target[name] as unknown
      if (typeof method !== 'function') return method
      return async (...args: unknown[]) => {
        if (name === 'commit') {
          await new Promise((resolve) => setImmediate(resolve))
          if (failures-- > 0) throw new StoreUnavailableError()
        }
        return method.apply(target, args)
      }
    },
  })
  const service = await open(slow)
  onTestFinished(() => service.close({ drainMs: 0 }))
  const { sessionId } = await service.createSession({ initial_turn: 'deferred' })
  const key = { idempotency: { key: 'k', fingerprint: 'f' } }
  failures = 2
  await service.startTurn(sessionId, { prompt: 'retry tool' }, key)
  await service.inject(sessionId, { body: 'x' }).catch(() => undefined)
  const view = await service.turnEnded(sessionId, 1)
  expect(view.status).toBe('completed')
  const seqs: number[] = []
  for await (const event of service.events(sessionId, { turn: 1 })) if ('seq' in event) seqs.push(event.seq)
  expect(seqs).toEqual(Array.from({ length: seqs.length }, (_, i) => i + 1))
  expect(await service.startTurn(sessionId, { prompt: 'retry tool' }, key)).toMatchObject({ turn: 1, attached: true })
})

test('an agent that reports something before its session is made, and is never made, holds up nobody', async () => {
  const store = await openStore()
  let fail = (_: Error) => {}
  let hasReported = false
  const early: SessionAgentBuilder = {
    name: 'early',
    buildAgent: (_, session) => {
      session.emit({ type: 'skills_resolved', skills: ['a'], injection_bytes: 1 })
      return new Promise((_, reject) => {
        fail = reject
        // Once what was reported has left the log for the journal.
        setImmediate(() => {
          hasReported = true
        })
      })
    },
  }
  const service = await open(store, {}, [talker, early])
  onTestFinished(() => service.close({ drainMs: 0 }))
  const made = service.createSession({ agent: 'early', initial_turn: 'deferred' })
  await until('it has reported', () => hasReported)
  fail(new Error('out of luck'))
  await expect(made).rejects.toMatchObject({ code: 'INTERNAL_ERROR' })
  await service.list({ offset: 0, limit: 1 })
  const { sessionId } = await service.createSession({ prompt: 'hello' })
  expect(await service.turnEnded(sessionId, 1)).toMatchObject({ status: 'completed' })
})

/** Calls a model and a tool, and then waits for ever where its prompt ends in "hang". */
const spender: SessionAgentBuilder = {
  name: 'spender',
  buildAgent: () => ({
    async *run({ prompt }, { signal }) {
      const usage = { input_tokens: 10, output_tokens: 5, total_tokens: 15, cache_read_tokens: 1 }
      yield { type: 'tool_call_requested', id: 'c', name: 't', args: {} }
      yield { type: 'tool_execution_completed', id: 'c', name: 't', result: 'r', is_error: false, duration_ms: 0 }
      yield { type: 'turn_completed', stop_reason: 'tool_use', usage }
      yield { type: 'text_delta', delta: prompt }
      if (prompt.endsWith('hang')) await new Promise((resolve) => signal.addEventListener('abort', resolve))
      return {}
    },
  }),
}
const byAgent = { groupBy: 'agent' } as const
const spendingOf = (turns: number, runs: number) => ({
  key: 'spender',
  turns,
  tokens: { input_tokens: 10 * runs, output_tokens: 5 * runs, total_tokens: 15 * runs, cache_read_tokens: runs },
  tool_calls: runs,
  model_calls: 2 * runs,
  duration_ms: expect.any(Number),
})

/** The store, and which turns it was told to count. */
function watched(store: SqliteStore): { store: DurableStore; counted: number[] } {
  const counted: number[] = []
  const watching = new Proxy(store, {
    get(target, name: keyof SqliteStore) {
      const method = target[name] as unknown
      if (typeof method !== 'function') return method
      return (...args: unknown[]) => {
        if (name === 'commit') {
          for (const { spent } of args[0] as Parameters<DurableStore['commit']>[0]) {
            counted.push(...spent.map(({ turn }) => turn))
          }
        }
        return method.apply(target, args)
      }
    },
  })
  return { store: watching, counted }
}

test('what a turn had spent that is lost is counted, in host mode with all its runs', async () => {
  const store = await openStore()
  const first = await open(store, {}, [spender])
  const host = await first.createSession({ initial_turn: 'deferred', agent: 'spender', comms_name: 'host' })
  await first.startTurn(host.sessionId, { prompt: 'one', host_mode: true })
  const said = (text: string) => async () =>
    (await eventsOf(first, host.sessionId)).some((event) => event.type === 'text_delta' && event.delta.includes(text))
  await until('the first run is over', said('one'))
  await first.inject(host.sessionId, { body: 'hang' })
  await until('the second waits', said('hang'))
  expect((await first.usage(byAgent)).groups).toEqual([])

  const second = await open(store, {}, [spender])
  onTestFinished(() => second.close({ drainMs: 0 }))
  expect(await second.turn(host.sessionId, 1)).toMatchObject({ status: 'failed', error: { code: 'TURN_LOST' } })
  const { groups, complete } = await second.usage(byAgent)
  expect([groups, complete]).toEqual([[spendingOf(1, 2)], true])
  expect((await second.read(host.sessionId)).billing.usage).toEqual(groups[0]?.tokens)
})

test('a turn that came first in line is counted once, whatever becomes of those that it passed', async () => {
  const { store, counted } = watched(await openStore())
  const first = await open(store, {}, [spender])
  const { sessionId } = await first.createSession({ prompt: 'hang', agent: 'spender' })
  await first.startTurn(sessionId, { prompt: 'later hang', on_busy: 'enqueue' })
  await first.startTurn(sessionId, { prompt: 'now', on_busy: 'interrupt' })
  await until('the last one waits', async () => (await first.turn(sessionId, 2)).status === 'running')
  await until('it has said so', async () => (await first.turn(sessionId, 3)).status === 'completed')
  await first.inject(sessionId, { body: 'something to commit' })
  expect(counted).toEqual([1, 3])

  const second = await open(store, {}, [spender])
  onTestFinished(() => second.close({ drainMs: 0 }))
  expect((await second.turn(sessionId, 2)).status).toBe('failed')
  await second.startTurn(sessionId, { prompt: 'next' })
  await second.turnEnded(sessionId, 4)
  expect(counted).toEqual([1, 3, 2, 4])
  expect((await second.usage(byAgent)).groups).toMatchObject([{ turns: 4 }])
})

test('what comes while a commit fails goes with it when it is repeated, and a turn is counted once', async () => {
  const store = await openStore()
  const [said, asked, go, failing] = [door(), door(), door(), door()]
  let isFailing = false
  const first: SessionAgentBuilder = {
    name: 'first',
    buildAgent: () => ({
      async *run() {
        yield { type: 'text_delta', delta: 'one' }
        await go.promise
        yield { type: 'text_delta', delta: 'two' }
        said.open()
        return {}
      },
    }),
  }
  const slow = new Proxy(store, {
    get(target, name: keyof SqliteStore) {
      const method = target[name] as unknown
      if (typeof method !== 'function') return method
      return async (...args: unknown[]) => {
        const answer = await method.apply(target, args)
        if (name !== 'commit' || !isFailing) return answer
        isFailing = false
        asked.open()
        return failing.promise
      }
    },
  })
  const service = await open(slow, {}, [first])
  onTestFinished(() => service.close({ drainMs: 0 }))
  const { sessionId } = await service.createSession({ agent: 'first', initial_turn: 'deferred' })
  isFailing = true
  const started = service.startTurn(sessionId, { prompt: 'x' })
  await asked.promise
  go.open()
  await said.promise
  await new Promise(setImmediate)
  failing.fail(new StoreUnavailableError())
  await started
  expect(await service.turnEnded(sessionId, 1)).toMatchObject({ status: 'completed', result: { text: 'onetwo' } })
  const seqs: number[] = []
  for await (const event of service.events(sessionId, { turn: 1 })) if ('seq' in event) seqs.push(event.seq)
  expect(seqs).toEqual(Array.from({ length: seqs.length }, (_, i) => i + 1))
  expect((await service.usage(byAgent)).groups).toMatchObject([{ key: 'first', turns: 1 }])
})
