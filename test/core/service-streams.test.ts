import { describe, expect, test, vi } from 'vitest'
import type { EventLog } from '../../src/core/event-log.ts'
import type { AgentEvent } from '../../src/core/events.ts'
import { gatedAgent } from '../helpers/gate.ts'
import {
  agentOf,
  createDone,
  createIdle,
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
} from './support.ts'

async function collect(events: AsyncIterable<AgentEvent>): Promise<AgentEvent[]> {
  const all: AgentEvent[] = []
  for await (const event of events) all.push(event)
  return all
}

describe('a stream of a session', () => {
  test('begins with where the session stands [R50]', async () => {
    const harness = useService({ agents: [parrot] })
    const { id } = await createDone(harness)
    const stream = harness.service.streamSession(id)
    expect(stream).toMatchObject({ sessionId: id, turn: undefined, ended: false })
    expect(readNow(stream)).toEqual([
      { type: 'session_loaded', session_id: id, message_count: 2, turn: 1, is_active: false },
    ])
  })

  test('starts with the first event of a running turn, the very first one too [R51]', async () => {
    const gate = gatedAgent()
    const { service } = useService({ agents: [gate.agent] })
    const { sessionId: id } = await service.createSession({ prompt: 'p' })
    const stream = service.streamSession(id)
    const run = await gate.run('p')
    await run.say('hello')
    await settled()
    const late = service.streamSession(id)
    const begun = ['session_loaded', 'run_started', 'turn_started', 'text_delta']
    expect(types(readNow(stream))).toEqual(begun)
    expect(types(readNow(late))).toEqual(begun)
    run.finish()
    await service.turnEnded(id, 1)
    await settled()
    expect(types(readNow(stream)).at(-1)).toBe('run_completed')
    expect(stream?.ended).toBe(false)
  })

  test('starts with the next event while no turn runs, and goes on over turns', async () => {
    const harness = useService({ agents: [parrot] })
    const { id } = await createDone(harness, { prompt: 'one' })
    const stream = harness.service.streamSession(id)
    await runTurn(harness, id, 'two')
    await runTurn(harness, id, 'three')
    await settled()
    const events = readNow(stream)
    expect(textOf(events)).toBe('twothree')
    expect(types(events)[1]).toBe('run_started')
  })

  test('replays from a cursor what every other reader saw [R47 R48]', async () => {
    const harness = useService({ agents: [parrot] })
    const { id } = await createDone(harness)
    await runTurn(harness, id, 'two')
    const all = await sessionEvents(harness, id)
    for (let after = 0; after <= all.length; after++) {
      const [loaded, ...events] = readNow(harness.service.streamSession(id, { after }))
      expect(loaded?.type).toBe('session_loaded')
      expect(events).toEqual(all.slice(after))
    }
  })

  test('sees nothing of any other session, however much is said there [R53]', async () => {
    const loud = agentOf('loud', async function* () {
      for (let i = 0; i < 3_000; i++) yield { type: 'text_delta', delta: 'noise' }
      return undefined
    })
    const harness = useService({ agents: [parrot, loud], retention: { events: 50 } })
    const id = await createIdle(harness)
    const stream = harness.service.streamSession(id)
    await Promise.all([...[1, 2, 3].map(() => createDone(harness, { agent: 'loud' })), runTurn(harness, id, 'quiet')])
    await settled()
    expect(types(readNow(stream))).toEqual([
      'session_loaded',
      'run_started',
      'turn_started',
      'text_delta',
      'text_complete',
      'turn_completed',
      'run_completed',
    ])
    expect(stream?.truncations).toBe(0)
  })
})

describe('a reader', () => {
  test('that never reads does not hold up the turn, and learns later what it missed [R44]', async () => {
    const harness = useService({
      agents: [
        agentOf('long', async function* () {
          for (let i = 0; i < 500; i++) yield { type: 'text_delta', delta: 'x' }
          return undefined
        }),
      ],
      retention: { events: 10 },
    })
    const id = await createIdle(harness)
    const stream = harness.service.streamTurn(id, (await harness.service.startTurn(id, { prompt: 'p' })).turn)
    expect((await harness.service.turnEnded(id, 1)).status).toBe('completed')
    await settled()
    const [gap, ...events] = readNow(stream)
    // run_started, turn_started, 500 deltas, the whole, turn_completed, run_completed: 505 events.
    expect(gap).toEqual({ type: 'stream_truncated', reason: 'retention', missed_from: 1, missed_to: 495 })
    expect(events).toHaveLength(10)
    expect(stream).toMatchObject({ ended: true, truncations: 1 })
  })

  test('that leaves in the middle of a turn is no matter to the turn [R43]', async () => {
    const gate = gatedAgent()
    const { service } = useService({ agents: [gate.agent] })
    const { sessionId: id } = await service.createSession({ prompt: 'p' })
    const stream = service.streamTurn(id, 1)
    let calls = 0
    stream?.onReadable(() => calls++)
    const run = await gate.run('p')
    await run.say('a')
    await settled()
    stream?.close()
    const heard = calls
    await run.say('b')
    run.finish()
    expect((await service.turnEnded(id, 1)).result?.text).toBe('ab')
    expect(calls).toBe(heard)
  })

  test.each([7, Number.POSITIVE_INFINITY, Number.NaN])(
    'that comes with the cursor %s, beyond the end, is refused',
    async (after) => {
      const harness = useService({ agents: [parrot] })
      const { id } = await createDone(harness)
      for (const open of [
        () => harness.service.streamSession(id, { after }),
        () => harness.service.streamTurn(id, 1, { after }),
      ]) {
        expect(await errorOf(open)).toMatchObject({
          code: 'INVALID_PARAMS',
          message: "/after is beyond the session's last event, which is 6",
        })
      }
    },
  )

  test('that has seen the end of a turn gets no stream of it', async () => {
    const harness = useService({ agents: [parrot] })
    const { id } = await createDone(harness)
    await runTurn(harness, id, 'two')
    const last = (await turnEvents(harness, id, 1)).at(-1)?.seq ?? 0
    expect(harness.service.streamTurn(id, 1, { after: last })).toBeUndefined()
    expect(harness.service.streamTurn(id, 1, { after: last + 1 })).toBeUndefined()
    expect(types(readNow(harness.service.streamTurn(id, 1, { after: last - 1 })))).toEqual(['run_completed'])
    // Where the first turn ended the second begins.
    expect(readNow(harness.service.streamTurn(id, 2, { after: 2 }))).toEqual(await turnEvents(harness, id, 2))
  })
})

describe('events, for code in this process', () => {
  test('are those of a turn, live, to its end', async () => {
    const gate = gatedAgent()
    const { service } = useService({ agents: [gate.agent] })
    const { sessionId: id } = await service.createSession({ prompt: 'p' })
    const all = collect(service.events(id, { turn: 1 }))
    const run = await gate.run('p')
    await run.say('a')
    await settled()
    await run.say('b')
    run.finish()
    const events = await all
    expect(textOf(events)).toBe('ab')
    expect(types(events).at(-1)).toBe('run_completed')
  })

  test('are those of a session until it is archived', async () => {
    const harness = useService({ agents: [parrot] })
    const { id } = await createDone(harness)
    const all = collect(harness.service.events(id, { after: 0 }))
    await settled()
    await runTurn(harness, id, 'two')
    harness.service.archive(id)
    const events = await all
    expect([types(events)[0], types(events).at(-1)]).toEqual(['session_loaded', 'done'])
    expect(textOf(events)).toBe('hellotwo')
  })

  test('are none for one who has seen all', async () => {
    const harness = useService({ agents: [parrot] })
    const { id } = await createDone(harness)
    expect(await collect(harness.service.events(id, { turn: 1, after: 6 }))).toEqual([])
  })

  test('stop when the reader leaves, whether it waits or has left before', async () => {
    const gate = gatedAgent()
    const { service } = useService({ agents: [gate.agent] })
    const { sessionId: id } = await service.createSession({ prompt: 'p' })
    const reader = new AbortController()
    const all = collect(service.events(id, { signal: reader.signal }))
    const run = await gate.run('p')
    await settled()
    reader.abort()
    expect(types(await all)).toEqual(['session_loaded', 'run_started'])
    expect(await collect(service.events(id, { signal: reader.signal }))).toEqual([])
    run.finish()
    await service.turnEnded(id, 1)
  })

  test('stop when the reader has enough, and nothing of it is left', async () => {
    const harness = useService({ agents: [parrot] })
    const { id } = await createDone(harness)
    const log = harness.logs.get(id) as EventLog
    const watching = new Set<() => void>()
    const { watch, unwatch } = log
    log.watch = (listener) => {
      watching.add(listener)
      watch.call(log, listener)
    }
    log.unwatch = (listener) => {
      watching.delete(listener)
      unwatch.call(log, listener)
    }
    const signal = new AbortController().signal
    const listening = vi.spyOn(signal, 'addEventListener')
    const gone = vi.spyOn(signal, 'removeEventListener')
    for await (const event of harness.service.events(id, { turn: 1, signal })) {
      expect(watching.size).toBe(1)
      if (event.type === 'run_started') break
    }
    expect(watching.size).toBe(0)
    expect([listening.mock.calls.length, gone.mock.calls.length]).toEqual([1, 1])
  })

  test('are refused for a cursor beyond the end', async () => {
    const harness = useService({ agents: [parrot] })
    const { id } = await createDone(harness)
    expect(await errorOf(() => harness.service.events(id, { after: 99 }).next())).toMatchObject({
      code: 'INVALID_PARAMS',
    })
  })
})
