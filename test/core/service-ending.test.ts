import { execFile as execFileCallback } from 'node:child_process'
import path from 'node:path'
import { promisify } from 'node:util'
import { describe, expect, test } from 'vitest'
import type { SessionAgent } from '../../src/core/agent.ts'
import { turnGrammarFault } from '../conformance/grammar.ts'
import { gatedAgent } from '../helpers/gate.ts'
import { patience } from '../helpers/slowness.ts'
import {
  aborted,
  agentOf,
  codeOf,
  createDone,
  createIdle,
  door,
  errorOf,
  makeService,
  parrot,
  readNow,
  runTurn,
  settled,
  turnEvents,
  types,
  useService,
  useTimeouts,
} from './support.ts'

const execFile = promisify(execFileCallback)
const everything = { offset: 0, limit: 1_000 }

describe('archiving', () => {
  test('hides an idle session at once, and it is not found again [R31]', async () => {
    const harness = useService({ agents: [parrot] })
    const { service } = harness
    const { id } = await createDone(harness)
    service.archive(id)
    expect(service.list(everything)).toEqual({ sessions: [], total: 0 })
    for (const operation of [
      () => service.startTurn(id, { prompt: 'p' }),
      () => service.startTurn(id, { prompt: 'p', on_busy: 'enqueue' }),
      () => service.archive(id),
      () => service.interrupt(id),
      () => service.fork(id),
    ]) {
      expect(await codeOf(operation)).toBe('SESSION_NOT_FOUND')
    }
  })

  test('returns at once while a turn runs, whose caller gets its result [R32]', async () => {
    const gate = gatedAgent()
    const harness = useService({ agents: [gate.agent] })
    const { service } = harness
    const { sessionId: id } = await service.createSession({ prompt: 'p' })
    const waiting = service.turnEnded(id, 1)
    const run = await gate.run('p')
    service.archive(id)
    expect(service.list(everything).total).toBe(0)
    expect(run.signal.aborted).toBe(false)
    expect(service.read(id).state.is_active).toBe(true)
    expect(await codeOf(() => service.startTurn(id, { prompt: 'late' }))).toBe('SESSION_NOT_FOUND')
    await run.say('to the end')
    run.finish()
    expect(await waiting).toMatchObject({ status: 'completed', result: { text: 'to the end' } })
    expect(service.read(id).state.is_active).toBe(false)
  })

  test('keeps the last view to be read, and no history [R33]', async () => {
    const harness = useService({ agents: [parrot] })
    const { service } = harness
    const { id } = await createDone(harness, { prompt: 'hi', labels: { a: 'b' } })
    const before = service.read(id)
    service.archive(id)
    await settled()
    expect(service.read(id)).toEqual(before)
    expect(service.read(id).state.is_active).toBe(false)
    expect(service.turn(id, 1)).toMatchObject({ status: 'completed' })
    expect(service.turns(id, everything).total).toBe(1)
    expect(await codeOf(() => service.messages(id, everything))).toBe('SESSION_PERSISTENCE_DISABLED')
    expect(await codeOf(() => service.exportSession(id))).toBe('SESSION_PERSISTENCE_DISABLED')
  })

  test('disposes the agent when its turn is over, and only then has room for another [R34]', async () => {
    const gate = gatedAgent()
    const disposal = door()
    const agent = {
      ...gate.agent,
      buildAgent: async (...args: Parameters<typeof gate.agent.buildAgent>) => {
        const built = await gate.agent.buildAgent(...args)
        const dispose = async () => {
          await built.dispose?.()
          await disposal.promise
        }
        return { run: built.run.bind(built), dispose }
      },
    }
    const harness = useService({ agents: [agent], maxSessions: 1 })
    const { service } = harness
    const { sessionId: id } = await service.createSession({ prompt: 'p' })
    const run = await gate.run('p')
    service.archive(id)
    await settled()
    expect([gate.disposed, service.stats.residents]).toEqual([0, 1])
    expect(await codeOf(() => createIdle(harness))).toBe('SESSION_CAPACITY_REACHED')
    run.finish()
    await service.turnEnded(id, 1)
    await settled()
    expect([gate.disposed, service.stats.residents]).toEqual([1, 1])
    expect(await codeOf(() => createIdle(harness))).toBe('SESSION_CAPACITY_REACHED')
    disposal.open()
    await settled()
    expect(service.stats).toMatchObject({ sessions: 0, residents: 0 })
    await createIdle(harness)
    expect(gate.disposed).toBe(1)
  })

  test('gives the room back when the disposal fails, and tells the observer', async () => {
    const agent = agentOf('rude', silentRun, {
      dispose: () => Promise.reject(new Error('no disposal')),
    })
    const harness = useService({ agents: [agent], maxSessions: 1 })
    harness.service.archive(await createIdle(harness))
    await settled()
    expect(harness.faults).toEqual([new Error('no disposal')])
    expect(harness.service.stats.residents).toBe(0)
  })

  test('cancels the turns in line, which never run [R35]', async () => {
    const gate = gatedAgent()
    const harness = useService({ agents: [gate.agent] })
    const { service } = harness
    const { sessionId: id } = await service.createSession({ prompt: 'one' })
    const run = await gate.run('one')
    await service.startTurn(id, { prompt: 'two', on_busy: 'enqueue' })
    await service.startTurn(id, { prompt: 'three', on_busy: 'enqueue' })
    const waiting = [2, 3].map((turn) => service.turnEnded(id, turn))
    service.archive(id)
    expect((await Promise.all(waiting)).map(({ status, result }) => [status, result?.stop_reason])).toEqual([
      ['interrupted', 'cancelled'],
      ['interrupted', 'cancelled'],
    ])
    run.finish({ text: 'done' })
    expect(await service.turnEnded(id, 1)).toMatchObject({ status: 'completed', result: { text: 'done' } })
    expect(gate.begun).toEqual(['one'])
    for (const turn of [2, 3]) {
      expect(types(await turnEvents(harness, id, turn))).toEqual(['run_started', 'run_interrupted'])
    }
    await settled()
    expect(service.stats).toMatchObject({ residents: 0, turnsRunning: 0 })
    expect(harness.ended.map(({ turn, status }) => [turn, status])).toEqual(
      expect.arrayContaining([
        [1, 'completed'],
        [2, 'interrupted'],
        [3, 'interrupted'],
      ]),
    )
    expect(harness.ended).toHaveLength(3)
  })

  test('with cancel interrupts the running turn first', async () => {
    const gate = gatedAgent()
    const harness = useService({ agents: [gate.agent] })
    const { sessionId: id } = await harness.service.createSession({ prompt: 'p' })
    await gate.run('p')
    harness.service.archive(id, 'cancel')
    expect(await harness.service.turnEnded(id, 1)).toMatchObject({ status: 'interrupted' })
    await settled()
    expect(gate.disposed).toBe(1)
    expect(harness.service.stats.residents).toBe(0)
  })

  test('with cancel, before the agent has begun, keeps it from starting', async () => {
    const gate = gatedAgent()
    const harness = useService({ agents: [gate.agent] })
    const id = await createIdle(harness)
    const started = harness.service.startTurn(id, { prompt: 'never' })
    harness.service.archive(id, 'cancel')
    await started
    expect(await harness.service.turnEnded(id, 1)).toMatchObject({ status: 'interrupted' })
    expect(gate.begun).toEqual([])
  })

  test('before the agent has begun lets the turn run, as it was admitted before', async () => {
    const harness = useService({ agents: [parrot] })
    const id = await createIdle(harness)
    const started = harness.service.startTurn(id, { prompt: 'admitted' })
    harness.service.archive(id)
    await started
    expect(await harness.service.turnEnded(id, 1)).toMatchObject({ status: 'completed', result: { text: 'admitted' } })
    await settled()
    expect(harness.service.stats).toMatchObject({ sessions: 0, residents: 0 })
  })

  test('interrupts a turn that does not come to its end in time', async () => {
    const timeouts = useTimeouts()
    const gate = gatedAgent()
    const harness = useService({ agents: [gate.agent], archiveDrainMs: 5_000 })
    const { sessionId: id } = await harness.service.createSession({ prompt: 'p' })
    await settled()
    harness.service.archive(id)
    await timeouts.pass(4_999)
    expect(harness.service.turn(id, 1).status).toBe('running')
    await timeouts.pass(1)
    expect(await harness.service.turnEnded(id, 1)).toMatchObject({ status: 'interrupted' })
    await settled()
    expect(harness.service.stats.residents).toBe(0)
  })

  test('leaves no deadline behind when the turn ends in time', async () => {
    const timeouts = useTimeouts()
    const gate = gatedAgent()
    const harness = useService({ agents: [gate.agent] })
    harness.service.archive(await createIdle(harness))
    await timeouts.pass(1)
    // What is kept of an archived session has a time of its own.
    const kept = timeouts.pending
    const { sessionId: id } = await harness.service.createSession({ prompt: 'p' })
    await settled()
    harness.service.archive(id)
    gate.open()
    await harness.service.turnEnded(id, 1)
    await timeouts.pass(1)
    expect(timeouts.pending).toBe(2 * kept)
  })

  test('of a session with a full line is no matter to any other [R36]', async () => {
    const gate = gatedAgent()
    const harness = useService({ agents: [gate.agent, parrot], maxQueuedTurns: 2 })
    const { service } = harness
    const { sessionId: id } = await service.createSession({ prompt: 'one' })
    const run = await gate.run('one')
    for (const prompt of ['two', 'three']) await service.startTurn(id, { prompt, on_busy: 'enqueue' })
    expect(await codeOf(() => service.startTurn(id, { prompt: 'four', on_busy: 'enqueue' }))).toBe('SESSION_BUSY')
    service.archive(id)
    const { first } = await createDone(harness, { agent: 'parrot', prompt: 'hi' })
    expect(first).toMatchObject({ status: 'completed', result: { text: 'hi' } })
    run.finish()
    await service.turnEnded(id, 3)
  })

  test('ends the streams of the session with done, after the last event [R52]', async () => {
    const gate = gatedAgent()
    const harness = useService({ agents: [gate.agent] })
    const { service } = harness
    const { sessionId: id } = await service.createSession({ prompt: 'p' })
    const stream = service.streamSession(id)
    const run = await gate.run('p')
    service.archive(id)
    await settled()
    expect(types(readNow(stream))).toEqual(['session_loaded', 'run_started'])
    run.finish()
    await service.turnEnded(id, 1)
    await settled()
    expect(types(readNow(stream)).slice(-2)).toEqual(['run_completed', 'done'])
    expect(stream?.ended).toBe(true)
  })

  test('lets a reader who was cut off come back and read to the end', async () => {
    const harness = useService({ agents: [parrot] })
    const { service } = harness
    const { id } = await createDone(harness)
    service.archive(id)
    await settled()
    const last = harness.logs.get(id)?.lastSeq ?? 0
    expect(types(readNow(service.streamSession(id, { after: last - 1 })))).toEqual([
      'session_loaded',
      'run_completed',
      'done',
    ])
    expect(service.streamSession(id, { after: last })).toBeUndefined()
    expect(types(readNow(service.streamTurn(id, 1, { after: last - 1 })))).toEqual(['run_completed'])
  })
})

describe('closing', () => {
  test('refuses everything new, and answers what is there [R37]', async () => {
    const gate = gatedAgent()
    const harness = useService({ agents: [parrot, gate.agent] })
    const { service } = harness
    const { id } = await createDone(harness)
    const exported = service.exportSession(id)
    await service.createSession({ agent: 'gated', prompt: 'p' })
    const run = await gate.run('p')
    const closing = service.close()
    expect(service.closing).toBe(true)
    for (const operation of [
      () => service.createSession({ prompt: 'p' }),
      () => service.createSession({ initial_turn: 'deferred' }),
      () => service.startTurn(id, { prompt: 'p' }),
      () => service.importSession({ ...exported, id: '0199d3c0-0000-7000-8000-000000000000' }),
      () => service.fork(id),
      () => service.streamSession(id),
    ]) {
      expect(await errorOf(operation)).toMatchObject({ code: 'SHUTTING_DOWN', retryAfter: 1 })
    }
    expect(service.read(id).state.turn).toBe(1)
    run.finish()
    await closing
    expect(service.stats).toMatchObject({ sessions: 0, residents: 0, turnsRunning: 0 })
    expect(service.read(id).state).toMatchObject({ turn: 1, is_active: false })
    expect(types(readNow(service.streamSession(id, { after: 0 }))).at(-1)).toBe('done')
  })

  test('lets running turns and those in line come to their end [R37]', async () => {
    const gate = gatedAgent()
    const harness = useService({ agents: [gate.agent] })
    const { service } = harness
    const { sessionId: id } = await service.createSession({ prompt: 'one' })
    await service.startTurn(id, { prompt: 'two', on_busy: 'enqueue' })
    const run = await gate.run('one')
    const stream = service.streamTurn(id, 1)
    let closed = false
    const closing = service.close({ drainMs: 60_000 }).then(() => {
      closed = true
    })
    await settled()
    expect([closed, run.signal.aborted, gate.disposed]).toEqual([false, false, 0])
    run.finish({ text: 'done' })
    ;(await gate.run('two')).finish()
    await closing
    expect(types(readNow(stream)).at(-1)).toBe('run_completed')
    expect(service.turn(id, 2)).toMatchObject({ status: 'completed' })
    expect(gate.disposed).toBe(1)
  })

  test('interrupts what is not over at the deadline, archived sessions too, and disposes every agent [R37]', async () => {
    const gate = gatedAgent()
    const harness = useService({ agents: [gate.agent] })
    const { service } = harness
    const ids: string[] = []
    for (const prompt of ['live', 'archived']) {
      ids.push((await service.createSession({ prompt })).sessionId)
      await gate.run(prompt)
    }
    const [live = '', archived = ''] = ids
    await service.startTurn(live, { prompt: 'in line', on_busy: 'enqueue' })
    service.archive(archived)
    await createIdle(harness)
    await service.close({ drainMs: 0 })
    expect(service.turn(live, 1)).toMatchObject({ status: 'interrupted' })
    expect(service.turn(live, 2)).toMatchObject({ status: 'interrupted' })
    expect(service.turn(archived, 1)).toMatchObject({ status: 'interrupted' })
    expect(service.stats).toMatchObject({ sessions: 0, residents: 0, turnsRunning: 0 })
    expect(gate.disposed).toBe(3)
    expect(gate.begun).toEqual(['live', 'archived'])
  })

  test('twice is closing once [R37]', async () => {
    const gate = gatedAgent()
    const { service } = useService({ agents: [gate.agent] })
    const { sessionId: id } = await service.createSession({ prompt: 'p' })
    const run = await gate.run('p')
    const first = service.close({ drainMs: 60_000 })
    expect(service.close({ drainMs: 0 })).toBe(first)
    await settled()
    expect(run.signal.aborted).toBe(false)
    run.finish()
    await first
    expect(service.close()).toBe(first)
    expect(service.turn(id, 1).status).toBe('completed')
  })

  test('leaves nothing that would keep a process alive', async () => {
    const script = path.join(import.meta.dirname, 'closing-process.ts')
    // It has to end by itself, and long before the deadlines that it was given.
    const { stdout } = await execFile(process.execPath, ['--import', 'tsx', script], { timeout: patience(20_000) })
    expect(stdout).toBe('completed interrupted completed completed\n')
  })

  test('gives up on an agent that is never disposed', async () => {
    const agent = agentOf('immortal', silentRun, { dispose: () => new Promise(() => {}) })
    const harness = makeService({ agents: [agent] })
    await createIdle(harness)
    await harness.service.close({ drainMs: 0 })
    expect(harness.service.stats).toMatchObject({ sessions: 0, residents: 1 })
  })

  test.each(['deferred', 'run'] as const)(
    'refuses a session that is still being built, disposes its agent and waits no longer than that (%s)',
    async (initial_turn) => {
      const built = door<SessionAgent>()
      let disposed = 0
      const harness = makeService({ agents: [{ name: 'slow', buildAgent: () => built.promise }] })
      const create = codeOf(() => harness.service.createSession({ prompt: 'p', initial_turn }))
      let closed = false
      const closing = harness.service.close({ drainMs: 3_000 }).then(() => {
        closed = true
      })
      await settled()
      expect(closed).toBe(false)
      built.open({
        run: silentRun,
        dispose: () => {
          disposed++
        },
      })
      expect(await create).toBe('SHUTTING_DOWN')
      await settled()
      expect([disposed, harness.service.stats.residents, harness.service.stats.sessions]).toEqual([1, 0, 0])
      expect(closed).toBe(true)
      await closing
    },
  )

  test('waits no longer than it takes when a session cannot be built', async () => {
    const built = door<SessionAgent>()
    const harness = makeService({ agents: [{ name: 'slow', buildAgent: () => built.promise }] })
    const create = codeOf(() => harness.service.createSession({ prompt: 'p' }))
    let closed = false
    const closing = harness.service.close({ drainMs: 3_000 }).then(() => {
      closed = true
    })
    built.fail(new Error('no key'))
    expect(await create).toBe('INTERNAL_ERROR')
    await settled()
    expect(closed).toBe(true)
    await closing
  })

  test('ends turns of agents that hear nothing, with a terminal event', async () => {
    const agent = agentOf('deaf', async function* () {
      yield { type: 'text_delta', delta: 'said' }
      await new Promise(() => {})
      return undefined
    })
    const harness = makeService({ agents: [agent] })
    const { sessionId: id } = await harness.service.createSession({ prompt: 'p' })
    await settled()
    await harness.service.close({ drainMs: 0 })
    expect(turnGrammarFault(await turnEvents(harness, id, 1))).toBeUndefined()
    expect(harness.service.turn(id, 1)).toMatchObject({ status: 'interrupted', result: { text: 'said' } })
  })

  test('still lets the turns that run be read', async () => {
    const gate = gatedAgent()
    const harness = useService({ agents: [gate.agent] })
    const { sessionId: id } = await harness.service.createSession({ prompt: 'p' })
    const run = await gate.run('p')
    const closing = harness.service.close({ drainMs: 60_000 })
    await settled()
    const stream = harness.service.streamTurn(id, 1)
    run.finish()
    await closing
    expect(types(readNow(stream)).at(-1)).toBe('run_completed')
  })
})

describe('an agent', () => {
  test('that has nothing to dispose needs no dispose', async () => {
    const harness = useService({ agents: [agentOf('plain', silentRun)] })
    harness.service.archive(await createIdle(harness))
    await settled()
    expect(harness.service.stats.residents).toBe(0)
    expect(harness.faults).toEqual([])
  })

  test('is disposed once, however its session ends', async () => {
    let disposed = 0
    const agent = agentOf(
      'counted',
      async function* (_, { signal }) {
        await aborted(signal)
        return undefined
      },
      {
        dispose: () => {
          disposed++
        },
      },
    )
    const harness = useService({ agents: [agent] })
    const { sessionId: id } = await harness.service.createSession({ prompt: 'p' })
    await settled()
    harness.service.archive(id)
    const closing = harness.service.close({ drainMs: 0 })
    await closing
    expect(disposed).toBe(1)
  })

  test('that was disposed for another reason is not asked for again when a session is imported over it', async () => {
    const harness = useService({ agents: [parrot] })
    const { id } = await createDone(harness, { prompt: 'old' })
    const exported = harness.service.exportSession(id)
    harness.service.archive(id)
    await harness.service.importSession(exported)
    expect(await runTurn(harness, id, 'new')).toMatchObject({ turn: 1, status: 'completed' })
    expect(harness.service.stats).toMatchObject({ sessions: 1, residents: 1 })
  })
})

async function* silentRun(): ReturnType<SessionAgent['run']> {
  return undefined
}
