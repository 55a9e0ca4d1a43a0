import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { noHooks } from '../../../src/agents/hooks/no-hooks.ts'
import { type LlmOptions, llm } from '../../../src/agents/llm/index.ts'
import { createModelProviders } from '../../../src/agents/llm/providers.ts'
import { type Tool, toolError } from '../../../src/agents/tools/tool.ts'
import {
  expectInvalid,
  expectProblem,
  type Message,
  type RunResult,
  readMessages,
  readSession,
} from '../../helpers/contract.ts'
import { within } from '../../helpers/http.ts'
import {
  beginnings,
  models,
  type Saying,
  STREAM,
  saying,
  startScriptedModel,
  startWireServer,
  type Told,
} from '../../helpers/model-server.ts'
import { textOf, types } from '../../helpers/sse.ts'
import { ownServer } from '../../helpers/suite.ts'

const model = models.compatible
type Script = (Saying | ((told: Told) => Saying))[]

/** A server whose `llm` talks to a model that says one thing after another. */
async function scripted(script: Script, settings: Record<string, string | number> = {}) {
  const scriptedModel = await startScriptedModel(...script)
  onTestFinished(() => scriptedModel.close())
  const server = await ownServer({ ...scriptedModel.settings, MODEL: model, ...settings })
  return { ...server, model: scriptedModel }
}

/** The same with tools that live in the test. */
async function withTools(script: Script, tools: readonly Partial<Tool>[], more: Partial<LlmOptions> = {}) {
  const scriptedModel = await startScriptedModel(...script)
  onTestFinished(() => scriptedModel.close())
  const baseURL = scriptedModel.settings.OPENAI_COMPATIBLE_BASE_URL ?? ''
  const none = { apiKey: '', baseURL: '' }
  const agent = llm({
    providers: createModelProviders({
      standard: model,
      anthropic: none,
      openai: none,
      google: none,
      compatible: { apiKey: '', baseURL },
      silenceMs: 10_000,
    }),
    toolSources: [{ name: 'test', tools: async () => tools.map(toTool), close: async () => {} }],
    hooks: noHooks,
    turnLimits: {},
    maxModelCalls: 100,
    compactAtTokens: 0,
    approvalTimeoutMs: 60_000,
    ...more,
  })
  const server = await ownServer({}, { agents: [agent] })
  return { ...server, model: scriptedModel }
}

function toTool(tool: Partial<Tool>): Tool {
  return {
    name: 'look',
    description: 'Looks',
    inputSchema: { type: 'object', properties: { at: { type: 'string' } } },
    needsApproval: false,
    timeoutMs: 10_000,
    execute: async (args) => ({ content: `seen ${JSON.stringify(args)}`, isError: false }),
    ...tool,
  }
}

const looks = (...ids: string[]): Saying => ({ calls: ids.map((id) => ({ id, name: 'look', args: { at: id } })) })
const create = { agent: 'llm', prompt: 'go' }

describe('tools', () => {
  test('of one answer run side by side and are kept in the order of the calls [R56 R57 R60]', async () => {
    const order: string[] = []
    let release = () => {}
    const second = new Promise<void>((resolve) => {
      release = resolve
    })
    const { api, stream, model } = await withTools(
      [{ text: 'Let me look.', ...looks('a', 'b') }, { text: 'Both seen.' }],
      [
        {
          execute: async (args) => {
            const { at } = args as { at: string }
            if (at === 'a') await second
            else release()
            order.push(at)
            return { content: at, isError: false }
          },
        },
      ],
    )
    const frames = await (await stream('/sessions/stream', { json: create })).all()
    expect(order).toEqual(['b', 'a'])
    expect(types(frames)).toEqual([
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
    expect(frames.at(-1)?.json.result).toMatchObject({ text: 'Both seen.', turns: 2, tool_calls: 2 })
    const [, answer, results] = await readMessages(api, String(frames[0]?.json.session_id))
    expect(answer).toMatchObject({ role: 'block_assistant', stop_reason: 'tool_use' })
    expect(results).toEqual({
      role: 'tool_results',
      results: [
        { tool_use_id: 'a', content: 'a', is_error: false },
        { tool_use_id: 'b', content: 'b', is_error: false },
      ],
    })
    const told = model
      .told()[1]
      ?.messages.slice(1)
      .map(({ role, tool_call_id }) => tool_call_id ?? role)
    expect(told).toEqual(['assistant', 'a', 'b'])
  })

  test.each([
    ['are no JSON', { id: 'a', name: 'look', args: '{"at": ' }, 'invalid_arguments'],
    ['are no object', { id: 'a', name: 'look', args: '[1]' }, 'invalid_arguments'],
    ['do not fit', { id: 'a', name: 'look', args: { at: 7 } }, 'invalid_arguments'],
    ['are for nobody', { id: 'a', name: 'nothing', args: {} }, 'tool_not_found'],
  ])('whose arguments %s are an error that the model sees [R58]', async (_, call, error) => {
    const { api, model } = await withTools([{ calls: [call] }, { text: 'I see.' }], [{}])
    const { body } = await api.post<RunResult>('/sessions', create)
    expect(body).toMatchObject({ text: 'I see.', tool_calls: 1 })
    const told = model.told()[1]?.messages.at(-1)
    expect(JSON.parse(String(told?.content))).toMatchObject({ error, message: expect.any(String) })
  })

  test('that throw or take too long are errors, and the turn goes on [R58]', async () => {
    const { stream } = await withTools(
      [
        {
          calls: [
            { id: 'a', name: 'throws', args: {} },
            { id: 'b', name: 'hangs', args: {} },
          ],
        },
        { text: 'Well.' },
      ],
      [
        { name: 'throws', execute: async () => Promise.reject(new Error('out of luck')) },
        { name: 'hangs', timeoutMs: 20, execute: () => new Promise(() => {}) },
      ],
    )
    const frames = await (await stream('/sessions/stream', { json: create })).all()
    const completed = frames.filter(({ event }) => event === 'tool_execution_completed').map(({ json }) => json)
    expect(completed[0]).toMatchObject({ id: 'a', is_error: true, result: expect.stringContaining('out of luck') })
    expect(completed[1]).toMatchObject({ id: 'b', is_error: true, result: expect.stringContaining('"timeout"') })
    const late = frames.find(({ event }) => event === 'tool_execution_timed_out')
    expect(late?.json).toMatchObject({ id: 'b', name: 'hangs', timeout_ms: 20 })
    expect(frames.at(-1)?.json.result).toMatchObject({ text: 'Well.' })
  })

  test('that are interrupted get an answer in the history, which the next call can be told [R30]', async () => {
    let aborted: Promise<void> | undefined
    const { api, stream, model } = await withTools(
      [{ text: 'Wait.', ...looks('a') }, { text: 'On we go.' }],
      [
        {
          execute: (_, { signal }) => {
            aborted = new Promise((resolve) => signal.addEventListener('abort', () => resolve()))
            return new Promise(() => {})
          },
        },
      ],
    )
    const opened = await stream('/sessions/stream', { json: create })
    await opened.upTo('tool_execution_started')
    const id = String(opened.frames[0]?.json.session_id)
    await api.post(`/sessions/${id}/interrupt`)
    expect((await opened.all()).at(-1)?.event).toBe('run_interrupted')
    await within('the tool to hear of it', aborted ?? Promise.reject())
    const next = await api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'and now?' })
    expect(next.body.text).toBe('On we go.')
    const told = model.told()[1]?.messages.map(({ role, tool_call_id }) => tool_call_id ?? role)
    expect(told).toEqual(['user', 'assistant', 'a', 'user'])
  })

  test('that need approval wait for it, and a refusal is told to the model', async () => {
    let runs = 0
    const { api, stream, model } = await withTools(
      [looks('a', 'b'), { text: 'Done.' }],
      [{ needsApproval: true, execute: async () => ({ content: String(++runs), isError: false }) }],
    )
    const opened = await stream('/sessions/stream', { json: create })
    await opened.upTo('tool_approval_requested')
    await opened.upTo('tool_approval_requested')
    const path = `/sessions/${opened.frames[0]?.json.session_id}/turns/1/approvals`
    await api.post(`${path}/a`, { approved: false, reason: 'not that one' })
    await api.post(`${path}/b`, { approved: true })
    expect((await opened.all()).at(-1)?.json.result).toMatchObject({ text: 'Done.', tool_calls: 2 })
    expect(runs).toBe(1)
    const [a, b] = model.told()[1]?.messages.slice(-2) ?? []
    expect(JSON.parse(String(a?.content))).toEqual({ error: 'access_denied', message: 'not that one' })
    expect(b?.content).toBe('1')
  })

  test('whose answer is very long are cut for the model', async () => {
    const content = 'é'.repeat(1024 * 1024)
    const { api, model } = await withTools(
      [looks('a'), { text: 'Long.' }],
      [{ execute: async () => ({ content, isError: false }) }],
    )
    expect((await api.post<RunResult>('/sessions', create)).body.text).toBe('Long.')
    const told = String(model.told()[1]?.messages.at(-1)?.content)
    expect(Buffer.byteLength(told)).toBeLessThanOrEqual(1024 * 1024)
    expect(told).toContain('The result was cut')
  })

  test('in vain: a source that has none now is asked again for the next call', async () => {
    let asked = 0
    const { api, model } = await withTools([looks('a'), { text: 'Now.' }], [], {
      toolSources: [{ name: 'late', tools: async () => (++asked === 1 ? [] : [toTool({})]), close: async () => {} }],
    })
    expect((await api.post<RunResult>('/sessions', create)).body.text).toBe('Now.')
    expect(model.told().map(({ tools }) => tools?.length)).toEqual([undefined, 1])
  })

  test('cannot be called for ever', async () => {
    const { api, model } = await withTools([looks('a')], [{}], { maxModelCalls: 3 })
    const { detail } = expectProblem(await api.post('/sessions', create), 429, 'BUDGET_EXHAUSTED')
    expect(detail).toContain('3 model calls')
    expect(model.calls).toHaveLength(3)
  })

  test('an error in the form of an answer stays one', async () => {
    const { api, model } = await withTools(
      [looks('a'), { text: 'I see.' }],
      [{ execute: async () => toolError('access_denied', 'no') }],
    )
    await api.post('/sessions', create)
    expect(model.told()[1]?.messages.at(-1)?.content).toBe('{"error":"access_denied","message":"no"}')
  })
})

describe('a budget', () => {
  const budget = (budget_limits: object) => ({ ...create, budget_limits })

  test.each([{ max_tokens: 0 }, { max_tool_calls: 0 }, { max_duration_ms: 0 }])(
    'of nothing calls no model: %j [R64]',
    async (limits) => {
      const { api, model } = await scripted([{ text: 'never' }])
      const answer = await api.post('/sessions', budget(limits))
      expectProblem(answer, 429, 'BUDGET_EXHAUSTED')
      expect(answer.body).toMatchObject({ session_created: true, turn: 1 })
      expect(model.calls).toHaveLength(0)
    },
  )

  test('of tokens is warned of and then ends the turn [R65]', async () => {
    const say = { ...looks('a'), input: 40, output: 5 }
    const { stream, model } = await withTools([say, say, say], [{}])
    const opened = await stream('/sessions/stream', { json: budget({ max_tokens: 100 }) })
    const frames = await opened.all()
    const warnings = frames.filter(({ event }) => event === 'budget_warning').map(({ json }) => json)
    expect(warnings).toMatchObject([
      { budget_type: 'tokens', used: 90, limit: 100, percent: 0.9 },
      { budget_type: 'tokens', used: 135, limit: 100, percent: 1.35 },
    ])
    expect(frames.at(-1)?.json).toMatchObject({ type: 'run_failed', code: 'BUDGET_EXHAUSTED' })
    expect(model.calls).toHaveLength(3)
  })

  test('of tool calls counts those that were refused [R65]', async () => {
    const { stream } = await withTools([looks('a', 'b')], [{ execute: async () => toolError('access_denied', 'no') }])
    const frames = await (await stream('/sessions/stream', { json: budget({ max_tool_calls: 2 }) })).all()
    const warning = frames.find(({ event }) => event === 'budget_warning')
    expect(warning?.json).toMatchObject({ budget_type: 'tool_calls', used: 2, limit: 2, percent: 1 })
    expect(frames.at(-1)?.json).toMatchObject({ type: 'run_failed', code: 'BUDGET_EXHAUSTED' })
  })

  test('of time cuts off a model that takes longer [R65]', async () => {
    const wire = await startWireServer((_, response) => {
      response.writeHead(200, STREAM).write(beginnings.compatible('so far'))
    })
    onTestFinished(() => wire.close())
    const { stream, api } = await ownServer({ ...wire.settings, MODEL: model })
    const frames = await (await stream('/sessions/stream', { json: budget({ max_duration_ms: 600 }) })).all()
    const warning = frames.find(({ event }) => event === 'budget_warning')
    expect(warning?.json).toMatchObject({ budget_type: 'time', limit: 600 })
    expect(Number(warning?.json.used)).toBeGreaterThanOrEqual(600)
    expect(frames.at(-1)?.json).toMatchObject({ type: 'run_failed', code: 'BUDGET_EXHAUSTED' })
    await within('the call to be left', wire.calls[0]?.left ?? Promise.reject())
    const { state } = await readSession(api, String(frames[0]?.json.session_id))
    expect(state.is_active).toBe(false)
  })

  test('is that of the session, whichever turn spends it', async () => {
    const { api } = await scripted([{ text: 'one', input: 60, output: 0 }])
    const { body } = await api.post<RunResult>('/sessions', budget({ max_tokens: 100 }))
    const turns = `/sessions/${body.session_id}/turns`
    expect((await api.post(turns, { prompt: 'two' })).status).toBe(200)
    expectProblem(await api.post(turns, { prompt: 'three' }), 429, 'BUDGET_EXHAUSTED')
  })

  test('may be one of each turn, which the server sets', async () => {
    const { api } = await scripted([{ text: 'one', input: 60, output: 0 }], { MAX_TURN_TOKENS: 50 })
    const { body } = await api.post<RunResult>('/sessions', create)
    const turns = `/sessions/${body.session_id}/turns`
    expect((await api.post(turns, { prompt: 'two' })).status).toBe(200)
  })
})

describe('a limit of each turn, which the server sets', () => {
  test.each([
    ['tokens', { MAX_TURN_TOKENS: 10 }],
    ['time', { MAX_TURN_MS: 50 }],
    ['model calls', { MAX_MODEL_CALLS: 1 }],
  ])('ends it when it is reached: %s', async (_, settings) => {
    const wire = await startWireServer((_call, response, index) => {
      response.writeHead(200, STREAM)
      if (index === 0) response.end(saying(looks('a')))
    })
    onTestFinished(() => wire.close())
    const { api } = await ownServer({ ...wire.settings, MODEL: model, ...settings })
    expectProblem(await api.post('/sessions', create), 429, 'BUDGET_EXHAUSTED')
  })

  test('ends it when it is reached: tool calls', async () => {
    const { api } = await withTools([looks('a', 'b')], [{}], { turnLimits: { max_tool_calls: 2 } })
    expectProblem(await api.post('/sessions', create), 429, 'BUDGET_EXHAUSTED')
  })
})

test('an interrupt ends the wait before another try', async () => {
  const wire = await startWireServer((_, response) => response.writeHead(429, { 'retry-after': '100' }).end('{}'))
  onTestFinished(() => wire.close())
  const { api, stream } = await ownServer({ ...wire.settings, MODEL: model })
  const opened = await stream('/sessions/stream', { json: create })
  expect((await opened.upTo('retrying')).json.delay_ms).toBe(100_000)
  await api.post(`/sessions/${opened.frames[0]?.json.session_id}/interrupt`)
  expect((await opened.all()).at(-1)?.event).toBe('run_interrupted')
  expect(wire.calls).toHaveLength(1)
})

describe('structured output', () => {
  const output_schema = { type: 'object', properties: { name: { type: 'string' } }, required: ['name'] }
  const structured = { ...create, output_schema }

  test('is asked for after the answer, and is no text of it [R72 R75]', async () => {
    const fenced = '```json\n{"name":"Ada"}\n```'
    const { api, stream, model } = await scripted([{ text: 'She is Ada.' }, { text: fenced }])
    const frames = await (await stream('/sessions/stream', { json: structured })).all()
    expect(textOf(frames)).toBe('She is Ada.')
    expect(frames.at(-1)?.json.result).toMatchObject({
      text: fenced,
      turns: 2,
      structured_output: { name: 'Ada' },
      usage: { input_tokens: 20, output_tokens: 10 },
    })
    expect(model.told()[1]).not.toHaveProperty('temperature')
    expect(model.told()[1]).not.toHaveProperty('tools')
    const messages = await readMessages(api, String(frames[0]?.json.session_id))
    expect(messages.map(({ role }) => role)).toEqual(['user', 'block_assistant', 'user', 'block_assistant'])
  })

  test('is asked for again with what is wrong with it', async () => {
    const { api, model } = await scripted([
      { text: 'Ada' },
      { text: 'no JSON' },
      { text: '{}' },
      { text: '{"name":"Ada"}' },
    ])
    const { body } = await api.post<RunResult>('/sessions', structured)
    expect(body).toMatchObject({ turns: 4, structured_output: { name: 'Ada' } })
    expect(String(JSON.stringify(model.told()[3]?.messages.at(-1)))).toContain('name')
  })

  test('that never fits fails the turn, which says how often it was asked for [R73]', async () => {
    const { api, model } = await scripted([{ text: 'Ada' }, { text: 'no JSON' }])
    const { detail } = expectProblem(await api.post('/sessions', structured), 500, 'AGENT_ERROR')
    expect(detail).toContain('3 attempts')
    expect(model.calls).toHaveLength(4)
  })

  test('may be asked for once only', async () => {
    const { api } = await scripted([{ text: 'Ada' }, { text: 'no JSON' }])
    const answer = await api.post('/sessions', { ...structured, structured_output_retries: 0 })
    expect(expectProblem(answer, 500, 'AGENT_ERROR').detail).toContain('1 attempt')
  })

  test('says what of its schema is not enforced', async () => {
    const { api } = await scripted([{ text: 'Ada' }, { text: '{"name":"Ada"}' }])
    const { body } = await api.post<RunResult>('/sessions', {
      ...create,
      output_schema: { ...output_schema, fancy: true },
    })
    expect(body).toMatchObject({ schema_warnings: [{ path: '/fancy' }] })
  })

  test('of no schema is refused before there is a session', async () => {
    const { api } = await scripted([{ text: 'never' }])
    expectInvalid(await api.post('/sessions', { ...create, output_schema: { type: 'string' } }), '/output_schema')
    expect((await api.get<{ total: number }>('/sessions')).body.total).toBe(0)
  })
})

describe('a long history', () => {
  /** Six turns, so that something lies before the newest four. */
  async function longSession(script: Script, more: Record<string, string | number> = {}) {
    const summarised = { agent: 'llm', system_prompt: 'Be brief.' }
    const server = await scripted(script, { COMPACT_AT_TOKENS: 1_000, ...more })
    const { body } = await server.api.post<RunResult>('/sessions', { ...summarised, prompt: 'turn 1' })
    const id = body.session_id
    for (let turn = 2; turn <= 6; turn++) {
      const answer = await server.api.post(`/sessions/${id}/turns`, { prompt: `turn ${turn}` })
      expect(answer.status, answer.text).toBe(200)
    }
    return { ...server, id }
  }
  const isSummary = ({ messages }: Told) => JSON.stringify(messages.at(-1)).includes('Summarise the conversation')
  /** Counts so much for the fifth turn that the sixth begins with a summary. */
  const speaker =
    (summary: Saying) =>
    (told: Told): Saying =>
      isSummary(told) ? summary : { text: 'x'.repeat(800), input: 10 }

  test('is summarised for the model, while all of it can still be read [R74 R75]', async () => {
    const { api, stream, id, model } = await longSession([speaker({ text: 'What matters.', output: 3 })])
    const frames = await (await stream(`/sessions/${id}/turns/stream`, { json: { prompt: 'turn 7' } })).all()
    expect(textOf(frames)).toBe('x'.repeat(800))
    const summaries = model.told().filter(isSummary)
    expect(summaries).toHaveLength(1)
    const last = model.told().at(-1)?.messages ?? []
    expect(last[0]).toMatchObject({ role: 'system', content: 'Be brief.' })
    expect(JSON.stringify(last[1])).toContain('What matters.')
    expect(JSON.stringify(last)).not.toContain('turn 1"')
    expect(JSON.stringify(last)).toContain('turn 6')
    const messages = await readMessages(api, id)
    const asked = messages.flatMap((message) => (message.role === 'user' ? [contentOf(message)] : []))
    expect(asked).toEqual(expect.arrayContaining(['turn 1', 'turn 2', 'turn 6', 'turn 7']))
    expect(messages.filter((message) => 'summarises' in message)).toHaveLength(1)
  })

  test('tells that it is being summarised', async () => {
    const { api, id } = await longSession([speaker({ text: 'What matters.', output: 3 })])
    const replay = await api.get(`/sessions/${id}/turns/6/events`)
    expect(replay.text).toMatch(/"type":"compaction_started".*"estimated_history_tokens":\d{4}/)
    expect(replay.text).toMatch(/"type":"compaction_completed".*"summary_tokens":3/)
  })

  test('that cannot be summarised is told whole, and the turn goes on [R74]', async () => {
    const { api, id, model } = await longSession([speaker({ text: ' ' })])
    const replay = await api.get(`/sessions/${id}/turns/6/events`)
    expect(replay.text).toMatch(/"type":"compaction_failed".*"error":"The model summarised nothing"/)
    expect(replay.text).toContain('"type":"run_completed"')
    expect(JSON.stringify(model.told().at(-1)?.messages)).toContain('turn 1')
    expect((await readMessages(api, id)).filter((message) => 'summarises' in message)).toEqual([])
  })

  test('is never summarised where COMPACT_AT_TOKENS is 0', async () => {
    const { model } = await longSession([speaker({ text: 'never' })], { COMPACT_AT_TOKENS: 0 })
    expect(model.told().filter(isSummary)).toEqual([])
  })
})

describe('skills', () => {
  function folder(): string {
    const dir = mkdtempSync(join(tmpdir(), 'suricate-skills-'))
    onTestFinished(() => rmSync(dir, { recursive: true }))
    for (const [id, body] of [
      ['greet', 'Say hello first.'],
      ['code/review', 'Look for bugs.'],
    ] as const) {
      mkdirSync(join(dir, id), { recursive: true })
      writeFileSync(join(dir, id, 'SKILL.md'), `---\nname: ${id}\ndescription: How to ${id}\n---\n${body}\n`)
    }
    return dir
  }
  const withSkills = (script: Script = [{ text: 'Hello.' }]) => scripted(script, { SKILLS_DIR: folder() })
  const GREET = '<skill id="greet">Say hello first.</skill>'

  test('are listed', async () => {
    const { api } = await withSkills()
    expect((await api.get('/skills')).body).toEqual({
      skills: [
        { id: 'code/review', name: 'code/review', description: 'How to code/review' },
        { id: 'greet', name: 'greet', description: 'How to greet' },
      ],
    })
  })

  test('that a turn refers to stand before its prompt, of which the events tell without them', async () => {
    const { api, stream, model } = await withSkills()
    const opened = await stream('/sessions/stream', { json: { ...create, skill_references: ['greet', 'code/review'] } })
    const frames = await opened.all()
    expect(types(frames).slice(0, 3)).toEqual(['run_started', 'skills_resolved', 'turn_started'])
    expect(frames[0]?.json.prompt).toBe('go')
    expect(frames[1]?.json).toMatchObject({ skills: ['greet', 'code/review'] })
    const content = `${GREET}\n\n<skill id="code/review">Look for bugs.</skill>\n\ngo`
    expect(JSON.stringify(model.told()[0]?.messages)).toContain(JSON.stringify(content).slice(1, -1))
    const [message] = await readMessages(api, String(frames[0]?.json.session_id))
    expect(contentOf(message)).toBe(content)
  })

  test('are taken from the beginning of a prompt, and from nowhere else in it [R76]', async () => {
    const { api, model } = await withSkills()
    const { body } = await api.post<RunResult>('/sessions', { ...create, prompt: '/greet me\nplease' })
    const told = async () =>
      contentOf((await readMessages(api, body.session_id)).findLast(({ role }) => role === 'user'))
    expect(await told()).toBe(`${GREET}\n\nme\nplease`)
    for (const prompt of ['do /greet me', '/nothing here', '/ greet', '/greet/ x']) {
      await api.post(`/sessions/${body.session_id}/turns`, { prompt })
      expect(await told()).toBe(prompt)
    }
    expect(model.calls).toHaveLength(5)
  })

  test('that are not there are told of, and the turn runs without them [R77]', async () => {
    const { stream } = await withSkills()
    const opened = await stream('/sessions/stream', { json: { ...create, skill_references: ['nope', 'greet'] } })
    const frames = await opened.all()
    expect(types(frames).slice(1, 3)).toEqual(['skill_resolution_failed', 'skills_resolved'])
    expect(frames[1]?.json).toMatchObject({ reference: 'nope', error: expect.any(String) })
    expect(frames.at(-1)?.event).toBe('run_completed')
  })

  test('that a session begins with are part of its system prompt, or refuse it', async () => {
    const { api, model } = await withSkills()
    await api.post('/sessions', { ...create, system_prompt: 'Be brief.', preload_skills: ['greet'] })
    expect(model.told()[0]?.messages[0]).toMatchObject({ role: 'system', content: `Be brief.\n\n${GREET}` })
    const answer = await api.post('/sessions', { ...create, preload_skills: ['greet', 'nope'] })
    const problem = expectProblem(answer, 404, 'SKILL_NOT_FOUND')
    expect(problem.errors?.[0]?.path).toBe('/preload_skills/1')
  })

  test('are refused, not ignored, where the server has none', async () => {
    const { api } = await scripted([{ text: 'never' }])
    for (const more of [{ skill_references: ['greet'] }, { preload_skills: ['greet'] }]) {
      expectProblem(await api.post('/sessions', { ...create, ...more }), 501, 'CAPABILITY_UNAVAILABLE')
    }
    expectProblem(await api.get('/skills'), 501, 'CAPABILITY_UNAVAILABLE')
  })
})

describe('peers', () => {
  const session = (comms_name: string, more = {}) => ({ agent: 'llm', comms_name, ...more })

  test('are there for a model with a name among them, and for no other', async () => {
    const { api, model } = await scripted([{ text: 'x' }])
    await api.post('/sessions', create)
    await api.post('/sessions', session('ada', { prompt: 'go' }))
    const names = model.told().map(({ tools = [] }) => tools.map((tool) => tool.function.name))
    expect(names).toEqual([[], ['list_peers', 'peer_message', 'peer_request', 'peer_response']])
  })

  test('are asked, and answer, as their models decide', async () => {
    const call = (name: string, args: object): Saying => ({ calls: [{ id: 'c', name, args }] })
    const said = ({ messages }: Told) => String(messages.at(-1)?.content)
    const { api, model } = await scripted([
      call('list_peers', {}),
      (told) => call('peer_request', { to: JSON.parse(said(told)).peers[0].name, intent: 'sum', params: [1, 2] }),
      { text: 'Asked.' },
      (told) => {
        const [, to, in_reply_to] = /peer_response to "(\w+)" with in_reply_to "([\w-]+)"/.exec(said(told)) ?? []
        return call('peer_response', { to, in_reply_to, result: 3 })
      },
      { text: 'Answered.' },
      { text: 'It is three.' },
    ])
    const bob = await api.post<RunResult>('/sessions', session('bob', { initial_turn: 'deferred' }))
    const ada = await api.post<RunResult>('/sessions', session('ada', { prompt: 'ask bob' }))
    expect(ada.body.text).toBe('Asked.')
    const turn = (id: string) => api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'anything new?' })
    expect((await turn(bob.body.session_id)).body.text).toBe('Answered.')
    expect((await turn(ada.body.session_id)).body.text).toBe('It is three.')
    const last = model.told().at(-1)?.messages.at(-1)
    expect(JSON.stringify(last)).toMatch(/COMMS RESPONSE from bob.*completed.*3/)
  })

  test('that are not there are an error for the model', async () => {
    const { api, model } = await scripted([
      { calls: [{ id: 'c', name: 'peer_message', args: { to: 'nobody', body: 'hello' } }] },
      { text: 'Oh.' },
    ])
    const { body } = await api.post<RunResult>('/sessions', session('ada', { prompt: 'go' }))
    expect(body.text).toBe('Oh.')
    expect(JSON.parse(String(model.told()[1]?.messages.at(-1)?.content))).toMatchObject({ error: 'execution_failed' })
  })
})

test('an answer that ends for another reason says so', async () => {
  const { api } = await scripted([
    { text: 'half a', finish: 'length' },
    { text: 'no', finish: 'content_filter' },
  ])
  const { body } = await api.post<RunResult>('/sessions', create)
  expect(body).toMatchObject({ text: 'half a', stop_reason: 'max_tokens' })
  const next = await api.post<RunResult>(`/sessions/${body.session_id}/turns`, { prompt: 'x' })
  expect(next.body.stop_reason).toBe('content_filter')
})

test('max_tokens and the temperature reach the model', async () => {
  const { api, model } = await scripted([{ text: 'x' }])
  await api.post('/sessions', { ...create, max_tokens: 77, provider_params: { temperature: 0.5 } })
  expect(model.told()[0]).toMatchObject({ max_tokens: 77, temperature: 0.5 })
  expectInvalid(
    await api.post('/sessions', { ...create, provider_params: { temperature: 'hot' } }),
    '/provider_params/temperature',
  )
})

function contentOf(message: Message | undefined): unknown {
  return (message as { content?: unknown } | undefined)?.content
}
