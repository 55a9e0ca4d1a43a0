import { onTestFinished, vi } from 'vitest'
import type { SessionAgentBuilder } from '../../src/core/agent.ts'
import { EphemeralSessionService } from '../../src/core/ephemeral-session-service.ts'
import { decodeFrames } from '../../src/core/event-frame.ts'
import type { Retention } from '../../src/core/event-log.ts'
import { Followers } from '../../src/core/followers.ts'
import { Journal } from '../../src/core/journal.ts'
import { LogFiller } from '../../src/core/log-filler.ts'
import type { MemoryEventLog } from '../../src/core/memory-event-log.ts'
import { Ownership } from '../../src/core/ownership.ts'
import { Residents } from '../../src/core/residents.ts'
import type { CreateSessionRequest, ServiceObserver } from '../../src/core/session-service.ts'
import type { SessionTask } from '../../src/core/session-task.ts'
import { aborted, agentOf, door, parrot, settled, useClock } from '../core/support.ts'
import { FakeCluster, FakeStore } from './fake-store.ts'

interface PartsOptions {
  agents: readonly SessionAgentBuilder[]
  retention?: Retention
  observer?: ServiceObserver
  maxSessions?: number
}

/** What a server has over a store, put together as `PersistentSessionService` does it; closed when the test is over. */
export function useParts(store: FakeStore, { agents, retention, observer = {}, maxSessions = 100 }: PartsOptions) {
  const faults: unknown[] = []
  const ownership = new Ownership(store.cluster)
  const kept = retention ?? { events: 100_000, bytes: 256 * 1024 * 1024 }
  const journal = new Journal(store, kept, ownership, (error) => faults.push(error))
  const followers = new Followers(store, journal, ownership)
  const engine = new EphemeralSessionService({
    store: { openLog: (id, lastSeq) => journal.newLog(id, lastSeq) },
    journal,
    agents,
    defaultAgent: agents[0]?.name ?? '',
    maxSessions,
    maxActiveTurns: 100,
    maxQueuedTurns: 3,
    archiveDrainMs: 60_000,
    observer,
  })
  const logs = new LogFiller(store)
  const around = { engine: engine.parts, journal, store, ownership, followers, logs, slots: undefined, observer }
  const residents = new Residents(around)
  onTestFinished(() => engine.close({ drainMs: 0 }))
  const made = async (request: CreateSessionRequest): Promise<SessionTask> => {
    const { sessionId } = await engine.createSession(request)
    return engine.parts.registry.get(sessionId) as SessionTask
  }
  /** A session that is new, with a turn where there is a prompt. */
  const create = (request: CreateSessionRequest = { initial_turn: 'deferred' }) => made(request)
  return { store, engine, ownership, journal, followers, residents, faults, create }
}

const MEBIBYTE = 1024 * 1024
/** Waits until it is told to end. */
export const waiting = agentOf('waiting', async function* (_, { signal }) {
  await aborted(signal)
  return undefined
})

export const silently = async function* () {
  return undefined
}

/** Not plain ASCII, which is written letter by letter. */
const MUCH = `ä${'x'.repeat(MEBIBYTE - 2)}`

/** As many mebibytes as its prompt says; then it waits. */
const loud = agentOf('loud', async function* ({ prompt }, { signal }) {
  for (let i = 0; i < Number(prompt); i++) yield { type: 'text_delta', delta: MUCH }
  await aborted(signal)
  return undefined
})

/** What writes sessions into a store, by a clock that stands still. */
export function useJournal({ shared = false, agents = [parrot, waiting, loud], observer = {} } = {}) {
  const clock = useClock()
  // Whole milliseconds, so that no sum of them is a little less.
  clock.pass(Math.ceil(performance.now()) - performance.now())
  const cluster = shared ? new FakeCluster() : undefined
  const store = new FakeStore(cluster)
  const parts = useParts(store, { agents, observer })
  const kept = async () => {
    const session = await parts.create()
    await settled()
    return session
  }
  /** When a commit that failed is made again. */
  const retried = async () => {
    clock.pass(250)
    await settled()
  }
  return { ...parts, clock, cluster: cluster as FakeCluster, kept, retried }
}

/** Says something that waits for a commit at once. */
export function say(session: SessionTask, word: string): void {
  session.log.append({ type: 'skills_resolved', skills: [word], injection_bytes: 1 }, 0)
  const log = session.log as MemoryEventLog
  log.flush()
}

/** The words that a store has of a session. */
export function wordsIn(store: FakeStore, { id }: SessionTask): string[] {
  const text = Buffer.concat((store.kept.get(id)?.chunks ?? []).map(({ bytes }) => bytes)).toString()
  return [...text.matchAll(/"skills":\["(\w+)"\]/g)].map(([, word]) => word as string)
}

/** A store whose next commits wait for the door. */
export function holdUp(store: FakeStore) {
  const gate = door()
  store.committing = () => gate.promise
  return gate
}

/** What can be read in a log; a dot for what is no text. */
export function textIn(log: MemoryEventLog): string {
  let text = ''
  let position = log.firstSeq - 1
  for (let page = log.read(position); page !== undefined; page = log.read(position)) {
    for (const event of decodeFrames(page.bytes)) text += event.type === 'text_delta' ? event.delta : '.'
    position = page.last
  }
  return text
}

const STEP_MS = 250

/** Time that passes at the test's word, as slowly as servers look at it. */
export function useSlowClock() {
  let now = Math.ceil(performance.now())
  const spy = vi.spyOn(performance, 'now').mockImplementation(() => now)
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval'] })
  onTestFinished(() => {
    vi.useRealTimers()
    spy.mockRestore()
  })
  return {
    async pass(ms: number): Promise<void> {
      for (let passed = 0; passed < ms; passed += STEP_MS) {
        const step = Math.min(STEP_MS, ms - passed)
        now += step
        vi.advanceTimersByTime(step)
        for (let i = 0; i < 3; i++) await settled()
      }
    },
  }
}
