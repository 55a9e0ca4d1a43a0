import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { AgentSession, TurnOutcome } from '../../src/core/agent.ts'
import { decodeFrames, encodeEvent } from '../../src/core/event-frame.ts'
import type { EventLog } from '../../src/core/event-log.ts'
import { type EventStream, LogStream } from '../../src/core/event-stream.ts'
import type { AgentEvent, LoggedEvent, NewEvent } from '../../src/core/events.ts'
import { MemoryEventLog } from '../../src/core/memory-event-log.ts'
import type { InterruptTarget } from '../../src/core/session-service.ts'
import { TurnRecord } from '../../src/core/turn-record.ts'
import { type Door, door, type Harness, readNow, settled, types, useService } from './support.ts'

const ID = '0199d3c0-0000-7000-8000-000000000000'

describe('a stream of one turn', () => {
  test('waits for a turn that is still in line, and then begins with its first event', async () => {
    const { log, turn } = newTurn()
    log.append({ type: 'text_delta', delta: 'of another turn' }, 1)
    const stream = new LogStream({ sessionId: ID, log, position: 0, scope: turn })
    log.append({ type: 'text_delta', delta: 'too' }, 1)
    await settled()
    expect(stream.read()).toBeUndefined()
    begin(log, turn)
    await settled()
    expect(types(readNow(stream))).toEqual(['run_started'])
    expect(stream).toMatchObject({ turn: 2, sessionId: ID, position: 3, ended: false })
  })

  test('is over with the terminal event, and says nothing of what comes after it', async () => {
    const { log, turn } = newTurn()
    begin(log, turn)
    end(log, turn)
    log.append({ type: 'text_delta', delta: 'later' }, 0)
    await settled()
    const stream = new LogStream({ sessionId: ID, log, position: 0, scope: turn })
    expect(types(readNow(stream))).toEqual(['run_started', 'run_failed'])
    expect(stream.ended).toBe(true)
    expect(stream.read()).toBeUndefined()
  })

  test('gives the terminal event even when the log has nothing of the turn any more', async () => {
    const { log, turn } = newTurn({ events: 1 })
    begin(log, turn)
    log.append({ type: 'text_delta', delta: 'x' }, 2)
    end(log, turn)
    log.append({ type: 'text_delta', delta: 'later' }, 0)
    await settled()
    const stream = new LogStream({ sessionId: ID, log, position: 0, scope: turn })
    expect(readNow(stream)).toEqual([
      { type: 'stream_truncated', reason: 'retention', missed_from: 1, missed_to: 2 },
      { type: 'run_failed', seq: 3, turn: 2, session_id: ID, error: 'no', code: 'INTERNAL_ERROR' },
    ])
    expect(stream).toMatchObject({ ended: true, truncations: 1, position: 3 })
  })

  test('gives nothing but the terminal event to a reader that has all before it', async () => {
    const { log, turn } = newTurn({ events: 1 })
    begin(log, turn)
    end(log, turn)
    log.append({ type: 'text_delta', delta: 'later' }, 0)
    await settled()
    const stream = new LogStream({ sessionId: ID, log, position: 1, scope: turn })
    expect(types(readNow(stream))).toEqual(['run_failed'])
    expect(stream.ended).toBe(true)
  })

  test('ends at once for a listener that reads inside the commit that a large terminal event forces', async () => {
    const agents = [agentThatSays('x'.repeat(100_000))]
    const { service } = useService({ agents })
    const { sessionId } = await service.createSession({ prompt: 'p' })
    const stream = service.streamTurn(sessionId, 1)
    const seen: string[] = []
    stream?.onReadable(() => seen.push(...types(readNow(stream))))
    await service.turnEnded(sessionId, 1)
    await settled()
    expect(seen.at(-1)).toBe('run_completed')
    expect(stream?.ended).toBe(true)
  })
})

describe('a stream of a session', () => {
  test('ends with done when the log is sealed, after everything that was in it [R52]', async () => {
    const log = new MemoryEventLog({ events: 10, bytes: 10_000 })
    log.append({ type: 'text_delta', delta: 'x' }, 0)
    log.seal()
    const stream = new LogStream({
      sessionId: ID,
      log,
      position: 0,
      preface: 'event: heartbeat\ndata: {"type":"heartbeat"}\n\n',
    })
    expect(readNow(stream)).toEqual([
      { type: 'heartbeat' },
      { type: 'text_delta', seq: 1, turn: 0, delta: 'x' },
      { type: 'done', session_id: ID },
    ])
    expect(stream).toMatchObject({ ended: true, turn: undefined })
  })

  test('names exactly the events that it missed, once, and goes on with the oldest that is left [R48]', async () => {
    const log = new MemoryEventLog({ events: 2, bytes: 10_000 })
    for (let i = 0; i < 6; i++) log.append({ type: 'text_delta', delta: 'x' }, 1)
    await settled()
    const stream = new LogStream({ sessionId: ID, log, position: 1 })
    expect(readNow(stream)).toEqual([
      { type: 'stream_truncated', reason: 'retention', missed_from: 2, missed_to: 4 },
      { type: 'text_delta', seq: 5, turn: 1, delta: 'x' },
      { type: 'text_delta', seq: 6, turn: 1, delta: 'x' },
    ])
    expect(stream.truncations).toBe(1)
  })

  test('calls its listener no more once it is closed', async () => {
    const log = new MemoryEventLog({ events: 10, bytes: 10_000 })
    const stream = new LogStream({ sessionId: ID, log, position: 0 })
    let calls = 0
    stream.onReadable(() => calls++)
    log.append({ type: 'text_delta', delta: 'x' }, 1)
    await settled()
    stream.close()
    stream.close()
    log.append({ type: 'text_delta', delta: 'y' }, 1)
    await settled()
    expect(calls).toBe(1)
  })
})

/**
 * A session is driven through turns, idle events, archive and trimming while readers come, read, are cut off and come
 * again. The model is what one reader saw that read inside every commit.
 */
describe('any interleaving of writing and reading', () => {
  test('gives every reader exactly the later events, or names exactly those that are gone [R44 R47 R48]', async () => {
    const stage = new Stage()
    await fc.assert(
      fc.asyncProperty(retentions, fc.array(commands, { maxLength: 60, size: 'max' }), async (retention, sequence) => {
        const world = await stage.newWorld(retention)
        for (const command of sequence) await world.run(command)
        await world.finish()
      }),
      { numRuns: 150 },
    )
  })
})

type Command =
  | { do: 'emit'; size: number }
  | { do: 'start' | 'tick' | 'archive' }
  | { do: 'finish'; size: number }
  | { do: 'open'; kind: 'session' | 'turn'; which: number; after: number | undefined; eager: boolean }
  | { do: 'read' | 'leave'; reader: number }
  | { do: 'cut'; reader: number; unseen: number }
  | { do: 'interrupt'; turn: InterruptTarget }

const retentions = fc.oneof(
  fc.record({ events: fc.integer({ min: 1, max: 12 }), bytes: fc.constant(1_000_000) }),
  fc.record({ events: fc.constant(100_000), bytes: fc.integer({ min: 1, max: 3_000 }) }),
  fc.constant({ events: 100_000, bytes: 10_000_000 }),
)

const sizes = fc.oneof(
  { weight: 8, arbitrary: fc.nat({ max: 80 }) },
  { weight: 1, arbitrary: fc.integer({ min: 5_000, max: 40_000 }) },
)

const commands: fc.Arbitrary<Command> = fc.oneof(
  { weight: 48, arbitrary: fc.record({ do: fc.constant('emit' as const), size: sizes }) },
  { weight: 18, arbitrary: fc.record({ do: fc.constant('start' as const) }) },
  { weight: 18, arbitrary: fc.record({ do: fc.constant('finish' as const), size: sizes }) },
  { weight: 24, arbitrary: fc.record({ do: fc.constant('tick' as const) }) },
  {
    weight: 18,
    arbitrary: fc.record({
      do: fc.constant('open' as const),
      kind: fc.constantFrom('session' as const, 'turn' as const),
      which: fc.nat({ max: 4 }),
      after: fc.option(fc.nat({ max: 30 }), { nil: undefined }),
      eager: fc.boolean(),
    }),
  },
  { weight: 36, arbitrary: fc.record({ do: fc.constant('read' as const), reader: fc.nat({ max: 5 }) }) },
  { weight: 6, arbitrary: fc.record({ do: fc.constant('leave' as const), reader: fc.nat({ max: 5 }) }) },
  {
    weight: 18,
    arbitrary: fc.record({ do: fc.constant('cut' as const), reader: fc.nat({ max: 5 }), unseen: fc.nat({ max: 4 }) }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant('interrupt' as const),
      turn: fc.oneof(fc.constant('all' as const), fc.integer({ min: 1, max: 6 })),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('archive' as const) }) },
)

/** One service for all worlds, since a service is not cheap to make. */
class Stage {
  readonly #harness: Harness
  #retention = { events: 1, bytes: 1 }
  #session: AgentSession | undefined
  #running: Door<TurnOutcome | undefined>[] = []

  constructor() {
    this.#harness = useService({
      store: { openLog: () => new MemoryEventLog(this.#retention) },
      agents: [
        {
          name: 'puppet',
          buildAgent: (_, session) => {
            this.#session = session
            const running = this.#running
            return {
              async *run() {
                const end = door<TurnOutcome | undefined>()
                running.push(end)
                return await end.promise
              },
            }
          },
        },
      ],
    })
  }

  async newWorld(retention: { events: number; bytes: number }): Promise<World> {
    this.#retention = retention
    this.#running = []
    const { sessionId } = await this.#harness.service.createSession({ initial_turn: 'deferred' })
    return new World(this.#harness, sessionId, this.#session as AgentSession, this.#running)
  }
}

class World {
  readonly harness: Harness
  readonly id: string
  readonly session: AgentSession
  readonly log: EventLog
  /** What the reader inside every commit saw: all events there are. */
  readonly all: LoggedEvent[] = []
  readonly readers: Reader[] = []
  readonly #running: Door<TurnOutcome | undefined>[]
  #archived = false
  #fault: unknown

  constructor(harness: Harness, id: string, session: AgentSession, running: Door<TurnOutcome | undefined>[]) {
    this.harness = harness
    this.id = id
    this.session = session
    this.#running = running
    this.log = harness.logs.get(id) as EventLog
    const witness = harness.service.streamSession(id, { after: 0 }) as EventStream
    witness.read()
    witness.onReadable(() => {
      for (let bytes = witness.read(); bytes !== undefined; bytes = witness.read()) {
        for (const event of decodeFrames(bytes)) if ('seq' in event) this.checked(() => this.#witnessed(event))
      }
    })
  }

  /** A listener must not throw into the engine: what it finds wrong is told after the command. */
  checked(check: () => void): void {
    try {
      check()
    } catch (error) {
      this.#fault ??= error
    }
  }

  async run(command: Command): Promise<void> {
    await this.#do(command)
    if (this.#fault !== undefined) throw this.#fault
  }

  async #do(command: Command): Promise<void> {
    const { service } = this.harness
    switch (command.do) {
      case 'emit':
        this.session.emit({ type: 'text_delta', delta: 'x'.repeat(command.size) })
        return
      case 'start':
        if (!this.#archived) await service.startTurn(this.id, { prompt: 'p', on_busy: 'enqueue' }).catch(() => {})
        return
      case 'finish':
        await settled()
        this.#running.shift()?.open({ text: 'y'.repeat(command.size) })
        await settled()
        return
      case 'tick':
        return settled()
      case 'interrupt':
        if (!this.#archived)
          await Promise.resolve()
            .then(() => service.interrupt(this.id, command.turn))
            .catch(() => {})
        return
      case 'archive':
        if (!this.#archived) service.archive(this.id)
        this.#archived = true
        return
      case 'open': {
        const { kind, which, eager } = command
        const turns = service.turns(this.id, { offset: 0, limit: 1_000 }).total
        if (this.readers.length >= 6 || (kind === 'turn' && turns === 0)) return
        const after = command.after === undefined ? undefined : Math.min(command.after, this.log.lastSeq)
        this.readers.push(new Reader(this, kind === 'turn' ? 1 + (which % turns) : undefined, after, eager))
        return
      }
      case 'read':
        this.readers[command.reader]?.read()
        return
      case 'leave':
        this.readers[command.reader]?.leave()
        return
      case 'cut':
        this.readers[command.reader]?.cut(command.unseen)
        return
    }
  }

  /** Lets everything come to its end and every reader read to it. */
  async finish(): Promise<void> {
    const { service } = this.harness
    if (!this.#archived) service.archive(this.id)
    await settled()
    for (let running = this.#running.shift(); running !== undefined; running = this.#running.shift()) {
      running.open(undefined)
      await settled()
    }
    if (this.#fault !== undefined) throw this.#fault
    expect(this.all).toHaveLength(this.log.lastSeq)
    for (const reader of this.readers) reader.expectEnd()
    await settled()
    expect(service.stats).toMatchObject({ sessions: 0, residents: 0, turnsRunning: 0 })
  }

  terminalOf(turn: number): LoggedEvent | undefined {
    return this.all.find(
      (event) => event.turn === turn && ['run_completed', 'run_failed', 'run_interrupted'].includes(event.type),
    )
  }

  #witnessed(event: LoggedEvent): void {
    expect(event.seq).toBe(this.all.length + 1)
    this.all.push(event)
  }
}

class Reader {
  readonly #world: World
  readonly #turn: number | undefined
  readonly #eager: boolean
  #stream: EventStream | undefined
  /** `id` of the last event that the client got: all that it can say when it comes back. */
  #cursor: number | undefined
  /** What the stream was opened with, and the turn whose beginning it may not come before. */
  #after: number | undefined
  #from: number | undefined
  /** Where its stream stands: beyond the cursor after a gap. */
  #position: number | undefined
  #ended = false
  #gone = false
  #seen: number[] = []

  constructor(world: World, turn: number | undefined, after: number | undefined, eager: boolean) {
    this.#world = world
    this.#turn = turn
    this.#eager = eager
    this.#open(after)
  }

  read(): void {
    if (this.#gone || this.#stream === undefined) return
    for (;;) {
      // What is gone at this moment: a gap must name it, no more and no less.
      const gone = this.#world.log.firstSeq - 1
      const bytes = this.#stream.read()
      if (bytes === undefined) return
      expect(this.#ended).toBe(false)
      for (const event of decodeFrames(bytes)) this.#take(event, gone)
      this.#ended = this.#stream.ended
    }
  }

  /** The connection breaks, and the last events that were sent never arrive. The client comes back with its cursor. */
  cut(unseen: number): void {
    if (this.#gone) return
    this.#stream?.close()
    const lost = Math.min(unseen, this.#seen.length)
    const after = lost === 0 ? this.#cursor : (this.#seen.at(-1 - lost) ?? (this.#seen[0] as number) - 1)
    this.#seen = this.#seen.slice(0, this.#seen.length - lost)
    this.#open(after)
  }

  leave(): void {
    this.#gone = true
    this.#stream?.close()
  }

  expectEnd(): void {
    if (this.#gone) return
    this.read()
    expect(this.#ended).toBe(true)
  }

  #open(after: number | undefined): void {
    const { service } = this.#world.harness
    const { id, log } = this.#world
    const { turns } = service.turns(id, { offset: 0, limit: 1_000 })
    const running = turns.findLast(({ status }) => status === 'running')?.turn
    this.#ended = false
    this.#cursor = after
    this.#after = after
    this.#position = undefined
    if (this.#turn === undefined) {
      this.#stream = service.streamSession(id, { after })
      this.#from = after === undefined ? running : undefined
      if (after === undefined && running === undefined) this.#position = log.lastSeq
    } else {
      this.#stream = service.streamTurn(id, this.#turn, { after })
      this.#from = this.#turn
    }
    if (this.#stream === undefined) {
      const last = this.#turn === undefined ? log.lastSeq : (this.#world.terminalOf(this.#turn)?.seq ?? log.lastSeq)
      expect(after).toBeGreaterThanOrEqual(last)
      this.#ended = true
      return
    }
    if (this.#eager) this.#stream.onReadable(() => this.#world.checked(() => this.read()))
  }

  #take(event: AgentEvent, gone: number): void {
    const { all, log } = this.#world
    if (event.type === 'session_loaded') return
    if (event.type === 'heartbeat') throw new Error('a heartbeat from the core')
    if (event.type === 'done') {
      expect({ turn: this.#turn, sealed: log.sealed, position: this.#position ?? this.#start() }).toEqual({
        turn: undefined,
        sealed: true,
        position: log.lastSeq,
      })
      return
    }
    if (event.type === 'stream_truncated') {
      const terminal = this.#turn === undefined ? undefined : this.#world.terminalOf(this.#turn)
      const missed_to = terminal !== undefined && terminal.seq <= gone ? terminal.seq - 1 : gone
      const { missed_from } = event
      this.#expectSkipped(missed_from)
      expect(event).toEqual({ type: 'stream_truncated', reason: 'retention', missed_from, missed_to })
      expect(missed_to).toBeGreaterThanOrEqual(missed_from)
      this.#position = missed_to
      return
    }
    this.#expectSkipped(event.seq)
    // The witness came first, so it knows of every commit before this reader does.
    expect(event).toEqual(all[event.seq - 1])
    if (this.#turn !== undefined) expect(event.turn).toBe(this.#turn)
    this.#position = event.seq
    this.#cursor = event.seq
    this.#seen.push(event.seq)
  }

  /** Between the reader's position and `seq` there is nothing but what happened to other turns. */
  #expectSkipped(seq: number): void {
    const between = this.#world.all.slice(this.#position ?? this.#start(), seq - 1)
    expect(between.filter(({ turn }) => this.#turn === undefined || turn === this.#turn)).toEqual([])
    expect(seq).toBeGreaterThan(this.#position ?? this.#start())
  }

  /** Where the stream began: behind the cursor, but not before the turn that it begins with. */
  #start(): number {
    if (this.#from === undefined) return this.#after ?? 0
    const first = this.#world.all.find((event) => event.turn === this.#from)
    if (first === undefined) throw new Error(`Nothing is known of turn ${this.#from}`)
    return Math.max(this.#after ?? 0, first.seq - 1)
  }
}

function agentThatSays(text: string) {
  return {
    name: 'one-liner',
    buildAgent: () => ({
      async *run() {
        yield { type: 'text_delta' as const, delta: text }
        return undefined
      },
    }),
  }
}

function newTurn(retention: { events?: number; bytes?: number } = {}) {
  return {
    log: new MemoryEventLog({ events: 1_000, bytes: 1_000_000, ...retention }),
    turn: new TurnRecord(ID, 2, { prompt: 'p' }, 0),
  }
}

function begin(log: MemoryEventLog, record: TurnRecord): void {
  record.status = 'running'
  record.startedAt = 1
  record.firstSeq = log.append({ type: 'run_started', session_id: ID, prompt: record.prompt }, record.turn)
}

function end(log: MemoryEventLog, record: TurnRecord): void {
  const terminal: NewEvent = { type: 'run_failed', session_id: ID, error: 'no', code: 'INTERNAL_ERROR' }
  record.terminalEvent = () => terminal
  record.status = 'failed'
  record.endedAt = 2
  record.lastSeq = log.append(terminal, record.turn)
  expect(record.terminalFrame()).toBe(encodeEvent(terminal, record.lastSeq, record.turn))
}
