/**
 * The load generator: a process of its own, told over IPC what to do. It checks every stream that it reads, and the first
 * fault ends it.
 */
import { microseconds, wordAt } from './agent.ts'
import { answerCommands } from './control.ts'
import { Connection } from './load/connection.ts'
import { Samples } from './load/samples.ts'
import { StreamFault } from './load/stream-check.ts'
import { createSession, exchange, listSessions, Reader, type Session, type Target, TurnClient } from './load/target.ts'

/** Requests that are on their way at a time where it is not speed that is measured. */
const FILL_CONCURRENCY = 32
/** A turn of the benchmark is over in seconds; one that is not has lost something. */
const TURN_TIMEOUT_MS = 60_000

export interface TurnsJob {
  prompt: string
  /** No turn starts after this time, nor after so many. */
  ms: number
  maxTurns: number
  /** Clients begin so much after one another. */
  staggerMs?: number
}

export interface TurnsResult {
  turns: number
  events: number
  elapsedMs: number
  firstP50: number
  firstP99: number
  /** From a turn's first event to its last. */
  tailP50: number
  delayP50: number
  delayP99: number
  /** Share of its core that the load generator needed: near 1 it is what limits the result. */
  loadShare: number
}

export interface FanJob {
  prompt: string
  turns: number
}

export interface FanResult {
  deliveries: number
  elapsedMs: number
  delayP50: number
  delayP99: number
  loadShare: number
}

export type RequestKind = 'create' | 'read' | 'list' | 'start'

export interface SlopeResult {
  earlyUs: number
  lateUs: number
}

let target: Target = { kind: 'raw', port: 0 }
let clients: TurnClient[] = []
let readers: Reader[] = []
let sessions: Session[] = []

const commands = {
  /** Forgets everything and speaks to this server from now on. */
  target(job: { target: Target }): void {
    hangUp()
    sessions = []
    target = job.target
  },

  /** Clients with a session each. */
  async clients({ count }: { count: number }): Promise<void> {
    hangUp()
    clients = await times(count, async (connection) => {
      return new TurnClient(target, await createSession(target, connection), connection)
    })
  },

  /** Every client runs turn after turn. */
  async turns({ prompt, ms, maxTurns, staggerMs = 0 }: TurnsJob): Promise<TurnsResult> {
    const first = new Samples()
    const tail = new Samples()
    const delays = new Samples()
    const expected = expectedOf(prompt)
    const eventsBefore = sum(clients.map(({ check }) => check.events))
    const usage = meter()
    const until = performance.now() + ms
    let turns = 0
    await within(TURN_TIMEOUT_MS + ms, 'turns', async () => {
      await Promise.all(
        clients.map(async (client, index) => {
          client.check.expect(expected)
          client.check.delays = prompt.startsWith('paced') ? delays : undefined
          if (staggerMs > 0) await sleep(index * staggerMs)
          while (turns < maxTurns && performance.now() < until) {
            turns++
            await client.turn(prompt)
            first.push(client.check.firstAt - client.sentAt)
            tail.push(client.check.lastAt - client.check.firstAt)
          }
        }),
      )
    })
    return {
      turns,
      events: sum(clients.map(({ check }) => check.events)) - eventsBefore,
      ...usage(),
      firstP50: first.quantile(0.5),
      firstP99: first.quantile(0.99),
      tailP50: tail.quantile(0.5),
      delayP50: delays.quantile(0.5),
      delayP99: delays.quantile(0.99),
    }
  },

  /** Microseconds an event at the beginning and at the end of a long turn, by the times of arrival. */
  async slope({ prompt, turns }: { prompt: string; turns: number }): Promise<SlopeResult> {
    const [client] = clients
    if (client === undefined) throw new Error('No client')
    const expected = expectedOf(prompt)
    client.check.expect(expected)
    const early = new Samples()
    const late = new Samples()
    for (let turn = 0; turn < turns; turn++) {
      const arrivals: number[] = []
      client.check.arrivals = arrivals
      await within(TURN_TIMEOUT_MS, prompt, () => client.turn(prompt))
      early.push(perEvent(arrivals, 100, 1_100))
      late.push(perEvent(arrivals, expected.deltas - 1_000, expected.deltas))
    }
    client.check.arrivals = undefined
    return { earlyUs: early.quantile(0.5), lateUs: late.quantile(0.5) }
  },

  /** Readers of the first client's session, besides that client. */
  async readers({ count }: { count: number }): Promise<void> {
    const session = clients[0]?.session
    if (session === undefined) throw new Error('No client')
    readers = await times(
      count,
      async (connection) => {
        const reader = new Reader(target, session, connection)
        await reader.open()
        return reader
      },
      target.readersPort,
    )
  },

  /** The first client runs turns, all readers read them. Over when every reader has every event. */
  async fan({ prompt, turns }: FanJob): Promise<FanResult> {
    const [client] = clients
    if (client === undefined) throw new Error('No client')
    const delays = new Samples()
    const expected = expectedOf(prompt)
    const checks = [client.check, ...readers.map(({ check }) => check)]
    const before = sum(checks.map(({ events }) => events))
    let behind = 0
    let onAll = () => {}
    for (const check of checks) {
      check.expect(expected)
      check.delays = prompt.startsWith('paced') ? delays : undefined
      check.onTurnEnd = () => {
        if (--behind === 0) onAll()
      }
    }
    const usage = meter()
    for (let turn = 0; turn < turns; turn++) {
      await within(TURN_TIMEOUT_MS, `a turn for ${readers.length} readers`, async () => {
        behind = checks.length
        const all = new Promise<void>((resolve) => {
          onAll = resolve
        })
        await client.turn(prompt)
        await all
      })
    }
    return {
      deliveries: sum(checks.map(({ events }) => events)) - before,
      ...usage(),
      delayP50: delays.quantile(0.5),
      delayP99: delays.quantile(0.99),
    }
  },

  /** Sessions until there are so many, idle or, with a prompt, after one turn. */
  async fill({ count, prompt }: { count: number; prompt?: string }): Promise<void> {
    const missing = count - sessions.length
    const made = await times(Math.min(FILL_CONCURRENCY, missing), async (connection, lane, lanes) => {
      const lot: Session[] = []
      for (let index = lane; index < missing; index += lanes) lot.push(await createSession(target, connection, prompt))
      connection.destroy()
      return lot
    })
    sessions.push(...made.flat())
  },

  /** Bytes of all frames of one session's first turn, as they are kept. */
  async payload({ prompt }: { prompt: string }): Promise<number> {
    const connection = new Connection(target.port)
    const client = new TurnClient(target, await createSession(target, connection), connection)
    client.check.expect(expectedOf(prompt))
    await client.turn(prompt)
    connection.destroy()
    return client.check.bytes
  },

  /** Milliseconds of one kind of request, one at a time. */
  async requests({ kind, count, ms }: { kind: RequestKind; count: number; ms: number }): Promise<{ p50: number }> {
    const samples = new Samples()
    const connection = new Connection(target.port)
    const until = performance.now() + ms
    for (let index = 0; index < count && performance.now() < until; index++) {
      samples.push(await timeRequest(kind, connection, index))
    }
    connection.destroy()
    return { p50: samples.quantile(0.5) }
  },

  /** One idle stream for each session, or topic. */
  async openStreams({ count }: { count: number }): Promise<void> {
    let next = 0
    readers = await times(count, async (connection) => {
      const session = sessions[next++] ?? (await createSession(target, connection))
      const reader = new Reader(target, session, connection)
      await reader.open()
      return reader
    })
  },

  /** Clients that start a long turn and leave in the midst of it. */
  async leave({ count, query }: { count: number; query: string }): Promise<void> {
    const prompt = 'paced 100 50'
    const leaving = await times(count, async (connection) => {
      const client = new TurnClient(target, await createSession(target, connection), connection)
      client.check.expect(expectedOf(prompt))
      client.turn(prompt, query).catch(() => {})
      return client
    })
    while (leaving.some(({ check }) => check.events < 5)) await sleep(20)
    for (const client of leaving) client.connection.destroy()
  },

  hangUp,
}

export type LoadCommand = keyof typeof commands

function hangUp(): void {
  for (const { connection } of [...clients, ...readers]) connection.destroy()
  clients = []
  readers = []
}

async function timeRequest(kind: RequestKind, connection: Connection, index: number): Promise<number> {
  const start = performance.now()
  if (kind === 'create') {
    sessions.push(await createSession(target, connection))
    return performance.now() - start
  }
  if (kind === 'list') {
    await exchange(connection, listSessions(target, 'limit=20'))
    return performance.now() - start
  }
  // Spread over all sessions, by a step that has no divisor in common with their number.
  const session = sessions[(index * 7919) % sessions.length]
  if (session === undefined) throw new Error('No session')
  if (kind === 'read') {
    await exchange(connection, session.read())
    return performance.now() - start
  }
  const client = clientOf(session, connection)
  await client.turn('burst 1')
  return client.check.firstAt - client.sentAt
}

const clientsOfSessions = new WeakMap<Session, TurnClient>()

function clientOf(session: Session, connection: Connection): TurnClient {
  const known = clientsOfSessions.get(session)
  const client = new TurnClient(target, session, connection)
  client.check.seq = known?.check.seq ?? 0
  client.check.turn = known?.check.turn ?? 0
  client.check.expect(expectedOf('burst 1'))
  clientsOfSessions.set(session, client)
  return client
}

/** What a reader must find in a turn with this prompt. */
function expectedOf(prompt: string): { deltas: number; text: string | undefined } {
  const [kind, count] = prompt.split(' ')
  const deltas = Number(count)
  if (kind === 'paced') return { deltas, text: undefined }
  return { deltas, text: Array.from({ length: deltas }, (_, index) => wordAt(index + 1)).join('') }
}

function perEvent(arrivals: number[], from: number, to: number): number {
  return (((arrivals[to] ?? Number.NaN) - (arrivals[from] ?? Number.NaN)) * 1000) / (to - from)
}

/** Runs `task` so many times, a few at a time, with a connection each. */
async function times<T>(
  count: number,
  task: (connection: Connection, index: number, of: number) => Promise<T>,
  port = target.port,
) {
  const results: T[] = []
  let next = 0
  const lane = async () => {
    while (next < count) {
      const index = next++
      results[index] = await task(new Connection(port), index, count)
    }
  }
  await Promise.all(Array.from({ length: Math.min(FILL_CONCURRENCY, count) }, lane))
  return results
}

/** A promise about a stream that is not kept by doing nothing must show as well. */
async function within(ms: number, what: string, task: () => Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new StreamFault(`After ${ms / 1000} s ${what} are still not complete`)), ms)
  })
  await Promise.race([task(), late]).finally(() => clearTimeout(timer))
}

function meter(): () => { elapsedMs: number; loadShare: number } {
  const start = microseconds()
  const before = process.cpuUsage()
  return () => {
    const elapsed = microseconds() - start
    const { user, system } = process.cpuUsage(before)
    return { elapsedMs: elapsed / 1000, loadShare: (user + system) / elapsed }
  }
}

function sum(numbers: number[]): number {
  return numbers.reduce((total, number) => total + number, 0)
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

process.on('uncaughtException', (error) => {
  process.send?.({ fault: error.message }, () => process.exit(1))
})
answerCommands(commands)
