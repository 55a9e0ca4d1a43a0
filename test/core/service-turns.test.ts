import fc from 'fast-check'
import { describe, expect, onTestFinished, test } from 'vitest'
import type { AgentSession, SessionAgent, SessionAgentBuilder, TurnOutcome } from '../../src/core/agent.ts'
import { AgentError, SessionBusyError } from '../../src/core/errors.ts'
import type { AgentOutput, LoggedEvent } from '../../src/core/events.ts'
import { MemoryEventLog } from '../../src/core/memory-event-log.ts'
import type { RunResult } from '../../src/core/session-service.ts'
import { transcriptFault } from '../../src/core/transcript.ts'
import { TurnRecord } from '../../src/core/turn-record.ts'
import { type RunEnd, TurnRun } from '../../src/core/turn-run.ts'
import { turnGrammarFault } from '../conformance/grammar.ts'
import { gatedAgent } from '../helpers/gate.ts'
import {
  agentOf,
  codeOf,
  createDone,
  createIdle,
  door,
  errorOf,
  type Harness,
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

const everything = { offset: 0, limit: 1_000 }
const usage = (input_tokens: number, output_tokens: number) => ({
  input_tokens,
  output_tokens,
  total_tokens: input_tokens + output_tokens,
})

/** An agent whose every turn yields these and returns that. */
function yields(outputs: readonly AgentOutput[], outcome?: TurnOutcome): SessionAgentBuilder {
  return agentOf('yields', async function* () {
    yield* outputs
    return outcome
  })
}

/** One turn of such an agent: its view and its events. */
async function turnOf(outputs: readonly AgentOutput[], outcome?: TurnOutcome) {
  const harness = useService({ agents: [yields(outputs, outcome)] })
  const { id, first } = await createDone(harness)
  return {
    harness,
    id,
    view: first,
    events: await turnEvents(harness, id, 1),
    messages: harness.service.messages(id, everything).messages,
  }
}

const asks = (id: string, args: unknown = {}): AgentOutput => ({ type: 'tool_call_requested', id, name: 'n', args })
const runs = (id: string): AgentOutput => ({ type: 'tool_execution_started', id, name: 'n' })
const answers = (id: string, result = 'ok', is_error = false): AgentOutput[] => [
  { type: 'tool_execution_completed', id, name: 'n', result, is_error, duration_ms: 1 },
  { type: 'tool_result_received', id, name: 'n', is_error },
]
const says = (delta: string): AgentOutput => ({ type: 'text_delta', delta })

describe('starting a turn', () => {
  test('runs the agent once and ends with its result [R8]', async () => {
    const gate = gatedAgent()
    const harness = useService({ agents: [gate.agent] })
    const id = await createIdle(harness)
    const handle = await harness.service.startTurn(id, { prompt: 'p' })
    expect(handle).toEqual({ sessionId: id, turn: 1, attached: false })
    const run = await gate.run('p')
    expect(run).toMatchObject({ turn: 1, sessionId: id })
    await run.say('hello')
    run.finish({ usage: { input_tokens: 3, output_tokens: 4 } })
    expect(await harness.service.turnEnded(id, 1)).toMatchObject({
      status: 'completed',
      prompt: 'p',
      result: {
        session_id: id,
        turn: 1,
        text: 'hello',
        stop_reason: 'end_turn',
        turns: 1,
        tool_calls: 0,
        usage: usage(3, 4),
        session_usage: usage(3, 4),
      },
    })
    expect(gate.begun).toEqual(['p'])
  })

  test('is refused at once while another runs, which hears nothing of it [R9]', async () => {
    const gate = gatedAgent()
    const harness = useService({ agents: [gate.agent] })
    const { service } = harness
    const { sessionId: id } = await service.createSession({ prompt: 'one' })
    const run = await gate.run('one')
    await run.say('a')
    await settled()
    const error = await errorOf(() => service.startTurn(id, { prompt: 'two' }))
    expect(error).toBeInstanceOf(SessionBusyError)
    expect(error).toMatchObject({
      code: 'SESSION_BUSY',
      sessionId: id,
      activeTurn: {
        turn: 1,
        status: 'running',
        started_at: new Date(service.turn(id, 1).startedAt ?? 0).toISOString(),
        last_seq: 3,
      },
    })
    await run.say('b')
    run.finish()
    expect((await service.turnEnded(id, 1)).result?.text).toBe('ab')
    expect(service.turns(id, everything).total).toBe(1)
    expect(gate.begun).toEqual(['one'])
  })

  test('admits exactly one of two that come in the same step [R10]', async () => {
    const harness = useService({ agents: [parrot] })
    const id = await createIdle(harness)
    const both = await Promise.allSettled([
      harness.service.startTurn(id, { prompt: 'a' }),
      harness.service.startTurn(id, { prompt: 'b' }),
    ])
    expect(both.map(({ status }) => status)).toEqual(['fulfilled', 'rejected'])
    await harness.service.turnEnded(id, 1)
    expect(harness.service.turns(id, everything).total).toBe(1)
  })

  test('is never busy for one who has the result of the turn before, and counters include it [R11 R12]', async () => {
    const harness = useService({ agents: [parrot] })
    const id = await createIdle(harness)
    for (let turn = 1; turn <= 20; turn++) {
      await harness.service.startTurn(id, { prompt: 'hi' })
      await harness.service.turnEnded(id, turn)
      expect(harness.service.read(id).state).toMatchObject({ is_active: false, turn, message_count: 2 * turn })
      expect(harness.service.list(everything).sessions).toMatchObject([
        { is_active: false, message_count: 2 * turn, total_tokens: 3 * turn },
      ])
    }
  })

  test('is never busy for one who hears of the end within the same step either [R11]', async () => {
    const again = door<unknown>()
    const { service } = useService({
      agents: [parrot],
      observer: {
        turnEnded: ({ sessionId, turn }) => {
          if (turn === 1) service.startTurn(sessionId, { prompt: 'next' }).then(again.open, again.fail)
        },
      },
    })
    const { sessionId } = await service.createSession({ prompt: 'first' })
    expect(await again.promise).toMatchObject({ sessionId, turn: 2 })
    expect(await service.turnEnded(sessionId, 2)).toMatchObject({ result: { text: 'next' } })
  })

  test('gives its claim and permit back when the log does not take the turn’s first event', async () => {
    const store = new FaultyStore()
    const harness = useService({ agents: [parrot], store, maxActiveTurns: 1 })
    const id = await createIdle(harness)
    store.fail = 1
    expect(await codeOf(() => harness.service.startTurn(id, { prompt: 'lost' }))).toBe('INTERNAL_ERROR')
    expect(harness.service.stats.turnsRunning).toBe(0)
    expect(harness.service.read(id).state.is_active).toBe(false)
    expect(harness.service.turns(id, everything).total).toBe(0)
    expect(await runTurn(harness, id, 'again')).toMatchObject({
      turn: 1,
      status: 'completed',
      result: { text: 'again' },
    })
  })

  test('that is a session’s first leaves nothing when the log does not take its first event', async () => {
    const store = new FaultyStore()
    let disposed = 0
    const agent = agentOf('parrot', silentRun, {
      dispose: () => {
        disposed++
      },
    })
    const harness = useService({ agents: [agent], store })
    store.fail = 1
    expect(await codeOf(() => harness.service.createSession({ prompt: 'lost' }))).toBe('INTERNAL_ERROR')
    await settled()
    expect(harness.service.stats).toMatchObject({ sessions: 0, residents: 0, turnsRunning: 0 })
    expect(disposed).toBe(1)
    expect(harness.faults).toEqual([new Error('the disk is full')])
  })
})

describe('a turn in line', () => {
  test('waits for the turns before it, and takes its place when they are over', async () => {
    const gate = gatedAgent()
    const harness = useService({ agents: [gate.agent], maxActiveTurns: 1 })
    const { service } = harness
    const { sessionId: id } = await service.createSession({ prompt: 'one' })
    const enqueue = (prompt: string) => service.startTurn(id, { prompt, on_busy: 'enqueue' })
    expect(await enqueue('two')).toMatchObject({ turn: 2 })
    expect(await enqueue('three')).toMatchObject({ turn: 3 })
    expect(service.turn(id, 2)).toMatchObject({ status: 'queued', startedAt: undefined })
    const stream = service.streamTurn(id, 2)
    expect(stream?.read()).toBeUndefined()
    for (const prompt of ['one', 'two', 'three']) (await gate.run(prompt)).finish({ text: prompt })
    expect(await service.turnEnded(id, 3)).toMatchObject({ status: 'completed', result: { text: 'three' } })
    await settled()
    expect(types(readNow(stream))).toEqual([
      'run_started',
      'turn_started',
      'text_delta',
      'text_complete',
      'turn_completed',
      'run_completed',
    ])
    expect(gate.begun).toEqual(['one', 'two', 'three'])
    expect(service.stats.turnsRunning).toBe(0)
  })

  test('starts at once when there is nothing to wait for', async () => {
    const harness = useService({ agents: [parrot] })
    const id = await createIdle(harness)
    await harness.service.startTurn(id, { prompt: 'a', on_busy: 'enqueue' })
    expect(harness.service.turn(id, 1).status).toBe('running')
    await harness.service.turnEnded(id, 1)
    await harness.service.startTurn(id, { prompt: 'b', on_busy: 'interrupt' })
    expect(await harness.service.turnEnded(id, 2)).toMatchObject({ status: 'completed' })
  })

  test('is refused when the line is full, and nothing is lost of it', async () => {
    const gate = gatedAgent()
    const harness = useService({ agents: [gate.agent], maxQueuedTurns: 1 })
    const { service } = harness
    const { sessionId: id } = await service.createSession({ prompt: 'one' })
    await service.startTurn(id, { prompt: 'two', on_busy: 'enqueue' })
    const error = await errorOf(() => service.startTurn(id, { prompt: 'three', on_busy: 'enqueue' }))
    expect(error).toMatchObject({ code: 'SESSION_BUSY', message: `Session ${id} already has 1 turn in line` })
    ;(await gate.run('one')).finish()
    ;(await gate.run('two')).finish()
    await service.turnEnded(id, 2)
    expect(service.turns(id, everything).total).toBe(2)
  })

  test('goes first and ends the turn in flight when it interrupts', async () => {
    const gate = gatedAgent()
    const harness = useService({ agents: [gate.agent] })
    const { service } = harness
    const { sessionId: id } = await service.createSession({ prompt: 'one' })
    await gate.run('one')
    await service.startTurn(id, { prompt: 'two', on_busy: 'enqueue' })
    await service.startTurn(id, { prompt: 'three', on_busy: 'interrupt' })
    expect(await service.turnEnded(id, 1)).toMatchObject({ status: 'interrupted' })
    ;(await gate.run('three')).finish()
    ;(await gate.run('two')).finish()
    expect(await service.turnEnded(id, 3)).toMatchObject({ status: 'completed' })
    expect(await service.turnEnded(id, 2)).toMatchObject({ status: 'completed' })
    expect(gate.begun).toEqual(['one', 'three', 'two'])
  })
})

describe('waiting for a turn', () => {
  test('can be given up, and the turn goes on [R15 R16]', async () => {
    const gate = gatedAgent()
    const harness = useService({ agents: [gate.agent] })
    const { service } = harness
    const { sessionId: id } = await service.createSession({ prompt: 'p' })
    const caller = new AbortController()
    const left = service.turnEnded(id, 1, caller.signal)
    const stays = service.turnEnded(id, 1, new AbortController().signal)
    caller.abort(new Error('left'))
    await expect(left).rejects.toThrow('left')
    await expect(service.turnEnded(id, 1, caller.signal)).rejects.toThrow('left')
    const run = await gate.run('p')
    await run.say('said all the same')
    run.finish()
    expect((await stays).status).toBe('completed')
    expect(service.messages(id, everything).messages).toHaveLength(2)
    expect(await runTurnThrough(gate, harness, id, 'next')).toMatchObject({ status: 'completed' })
  })

  test('is over at once for a turn that is over, also for one who has left', async () => {
    const harness = useService({ agents: [parrot] })
    const { id } = await createDone(harness)
    expect((await harness.service.turnEnded(id, 1, AbortSignal.abort())).status).toBe('completed')
  })

  test('needs a turn that there is', async () => {
    const harness = useService({ agents: [parrot] })
    const { id } = await createDone(harness)
    expect(await codeOf(() => harness.service.turnEnded(id, 2))).toBe('TURN_NOT_FOUND')
    expect(await codeOf(() => harness.service.streamTurn(id, 2))).toBe('TURN_NOT_FOUND')
  })
})

describe('the events of a turn', () => {
  test('are the whole sequence, for an agent that only says something [R54 R55]', async () => {
    const { events, id } = await turnOf([says('It is '), says('4C.')], {
      usage: { input_tokens: 40, output_tokens: 6 },
    })
    expect(events).toEqual([
      { type: 'run_started', seq: 1, turn: 1, session_id: id, prompt: 'hello' },
      { type: 'turn_started', seq: 2, turn: 1, turn_number: 0 },
      { type: 'text_delta', seq: 3, turn: 1, delta: 'It is ' },
      { type: 'text_delta', seq: 4, turn: 1, delta: '4C.' },
      { type: 'text_complete', seq: 5, turn: 1, content: 'It is 4C.' },
      { type: 'turn_completed', seq: 6, turn: 1, stop_reason: 'end_turn', usage: usage(40, 6) },
      {
        type: 'run_completed',
        seq: 7,
        turn: 1,
        session_id: id,
        result: {
          session_id: id,
          turn: 1,
          text: 'It is 4C.',
          stop_reason: 'end_turn',
          turns: 1,
          tool_calls: 0,
          usage: usage(40, 6),
          session_usage: usage(40, 6),
        },
        usage: usage(40, 6),
      },
    ])
  })

  test('have a model call, and no text, when the agent says nothing [R55]', async () => {
    const { events, view } = await turnOf([])
    expect(types(events)).toEqual(['run_started', 'turn_started', 'turn_completed', 'run_completed'])
    expect(view.result).toMatchObject({ text: '', turns: 1 })
  })

  test('bracket tool rounds as model calls, each with its end [R56 R59]', async () => {
    const { events, view, messages } = await turnOf(
      [
        says('Let me look.'),
        asks('1', { city: 'Oslo' }),
        asks('2'),
        runs('1'),
        runs('2'),
        ...answers('2', 'b'),
        ...answers('1', 'a'),
        says('It is 4C.'),
      ],
      { usage: { input_tokens: 70, output_tokens: 18 } },
    )
    expect(types(events)).toEqual([
      'run_started',
      'turn_started',
      'text_delta',
      'text_complete',
      'tool_call_requested',
      'tool_call_requested',
      'tool_execution_started',
      'tool_execution_started',
      'tool_execution_completed',
      'tool_result_received',
      'tool_execution_completed',
      'tool_result_received',
      'turn_completed',
      'turn_started',
      'text_delta',
      'text_complete',
      'turn_completed',
      'run_completed',
    ])
    expect(
      events.filter(({ type }) => type === 'turn_started').map((event) => 'turn_number' in event && event.turn_number),
    ).toEqual([0, 1])
    expect(view.result).toMatchObject({ text: 'It is 4C.', turns: 2, tool_calls: 2, usage: usage(70, 18) })
    expect(messages).toEqual([
      { role: 'user', content: 'hello' },
      {
        role: 'block_assistant',
        blocks: [
          { block_type: 'text', data: { text: 'Let me look.' } },
          { block_type: 'tool_use', data: { id: '1', name: 'n', args: { city: 'Oslo' } } },
          { block_type: 'tool_use', data: { id: '2', name: 'n', args: {} } },
        ],
        stop_reason: 'tool_use',
      },
      {
        role: 'tool_results',
        results: [
          { tool_use_id: '1', content: 'a', is_error: false },
          { tool_use_id: '2', content: 'b', is_error: false },
        ],
      },
      {
        role: 'block_assistant',
        blocks: [{ block_type: 'text', data: { text: 'It is 4C.' } }],
        stop_reason: 'end_turn',
      },
    ])
  })

  test('are told in the agent’s own words where it has them', async () => {
    const spent = usage(1, 2)
    const { events, view } = await turnOf([
      { type: 'turn_started' },
      { type: 'reasoning_delta', delta: 'hm' },
      { type: 'reasoning_complete', content: 'hm' },
      says('a'),
      { type: 'text_complete', content: 'a' },
      { type: 'turn_completed', stop_reason: 'end_turn', usage: spent },
    ])
    expect(types(events)).toEqual([
      'run_started',
      'turn_started',
      'reasoning_delta',
      'reasoning_complete',
      'text_delta',
      'text_complete',
      'turn_completed',
      'run_completed',
    ])
    expect(view.result).toMatchObject({ turns: 1, usage: spent })
  })

  test('complete what an agent leaves open when it begins another model call', async () => {
    const { events, messages } = await turnOf([
      { type: 'turn_started' },
      { type: 'reasoning_delta', delta: 'hm' },
      says('a'),
      { type: 'turn_started' },
      says('b'),
      asks('1'),
      { type: 'turn_started' },
      { type: 'reasoning_delta', delta: 'again' },
    ])
    expect(types(events)).toEqual([
      'run_started',
      'turn_started',
      'reasoning_delta',
      'text_delta',
      'reasoning_complete',
      'text_complete',
      'turn_completed',
      'turn_started',
      'text_delta',
      'text_complete',
      'tool_call_requested',
      'turn_completed',
      'turn_started',
      'reasoning_delta',
      'reasoning_complete',
      'turn_completed',
      'run_completed',
    ])
    expect(transcriptFault(messages)).toBeUndefined()
    const reasons = events.flatMap((event) => (event.type === 'turn_completed' ? [event.stop_reason] : []))
    expect(reasons).toEqual(['end_turn', 'tool_use', 'end_turn'])
  })

  test('begin a model call for an agent that ends one that it never began', async () => {
    const { events } = await turnOf([{ type: 'turn_completed', stop_reason: 'max_tokens', usage: usage(1, 1) }])
    expect(types(events)).toEqual(['run_started', 'turn_started', 'turn_completed', 'run_completed'])
  })

  test('say an answer that the agent only returned', async () => {
    const { events, view, messages } = await turnOf([], { text: 'the answer', stop_reason: 'max_tokens' })
    expect(types(events)).toEqual([
      'run_started',
      'turn_started',
      'text_delta',
      'text_complete',
      'turn_completed',
      'run_completed',
    ])
    expect(textOf(events)).toBe('the answer')
    expect(view.result).toMatchObject({ text: 'the answer', stop_reason: 'max_tokens' })
    expect(messages[1]).toMatchObject({ stop_reason: 'max_tokens' })
  })

  test('say once what the agent both said and returned', async () => {
    const { events, view } = await turnOf([says('the '), says('answer')], { text: 'the answer' })
    expect(textOf(events)).toBe('the answer')
    expect(view.result?.text).toBe('the answer')
  })

  test('say an answer that the agent only returned, also after a tool round', async () => {
    const { events, view, harness, id } = await turnOf([says('Let me look.'), asks('1'), ...answers('1')], {
      text: 'It is 4C.',
    })
    expect(view.result).toMatchObject({ text: 'It is 4C.', turns: 2 })
    expect(textOf(events)).toBe('Let me look.It is 4C.')
    expect(harness.service.read(id).state.last_assistant_text).toBe('It is 4C.')
  })

  test('are numbered from 1 without a gap, over all turns, for every reader alike [R47]', async () => {
    const harness = useService({ agents: [parrot] })
    const { id } = await createDone(harness, { prompt: 'a' })
    await runTurn(harness, id, 'b')
    const all = await sessionEvents(harness, id)
    expect(all.map(({ seq }) => seq)).toEqual(all.map((_, at) => at + 1))
    expect([...(await turnEvents(harness, id, 1)), ...(await turnEvents(harness, id, 2))]).toEqual(all)
  })

  test('begin with run_started, and are all there when the result is [R41]', async () => {
    const harness = useService({ agents: [parrot] })
    const id = await createIdle(harness)
    const { turn } = await harness.service.startTurn(id, { prompt: 'p' })
    await harness.service.turnEnded(id, turn)
    const events = readNow(harness.service.streamTurn(id, turn))
    expect(types(events)[0]).toBe('run_started')
    expect(types(events).at(-1)).toBe('run_completed')
  })

  test('are written however many there are and whoever reads them [R42 R43]', async () => {
    const { view, events } = await turnOf(Array.from({ length: 2_000 }, () => says('x')))
    expect(view.result?.text).toHaveLength(2_000)
    expect(events).toHaveLength(2_005)
  })

  test('end with exactly one terminal, also when the agent is cut off mid-sentence or fails [R46 R63]', async () => {
    const agent = agentOf('varied', async function* ({ prompt }, { signal }) {
      yield says('begun')
      yield asks('1')
      if (prompt === 'fail') throw new AgentError('the model is gone')
      await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }))
      return undefined
    })
    const harness = useService({ agents: [agent] })
    const { id, first } = await createDone(harness, { prompt: 'fail' })
    expect(first).toMatchObject({ status: 'failed', result: undefined })
    await harness.service.startTurn(id, { prompt: 'hang' })
    await settled()
    harness.service.interrupt(id)
    await harness.service.turnEnded(id, 2)
    const failed = await turnEvents(harness, id, 1)
    expect(failed.at(-1)).toMatchObject({ type: 'run_failed', error: 'the model is gone', code: 'AGENT_ERROR' })
    expect(turnGrammarFault(failed)).toBeUndefined()
    const interrupted = await turnEvents(harness, id, 2)
    expect(interrupted.at(-1)).toMatchObject({
      type: 'run_interrupted',
      result: { text: 'begun', stop_reason: 'cancelled' },
    })
    expect(turnGrammarFault(interrupted)).toBeUndefined()
  })

  test('keep every tool use answered in what the next turn is given [R30]', async () => {
    const given: unknown[] = []
    const agent = agentOf('looks', async function* ({ prompt }, { signal, session }) {
      given.push(structuredClone(session.messages))
      if (prompt === 'next') return undefined
      yield asks('1')
      yield asks('2')
      yield* answers('1')
      await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }))
      return undefined
    })
    const harness = useService({ agents: [agent] })
    const { sessionId: id } = await harness.service.createSession({ prompt: 'first' })
    await settled()
    harness.service.interrupt(id)
    await harness.service.turnEnded(id, 1)
    await runTurn(harness, id, 'next')
    const messages = given[1] as Parameters<typeof transcriptFault>[0]
    expect(transcriptFault(messages)).toBeUndefined()
    expect(messages[2]).toMatchObject({
      results: [
        { tool_use_id: '1', is_error: false },
        { tool_use_id: '2', is_error: true },
      ],
    })
  })

  test('carry the place that the log gave them, whatever an agent writes on them', async () => {
    const { events } = await turnOf([
      { type: 'reasoning_complete', content: 'x', seq: 99, turn: 98 } as AgentOutput,
      { type: 'text_delta', delta: 'x', seq: 97, turn: 96 } as AgentOutput,
    ])
    expect(events.map(({ seq }) => seq)).toEqual(events.map((_, at) => at + 1))
    expect(new Set(events.map(({ turn }) => turn))).toEqual(new Set([1]))
  })

  test('share the loop with everyone else in a long burst', async () => {
    const seen = { during: false }
    const agent = agentOf('burst', async function* () {
      for (let i = 0; i < 5_000; i++) yield says('x')
      return undefined
    })
    const harness = useService({ agents: [agent] })
    const { sessionId: id } = await harness.service.createSession({ prompt: 'p' })
    setImmediate(() => {
      seen.during = harness.service.turn(id, 1).status === 'running'
    })
    await harness.service.turnEnded(id, 1)
    expect(seen.during).toBe(true)
  })

  test('are cut short when the turn ends in the midst of a burst', async () => {
    const agent = agentOf('burst', async function* () {
      for (let i = 0; i < 600; i++) yield says('x')
      return undefined
    })
    const harness = useService({ agents: [agent] })
    const { sessionId: id } = await harness.service.createSession({ prompt: 'p' })
    // The agent's first pause for others comes after 512 outputs.
    await new Promise((resolve) => setImmediate(resolve))
    harness.service.interrupt(id)
    expect(await harness.service.turnEnded(id, 1)).toMatchObject({ status: 'interrupted' })
    expect(turnGrammarFault(await turnEvents(harness, id, 1))).toBeUndefined()
  })

  test('follow the grammar whatever an agent yields in whatever order', async () => {
    const ids = fc.constantFrom('1', '2', '3')
    const output: fc.Arbitrary<AgentOutput> = fc.oneof(
      fc.string({ minLength: 1, maxLength: 3 }).map(says),
      fc.constant<AgentOutput>({ type: 'turn_started' }),
      fc.constant<AgentOutput>({ type: 'turn_completed', stop_reason: 'end_turn', usage: usage(1, 2) }),
      fc.constant<AgentOutput>({ type: 'reasoning_delta', delta: 'hm' }),
      ids.map((id) => asks(id)),
      ids.map((id) => answers(id)[0] as AgentOutput),
    )
    const ends = fc.constantFrom('return', 'fail', 'throw')
    const reports = fc.option(fc.constant({ input_tokens: 100, output_tokens: 100 }), { nil: undefined })
    let run: SessionAgent['run'] = silentRun
    const harness = useService({ agents: [agentOf('any', (...input) => run(...input))], maxSessions: 1_000 })
    await fc.assert(
      fc.asyncProperty(fc.array(output, { maxLength: 15 }), ends, reports, async (outputs, end, reported) => {
        run = async function* () {
          yield* outputs
          if (end === 'fail') throw new AgentError('no')
          if (end === 'throw') throw 'a string'
          return reported === undefined ? undefined : { usage: reported }
        }
        const { id, first } = await createDone(harness)
        const events = await turnEvents(harness, id, 1)
        expect(types(events)[0]).toBe('run_started')
        const calls = bracketsOf(events)
        expect(calls.closed).toBe(end === 'return' ? calls.opened : calls.closed)
        expect(calls.opened - calls.closed).toBeLessThanOrEqual(1)
        expect(events.at(-1)?.type).toBe(end === 'return' ? 'run_completed' : 'run_failed')
        if (end === 'return') expect(first.result?.turns).toBe(calls.opened)
        expect(transcriptFault(withUniqueIds(harness, id))).toBeUndefined()
      }),
      { numRuns: 150 },
    )
  })
})

describe('the usage of a turn', () => {
  test('adds up over turns, without what came from a cache [R38]', async () => {
    const agent = agentOf('spends', async function* () {
      return { usage: { input_tokens: 10, output_tokens: 5, cache_read_tokens: 100 } }
    })
    const harness = useService({ agents: [agent] })
    const { id } = await createDone(harness)
    const second = await runTurn(harness, id, 'b')
    expect(second.result).toMatchObject({
      usage: { ...usage(10, 5), cache_read_tokens: 100 },
      session_usage: { ...usage(20, 10), cache_read_tokens: 200 },
    })
    expect(harness.service.read(id).billing).toEqual({
      total_tokens: 30,
      usage: { ...usage(20, 10), cache_read_tokens: 200 },
    })
  })

  test('is the sum of its model calls when the agent says no more', async () => {
    const { view } = await turnOf([
      { type: 'turn_completed', stop_reason: 'tool_use', usage: usage(1, 2) },
      { type: 'turn_completed', stop_reason: 'end_turn', usage: usage(3, 4) },
    ])
    expect(view.result?.usage).toEqual(usage(4, 6))
  })

  test('is what the agent says of the whole; what its calls did not account for is the last call’s', async () => {
    const call: AgentOutput = {
      type: 'turn_completed',
      stop_reason: 'tool_use',
      usage: { ...usage(10, 5), cache_read_tokens: 7 },
    }
    const { view, events } = await turnOf([call, says('x')], {
      usage: { input_tokens: 12, output_tokens: 9, cache_read_tokens: 10 },
    })
    expect(view.result?.usage).toEqual({ ...usage(12, 9), cache_read_tokens: 10 })
    const told = events.flatMap((event) => (event.type === 'turn_completed' ? [event.usage] : []))
    expect(told).toEqual([
      { ...usage(10, 5), cache_read_tokens: 7 },
      { ...usage(2, 4), cache_read_tokens: 3 },
    ])
  })

  test('has the total that its counters have, whatever total an agent writes', async () => {
    const { view, harness, id } = await turnOf([
      { type: 'turn_completed', stop_reason: 'end_turn', usage: { ...usage(1, 2), total_tokens: 999 } },
    ])
    expect(view.result).toMatchObject({ usage: usage(1, 2), session_usage: usage(1, 2) })
    expect(harness.service.read(id).billing.total_tokens).toBe(3)
  })

  test('is counted for a turn that was interrupted, as far as it is known', async () => {
    const agent = agentOf('spends', async function* (_, { signal }) {
      yield { type: 'turn_completed', stop_reason: 'tool_use', usage: usage(1, 2) }
      await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }))
      return { usage: { input_tokens: 5, output_tokens: 6 } }
    })
    const harness = useService({ agents: [agent] })
    const { sessionId: id } = await harness.service.createSession({ prompt: 'p' })
    await settled()
    harness.service.interrupt(id)
    const view = await harness.service.turnEnded(id, 1)
    expect(view.result?.usage).toEqual(usage(5, 6))
    expect(harness.service.read(id).billing.usage).toEqual(usage(5, 6))
  })
})

describe('an agent that fails', () => {
  test('fails the turn, and leaves the session idle and usable [R13]', async () => {
    const agent = agentOf('moody', async function* ({ prompt }) {
      if (prompt === 'fail') throw new AgentError('not today')
      return undefined
    })
    const harness = useService({ agents: [agent] })
    const id = await createIdle(harness)
    const view = await runTurn(harness, id, 'fail')
    expect(view).toMatchObject({ status: 'failed', error: { code: 'AGENT_ERROR', message: 'not today' } })
    expect(harness.service.read(id).state.is_active).toBe(false)
    expect(await runTurn(harness, id, 'ok')).toMatchObject({ status: 'completed' })
    expect(harness.faults).toEqual([])
  })

  test.each([
    ['an Error', new Error('secret')],
    ['a string', 'secret'],
    ['nothing', undefined],
    ['null', null],
    ['an object', { secret: true }],
  ])('unexpectedly, with %s, is an internal error, and the session is not busy [R14]', async (_, thrown) => {
    const agent = agentOf('throws', async function* () {
      throw thrown
    })
    const harness = useService({ agents: [agent] })
    const { id, first } = await createDone(harness)
    expect(first).toMatchObject({
      status: 'failed',
      error: { code: 'INTERNAL_ERROR', message: 'An unexpected error occurred', data: { session_id: id, turn: 1 } },
    })
    expect(harness.faults).toEqual([thrown])
    expect(JSON.stringify(await turnEvents(harness, id, 1))).not.toContain('secret')
    expect(await runTurn(harness, id, 'again')).toMatchObject({ status: 'failed' })
  })

  test('before it yields anything, without being a generator, fails the turn too [R14]', async () => {
    const agent = agentOf('throws', () => {
      throw new Error('no generator')
    })
    const harness = useService({ agents: [agent] })
    const { first } = await createDone(harness)
    expect(first).toMatchObject({ status: 'failed', error: { code: 'INTERNAL_ERROR' } })
  })

  test.each<[string, () => unknown]>([
    ['nothing', () => undefined],
    ['a promise, as an async function does', async () => ({ text: 'x' })],
    ['an object', () => ({})],
    ['an iterator without a return', () => ({ next: () => Promise.reject(new Error('no')) })],
    ['an iterator that throws', () => ({ next: () => never(), return: () => never() })],
  ])('to be a generator, and returns %s, fails the turn [R14]', async (_, run) => {
    const log = new MemoryEventLog({ events: 1_000, bytes: 1_000_000 })
    const ends: RunEnd[] = []
    const turn = new TurnRun(new TurnRecord('s', 1, { prompt: 'p' }, 0), log, (end) => ends.push(end))
    const unheard = unhandledRejections()
    turn.start({ run } as unknown as SessionAgent, {} as AgentSession)
    await settled()
    expect(ends.map(({ kind }) => kind)).toEqual(['threw'])
    expect(unheard).toEqual([])
  })

  test('the same way twice is two failures, of two turns', async () => {
    const failure = new AgentError('always the same')
    const agent = agentOf('stuck', async function* () {
      throw failure
    })
    const harness = useService({ agents: [agent] })
    const [a, b] = [await createDone(harness), await createDone(harness)]
    expect(a.first.error?.data).toEqual({ session_id: a.id, turn: 1 })
    expect(b.first.error?.data).toEqual({ session_id: b.id, turn: 1 })
  })

  test('with data of its own keeps that data', async () => {
    const agent = agentOf('explains', async function* () {
      throw new AgentError('no', Object.freeze({ errors: [{ path: '/x', message: 'y' }] }))
    })
    const harness = useService({ agents: [agent] })
    const { sessionId: id } = await harness.service.createSession({ prompt: 'p' })
    await settled()
    expect(harness.service.turn(id, 1).error).toMatchObject({
      code: 'AGENT_ERROR',
      data: { errors: [{ path: '/x', message: 'y' }], session_id: id, turn: 1 },
    })
  })
})

describe('an agent that yields what it may not', () => {
  test.each<[string, unknown]>([
    ['a lifecycle event', { type: 'run_completed', session_id: 's', result: {}, usage: usage(0, 0) }],
    ['no event', 'hello'],
    ['null', null],
    ['undefined', undefined],
    ['a delta that is no text', { type: 'text_delta', delta: 5 }],
    ['a delta that is missing', { type: 'text_delta' }],
  ])('%s fails its turn with a text that says so, and is closed [R46]', async (_, output) => {
    let closed = false
    const agent = agentOf('wrong', async function* () {
      try {
        yield output as AgentOutput
        throw new Error('went on')
      } finally {
        closed = true
      }
    })
    const harness = useService({ agents: [agent] })
    const { id, first } = await createDone(harness)
    expect(first).toMatchObject({ status: 'failed', error: { code: 'AGENT_ERROR', message: /^The agent yielded/ } })
    await settled()
    expect(closed).toBe(true)
    expect(turnGrammarFault(await turnEvents(harness, id, 1))).toBeUndefined()
  })

  test('arguments that JSON cannot say fail the turn, and leave log and transcript whole', async () => {
    const { view, events, harness, id } = await turnOf([says('a'), asks('1', { big: 1n }), says('b')])
    expect(view.status).toBe('failed')
    expect(events.map(({ seq }) => seq)).toEqual(events.map((_, at) => at + 1))
    expect(events.at(-1)?.type).toBe('run_failed')
    expect(() => JSON.stringify(harness.service.exportSession(id))).not.toThrow()
    expect(await runTurn(harness, id, 'again')).toMatchObject({ turn: 2, status: 'failed' })
  })

  test('whatever a run returns, the turn ends and the next one is admitted [R14]', async () => {
    const outcomes = fc.oneof(
      fc.anything({ withBigInt: true, withDate: true, withMap: true }),
      fc.record(
        {
          text: fc.anything(),
          stop_reason: fc.anything(),
          usage: fc.anything(),
          structured_output: fc.anything({ withBigInt: true }),
          schema_warnings: fc.anything(),
        },
        { requiredKeys: [] },
      ),
    )
    let outcome: unknown
    const agent = agentOf('odd', async function* () {
      return outcome as TurnOutcome
    })
    const harness = useService({ agents: [agent], maxSessions: 1_000 })
    await fc.assert(
      fc.asyncProperty(outcomes, async (returned) => {
        outcome = returned
        const { sessionId: id } = await harness.service.createSession({ prompt: 'p' })
        await settled()
        expect(harness.service.read(id).state.is_active).toBe(false)
        const [terminal] = (await turnEvents(harness, id, 1)).slice(-1)
        expect(['run_completed', 'run_failed']).toContain(terminal?.type)
        expect(harness.service.stats.turnsRunning).toBe(0)
      }),
      { numRuns: 200 },
    )
  })

  test('an outcome that cannot be, returned after an interrupt, ends the turn as interrupted all the same', async () => {
    const agent = agentOf('odd', async function* (_, { signal }) {
      await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }))
      return { structured_output: 1n, usage: null } as unknown as TurnOutcome
    })
    const harness = useService({ agents: [agent] })
    const { sessionId: id } = await harness.service.createSession({ prompt: 'p' })
    await settled()
    harness.service.interrupt(id)
    await settled()
    expect(harness.service.turn(id, 1).status).toBe('interrupted')
    expect(await harness.service.turnEnded(id, 1)).toMatchObject({ result: { stop_reason: 'cancelled' } })
  })
})

describe('what an agent returns', () => {
  test('travels in the result: structured output and schema warnings', async () => {
    const warnings = [{ provider: 'p', path: '/a', message: 'm' }]
    const { view, events } = await turnOf([says('{"a":1}')], {
      structured_output: { a: 1 },
      schema_warnings: warnings,
    })
    const result = events.flatMap((event) => (event.type === 'run_completed' ? [event.result] : []))[0] as RunResult
    expect(view.result).toMatchObject({ structured_output: { a: 1 }, schema_warnings: warnings })
    expect(result).toEqual(view.result)
  })

  test('is not there when the agent returned none', async () => {
    const { view } = await turnOf([says('x')])
    expect(Object.keys(view.result ?? {})).not.toContain('structured_output')
    expect(Object.keys(view.result ?? {})).not.toContain('schema_warnings')
  })
})

describe('what an agent reports outside of its run', () => {
  async function emitter() {
    let session: AgentSession | undefined
    const gate = gatedAgent('emitter')
    const agent: SessionAgentBuilder = {
      ...gate.agent,
      buildAgent: (request, built) => {
        session = built
        return gate.agent.buildAgent(request, built)
      },
    }
    const harness = useService({ agents: [agent] })
    const id = await createIdle(harness)
    return { harness, gate, id, session: session as AgentSession }
  }

  test('belongs to no turn while none runs, and the next turn’s reader does not get it [R45]', async () => {
    const { harness, gate, id, session } = await emitter()
    session.emit({ type: 'text_delta', delta: 'idle' })
    expect(await runTurnThrough(gate, harness, id, 'p')).toMatchObject({ status: 'completed' })
    session.emit({ type: 'compaction_failed', error: 'x' })
    expect(textOf(await turnEvents(harness, id, 1))).toBe('')
    const all = await sessionEvents(harness, id)
    expect([all[0], all.at(-1)]).toEqual([
      { type: 'text_delta', seq: 1, turn: 0, delta: 'idle' },
      { type: 'compaction_failed', seq: all.length, turn: 0, error: 'x' },
    ])
    expect(harness.service.read(id).state).toMatchObject({ message_count: 1 + 1 })
  })

  test('belongs to the turn that runs', async () => {
    const { harness, gate, id, session } = await emitter()
    await harness.service.startTurn(id, { prompt: 'p' })
    const run = await gate.run('p')
    session.emit({ type: 'text_delta', delta: 'by the way' })
    run.finish()
    expect((await harness.service.turnEnded(id, 1)).result?.text).toBe('by the way')
  })

  test('is checked, and refused to the agent’s face', async () => {
    const { session } = await emitter()
    expect(() => session.emit({ type: 'run_completed' } as never)).toThrow(AgentError)
    expect(() => session.emit({ type: 'turn_started' } as never)).toThrow(AgentError)
  })

  test('is not heard any more once the session is over', async () => {
    const { harness, id, session } = await emitter()
    harness.service.archive(id)
    session.emit({ type: 'text_delta', delta: 'late' })
    expect(harness.logs.get(id)?.lastSeq).toBe(0)
  })
})

async function runTurnThrough(gate: ReturnType<typeof gatedAgent>, { service }: Harness, id: string, prompt: string) {
  const { turn } = await service.startTurn(id, { prompt })
  ;(await gate.run(prompt)).finish()
  return service.turnEnded(id, turn)
}

function bracketsOf(events: readonly LoggedEvent[]): { opened: number; closed: number } {
  const count = (type: string) => events.filter((event) => event.type === type).length
  return { opened: count('turn_started'), closed: count('turn_completed') }
}

/** A history in which no two tool calls of a turn have the same id, as the contract has it. */
function withUniqueIds({ service }: Harness, id: string) {
  const { messages } = service.messages(id, everything)
  const ids = messages.flatMap((message) =>
    message.role === 'block_assistant'
      ? message.blocks.flatMap((block) => (block.block_type === 'tool_use' ? [block.data.id] : []))
      : [],
  )
  return new Set(ids).size === ids.length ? messages : []
}

async function* silentRun(): ReturnType<SessionAgent['run']> {
  return undefined
}

function never(): never {
  throw new Error('never')
}

/** Rejections that nobody heard of during a test; they would end the process. */
function unhandledRejections(): readonly unknown[] {
  const unheard: unknown[] = []
  const before = process.listeners('unhandledRejection')
  process.removeAllListeners('unhandledRejection')
  process.on('unhandledRejection', (reason) => unheard.push(reason))
  onTestFinished(() => {
    process.removeAllListeners('unhandledRejection')
    for (const listener of before) process.on('unhandledRejection', listener)
  })
  return unheard
}

/** A memory store that fails to take so many events, as a store on a disk or in a network may. */
class FaultyStore {
  fail = 0

  openLog() {
    const log = new MemoryEventLog({ events: 1_000, bytes: 1_000_000 })
    const append = log.append.bind(log)
    log.append = (event, turn) => {
      if (this.fail-- > 0) throw new Error('the disk is full')
      return append(event, turn)
    }
    return log
  }
}
