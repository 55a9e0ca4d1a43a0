import { onTestFinished, vi } from 'vitest'
import type { SessionAgent, SessionAgentBuilder } from '../../src/core/agent.ts'
import { EphemeralSessionService } from '../../src/core/ephemeral-session-service.ts'
import { SessionError, type SessionErrorCode } from '../../src/core/errors.ts'
import { decodeFrames } from '../../src/core/event-frame.ts'
import type { EventLog, Retention } from '../../src/core/event-log.ts'
import type { EventStream } from '../../src/core/event-stream.ts'
import type { AgentEvent, LoggedEvent } from '../../src/core/events.ts'
import type { EphemeralSessionServiceOptions } from '../../src/core/service-options.ts'
import type { CreateSessionRequest, TurnView } from '../../src/core/session-service.ts'
import type { SessionStore } from '../../src/core/session-store.ts'
import { MemorySessionStore } from '../../src/stores/memory/memory-session-store.ts'

export type TestOptions = Partial<Omit<EphemeralSessionServiceOptions, 'agents' | 'store'>> & {
  agents?: readonly SessionAgentBuilder[]
  retention?: Partial<Retention>
  store?: SessionStore
}

/** A service, and what it told its observer and its store. */
export interface Harness {
  readonly service: EphemeralSessionService
  /** What went wrong and could not be told to a caller. */
  readonly faults: unknown[]
  /** Turns that ended, in the order in which they did. */
  readonly ended: { session: string; turn: number; status: string }[]
  /** The log of every session that was ever begun. */
  readonly logs: ReadonlyMap<string, EventLog>
}

/** A service over the memory store. Its first agent is the default one. */
export function makeService(options: TestOptions = {}): Harness {
  const { agents = [silent], retention = {}, store: given, observer, ...rest } = options
  const store = given ?? new MemorySessionStore({ events: 100_000, bytes: 64 * 1024 * 1024, ...retention })
  const faults: unknown[] = []
  const ended: Harness['ended'] = []
  const logs = new Map<string, EventLog>()
  const service = new EphemeralSessionService({
    store: {
      openLog(sessionId) {
        const log = store.openLog(sessionId)
        logs.set(sessionId, log)
        return log
      },
    },
    agents,
    defaultAgent: agents[0]?.name ?? '',
    maxSessions: 100,
    maxActiveTurns: 100,
    maxQueuedTurns: 3,
    archiveDrainMs: 60_000,
    observer: {
      turnEnded: ({ sessionId, turn, status }) => ended.push({ session: sessionId, turn, status }),
      fault: (error) => faults.push(error),
      ...observer,
    },
    ...rest,
  })
  return { service, faults, ended, logs }
}

/** The same, closed when the test is over. */
export function useService(options: TestOptions = {}): Harness {
  const harness = makeService(options)
  onTestFinished(() => harness.service.close({ drainMs: 0 }))
  return harness
}

/** An agent in a line. */
export function agentOf(
  name: string,
  run: SessionAgent['run'],
  more: Partial<SessionAgentBuilder> & Pick<SessionAgent, 'dispose'> = {},
): SessionAgentBuilder {
  const { dispose, ...builder } = more
  return { name, buildAgent: () => (dispose === undefined ? { run } : { run, dispose }), ...builder }
}

/** Says nothing and ends at once. */
export const silent = agentOf('silent', async function* () {
  return undefined
})

/** Says what it was asked. */
export const parrot = agentOf('parrot', async function* ({ prompt }) {
  yield { type: 'text_delta', delta: prompt }
  return { usage: { input_tokens: 1, output_tokens: 2 } }
})

/** A promise that the test settles. */
export interface Door<T = void> {
  readonly promise: Promise<T>
  open(value: T): void
  fail(error: unknown): void
}

export function door<T = void>(): Door<T> {
  let open: (value: T) => void = () => {}
  let fail: (error: unknown) => void = () => {}
  const promise = new Promise<T>((resolve, reject) => {
    open = resolve
    fail = reject
  })
  return { promise, open, fail }
}

/** Lets everything happen that needs no timer and no test. */
export async function settled(): Promise<void> {
  for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve))
}

/** Creates a session whose first turn has run to its end. */
export async function createDone(
  { service }: Harness,
  request: CreateSessionRequest = {},
): Promise<{ id: string; first: TurnView }> {
  const { sessionId, turn } = await service.createSession({ prompt: 'hello', ...request })
  return { id: sessionId, first: await service.turnEnded(sessionId, turn) }
}

/** Creates a session that has run nothing. */
export async function createIdle({ service }: Harness, request: CreateSessionRequest = {}): Promise<string> {
  const { sessionId } = await service.createSession({ ...request, initial_turn: 'deferred' })
  return sessionId
}

/** Starts a turn and waits for its end. */
export async function runTurn({ service }: Harness, id: string, prompt: string): Promise<TurnView> {
  const { turn } = await service.startTurn(id, { prompt })
  return service.turnEnded(id, turn)
}

/** Everything that a stream has to give right now. */
export function readNow(stream: EventStream | undefined): AgentEvent[] {
  const events: AgentEvent[] = []
  for (let bytes = stream?.read(); bytes !== undefined; bytes = stream?.read()) events.push(...decodeFrames(bytes))
  return events
}

/** The events of a turn that is over. */
export async function turnEvents({ service }: Harness, id: string, turn: number): Promise<LoggedEvent[]> {
  await settled()
  return readNow(service.streamTurn(id, turn)) as LoggedEvent[]
}

/** All events that a session has had, without what streams say about themselves. */
export async function sessionEvents({ service }: Harness, id: string): Promise<LoggedEvent[]> {
  await settled()
  return readNow(service.streamSession(id, { after: 0 })).filter((event): event is LoggedEvent => 'seq' in event)
}

export function types(events: readonly { type: string }[]): string[] {
  return events.map((event) => event.type)
}

/** The text of all `text_delta` events. */
export function textOf(events: readonly AgentEvent[]): string {
  return events.map((event) => (event.type === 'text_delta' ? event.delta : '')).join('')
}

/** The code of the `SessionError` that `action` throws or rejects with; fails when it does neither, or with another. */
export async function codeOf(action: () => unknown): Promise<SessionErrorCode> {
  return (await errorOf(action)).code
}

export async function errorOf(action: () => unknown): Promise<SessionError> {
  try {
    await action()
  } catch (error) {
    if (error instanceof SessionError) return error
    throw new Error(`Expected a SessionError, got ${String(error)}`, { cause: error })
  }
  throw new Error('Expected a SessionError, and nothing was thrown')
}

/** Time that passes at the test's word: for timers, and for caches that read the clock themselves. */
export function useClock(): { pass(ms: number): void } {
  let now = performance.now()
  // Replaced on the object itself: a cache keeps hold of `performance`, and fake timers would give it another.
  const spy = vi.spyOn(performance, 'now').mockImplementation(() => now)
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
  onTestFinished(() => {
    vi.useRealTimers()
    spy.mockRestore()
  })
  return {
    pass(ms) {
      now += ms
      vi.advanceTimersByTime(ms)
    },
  }
}

/** Timeouts, and what else is asked for, that expire at the test's word, and how many are pending. */
export function useTimeouts(...also: ('setInterval' | 'clearInterval' | 'performance')[]): {
  pass(ms: number): Promise<void>
  readonly pending: number
} {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', ...also] })
  onTestFinished(() => {
    vi.useRealTimers()
  })
  return {
    async pass(ms) {
      vi.advanceTimersByTime(ms)
      await settled()
    },
    get pending() {
      return vi.getTimerCount()
    },
  }
}

/** Resolves when a signal aborts. */
export function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve()
    else signal.addEventListener('abort', () => resolve(), { once: true })
  })
}
