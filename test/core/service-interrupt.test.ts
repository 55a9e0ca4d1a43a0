import { describe, expect, test } from 'vitest'
import type { AgentSession, SessionAgent, SessionAgentBuilder } from '../../src/core/agent.ts'
import type { CreateSessionRequest } from '../../src/core/session-service.ts'
import { turnGrammarFault } from '../conformance/grammar.ts'
import { gatedAgent } from '../helpers/gate.ts'
import {
  aborted,
  agentOf,
  codeOf,
  createDone,
  createIdle,
  type Door,
  door,
  errorOf,
  parrot,
  readNow,
  runTurn,
  sessionEvents,
  settled,
  textOf,
  turnEvents,
  types,
  useService,
  useTimeouts,
} from './support.ts'

/** How long an interrupted agent has to stop by itself. */
const GRACE_MS = 250

describe('an interrupt', () => {
  test('of a running turn is taken at once, and the turn ends as interrupted with what was said so far [R24 R25]', async () => {
    const gate = gatedAgent()
    const harness = useService({ agents: [gate.agent] })
    const { service } = harness
    const { sessionId: id } = await service.createSession({ prompt: 'p' })
    const run = await gate.run('p')
    await run.say('half a ')
    await run.say('sentence')
    expect(service.interrupt(id)).toEqual({ turn: 1 })
    expect(run.signal.aborted).toBe(true)
    const view = await service.turnEnded(id, 1)
    expect(view).toMatchObject({
      status: 'interrupted',
      error: undefined,
      result: { turn: 1, text: 'half a sentence', stop_reason: 'cancelled' },
    })
    const events = await turnEvents(harness, id, 1)
    expect(turnGrammarFault(events)).toBeUndefined()
    expect(events.at(-1)).toEqual({
      type: 'run_interrupted',
      seq: events.length,
      turn: 1,
      session_id: id,
      result: view.result,
    })
    expect(harness.ended).toEqual([{ session: id, turn: 1, status: 'interrupted' }])
  })

  test('of an idle session is refused [R23]', async () => {
    const harness = useService({ agents: [parrot] })
    const { id } = await createDone(harness)
    expect(await errorOf(() => harness.service.interrupt(id))).toMatchObject({
      code: 'SESSION_NOT_RUNNING',
      data: { session_id: id },
    })
    expect(await codeOf(() => harness.service.interrupt(id, 1))).toBe('SESSION_NOT_RUNNING')
  })

  test('that comes between admission and start keeps the agent from starting [R26]', async () => {
    const gate = gatedAgent()
    const harness = useService({ agents: [gate.agent] })
    const id = await createIdle(harness)
    const started = harness.service.startTurn(id, { prompt: 'never' })
    harness.service.interrupt(id)
    await started
    expect(await harness.service.turnEnded(id, 1)).toMatchObject({
      status: 'interrupted',
      result: { text: '', turns: 0 },
    })
    expect(gate.begun).toEqual([])
    expect(types(await turnEvents(harness, id, 1))).toEqual(['run_started', 'run_interrupted'])
  })

  test('that is recorded before the agent’s answer wins over it [R27]', async () => {
    const gate = gatedAgent()
    const harness = useService({ agents: [gate.agent] })
    const { sessionId: id } = await harness.service.createSession({ prompt: 'p' })
    const run = await gate.run('p')
    await run.say('the')
    run.finish({ text: 'the answer' })
    harness.service.interrupt(id)
    expect(await harness.service.turnEnded(id, 1)).toMatchObject({
      status: 'interrupted',
      result: { text: 'the', stop_reason: 'cancelled' },
    })
  })

  test('that is recorded before the agent’s failure wins over it too [R27]', async () => {
    const gate = gatedAgent()
    const harness = useService({ agents: [gate.agent] })
    const { sessionId: id } = await harness.service.createSession({ prompt: 'p' })
    const run = await gate.run('p')
    run.fail(new Error('late'))
    harness.service.interrupt(id)
    expect(await harness.service.turnEnded(id, 1)).toMatchObject({ status: 'interrupted', error: undefined })
  })

  test('that comes after the end is refused, even within the commit of the last event [R27]', async () => {
    const long = 'x'.repeat(100_000)
    const harness = useService({
      agents: [
        agentOf('long', async function* () {
          await new Promise((resolve) => setImmediate(resolve))
          return { text: long }
        }),
      ],
    })
    const { sessionId: id } = await harness.service.createSession({ prompt: 'p' })
    const refused: unknown[] = []
    const stream = harness.service.streamTurn(id, 1)
    stream?.onReadable(() => {
      if (!types(readNow(stream)).includes('run_completed')) return
      try {
        harness.service.interrupt(id)
      } catch (error) {
        refused.push(error)
      }
    })
    expect(await harness.service.turnEnded(id, 1)).toMatchObject({ status: 'completed' })
    expect(refused).toMatchObject([{ code: 'SESSION_NOT_RUNNING' }])
    stream?.close()
  })

  test('for a turn that goes next, asked for within the commit of the last event, leaves no turn that was refused', async () => {
    const harness = useService({ agents: [parrot] })
    const { service } = harness
    const { sessionId: id } = await service.createSession({ prompt: 'one' })
    const asked: Promise<string>[] = []
    const stream = service.streamTurn(id, 1)
    stream?.onReadable(() => {
      if (!types(readNow(stream)).includes('run_completed')) return
      const next = service.startTurn(id, { prompt: 'two', on_busy: 'interrupt' })
      asked.push(
        next.then(
          () => 'accepted',
          () => 'refused',
        ),
      )
    })
    await service.turnEnded(id, 1)
    await settled()
    expect(asked).toHaveLength(1)
    expect(service.read(id).state.turn).toBe((await asked[0]) === 'accepted' ? 2 : 1)
    stream?.close()
  })

  test('can come twice, and cancels once [R28]', async () => {
    const timeouts = useTimeouts()
    const harness = useService({ agents: [deaf().builder] })
    const { sessionId: id } = await harness.service.createSession({ prompt: 'p' })
    await settled()
    const pending = timeouts.pending
    expect([harness.service.interrupt(id), harness.service.interrupt(id, 1)]).toEqual([{ turn: 1 }, { turn: 1 }])
    expect(timeouts.pending).toBe(pending + 1)
    await timeouts.pass(GRACE_MS)
    expect(harness.ended).toHaveLength(1)
    expect(types(await turnEvents(harness, id, 1)).filter((type) => type === 'run_interrupted')).toHaveLength(1)
  })

  test('is over with its turn: the next one runs as if nothing had been [R29]', async () => {
    const gate = gatedAgent()
    const harness = useService({ agents: [gate.agent] })
    const { sessionId: id } = await harness.service.createSession({ prompt: 'one' })
    await gate.run('one')
    harness.service.interrupt(id)
    await harness.service.turnEnded(id, 1)
    await harness.service.startTurn(id, { prompt: 'two' })
    const run = await gate.run('two')
    expect(run.signal.aborted).toBe(false)
    await run.say('fine')
    run.finish()
    expect(await harness.service.turnEnded(id, 2)).toMatchObject({
      status: 'completed',
      result: { text: 'fine', stop_reason: 'end_turn' },
    })
    expect(gate.disposed).toBe(0)
  })

  test('that names a turn ends that turn and no other', async () => {
    const gate = gatedAgent()
    const harness = useService({ agents: [gate.agent] })
    const { service } = harness
    const { sessionId: id } = await service.createSession({ prompt: 'one' })
    const run = await gate.run('one')
    for (const prompt of ['two', 'three', 'four']) await service.startTurn(id, { prompt, on_busy: 'enqueue' })
    expect(service.interrupt(id, 3)).toEqual({ turn: 3 })
    expect(await service.turnEnded(id, 3)).toMatchObject({
      status: 'interrupted',
      result: { turn: 3, text: '', stop_reason: 'cancelled', turns: 0 },
    })
    expect(await errorOf(() => service.interrupt(id, 3))).toMatchObject({
      code: 'SESSION_NOT_RUNNING',
      message: `Turn 3 of session ${id} neither runs nor waits in line`,
    })
    expect(run.signal.aborted).toBe(false)
    await run.say('heard')
    expect(service.interrupt(id, 1)).toEqual({ turn: 1 })
    expect((await service.turnEnded(id, 1)).status).toBe('interrupted')
    for (const [prompt, turn] of [
      ['two', 2],
      ['four', 4],
    ] as const) {
      ;(await gate.run(prompt)).finish()
      expect((await service.turnEnded(id, turn)).status).toBe('completed')
    }
    expect(gate.begun).toEqual(['one', 'two', 'four'])
    expect(types(await turnEvents(harness, id, 3))).toEqual(['run_started', 'run_interrupted'])
    const own = await turnEvents(harness, id, 1)
    expect(own.map(({ turn }) => turn)).toEqual(own.map(() => 1))
    expect(turnGrammarFault(own)).toBeUndefined()
    const said = service.messages(id, { offset: 0, limit: 10 }).messages
    expect(said.flatMap((message) => (message.role === 'user' ? [message.content] : []))).toEqual([
      'one',
      'two',
      'four',
    ])
  })
})

describe('an interrupted agent', () => {
  test('that goes on is closed, and what it yields is not heard', async () => {
    let closed = false
    const agent = agentOf('stubborn', async function* (_, { signal }) {
      try {
        yield { type: 'text_delta', delta: 'heard' }
        await aborted(signal)
        yield { type: 'text_delta', delta: 'unheard' }
        throw new Error('went on')
      } finally {
        closed = true
      }
    })
    const harness = useService({ agents: [agent] })
    const { sessionId: id } = await harness.service.createSession({ prompt: 'p' })
    await settled()
    harness.service.interrupt(id)
    expect((await harness.service.turnEnded(id, 1)).result?.text).toBe('heard')
    await settled()
    expect(closed).toBe(true)
    expect(textOf(await turnEvents(harness, id, 1))).toBe('heard')
  })

  test('that cannot be closed does no harm', async () => {
    const agent = agentOf('rude', async function* (_, { signal }) {
      try {
        await aborted(signal)
        yield { type: 'text_delta', delta: 'x' }
        return undefined
      } finally {
        // biome-ignore lint/correctness/noUnsafeFinally: that is what this agent does wrong
        throw new Error('no cleanup')
      }
    })
    const harness = useService({ agents: [agent] })
    const { sessionId: id } = await harness.service.createSession({ prompt: 'p' })
    await settled()
    harness.service.interrupt(id)
    await harness.service.turnEnded(id, 1)
    await settled()
    expect(harness.service.turn(id, 1).status).toBe('interrupted')
  })

  test('is never called again while it still cleans up', async () => {
    const cleaning = door()
    let atMost = 0
    const agent: SessionAgentBuilder = {
      name: 'tidy',
      buildAgent: () => {
        let running = 0
        return {
          async *run({ prompt }, { signal }) {
            running++
            atMost = Math.max(atMost, running)
            try {
              if (prompt === 'next') return undefined
              await aborted(signal)
              yield { type: 'text_delta', delta: 'x' }
              return undefined
            } finally {
              if (prompt !== 'next') await cleaning.promise
              running--
            }
          },
        }
      },
    }
    const harness = useService({ agents: [agent] })
    const { sessionId: id } = await harness.service.createSession({ prompt: 'p' })
    await settled()
    harness.service.interrupt(id)
    await settled()
    const next = await harness.service.startTurn(id, { prompt: 'next', on_busy: 'enqueue' })
    await settled()
    expect(atMost).toBe(1)
    cleaning.open()
    expect(await harness.service.turnEnded(id, next.turn)).toMatchObject({ status: 'completed' })
  })

  test('that ignores its signal cannot hold the session: it is disposed, and the next turn gets a new one', async () => {
    const timeouts = useTimeouts()
    const agents = deaf()
    const harness = useService({ agents: [agents.builder] })
    const request: CreateSessionRequest = {
      prompt: 'one',
      system_prompt: 'be kind',
      model: 'm',
      max_tokens: 5,
      provider_params: { x: 1 },
      labels: { a: 'b' },
    }
    const { sessionId: id } = await harness.service.createSession(request)
    await settled()
    harness.service.interrupt(id)
    await timeouts.pass(GRACE_MS - 1)
    expect(harness.service.turn(id, 1).status).toBe('running')
    expect(await codeOf(() => harness.service.startTurn(id, { prompt: 'too soon' }))).toBe('SESSION_BUSY')
    await timeouts.pass(1)
    expect(await harness.service.turnEnded(id, 1)).toMatchObject({ status: 'interrupted', result: { text: 'said' } })
    expect(agents.disposed).toEqual([1])
    expect(timeouts.pending).toBe(0)

    await harness.service.startTurn(id, { prompt: 'two' })
    await settled()
    expect(agents.built).toHaveLength(2)
    const { prompt: _, ...lasting } = request
    expect(agents.built[1]).toEqual({ ...lasting, agent: 'deaf' })
    harness.service.interrupt(id)
    await timeouts.pass(GRACE_MS)
    expect(agents.disposed).toEqual([1, 2])
    expect(harness.service.stats).toMatchObject({ residents: 1, turnsRunning: 0 })
  })

  test.each(['yields', 'returns', 'throws', 'reports'] as const)(
    'that was given up on is not heard any more, when it %s later',
    async (how) => {
      const timeouts = useTimeouts()
      const late = door()
      const runs: string[] = []
      const agent: SessionAgentBuilder = {
        name: 'late',
        buildAgent: (_, session) => ({
          async *run({ prompt }) {
            runs.push(prompt)
            if (prompt === 'one') {
              await late.promise
              if (how === 'returns') return { text: 'late', usage: { input_tokens: 9, output_tokens: 9 } }
              if (how === 'throws') throw new Error('late')
              if (how === 'reports') session.emit({ type: 'text_delta', delta: 'late' })
              else yield { type: 'text_delta', delta: 'late' }
              return undefined
            }
            await next.promise
            return undefined
          },
        }),
      }
      const next = door()
      const harness = useService({ agents: [agent] })
      const { service } = harness
      const { sessionId: id } = await service.createSession({ prompt: 'one' })
      await settled()
      service.interrupt(id)
      await timeouts.pass(GRACE_MS)
      const before = await sessionEvents(harness, id)
      await service.startTurn(id, { prompt: 'two' })
      await settled()
      late.open()
      await settled()
      next.open()
      await service.turnEnded(id, 2)
      expect(await turnEvents(harness, id, 1)).toEqual(before)
      expect(types(await turnEvents(harness, id, 2))).toEqual([
        'run_started',
        'turn_started',
        'turn_completed',
        'run_completed',
      ])
      expect(service.read(id).billing.total_tokens).toBe(0)
      expect(runs).toEqual(['one', 'two'])
      expect(harness.ended.map(({ status }) => status)).toEqual(['interrupted', 'completed'])
    },
  )

  test('that was given up on is closed when it yields at last, so that it can clean up', async () => {
    const timeouts = useTimeouts()
    const late = door()
    let cleaned = false
    const agent = agentOf('late', async function* () {
      try {
        await late.promise
        yield { type: 'text_delta', delta: 'late' }
        throw new Error('went on')
      } finally {
        cleaned = true
      }
    })
    const harness = useService({ agents: [agent] })
    const { sessionId: id } = await harness.service.createSession({ prompt: 'p' })
    await settled()
    harness.service.interrupt(id)
    await timeouts.pass(GRACE_MS)
    expect(harness.service.turn(id, 1).status).toBe('interrupted')
    late.open()
    await settled()
    expect(cleaned).toBe(true)
    expect(textOf(await turnEvents(harness, id, 1))).toBe('')
  })

  test.each(['throws', 'hangs'] as const)(
    'that was given up on and %s at its disposal holds up nobody',
    async (how) => {
      const timeouts = useTimeouts()
      const agents = deaf(() => {
        if (how === 'throws') throw new Error('no disposal')
        return new Promise(() => {})
      })
      const harness = useService({ agents: [agents.builder, parrot] })
      const { sessionId: id } = await harness.service.createSession({ prompt: 'one' })
      await settled()
      harness.service.interrupt(id)
      await timeouts.pass(GRACE_MS)
      expect(harness.service.turn(id, 1).status).toBe('interrupted')
      expect(harness.faults).toEqual(how === 'throws' ? [new Error('no disposal')] : [])
      await harness.service.startTurn(id, { prompt: 'two' })
      await settled()
      expect(agents.built).toHaveLength(2)
      harness.service.interrupt(id)
      await timeouts.pass(GRACE_MS)
    },
  )
})

describe('an agent that is being built again', () => {
  /** A session whose agent had to be given up on, and whose next one is built at the test's word. */
  async function abandoned() {
    const timeouts = useTimeouts()
    const doors: Door<SessionAgent>[] = []
    const runs: string[] = []
    const disposed: string[] = []
    const make = (name: string): SessionAgent => ({
      async *run({ prompt }) {
        runs.push(`${name} ${prompt}`)
        if (prompt === 'deaf') await new Promise(() => {})
        return undefined
      },
      dispose() {
        disposed.push(name)
      },
    })
    const agent: SessionAgentBuilder = {
      name: 'rebuilt',
      buildAgent: () => {
        const next = door<SessionAgent>()
        doors.push(next)
        return next.promise
      },
    }
    const harness = useService({ agents: [agent] })
    const { service } = harness
    const created = service.createSession({ prompt: 'deaf' })
    doors[0]?.open(make('first'))
    const { sessionId: id } = await created
    await settled()
    service.interrupt(id)
    await timeouts.pass(GRACE_MS)
    expect(disposed).toEqual(['first'])
    return { harness, service, id, timeouts, doors, runs, disposed, make }
  }

  test('slowly lets its turn begin when it is there', async () => {
    const { service, id, doors, runs, make } = await abandoned()
    await service.startTurn(id, { prompt: 'two' })
    await settled()
    expect(service.turn(id, 2).status).toBe('running')
    expect(runs).toEqual(['first deaf'])
    doors[1]?.open(make('second'))
    expect((await service.turnEnded(id, 2)).status).toBe('completed')
    await service.startTurn(id, { prompt: 'three' })
    expect((await service.turnEnded(id, 3)).status).toBe('completed')
    expect(runs).toEqual(['first deaf', 'second two', 'second three'])
    expect(doors).toHaveLength(2)
  })

  test('in vain fails the turn, and the next turn tries again', async () => {
    const { harness, service, id, doors, runs, make } = await abandoned()
    await service.startTurn(id, { prompt: 'two' })
    await settled()
    doors[1]?.fail(new Error('no key'))
    expect(await service.turnEnded(id, 2)).toMatchObject({ status: 'failed', error: { code: 'INTERNAL_ERROR' } })
    expect(harness.faults).toEqual([new Error('no key')])
    await service.startTurn(id, { prompt: 'three' })
    await settled()
    doors[2]?.open(make('third'))
    expect((await service.turnEnded(id, 3)).status).toBe('completed')
    expect(runs).toEqual(['first deaf', 'third three'])
  })

  test('is not run by a turn that was interrupted meanwhile, and is there for the next', async () => {
    const { service, id, doors, runs, disposed, make } = await abandoned()
    await service.startTurn(id, { prompt: 'two' })
    await settled()
    service.interrupt(id)
    doors[1]?.open(make('second'))
    expect((await service.turnEnded(id, 2)).status).toBe('interrupted')
    await service.startTurn(id, { prompt: 'three' })
    expect((await service.turnEnded(id, 3)).status).toBe('completed')
    expect(runs).toEqual(['first deaf', 'second three'])
    expect(disposed).toEqual(['first'])
  })

  test('in vain, while its turn was interrupted, leaves that turn interrupted', async () => {
    const { service, id, doors } = await abandoned()
    await service.startTurn(id, { prompt: 'two' })
    await settled()
    service.interrupt(id)
    doors[1]?.fail(new Error('no key'))
    expect(await service.turnEnded(id, 2)).toMatchObject({ status: 'interrupted', error: undefined })
  })

  test('for longer than the grace of an interrupted turn is disposed when it comes, and never run', async () => {
    const { service, id, timeouts, doors, runs, disposed, make } = await abandoned()
    await service.startTurn(id, { prompt: 'two' })
    await settled()
    service.interrupt(id)
    await timeouts.pass(GRACE_MS)
    expect(service.turn(id, 2).status).toBe('interrupted')
    await service.startTurn(id, { prompt: 'three' })
    await settled()
    doors[2]?.open(make('third'))
    expect((await service.turnEnded(id, 3)).status).toBe('completed')
    doors[1]?.open(make('second'))
    await settled()
    expect(runs).toEqual(['first deaf', 'third three'])
    expect(disposed).toEqual(['first', 'second'])
  })

  test('for longer than that, and in vain, is forgotten', async () => {
    const { service, id, timeouts, doors, make } = await abandoned()
    await service.startTurn(id, { prompt: 'two' })
    await settled()
    service.interrupt(id)
    await timeouts.pass(GRACE_MS)
    await service.startTurn(id, { prompt: 'three' })
    await settled()
    doors[1]?.fail(new Error('late'))
    doors[2]?.open(make('third'))
    expect((await service.turnEnded(id, 3)).status).toBe('completed')
  })
})

test('a turn that ends by itself leaves no timer of its interrupt', async () => {
  const timeouts = useTimeouts()
  const gate = gatedAgent()
  const harness = useService({ agents: [gate.agent] })
  const { sessionId: id } = await harness.service.createSession({ prompt: 'p' })
  await settled()
  const idle = timeouts.pending
  harness.service.interrupt(id)
  await harness.service.turnEnded(id, 1)
  expect(timeouts.pending).toBe(idle)
  await timeouts.pass(GRACE_MS)
  expect(gate.disposed).toBe(0)
  expect(await runTurnAfter(harness, gate, id)).toMatchObject({ status: 'completed' })
})

async function runTurnAfter(harness: ReturnType<typeof useService>, gate: ReturnType<typeof gatedAgent>, id: string) {
  const ended = runTurn(harness, id, 'next')
  ;(await gate.run('next')).finish()
  return ended
}

/** Agents that say one word and then hear nothing. */
function deaf(dispose: (() => void | Promise<void>) | undefined = undefined) {
  const built: CreateSessionRequest[] = []
  const disposed: number[] = []
  const builder: SessionAgentBuilder = {
    name: 'deaf',
    buildAgent: (request: CreateSessionRequest, _: AgentSession) => {
      built.push(request)
      const number = built.length
      return {
        async *run() {
          yield { type: 'text_delta', delta: 'said' }
          await new Promise(() => {})
          return undefined
        },
        dispose: () => {
          disposed.push(number)
          return dispose?.()
        },
      }
    },
  }
  return { builder, built, disposed }
}
