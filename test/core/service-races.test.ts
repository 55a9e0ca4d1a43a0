import { setTimeout as sleep } from 'node:timers/promises'
import fc from 'fast-check'
import { describe, expect, test, vi } from 'vitest'
import type { AgentSession, SessionAgent, SessionAgentBuilder } from '../../src/core/agent.ts'
import { SessionError } from '../../src/core/errors.ts'
import { isTerminal, type LoggedEvent } from '../../src/core/events.ts'
import type { CreateSessionRequest, InterruptTarget } from '../../src/core/session-service.ts'
import { transcriptFault } from '../../src/core/transcript.ts'
import { turnGrammarFault } from '../conformance/grammar.ts'
import { agentOf, type Door, door, type Harness, makeService, sessionEvents, settled, useClock } from './support.ts'

const everything = { offset: 0, limit: 10_000 }
const MAX_SESSIONS = 3
const MAX_TURNS = 2

/** What an agent does next, at the test's word. */
type Act = 'say' | 'tool' | 'return' | 'throw' | 'throw a string' | 'yield nonsense'

type Step =
  | { do: 'create'; deferred: boolean; manner: Manner }
  | { do: 'start'; session: number; on_busy: 'reject' | 'enqueue' | 'interrupt' }
  | { do: 'interrupt'; session: number; turn: InterruptTarget | undefined }
  | { do: 'archive'; session: number; mode: 'drain' | 'cancel' }
  | { do: 'act'; run: number; act: Act }
  | { do: 'build'; build: number; ok: boolean }
  | { do: 'dispose'; disposal: number }
  | { do: 'pass'; ms: number }
  | { do: 'emit'; agent: number }
  | { do: 'settle' }

/** How an agent behaves all its life. */
interface Manner {
  /** Hears its signal, or does not. */
  hears: boolean
  /** Yields once more after it heard its signal, before it returns. */
  yieldsOnAbort: boolean
  /** How its builder answers: at once, or at the test's word. */
  builds: 'at once' | 'slowly'
  /** How it is disposed. */
  disposes: 'at once' | 'slowly' | 'throws' | 'not at all'
}

const manners: fc.Arbitrary<Manner> = fc.record({
  hears: fc.boolean(),
  yieldsOnAbort: fc.boolean(),
  builds: fc.constantFrom('at once' as const, 'at once' as const, 'slowly' as const),
  disposes: fc.constantFrom('at once' as const, 'slowly' as const, 'throws' as const, 'not at all' as const),
})

const session = fc.nat({ max: 3 })
const steps: fc.Arbitrary<Step> = fc.oneof(
  { weight: 3, arbitrary: fc.record({ do: fc.constant('create' as const), deferred: fc.boolean(), manner: manners }) },
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constant('start' as const),
      session,
      on_busy: fc.constantFrom('reject' as const, 'enqueue' as const, 'interrupt' as const),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant('interrupt' as const),
      session,
      turn: fc.constantFrom(undefined, 1, 2, 3, 4, 'all' as const),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('archive' as const),
      session,
      mode: fc.constantFrom('drain' as const, 'cancel' as const),
    }),
  },
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constant('act' as const),
      run: fc.nat({ max: 5 }),
      act: fc.constantFrom<Act>('say', 'say', 'tool', 'return', 'return', 'throw', 'throw a string', 'yield nonsense'),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constant('build' as const), build: fc.nat({ max: 3 }), ok: fc.boolean() }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('dispose' as const), disposal: fc.nat({ max: 3 }) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('pass' as const), ms: fc.constantFrom(1, 249, 250, 5_000) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('emit' as const), agent: fc.nat({ max: 3 }) }) },
  { weight: 4, arbitrary: fc.record({ do: fc.constant('settle' as const) }) },
)

describe('any interleaving of clients and agents', () => {
  test('ends every turn once, in order, and leaves nothing behind [R15 R34 R35 R46 R47]', async () => {
    const clock = useClock()
    await fc.assert(
      fc.asyncProperty(fc.array(steps, { maxLength: 50, size: 'max' }), async (sequence) => {
        // What a run that failed left behind is not the next one's.
        vi.clearAllTimers()
        const stage = new Stage(clock)
        for (const step of sequence) await stage.play(step)
        await stage.finish()
      }),
      { numRuns: 80 },
    )
  })
})

/** A builder whose agents do what the steps say. */
class Stage {
  readonly harness: Harness
  readonly #clock: { pass(ms: number): void }
  readonly #ids: string[] = []
  readonly #runs: { session: string; turn: number; next: Door<Act> }[] = []
  readonly #builds: Door<boolean>[] = []
  readonly #disposals: Door[] = []
  readonly #agents: AgentSession[] = []
  readonly #creates: Promise<unknown>[] = []
  /** Each turn that an agent was called for. */
  readonly #called: string[] = []
  #manner: Manner = { hears: true, yieldsOnAbort: false, builds: 'at once', disposes: 'at once' }
  #atWork = new Map<object, number>()
  #overlaps = 0
  #disposedTwice = 0
  #unexpected: unknown[] = []

  constructor(clock: { pass(ms: number): void }) {
    this.#clock = clock
    this.harness = makeService({
      agents: [{ name: 'actor', buildAgent: (request, session) => this.#build(request, session) }],
      maxSessions: MAX_SESSIONS,
      maxActiveTurns: MAX_TURNS,
      maxQueuedTurns: 2,
      archiveDrainMs: 3_000,
    })
  }

  async play(step: Step): Promise<void> {
    const { service } = this.harness
    const id = 'session' in step ? this.#ids[step.session] : undefined
    switch (step.do) {
      case 'create': {
        this.#manner = step.manner
        const request: CreateSessionRequest = step.deferred ? { initial_turn: 'deferred' } : { prompt: 'p' }
        this.#creates.push(
          this.#expected(service.createSession(request).then(({ sessionId }) => this.#ids.push(sessionId))),
        )
        break
      }
      case 'start':
        if (id !== undefined) void this.#expected(service.startTurn(id, { prompt: 'p', on_busy: step.on_busy }))
        break
      case 'interrupt':
        if (id !== undefined) await this.#expected((async () => service.interrupt(id, step.turn))())
        break
      case 'archive':
        if (id !== undefined) await this.#expected((async () => service.archive(id, step.mode))())
        break
      case 'act':
        this.#runs[step.run % Math.max(1, this.#runs.length)]?.next.open(step.act)
        break
      case 'build':
        this.#builds.splice(step.build % Math.max(1, this.#builds.length), 1)[0]?.open(step.ok)
        break
      case 'dispose':
        this.#disposals.splice(step.disposal % Math.max(1, this.#disposals.length), 1)[0]?.open()
        break
      case 'pass':
        this.#clock.pass(step.ms)
        break
      case 'emit':
        this.#agents[step.agent % Math.max(1, this.#agents.length)]?.emit({ type: 'reasoning_delta', delta: 'hm' })
        break
      case 'settle':
        await settled()
        break
    }
    this.#check()
  }

  /** Whatever the steps left: everyone gets what they wait for, the service closes, and the logs are read. */
  async finish(): Promise<void> {
    const { service, logs } = this.harness
    const closing = service.close({ drainMs: 0 })
    for (let round = 0; round < 12; round++) {
      for (const run of this.#runs) run.next.open('return')
      for (const build of this.#builds.splice(0)) build.open(true)
      for (const disposal of this.#disposals.splice(0)) disposal.open()
      await settled()
      this.#clock.pass(250)
    }
    // Nothing is left that closing would have to wait for; its own deadline for that is longer.
    expect(await Promise.race([closing.then(() => 'closed'), sleep(1_500, 'still open', { ref: false })])).toBe(
      'closed',
    )
    await Promise.all(this.#creates)
    await settled()
    expect(service.stats).toMatchObject({ sessions: 0, residents: 0, turnsRunning: 0 })
    expect(this.#unexpected).toEqual([])
    expect(new Set(this.#called).size).toBe(this.#called.length)
    expect({ overlaps: this.#overlaps, disposedTwice: this.#disposedTwice }).toEqual({ overlaps: 0, disposedTwice: 0 })
    for (const id of this.#ids) {
      expectOrder(await sessionEvents(this.harness, id))
      for (const view of service.turns(id, everything).turns) {
        expect(['completed', 'interrupted', 'failed']).toContain(view.status)
        expect(view.result === undefined).toBe(view.status === 'failed')
      }
    }
    for (const id of this.#ids) expect(logs.get(id)?.sealed).toBe(true)
    // What is left is the archive's: it forgets its sessions after ten minutes.
    this.#clock.pass(11 * 60_000)
    expect(vi.getTimerCount()).toBe(0)
  }

  #check(): void {
    const { service } = this.harness
    const { sessions, residents, turnsRunning } = service.stats
    const active = service.list({ ...everything, active: true }).total
    expect(sessions).toBeLessThanOrEqual(residents)
    expect(residents).toBeLessThanOrEqual(MAX_SESSIONS)
    expect(turnsRunning).toBeLessThanOrEqual(MAX_TURNS)
    // A permit is also held by a create whose agent is being built, and by a session that is archived.
    expect(active).toBeLessThanOrEqual(turnsRunning)
    for (const id of this.#ids) {
      const running = service.turns(id, everything).turns.filter(({ status }) => status === 'running')
      expect(running.length).toBeLessThanOrEqual(1)
      if (running.length === 1) expect(service.read(id).state.is_active).toBe(true)
    }
    for (const { session_id } of service.list(everything).sessions) {
      expect(transcriptFault(service.messages(session_id, everything).messages)).toBeUndefined()
    }
  }

  /** Whatever a client is refused, it is refused in the service's own words. */
  async #expected(outcome: Promise<unknown>): Promise<void> {
    try {
      await outcome
    } catch (error) {
      if (!(error instanceof SessionError)) this.#unexpected.push(error)
    }
  }

  #build(_: CreateSessionRequest, session: AgentSession): SessionAgent | Promise<SessionAgent> {
    const manner = this.#manner
    const agent = this.#agent(manner, session)
    if (manner.builds === 'at once') return agent
    const built = door<boolean>()
    this.#builds.push(built)
    return built.promise.then((ok) => {
      if (!ok) throw new Error('not built')
      return agent
    })
  }

  #agent(manner: Manner, session: AgentSession): SessionAgent {
    this.#agents.push(session)
    const identity = {}
    let disposals = 0
    const run = (turn: number, signal: AbortSignal) => this.#perform(manner, session.id, turn, signal, identity)
    const agent: SessionAgent = { run: (_, { turn, signal }) => run(turn, signal) }
    if (manner.disposes === 'not at all') return agent
    agent.dispose = async () => {
      if (++disposals > 1) this.#disposedTwice++
      if (manner.disposes === 'throws') throw new Error('not disposed')
      if (manner.disposes === 'at once') return
      const disposal = door()
      this.#disposals.push(disposal)
      await disposal.promise
    }
    return agent
  }

  async *#perform(
    { hears, yieldsOnAbort }: Manner,
    session: string,
    turn: number,
    signal: AbortSignal,
    agent: object,
  ): ReturnType<SessionAgent['run']> {
    this.#called.push(`${session} ${turn}`)
    const atWork = (this.#atWork.get(agent) ?? 0) + 1
    this.#atWork.set(agent, atWork)
    if (atWork > 1) this.#overlaps++
    const run = { session, turn, next: door<Act>() }
    this.#runs.push(run)
    let calls = 0
    try {
      for (;;) {
        const act = await Promise.race([run.next.promise, ...(hears ? [abort(signal)] : [])])
        run.next = door<Act>()
        switch (act) {
          case 'aborted':
            if (yieldsOnAbort) yield { type: 'text_delta', delta: 'late' }
            return undefined
          case 'say':
            yield { type: 'text_delta', delta: 'x' }
            break
          case 'tool':
            yield { type: 'tool_call_requested', id: String(++calls), name: 'n', args: {} }
            break
          case 'return':
            return { usage: { input_tokens: 1, output_tokens: 1 } }
          case 'throw':
            throw new Error('an agent’s')
          case 'throw a string':
            throw 'a string'
          case 'yield nonsense':
            yield { type: 'run_completed' } as never
        }
      }
    } finally {
      this.#runs.splice(this.#runs.indexOf(run), 1)
      this.#atWork.set(agent, (this.#atWork.get(agent) ?? 0) - 1)
    }
  }
}

/**
 * Events of a session: seq rises by 1, each turn begins and ends once, in the right order, and turns that run do not
 * overlap. One that was interrupted in line ends in one piece, whatever runs by then.
 */
function expectOrder(events: readonly LoggedEvent[]): void {
  expect(events.map(({ seq }) => seq)).toEqual(events.map((_, at) => at + 1))
  const inTurns = events.filter(({ turn }) => turn !== 0)
  const unrun = inTurns
    .filter(({ type, turn }, at) => type === 'run_started' && isEndOf(turn, inTurns[at + 1]))
    .map(({ turn }) => turn)
  const inOrder = (list: readonly LoggedEvent[]) =>
    list.map(({ turn }) => turn).filter((turn, at, all) => turn !== all[at - 1])
  const order = inOrder(inTurns.filter(({ turn }) => !unrun.includes(turn)))
  expect(new Set(order).size).toBe(order.length)
  for (const turn of [...order, ...unrun]) {
    const own = inTurns.filter((event) => event.turn === turn)
    expect(own[0]?.type).toBe('run_started')
    expect(own.filter(({ type }) => type === 'run_started')).toHaveLength(1)
    expect(own.filter(isTerminal)).toHaveLength(1)
    expect(isTerminal(own.at(-1) ?? { type: 'nothing' })).toBe(true)
    if (!own.some(({ type }) => type.startsWith('tool'))) expect(turnGrammarFault(own)).toBeUndefined()
  }
}

function isEndOf(turn: number, event: LoggedEvent | undefined): boolean {
  return event?.turn === turn && event.type === 'run_interrupted'
}

function abort(signal: AbortSignal): Promise<'aborted'> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve('aborted')
    else signal.addEventListener('abort', () => resolve('aborted'), { once: true })
  })
}

/** Clients of one session whose calls come in every order that a scheduler can think of. */
describe('any order of calls on one session', () => {
  test('admits one turn at a time, and each caller gets an answer [R10 R27 R29 R31]', async () => {
    let next: SessionAgent['run'] = async function* () {
      return undefined
    }
    const agent: SessionAgentBuilder = agentOf('scheduled', (...input) => next(...input))
    const harness = makeService({ agents: [agent], maxSessions: 1_000, maxActiveTurns: 1_000 })
    const { service } = harness
    await fc.assert(
      fc.asyncProperty(fc.scheduler(), fc.boolean(), fc.boolean(), async (scheduler, archives, cancels) => {
        let begun = 0
        next = async function* (_, { signal }) {
          begun++
          await scheduler.schedule(Promise.resolve(), 'agent thinks')
          if (signal.aborted) return undefined
          yield { type: 'text_delta', delta: 'x' }
          await scheduler.schedule(Promise.resolve(), 'agent thinks again')
          return undefined
        }
        const { sessionId: id } = await service.createSession({ initial_turn: 'deferred' })
        const outcomes: string[] = []
        const call = async (name: string, action: () => unknown) => {
          await scheduler.schedule(Promise.resolve(), name)
          try {
            await action()
            outcomes.push(`${name} ok`)
          } catch (error) {
            outcomes.push(`${name} ${(error as SessionError).code}`)
          }
        }
        const start = async () => {
          const { turn } = await service.startTurn(id, { prompt: 'p' })
          const waiting = service.turnEnded(id, turn)
          void waiting.then(({ status }) => outcomes.push(`turn ${status}`))
          return waiting
        }
        const calls = [
          call('start', start),
          call('start', start),
          call('interrupt', () => service.interrupt(id)),
          call('interrupt', () => service.interrupt(id)),
        ]
        if (archives) calls.push(call('archive', () => service.archive(id, cancels ? 'cancel' : 'drain')))
        await scheduler.waitFor(Promise.all(calls))
        await settled()
        const { turns, total } = service.turns(id, everything)
        expect(outcomes.filter((outcome) => outcome.startsWith('turn '))).toHaveLength(total)
        expect(turns.every(({ endedAt }) => endedAt !== undefined)).toBe(true)
        expect(begun).toBeLessThanOrEqual(total)
        const refused = outcomes.filter((outcome) => !outcome.startsWith('turn') && !outcome.endsWith(' ok'))
        for (const refusal of refused) {
          expect(refusal).toMatch(
            /^(start (SESSION_BUSY|SESSION_NOT_FOUND)|interrupt (SESSION_NOT_RUNNING|SESSION_NOT_FOUND))$/,
          )
          if (!archives) expect(refusal).not.toContain('NOT_FOUND')
        }
        // An interrupt that was taken shows in a turn, unless another was taken for the same turn.
        const taken = outcomes.filter((outcome) => outcome === 'interrupt ok').length
        const interrupted = turns.filter(({ status }) => status === 'interrupted').length
        expect(interrupted).toBeLessThanOrEqual(taken + (archives && cancels ? 1 : 0))
        if (taken > 0) expect(interrupted).toBeGreaterThanOrEqual(1)
        expectOrder(await sessionEvents(harness, id))
        expect(service.stats.turnsRunning).toBe(0)
        if (!archives) service.archive(id)
        await settled()
        expect(service.stats).toMatchObject({ sessions: 0, residents: 0 })
      }),
      { numRuns: 120 },
    )
  })

  test('of creates and closing leaves no session and no agent behind [R2 R37]', async () => {
    await fc.assert(
      fc.asyncProperty(fc.scheduler(), async (scheduler) => {
        let alive = 0
        const agent: SessionAgentBuilder = {
          name: 'built',
          buildAgent: async () => {
            await scheduler.schedule(Promise.resolve(), 'build')
            alive++
            return {
              async *run() {
                return undefined
              },
              dispose: () => {
                alive--
              },
            }
          },
        }
        const { service } = makeService({ agents: [agent], maxSessions: 2 })
        const codes: string[] = []
        const create = async () => {
          await scheduler.schedule(Promise.resolve(), 'create')
          await service.createSession({ prompt: 'p' }).catch((error) => codes.push(error.code))
        }
        const close = async () => {
          await scheduler.schedule(Promise.resolve(), 'close')
          await service.close({ drainMs: 50 })
        }
        await scheduler.waitFor(Promise.all([create(), create(), create(), close()]))
        await settled()
        expect([alive, service.stats.residents, service.stats.sessions]).toEqual([0, 0, 0])
        for (const code of codes) expect(['SHUTTING_DOWN', 'SESSION_CAPACITY_REACHED']).toContain(code)
      }),
      { numRuns: 40 },
    )
  })
})
