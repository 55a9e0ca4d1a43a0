import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { SessionAgent, SessionAgentBuilder } from '../../src/core/agent.ts'
import { EphemeralSessionService } from '../../src/core/ephemeral-session-service.ts'
import { AgentError, InvalidParamsError } from '../../src/core/errors.ts'
import type { CreateSessionRequest } from '../../src/core/session-service.ts'
import { MemorySessionStore } from '../../src/stores/memory/memory-session-store.ts'
import { gatedAgent } from '../helpers/gate.ts'
import {
  agentOf,
  codeOf,
  createDone,
  createIdle,
  type Door,
  door,
  errorOf,
  makeService,
  parrot,
  readNow,
  runTurn,
  settled,
  silent,
  turnEvents,
  types,
  useService,
} from './support.ts'

const UUID_V7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/
const everything = { offset: 0, limit: 1_000 }

/** A builder that the test lets go on: one door for each agent that is asked for. */
function slowBuilder(name = 'slow') {
  const doors: Door<SessionAgent>[] = []
  let disposed = 0
  const agent: SessionAgent = {
    async *run() {
      return undefined
    },
    dispose() {
      disposed++
    },
  }
  const builder: SessionAgentBuilder = {
    name,
    buildAgent: () => {
      const next = door<SessionAgent>()
      doors.push(next)
      return next.promise
    },
  }
  return {
    builder,
    doors,
    agent,
    get disposed() {
      return disposed
    },
  }
}

describe('creating a session', () => {
  test('builds one agent, runs the first turn and leaves one idle session [R1]', async () => {
    let built = 0
    const agent: SessionAgentBuilder = {
      ...parrot,
      buildAgent: (request, session) => {
        built++
        return parrot.buildAgent(request, session)
      },
    }
    const harness = useService({ agents: [agent] })
    const { id, first } = await createDone(harness, { prompt: 'hello' })
    expect(id).toMatch(UUID_V7)
    expect(first).toMatchObject({ turn: 1, status: 'completed', prompt: 'hello', result: { text: 'hello' } })
    expect(built).toBe(1)
    expect(harness.service.list(everything)).toMatchObject({
      total: 1,
      sessions: [{ session_id: id, is_active: false, message_count: 2, total_tokens: 3 }],
    })
  })

  test('answers with a turn that is under way, and is listed before that turn is over', async () => {
    const gate = gatedAgent()
    const { service } = useService({ agents: [gate.agent] })
    const handle = await service.createSession({ prompt: 'p' })
    expect(handle).toEqual({ sessionId: handle.sessionId, turn: 1, attached: false })
    expect(service.list(everything).sessions).toMatchObject([{ is_active: true, message_count: 0, total_tokens: 0 }])
    ;(await gate.run('p')).finish()
    await service.turnEnded(handle.sessionId, 1)
  })

  test('runs nothing when the first turn is deferred, and can be watched before there is one [R40]', async () => {
    const harness = useService({ agents: [parrot] })
    const { service } = harness
    const handle = await service.createSession({ initial_turn: 'deferred' })
    const { sessionId: id } = handle
    expect(handle).toEqual({ sessionId: id, turn: 0, attached: false })
    expect(service.turns(id, everything)).toEqual({ turns: [], total: 0 })
    expect(service.read(id).state).toMatchObject({ turn: 0, message_count: 0, is_active: false })
    const stream = service.streamSession(id)
    await runTurn(harness, id, 'first')
    await settled()
    expect(stream?.read()?.toString()).toContain('"type":"session_loaded"')
    expect(stream?.read()?.toString()).toMatch(/^event: run_started\ndata: .*\nid: 1\n\n/)
  })

  test('needs a prompt unless its turn is deferred', async () => {
    const harness = useService()
    const error = await errorOf(() => harness.service.createSession({}))
    expect(error).toMatchObject({ code: 'INVALID_PARAMS', data: { errors: [{ path: '/prompt' }] } })
    expect(harness.service.stats).toMatchObject({ sessions: 0, residents: 0, turnsRunning: 0 })
  })

  test('hands the builder the request and the session that is to be', async () => {
    const seen: unknown[] = []
    const agent: SessionAgentBuilder = {
      name: 'curious',
      buildAgent: (request, session) => {
        seen.push(request, session.id, session.labels, [...session.messages])
        return silent.buildAgent(request, session)
      },
    }
    const { service } = useService({ agents: [agent] })
    const request: CreateSessionRequest = { prompt: 'p', system_prompt: 'be kind', labels: { a: 'b' }, max_tokens: 5 }
    const { sessionId } = await service.createSession(request)
    expect(seen).toEqual([request, sessionId, { a: 'b' }, [{ role: 'system', content: 'be kind' }]])
  })

  test('picks the agent that is named, or else the default', async () => {
    const harness = useService({ agents: [silent, parrot] })
    expect((await createDone(harness)).first.result?.text).toBe('')
    const { id, first } = await createDone(harness, { agent: 'parrot', prompt: 'hi' })
    expect(first.result?.text).toBe('hi')
    expect(harness.service.read(id).state.agent).toBe('parrot')
  })

  test('refuses an agent that there is none of, naming those there are', async () => {
    const harness = useService({ agents: [silent, parrot] })
    const error = await errorOf(() => harness.service.createSession({ prompt: 'p', agent: 'toString' }))
    expect(error).toMatchObject({ code: 'INVALID_PARAMS', message: '/agent must be one of silent, parrot' })
    expect(harness.service.stats).toMatchObject({ residents: 0, turnsRunning: 0 })
  })

  test.each(['system_prompt', 'model', 'provider', 'max_tokens', 'provider_params'] as const)(
    'refuses %s when the agent would have to ignore it, and takes it otherwise',
    async (option) => {
      const harness = useService({
        agents: [
          agentOf('stubborn', neverRun, { accepts: [] }),
          agentOf('willing', neverRun, { accepts: [option] }),
          agentOf('usual', neverRun),
        ],
      })
      const value = { system_prompt: 's', model: 'm', provider: 'p', max_tokens: 5, provider_params: {} }[option]
      const request: CreateSessionRequest = { initial_turn: 'deferred', [option]: value }
      const error = await errorOf(() => harness.service.createSession({ ...request, agent: 'stubborn' }))
      expect(error).toMatchObject({ code: 'CAPABILITY_UNAVAILABLE', data: { errors: [{ path: `/${option}` }] } })
      await createIdle(harness, { ...request, agent: 'willing' })
      await createIdle(harness, { ...request, agent: 'usual' })
    },
  )

  test('leaves nothing behind when the agent cannot be built, and the next create succeeds [R4]', async () => {
    let broken = true
    const agent: SessionAgentBuilder = {
      name: 'moody',
      buildAgent: (request, session) => {
        if (broken) throw new Error('secret')
        return silent.buildAgent(request, session)
      },
    }
    const harness = useService({ agents: [agent], maxSessions: 1, maxActiveTurns: 1 })
    const error = await errorOf(() => harness.service.createSession({ prompt: 'p' }))
    expect(error).toMatchObject({ code: 'INTERNAL_ERROR', message: 'An unexpected error occurred' })
    expect(harness.faults).toEqual([new Error('secret')])
    expect(harness.service.list(everything)).toEqual({ sessions: [], total: 0 })
    expect(harness.service.stats).toMatchObject({ sessions: 0, residents: 0, turnsRunning: 0 })
    broken = false
    await createDone(harness)
  })

  test('passes on what a builder says about the request', async () => {
    const agent: SessionAgentBuilder = {
      name: 'picky',
      buildAgent: async () => {
        throw new InvalidParamsError('/model', 'must be mine')
      },
    }
    const harness = useService({ agents: [agent] })
    expect(await errorOf(() => harness.service.createSession({ prompt: 'p' }))).toMatchObject({
      code: 'INVALID_PARAMS',
      message: '/model must be mine',
    })
    expect(harness.faults).toEqual([])
  })

  test('keeps the session when its first turn fails, and the next turn is admitted [R7]', async () => {
    const agent = agentOf('first-fails', async function* ({ prompt }) {
      if (prompt === 'fail') throw new AgentError('no model')
      return undefined
    })
    const harness = useService({ agents: [agent] })
    const { id, first } = await createDone(harness, { prompt: 'fail' })
    expect(first).toMatchObject({ status: 'failed', error: { code: 'AGENT_ERROR', message: 'no model' } })
    expect(first.error?.data).toEqual({ session_id: id, turn: 1 })
    expect(harness.service.list(everything).sessions).toMatchObject([{ session_id: id, is_active: false }])
    expect(await runTurn(harness, id, 'again')).toMatchObject({ turn: 2, status: 'completed' })
  })

  test('refuses agents that are none when the service is made', () => {
    expect(() => makeService({ agents: [{ name: 'no spaces', buildAgent: silent.buildAgent }] })).toThrow(
      new TypeError("Expected an agent's `name` to be letters, digits, - and _, got no spaces"),
    )
    expect(() => makeService({ agents: [{ name: 'lame' } as SessionAgentBuilder] })).toThrow(
      new TypeError('Expected the agent lame to have a `buildAgent` function'),
    )
  })
})

describe('the number of sessions', () => {
  test('is bounded: the one too many is refused at once, without building, and told how many there are [R3]', async () => {
    let built = 0
    const agent = agentOf('counted', neverRun, {
      buildAgent: () => {
        built++
        return { run: neverRun }
      },
    })
    const harness = useService({ agents: [agent], maxSessions: 2 })
    await createIdle(harness)
    await createIdle(harness)
    const error = await errorOf(() => harness.service.createSession({ initial_turn: 'deferred' }))
    expect(error).toMatchObject({ code: 'SESSION_CAPACITY_REACHED', message: 'Max sessions reached (2/2)' })
    expect(built).toBe(2)
  })

  test('counts sessions that are still being built, so that of two creates one is refused [R2]', async () => {
    const slow = slowBuilder()
    const harness = useService({ agents: [slow.builder], maxSessions: 1 })
    const creates = [1, 2].map(() => harness.service.createSession({ prompt: 'p' }))
    const refused = await Promise.race(creates.map((create) => codeOf(() => create)))
    expect(refused).toBe('SESSION_CAPACITY_REACHED')
    slow.doors[0]?.open(slow.agent)
    expect((await Promise.allSettled(creates)).map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected'])
    expect(slow.doors).toHaveLength(1)
    expect(harness.service.list(everything).total).toBe(1)
    expect(harness.service.stats).toMatchObject({ residents: 1, maxSessions: 1 })
  })

  test('is not the number of running turns, which is bounded by itself', async () => {
    const gate = gatedAgent()
    const harness = useService({ agents: [gate.agent], maxActiveTurns: 1 })
    const { service } = harness
    const { sessionId: a } = await service.createSession({ prompt: 'a' })
    expect(await errorOf(() => service.createSession({ prompt: 'b' }))).toMatchObject({
      code: 'SESSION_CAPACITY_REACHED',
      message: 'Max running turns reached (1/1)',
    })
    expect(service.stats).toMatchObject({ sessions: 1, residents: 1, turnsRunning: 1, maxActiveTurns: 1 })
    const b = await createIdle(harness)
    expect(await codeOf(() => service.startTurn(b, { prompt: 'b' }))).toBe('SESSION_CAPACITY_REACHED')
    expect(service.read(b).state).toMatchObject({ is_active: false, turn: 0 })
    ;(await gate.run('a')).finish()
    await service.turnEnded(a, 1)
    await service.startTurn(b, { prompt: 'b' })
    ;(await gate.run('b')).finish()
    await service.turnEnded(b, 1)
  })
})

describe('the list of sessions', () => {
  test('keeps the order of creation when sessions go [R17]', async () => {
    const harness = useService()
    const all: string[] = []
    for (let i = 0; i < 4; i++) all.push(await createIdle(harness))
    const [a = '', b, c = '', d] = all
    harness.service.archive(a)
    expect(listed(harness)).toEqual([b, c, d])
    harness.service.archive(c)
    expect(listed(harness)).toEqual([b, d])
  })

  test('pages by offset, then limit [R18]', async () => {
    const harness = useService()
    const all: string[] = []
    for (let i = 0; i < 3; i++) all.push(await createIdle(harness))
    const page = (offset: number, limit: number) =>
      harness.service.list({ offset, limit }).sessions.map(({ session_id }) => session_id)
    expect([page(0, 2), page(1, 1), page(2, 5), page(3, 5), page(0, 0)]).toEqual([
      all.slice(0, 2),
      all.slice(1, 2),
      all.slice(2),
      [],
      [],
    ])
  })

  test('is filtered by labels, which reads show, and which are empty unless given [R39]', async () => {
    const harness = useService()
    const a = await createIdle(harness, { labels: { team: 'x', env: 'prod' } })
    const b = await createIdle(harness, { labels: { team: 'x' } })
    const c = await createIdle(harness)
    const matching = (...labels: [string, string][]) =>
      harness.service.list({ ...everything, labels }).sessions.map(({ session_id }) => session_id)
    expect(matching(['team', 'x'])).toEqual([a, b])
    expect(matching(['team', 'x'], ['env', 'prod'])).toEqual([a])
    expect(matching(['team', 'y'])).toEqual([])
    expect(harness.service.read(a).state.labels).toEqual({ team: 'x', env: 'prod' })
    expect(harness.service.read(c).state.labels).toEqual({})
    expect(harness.service.list(everything).sessions.map(({ labels }) => labels)).toEqual([
      { team: 'x', env: 'prod' },
      { team: 'x' },
      {},
    ])
  })

  test('loses exactly the sessions that are archived, in whatever order their agents were built', async () => {
    const plans = fc
      .integer({ min: 1, max: 8 })
      .chain((count) =>
        fc.tuple(
          fc.shuffledSubarray(range(count), { minLength: count, maxLength: count }),
          fc.shuffledSubarray(range(count)),
        ),
      )
    const slow = slowBuilder()
    const harness = useService({ agents: [slow.builder] })
    await fc.assert(
      fc.asyncProperty(plans, async ([buildOrder, archiveOrder]) => {
        slow.doors.length = 0
        const creates = buildOrder.map(() => harness.service.createSession({ initial_turn: 'deferred' }))
        for (const at of buildOrder) {
          slow.doors[at]?.open(slow.agent)
          await creates[at]
        }
        const all = (await Promise.all(creates)).map(({ sessionId }) => sessionId)
        let left = listed(harness)
        expect([...left].sort()).toEqual([...all].sort())
        for (const at of archiveOrder) {
          harness.service.archive(all[at] as string)
          left = left.filter((id) => id !== all[at])
          expect(listed(harness)).toEqual(left)
        }
        for (const id of left) harness.service.archive(id)
        await settled()
      }),
      { numRuns: 100 },
    )
  })
})

describe('reading', () => {
  test('answers during a turn, with the last commit and the news that it is active [R19 R20]', async () => {
    const gate = gatedAgent()
    const harness = useService({ agents: [gate.agent] })
    const { service } = harness
    const { sessionId: id } = await service.createSession({ prompt: 'one' })
    const first = await gate.run('one')
    await first.say('said')
    first.finish({ usage: { input_tokens: 1, output_tokens: 1 } })
    await service.turnEnded(id, 1)
    const committed = service.exportSession(id)
    await service.startTurn(id, { prompt: 'two' })
    const second = await gate.run('two')
    await second.say('not yet')
    expect(service.read(id)).toMatchObject({
      state: { is_active: true, turn: 2, message_count: 2, last_assistant_text: 'said' },
      billing: { total_tokens: 2 },
    })
    expect(service.exportSession(id).messages).toEqual(committed.messages)
    expect(service.messages(id, everything)).toEqual({ messages: committed.messages, total: 2 })
    second.finish()
    await service.turnEnded(id, 2)
    expect(service.read(id).state).toMatchObject({ is_active: false, message_count: 4, last_assistant_text: 'not yet' })
  })

  test('never stands in the way of other sessions, however many wait [R21]', async () => {
    const gate = gatedAgent()
    const harness = useService({ agents: [gate.agent, parrot] })
    const { service } = harness
    const { sessionId: id } = await service.createSession({ prompt: 'p' })
    const run = await gate.run('p')
    const waiting = Array.from({ length: 200 }, () => service.turnEnded(id, 1))
    const streams = Array.from({ length: 200 }, () => service.streamSession(id))
    const { first } = await createDone(harness, { agent: 'parrot', prompt: 'hi' })
    expect(first.result?.text).toBe('hi')
    expect(service.list(everything).total).toBe(2)
    for (const stream of streams) stream?.close()
    run.finish()
    expect((await Promise.all(waiting)).every(({ status }) => status === 'completed')).toBe(true)
  })

  test('tells a session’s whole state', async () => {
    const harness = useService({ agents: [parrot] })
    const { id } = await createDone(harness, { prompt: 'hi', model: 'm', labels: { a: 'b' } })
    const view = harness.service.read(id)
    expect(view).toEqual({
      state: {
        session_id: id,
        created_at: view.state.created_at,
        updated_at: view.state.updated_at,
        message_count: 2,
        is_active: false,
        labels: { a: 'b' },
        agent: 'parrot',
        model: 'm',
        turn: 1,
        last_assistant_text: 'hi',
      },
      billing: { total_tokens: 3, usage: { input_tokens: 1, output_tokens: 2, total_tokens: 3 } },
    })
    expect(view.state.created_at).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/)
    expect(view.state.updated_at >= view.state.created_at).toBe(true)
  })

  test('of a session that was never there is refused by every operation [R22]', async () => {
    const { service } = useService()
    const id = '0199d3c0-0000-7000-8000-000000000000'
    const operations: (() => unknown)[] = [
      () => service.read(id),
      () => service.startTurn(id, { prompt: 'p' }),
      () => service.turnEnded(id, 1),
      () => service.interrupt(id),
      () => service.archive(id),
      () => service.turns(id, everything),
      () => service.turn(id, 1),
      () => service.messages(id, everything),
      () => service.exportSession(id),
      () => service.fork(id),
      () => service.streamTurn(id, 1),
      () => service.streamSession(id),
      () => service.events(id).next(),
    ]
    for (const operation of operations) {
      expect(await errorOf(operation)).toMatchObject({ code: 'SESSION_NOT_FOUND', data: { session_id: id } })
    }
  })

  test('pages turns and messages, oldest first', async () => {
    const harness = useService({ agents: [parrot] })
    const { id } = await createDone(harness, { prompt: 'a' })
    await runTurn(harness, id, 'b')
    await runTurn(harness, id, 'c')
    const { turns, total } = harness.service.turns(id, { offset: 1, limit: 1 })
    expect([turns.map(({ prompt }) => prompt), total]).toEqual([['b'], 3])
    const page = harness.service.messages(id, { offset: 2, limit: 2 })
    expect([page.messages.map(({ role }) => role), page.total]).toEqual([['user', 'block_assistant'], 6])
    for (const turn of [0, 4, -1, 1.5]) {
      expect(await errorOf(() => harness.service.turn(id, turn))).toMatchObject({
        code: 'TURN_NOT_FOUND',
        data: { turn },
      })
    }
  })
})

describe('waiting for a session', () => {
  const id = '0199d3c0-0000-7000-8000-00000000abcd'
  const exported = (sessionId: string) => ({
    version: 1 as const,
    id: sessionId,
    messages: [],
    created_at: '2026-01-01T00:00:00.000Z',
    updated_at: '2026-01-01T00:00:00.000Z',
    metadata: {},
    usage: { input_tokens: 0, output_tokens: 0, total_tokens: 0 },
  })

  test('is over at once when it is there already', async () => {
    const harness = useService()
    const there = await createIdle(harness)
    await harness.service.waitSessionRegistered(there)
    await harness.service.waitSessionRegistered()
  })

  test('is over when that session comes, and not before', async () => {
    const { service } = useService()
    const seen: string[] = []
    const any = service.waitSessionRegistered().then(() => seen.push('any'))
    const that = service.waitSessionRegistered(id).then(() => seen.push('that'))
    await service.importSession(exported('0199d3c0-0000-7000-8000-000000000001'))
    await any
    await settled()
    expect(seen).toEqual(['any'])
    await service.importSession(exported(id))
    await that
    expect(seen).toEqual(['any', 'that'])
  })

  test('is given up when the caller leaves, before it begins or later', async () => {
    const { service } = useService()
    const left = new AbortController()
    const waiting = service.waitSessionRegistered(id, { signal: left.signal })
    left.abort(new Error('left'))
    await expect(waiting).rejects.toThrow('left')
    await expect(service.waitSessionRegistered(id, { signal: left.signal })).rejects.toThrow('left')
  })

  test('leaves no listener with the caller’s signal', async () => {
    const { service } = useService()
    const caller = new CountedSignal()
    const waiting = service.waitSessionRegistered(id, { signal: caller.signal })
    await service.importSession(exported(id))
    await waiting
    expect(caller.listening).toBe(0)
  })
})

describe('a session that is just being registered', () => {
  /** A service whose agent is built at the test's word, and something that is done the moment the session can be seen. */
  function registering(run: SessionAgent['run'], act: (service: EphemeralSessionService, id: string) => unknown) {
    const built = door<SessionAgent>()
    let opened = false
    let done: Promise<unknown> = Promise.resolve()
    const agent: SessionAgentBuilder = {
      name: 'built',
      buildAgent: (_, session) => {
        if (opened) return { run }
        // After the service itself has gone on, and before anyone who waits for the service.
        queueMicrotask(() => {
          done = built.promise.then(() => {
            expect(harness.service.list(everything).total).toBe(1)
            return act(harness.service, session.id)
          })
        })
        return built.promise
      },
    }
    const harness = useService({ agents: [agent] })
    return {
      harness,
      async create(...args: Parameters<EphemeralSessionService['createSession']>) {
        const created = harness.service.createSession(...args)
        await settled()
        opened = true
        built.open({ run })
        const handle = await created
        return { handle, outcome: await done }
      },
    }
  }

  test('is claimed for its first turn: another turn that comes first is busy [R10]', async () => {
    const called: string[] = []
    const run: SessionAgent['run'] = async function* ({ prompt }) {
      called.push(prompt)
      return undefined
    }
    const { harness, create } = registering(run, (service, id) =>
      codeOf(() => service.startTurn(id, { prompt: 'other' })),
    )
    const { handle, outcome } = await create({ prompt: 'first' })
    expect([handle.turn, outcome]).toEqual([1, 'SESSION_BUSY'])
    expect(await harness.service.turnEnded(handle.sessionId, 1)).toMatchObject({ status: 'completed', prompt: 'first' })
    expect(called).toEqual(['first'])
    expect(harness.service.stats.turnsRunning).toBe(0)
  })

  test.each(['drain', 'cancel'] as const)(
    'and archived with %s at once has no turn that only seems to have run',
    async (mode) => {
      const called: string[] = []
      const run: SessionAgent['run'] = async function* ({ prompt }) {
        called.push(prompt)
        return undefined
      }
      const { harness, create } = registering(run, (service, id) => service.archive(id, mode))
      const { service } = harness
      const { handle } = await create({ prompt: 'first' })
      const { status } = await service.turnEnded(handle.sessionId, handle.turn)
      expect([status, called]).toEqual(called.length === 1 ? ['completed', ['first']] : ['interrupted', []])
      await settled()
      const seen = types(readNow(service.streamSession(handle.sessionId, { after: 0 })))
      expect(seen.filter((type) => type === 'run_started')).toHaveLength(1)
      expect(seen.slice(-2)).toEqual([status === 'completed' ? 'run_completed' : 'run_interrupted', 'done'])
      expect(service.stats).toMatchObject({ sessions: 0, residents: 0, turnsRunning: 0 })
    },
  )

  test('and archived at once leaves no idempotency key behind', async () => {
    const { harness, create } = registering(neverRun, (service, id) => service.archive(id))
    const request: CreateSessionRequest = { initial_turn: 'deferred' }
    const options = { idempotency: { key: 'k', fingerprint: 'f' } }
    const { handle } = await create(request, options)
    const second = await harness.service.createSession(request, options)
    expect(second.attached).toBe(false)
    expect(second.sessionId).not.toBe(handle.sessionId)
  })
})

test('a service without an observer keeps what went wrong to itself', async () => {
  const agent: SessionAgentBuilder = {
    name: 'broken',
    buildAgent: ({ model }) => {
      if (model !== undefined) throw new Error('not built')
      return {
        async *run() {
          throw new Error('not run')
        },
        dispose: () => {
          throw new Error('not disposed')
        },
      }
    },
  }
  const service = new EphemeralSessionService({
    store: new MemorySessionStore({ events: 100, bytes: 100_000 }),
    agents: [agent],
    defaultAgent: 'broken',
    maxSessions: 1,
    maxActiveTurns: 1,
    maxQueuedTurns: 0,
    archiveDrainMs: 0,
  })
  expect(await codeOf(() => service.createSession({ prompt: 'p', model: 'm' }))).toBe('INTERNAL_ERROR')
  const { sessionId } = await service.createSession({ prompt: 'p' })
  expect(await service.turnEnded(sessionId, 1)).toMatchObject({ status: 'failed' })
  await service.close()
  expect(service.stats.residents).toBe(0)
})

describe('a repeated create', () => {
  const idempotency = { key: 'k', fingerprint: 'f' }

  test('attaches to the session and turn of the first, and runs nothing', async () => {
    const harness = useService({ agents: [parrot] })
    const first = await harness.service.createSession({ prompt: 'p' }, { idempotency })
    const second = await harness.service.createSession({ prompt: 'p' }, { idempotency })
    expect(second).toEqual({ ...first, attached: true })
    await harness.service.turnEnded(first.sessionId, 1)
    expect(harness.service.list(everything).total).toBe(1)
    const all = types(await turnEvents(harness, first.sessionId, 1))
    expect(all.filter((type) => type === 'run_started')).toHaveLength(1)
  })

  test('starts a new session once the first was archived, also within the same step', async () => {
    const harness = useService({ agents: [parrot] })
    const first = await createDoneWith(harness, idempotency)
    harness.service.archive(first)
    const second = await createDoneWith(harness, idempotency)
    expect(second).not.toBe(first)
    await harness.service
      .createSession({ prompt: 'p' }, { idempotency: { key: 'at once', fingerprint: 'f' } })
      .then((one) => harness.service.archive(one.sessionId))
    expect(
      await harness.service.createSession({ prompt: 'p' }, { idempotency: { key: 'at once', fingerprint: 'f' } }),
    ).toMatchObject({ attached: false })
  })

  test('of a turn attaches to that turn, and is a key of that session alone', async () => {
    const harness = useService({ agents: [parrot] })
    const [a, b] = [await createIdle(harness), await createIdle(harness)]
    const first = await harness.service.startTurn(a, { prompt: 'p' }, { idempotency })
    await harness.service.turnEnded(a, 1)
    expect(await harness.service.startTurn(a, { prompt: 'p' }, { idempotency })).toEqual({ ...first, attached: true })
    expect(await harness.service.startTurn(b, { prompt: 'p' }, { idempotency })).toMatchObject({ attached: false })
    expect(harness.service.read(a).state.turn).toBe(1)
  })
})

async function createDoneWith(
  harness: ReturnType<typeof useService>,
  idempotency: { key: string; fingerprint: string },
) {
  const { sessionId } = await harness.service.createSession({ prompt: 'p' }, { idempotency })
  await harness.service.turnEnded(sessionId, 1)
  return sessionId
}

async function* neverRun(): ReturnType<SessionAgent['run']> {
  return undefined
}

function listed({ service }: ReturnType<typeof makeService>): string[] {
  return service.list(everything).sessions.map(({ session_id }) => session_id)
}

function range(count: number): number[] {
  return Array.from({ length: count }, (_, at) => at)
}

/** A signal that knows how many listen to it. */
class CountedSignal {
  readonly signal = new AbortController().signal
  listening = 0

  constructor() {
    const { signal } = this
    const add = signal.addEventListener.bind(signal)
    const remove = signal.removeEventListener.bind(signal)
    signal.addEventListener = (...args: Parameters<typeof add>) => {
      this.listening++
      add(...args)
    }
    signal.removeEventListener = (...args: Parameters<typeof remove>) => {
      this.listening--
      remove(...args)
    }
  }
}
