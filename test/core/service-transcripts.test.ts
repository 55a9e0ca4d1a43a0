import { describe, expect, test } from 'vitest'
import type { SessionAgentBuilder } from '../../src/core/agent.ts'
import type { CreateSessionRequest } from '../../src/core/session-service.ts'
import { ExportedSession } from '../../src/core/transcript.ts'
import { schemaFaults } from '../conformance/schemas.ts'
import { gatedAgent } from '../helpers/gate.ts'
import {
  agentOf,
  codeOf,
  createDone,
  createIdle,
  door,
  errorOf,
  parrot,
  runTurn,
  settled,
  silent,
  useService,
} from './support.ts'

const everything = { offset: 0, limit: 1_000 }
const OTHER = '0199d3c0-0000-7000-8000-000000000001'

const session = (id: string, more: Partial<ExportedSession> = {}): ExportedSession => ({
  version: 1,
  id,
  messages: [
    { role: 'system', content: 'be kind' },
    { role: 'user', content: 'hello' },
    { role: 'block_assistant', blocks: [{ block_type: 'text', data: { text: 'hi' } }], stop_reason: 'end_turn' },
  ],
  created_at: '2026-01-02T03:04:05.678Z',
  updated_at: '2026-02-03T04:05:06.789Z',
  metadata: { session_metadata: { agent: 'parrot', model: 'm', labels: { a: 'b' } } },
  usage: { input_tokens: 3, output_tokens: 4, total_tokens: 7 },
  ...more,
})

describe('an export', () => {
  test('is the whole session as last committed, and fits its schema', async () => {
    const harness = useService({ agents: [parrot] })
    const request = { model: 'm', provider: 'p', max_tokens: 9, provider_params: { x: 1 }, labels: { a: 'b' } }
    const { id } = await createDone(harness, { prompt: 'hi', system_prompt: 'be kind', ...request })
    const exported = harness.service.exportSession(id)
    const { state } = harness.service.read(id)
    expect(exported).toEqual({
      version: 1,
      id,
      messages: [
        { role: 'system', content: 'be kind' },
        { role: 'user', content: 'hi' },
        { role: 'block_assistant', blocks: [{ block_type: 'text', data: { text: 'hi' } }], stop_reason: 'end_turn' },
      ],
      created_at: state.created_at,
      updated_at: state.updated_at,
      metadata: { session_metadata: { agent: 'parrot', ...request } },
      usage: { input_tokens: 1, output_tokens: 2, total_tokens: 3 },
    })
    expect(schemaFaults(ExportedSession, exported)).toEqual([])
  })

  test('is the caller’s own: what is done to it, and what happens later, changes nothing in the other', async () => {
    const harness = useService({ agents: [parrot] })
    const { id } = await createDone(harness, { prompt: 'one' })
    const exported = harness.service.exportSession(id)
    exported.messages.pop()
    await runTurn(harness, id, 'two')
    expect(exported.messages).toHaveLength(1)
    expect(harness.service.messages(id, everything).total).toBe(4)
  })
})

describe('an import', () => {
  test('is the session that was exported, and has run nothing', async () => {
    const harness = useService({ agents: [parrot] })
    const exported = session(OTHER)
    const view = await harness.service.importSession(exported)
    expect(view).toMatchObject({
      state: { session_id: OTHER, turn: 0, message_count: 3, agent: 'parrot', model: 'm', last_assistant_text: 'hi' },
      billing: { total_tokens: 7 },
    })
    expect(harness.service.exportSession(OTHER)).toEqual(exported)
    expect(harness.logs.get(OTHER)?.lastSeq).toBe(0)
  })

  test('goes on where the session was', async () => {
    const given: unknown[] = []
    const agent: SessionAgentBuilder = {
      name: 'parrot',
      buildAgent: (request, built) => {
        given.push(request, structuredClone(built.messages))
        return parrot.buildAgent(request, built)
      },
    }
    const harness = useService({ agents: [silent, agent] })
    const exported = session(OTHER)
    await harness.service.importSession(exported)
    expect(given).toEqual([{ agent: 'parrot', model: 'm', labels: { a: 'b' } }, exported.messages])
    expect(await runTurn(harness, OTHER, 'more')).toMatchObject({
      turn: 1,
      result: { usage: { total_tokens: 3 }, session_usage: { total_tokens: 10 } },
    })
    expect(harness.service.messages(OTHER, everything).total).toBe(5)
  })

  test('takes the default agent when none is named', async () => {
    const harness = useService({ agents: [silent] })
    expect((await harness.service.importSession(session(OTHER, { metadata: {} }))).state.agent).toBe('silent')
  })

  test('of an id that is live is refused, in whatever letters, and does no harm to it [R5]', async () => {
    const harness = useService({ agents: [parrot], maxSessions: 2 })
    const { id } = await createDone(harness, { prompt: 'hi' })
    for (const same of [id, id.toUpperCase()]) {
      expect(await errorOf(() => harness.service.importSession(session(same)))).toMatchObject({
        code: 'SESSION_EXISTS',
        data: { session_id: id },
      })
    }
    expect(harness.service.stats).toMatchObject({ sessions: 1, residents: 1 })
    expect(await runTurn(harness, id, 'again')).toMatchObject({ turn: 2, status: 'completed' })
  })

  test('of one id twice at a time is one session; the other agent is disposed, its room free again [R5]', async () => {
    const built = [door(), door()]
    let asked = 0
    let disposed = 0
    const agent: SessionAgentBuilder = {
      name: 'parrot',
      buildAgent: async (request, made) => {
        await built[asked++]?.promise
        const { run } = await parrot.buildAgent(request, made)
        return {
          run,
          dispose: () => {
            disposed++
          },
        }
      },
    }
    const harness = useService({ agents: [agent] })
    const both = [harness.service.importSession(session(OTHER)), harness.service.importSession(session(OTHER))]
    built[1]?.open()
    await both[1]
    built[0]?.open()
    expect(await codeOf(() => both[0])).toBe('SESSION_EXISTS')
    expect([disposed, harness.service.stats.residents, harness.service.stats.sessions]).toEqual([1, 1, 1])
    expect(await runTurn(harness, OTHER, 'more')).toMatchObject({ status: 'completed' })
  })

  test('that is refused because of its id says so, also when its agent cannot be disposed', async () => {
    const built = [door(), door()]
    let asked = 0
    const agent: SessionAgentBuilder = {
      name: 'parrot',
      buildAgent: async () => {
        const number = asked++
        await built[number]?.promise
        return {
          run: neverRun,
          dispose: () => {
            if (number === 0) throw new Error('no disposal')
          },
        }
      },
    }
    const harness = useService({ agents: [agent] })
    const both = [harness.service.importSession(session(OTHER)), harness.service.importSession(session(OTHER))]
    built[1]?.open()
    await both[1]
    built[0]?.open()
    expect(await codeOf(() => both[0])).toBe('SESSION_EXISTS')
    expect(harness.faults).toEqual([new Error('no disposal')])
    expect(harness.service.stats.residents).toBe(1)
  })

  test('of an id that was archived is a new session over the old one', async () => {
    const harness = useService({ agents: [parrot] })
    const { id } = await createDone(harness, { prompt: 'old' })
    const exported = harness.service.exportSession(id)
    harness.service.archive(id)
    await settled()
    await harness.service.importSession(exported)
    expect(harness.service.read(id).state).toMatchObject({ turn: 0, message_count: 2 })
    expect(harness.service.exportSession(id).messages).toEqual(exported.messages)
  })

  test('of an id whose old session still drains keeps the two apart', async () => {
    const gate = gatedAgent('parrot')
    const harness = useService({ agents: [gate.agent] })
    const { service } = harness
    const { sessionId: id } = await service.createSession({ prompt: 'old' })
    const waiting = service.turnEnded(id, 1)
    const run = await gate.run('old')
    service.archive(id)
    await service.importSession(session(id))
    await service.startTurn(id, { prompt: 'new' })
    const next = await gate.run('new')
    service.archive(id)
    run.finish({ text: 'of the old one' })
    expect(await waiting).toMatchObject({ result: { text: 'of the old one' } })
    await settled()
    expect(service.turn(id, 1)).toMatchObject({ prompt: 'new', status: 'running' })
    next.finish()
    expect(await service.turnEnded(id, 1)).toMatchObject({ prompt: 'new', status: 'completed' })
    await settled()
    expect(service.turn(id, 1).prompt).toBe('new')
    expect(service.stats).toMatchObject({ sessions: 0, residents: 0 })
  })

  test('of a transcript that no provider would take is refused, with the place', async () => {
    const harness = useService({ agents: [parrot] })
    const messages: ExportedSession['messages'] = [
      { role: 'user', content: 'a' },
      {
        role: 'block_assistant',
        blocks: [{ block_type: 'tool_use', data: { id: '1', name: 'n', args: {} } }],
        stop_reason: 'tool_use',
      },
      { role: 'user', content: 'b' },
    ]
    expect(await errorOf(() => harness.service.importSession(session(OTHER, { messages })))).toMatchObject({
      code: 'INVALID_PARAMS',
      data: { errors: [{ path: '/messages/2', message: 'tool use 1 has no result' }] },
    })
    expect(harness.service.stats.residents).toBe(0)
  })

  test('keeps its own list of messages', async () => {
    const harness = useService({ agents: [parrot] })
    const exported = session(OTHER)
    await harness.service.importSession(exported)
    exported.messages.length = 0
    expect(harness.service.messages(OTHER, everything).total).toBe(3)
  })
})

describe('a fork', () => {
  test('is a new session with the history so far, and the two go their own ways', async () => {
    const harness = useService({ agents: [parrot] })
    const { id } = await createDone(harness, {
      prompt: 'one',
      model: 'm',
      labels: { a: 'b' },
      system_prompt: 'be kind',
    })
    const view = await harness.service.fork(id)
    const fork = view.state.session_id
    expect(fork).not.toBe(id)
    expect(view).toMatchObject({
      state: { turn: 0, message_count: 3, agent: 'parrot', model: 'm', labels: { a: 'b' } },
      billing: { total_tokens: 0 },
    })
    expect(harness.service.messages(fork, everything)).toEqual(harness.service.messages(id, everything))
    await runTurn(harness, id, 'original')
    await runTurn(harness, fork, 'fork')
    expect(harness.service.read(id).state).toMatchObject({ last_assistant_text: 'original', message_count: 5 })
    expect(harness.service.read(fork).state).toMatchObject({ last_assistant_text: 'fork', message_count: 5 })
  })

  test('has the history up to and including the turn that is asked for', async () => {
    const harness = useService({ agents: [parrot] })
    const { id } = await createDone(harness, { prompt: 'one' })
    for (const prompt of ['two', 'three']) await runTurn(harness, id, prompt)
    const view = await harness.service.fork(id, 2)
    expect(view.state).toMatchObject({ message_count: 4, last_assistant_text: 'two' })
    expect(await codeOf(() => harness.service.fork(id, 4))).toBe('TURN_NOT_FOUND')
  })

  test('can be made during a turn, of what is committed, but not of that turn', async () => {
    const gate = gatedAgent()
    const harness = useService({ agents: [gate.agent] })
    const { service } = harness
    const id = await createIdle(harness)
    await service.startTurn(id, { prompt: 'one' })
    ;(await gate.run('one')).finish({ text: 'a' })
    await service.turnEnded(id, 1)
    await service.startTurn(id, { prompt: 'two' })
    const run = await gate.run('two')
    await run.say('half')
    expect((await service.fork(id)).state.message_count).toBe(2)
    expect((await service.fork(id, 1)).state.message_count).toBe(2)
    expect(await errorOf(() => service.fork(id, 2))).toMatchObject({ code: 'SESSION_BUSY', activeTurn: { turn: 2 } })
    await service.startTurn(id, { prompt: 'three', on_busy: 'enqueue' })
    expect(await codeOf(() => service.fork(id, 3))).toBe('SESSION_BUSY')
    run.finish()
    ;(await gate.run('three')).finish()
    await service.turnEnded(id, 3)
  })

  test('counts as a session', async () => {
    const harness = useService({ agents: [parrot], maxSessions: 1 })
    const { id } = await createDone(harness)
    expect(await codeOf(() => harness.service.fork(id))).toBe('SESSION_CAPACITY_REACHED')
  })
})

describe('the transcript', () => {
  test('has every turn that ended, how ever it ended, and a system prompt that stays first', async () => {
    const agent = agentOf('moody', async function* ({ prompt }) {
      yield { type: 'text_delta', delta: `half of ${prompt}` }
      if (prompt === 'fail') throw new Error('no')
      return undefined
    })
    const harness = useService({ agents: [agent] })
    const request: CreateSessionRequest = { prompt: 'fail', system_prompt: 'be kind' }
    const { id } = await createDone(harness, request)
    await runTurn(harness, id, 'ok')
    expect(harness.service.messages(id, everything).messages).toEqual([
      { role: 'system', content: 'be kind' },
      { role: 'user', content: 'fail' },
      {
        role: 'block_assistant',
        blocks: [{ block_type: 'text', data: { text: 'half of fail' } }],
        stop_reason: 'cancelled',
      },
      { role: 'user', content: 'ok' },
      {
        role: 'block_assistant',
        blocks: [{ block_type: 'text', data: { text: 'half of ok' } }],
        stop_reason: 'end_turn',
      },
    ])
  })
})

async function* neverRun() {
  return undefined
}
