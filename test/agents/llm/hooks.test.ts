import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Writable } from 'node:stream'
import pino from 'pino'
import { describe, expect, onTestFinished, test } from 'vitest'
import { buildApp } from '../../../src/app.ts'
import { loadConfig } from '../../../src/config.ts'
import type { HookHandler, HookInvocation } from '../../../src/index.ts'
import { expectInvalid, expectProblem, type RunResult, readMessages } from '../../helpers/contract.ts'
import { until, within } from '../../helpers/http.ts'
import { models, type Saying, startScriptedModel, type Told } from '../../helpers/model-server.ts'
import { textOf, types } from '../../helpers/sse.ts'
import { ownServer } from '../../helpers/suite.ts'
import { startHttpServer } from '../tools/mcp-test-server.ts'

type Script = (Saying | ((told: Told) => Saying))[]
type Entry = Record<string, unknown>

/** A server with hooks, whose model says one thing after another and has the tools of an MCP server. */
async function hooked(
  entries: Entry[],
  handlers: Record<string, HookHandler> = {},
  script: Script = [{ text: 'Hello.' }],
) {
  const model = await startScriptedModel(...script)
  const tools = await startHttpServer()
  const folder = mkdtempSync(join(tmpdir(), 'suricate-hooks-'))
  onTestFinished(async () => {
    model.close()
    await tools.close()
    rmSync(folder, { recursive: true })
  })
  const file = (name: string, content: object) => {
    writeFileSync(join(folder, name), JSON.stringify(content))
    return join(folder, name)
  }
  const hooks = entries.map((entry) => ({ runtime: { type: 'in_process', name: entry.id }, ...entry }))
  const settings = {
    ...model.settings,
    JUDGE_TOKEN: 'the-judge-knows',
    MODEL: models.compatible,
    MCP_CONFIG: file('mcp.json', { mcpServers: { t: { url: tools.url } } }),
    HOOKS_CONFIG: file('hooks.json', { hooks }),
  }
  return { ...(await ownServer(settings, { hooks: handlers })), model }
}

const deny = (message = 'not today') =>
  ({ decision: { decision: 'deny', reason_code: 'policy_violation', message } }) as const
const add = (id = 'c'): Saying => ({ calls: [{ id, name: 't__add', args: { a: 1, b: 2 } }] })
const create = { prompt: 'go' }

describe('hooks', () => {
  test('look at every point, in their order, and are told of [R68]', async () => {
    const seen: HookInvocation[] = []
    const points = [
      'run_started',
      'pre_llm_request',
      'post_llm_response',
      'pre_tool_execution',
      'post_tool_execution',
      'turn_boundary',
      'run_completed',
    ]
    const look: HookHandler = (invocation) => {
      seen.push(invocation)
      return undefined
    }
    const { stream } = await hooked(
      points.map((point) => ({ id: point, point })),
      Object.fromEntries(points.map((point) => [point, look])),
      [add(), { text: 'Three.' }],
    )
    const frames = await (await stream('/sessions/stream', { json: create })).all()
    expect(types(frames).filter((type) => !type.startsWith('text'))).toEqual([
      ...['run_started', 'hook_started', 'hook_completed'],
      ...['turn_started', 'hook_started', 'hook_completed', 'hook_started', 'hook_completed'],
      ...['tool_call_requested', 'hook_started', 'hook_completed', 'tool_execution_started'],
      ...['hook_started', 'hook_completed', 'tool_execution_completed', 'tool_result_received', 'turn_completed'],
      ...['hook_started', 'hook_completed'],
      ...['turn_started', 'hook_started', 'hook_completed', 'hook_started', 'hook_completed', 'turn_completed'],
      ...['hook_started', 'hook_completed', 'run_completed'],
    ])
    expect(seen.map(({ point }) => point)).toEqual([...points.slice(0, 6), ...points.slice(1, 3), 'run_completed'])
    const session_id = frames[0]?.json.session_id
    expect(seen[0]).toEqual({ point: 'run_started', session_id, prompt: 'go' })
    expect(seen[1]).toMatchObject({ turn_number: 0, llm_request: { message_count: 1 } })
    expect(seen[2]).toMatchObject({ llm_response: { assistant_text: '', tool_call_names: ['t__add'] } })
    expect(seen[3]).toMatchObject({ tool_call: { tool_use_id: 'c', name: 't__add', args: { a: 1, b: 2 } } })
    expect(seen[4]).toMatchObject({ tool_result: { tool_use_id: 'c', name: 't__add', content: '3', is_error: false } })
  })

  test('of one point run by priority, and the first that denies ends it', async () => {
    const ran: string[] = []
    const note =
      (id: string, answer?: ReturnType<typeof deny>): HookHandler =>
      () => {
        ran.push(id)
        return answer
      }
    const at = { point: 'pre_llm_request', capability: 'guardrail' }
    const { api } = await hooked(
      [
        { id: 'late', ...at, priority: 200 },
        { id: 'first', ...at },
        { id: 'second', ...at },
        { id: 'early', ...at, priority: 1 },
        { id: 'background', point: 'pre_llm_request', mode: 'background' },
      ],
      {
        late: note('late'),
        first: note('first'),
        second: note('second', deny()),
        early: note('early'),
        background: note('background'),
      },
    )
    expectProblem(await api.post('/sessions', create), 403, 'HOOK_DENIED')
    expect(ran).toEqual(['early', 'first', 'second'])
  })

  test('that deny a model call end the turn before it [R66]', async () => {
    const failures: HookInvocation[] = []
    const { api, stream, model } = await hooked(
      [
        { id: 'no', point: 'pre_llm_request', capability: 'guardrail' },
        { id: 'failed', point: 'run_failed' },
      ],
      {
        no: () => deny(),
        failed: (invocation) => {
          failures.push(invocation)
          return undefined
        },
      },
    )
    const frames = await (await stream('/sessions/stream', { json: create })).all()
    expect(types(frames).slice(-4)).toEqual(['hook_denied', 'hook_started', 'hook_completed', 'run_failed'])
    expect(frames.at(-1)?.json).toMatchObject({ code: 'HOOK_DENIED', error: expect.stringContaining('not today') })
    expect(frames.find(({ event }) => event === 'hook_denied')?.json).toMatchObject({
      hook_id: 'no',
      point: 'pre_llm_request',
      reason_code: 'policy_violation',
      message: 'not today',
    })
    expect(model.calls).toHaveLength(0)
    expect(failures).toMatchObject([{ point: 'run_failed', error: expect.stringContaining('not today') }])
    expectProblem(await api.post('/sessions', create), 403, 'HOOK_DENIED')
  })

  test('that deny a turn at its start, or its result, end it with run_failed [R71]', async () => {
    for (const point of ['run_started', 'run_completed', 'turn_boundary', 'post_llm_response']) {
      const failures: unknown[] = []
      const { stream } = await hooked(
        [
          { id: 'no', point, capability: 'guardrail' },
          { id: 'failed', point: 'run_failed' },
        ],
        {
          no: () => deny(),
          failed: ({ error }) => {
            failures.push(error)
            return undefined
          },
        },
        [add(), { text: 'Three.' }],
      )
      const frames = await (await stream('/sessions/stream', { json: create })).all()
      expect(frames.at(-1)?.json, point).toMatchObject({ type: 'run_failed', code: 'HOOK_DENIED' })
      expect(types(frames), point).not.toContain('run_completed')
      expect(failures, point).toEqual([expect.stringContaining('not today')])
    }
  })

  test('that deny a tool call are its answer, and it counts [R67]', async () => {
    const { stream, model } = await hooked(
      [{ id: 'no', point: 'pre_tool_execution', capability: 'guardrail' }],
      { no: () => ({ decision: { ...deny().decision, payload: { why: 7 } } }) },
      [add(), { text: 'Well.' }],
    )
    const frames = await (await stream('/sessions/stream', { json: create })).all()
    expect(types(frames)).not.toContain('tool_execution_started')
    expect(frames.at(-1)?.json.result).toMatchObject({ text: 'Well.', tool_calls: 1 })
    expect(JSON.parse(String(model.told()[1]?.messages.at(-1)?.content))).toEqual({
      error: 'hook_denied',
      message: 'not today',
      reason_code: 'policy_violation',
      payload: { why: 7 },
    })
  })

  test('rewrite what goes to the model, to the tool and back, and what is said [R68]', async () => {
    const rewrite = (id: string, point: string) => ({ id, point, capability: 'rewrite' })
    const { api, stream, model } = await hooked(
      [
        rewrite('request', 'pre_llm_request'),
        rewrite('args', 'pre_tool_execution'),
        rewrite('result', 'post_tool_execution'),
        rewrite('answer', 'post_llm_response'),
        rewrite('run', 'run_completed'),
      ],
      {
        request: () => ({ patches: [{ patch_type: 'llm_request', max_tokens: 7, temperature: 0.25 }] }),
        args: () => ({ patches: [{ patch_type: 'tool_args', args: { a: 40, b: 2 } }] }),
        result: ({ tool_result }) => ({
          patches: [{ patch_type: 'tool_result', content: `${tool_result?.content}!`, is_error: true }],
        }),
        answer: ({ llm_response }) =>
          llm_response?.tool_call_names.length === 0
            ? { patches: [{ patch_type: 'assistant_text', text: 'rewritten' }] }
            : undefined,
        run: () => ({ patches: [{ patch_type: 'run_result', text: 'the result' }] }),
      },
      [add(), { text: 'Three.' }],
    )
    const frames = await (await stream('/sessions/stream', { json: create })).all()
    const applied = frames.filter(({ event }) => event === 'hook_rewrite_applied').map(({ json }) => json.hook_id)
    expect(applied).toEqual(['request', 'args', 'result', 'request', 'answer', 'run'])
    expect(model.told()[0]).toMatchObject({ max_tokens: 7, temperature: 0.25 })
    expect(model.told()[1]?.messages.at(-1)?.content).toBe('42!')
    expect(frames.find(({ event }) => event === 'tool_execution_completed')?.json).toMatchObject({
      result: '42!',
      is_error: true,
    })
    expect(textOf(frames)).toBe('Three.')
    expect(frames.find(({ event }) => event === 'text_complete')?.json.content).toBe('rewritten')
    expect(frames.at(-1)?.json.result).toMatchObject({ text: 'the result' })
    const messages = await readMessages(api, String(frames[0]?.json.session_id))
    expect(messages.at(-1)).toMatchObject({ blocks: [{ block_type: 'text', data: { text: 'rewritten' } }] })
  })

  test('do no more than they may', async () => {
    const everything: HookHandler = () => ({
      ...deny(),
      patches: [{ patch_type: 'run_result', text: 'rewritten' }],
    })
    const { api } = await hooked([{ id: 'look', point: 'run_completed' }], { look: everything })
    expect((await api.post<RunResult>('/sessions', create)).body.text).toBe('Hello.')
    const patches: HookHandler = () => ({ patches: [{ patch_type: 'run_result', text: 'rewritten' }] })
    const guard = await hooked([{ id: 'guard', point: 'run_completed', capability: 'guardrail' }], { guard: patches })
    expect((await guard.api.post<RunResult>('/sessions', create)).body.text).toBe('Hello.')
    const astray = await hooked([{ id: 'astray', point: 'run_started', capability: 'rewrite' }], { astray: patches })
    expect((await astray.api.post<RunResult>('/sessions', create)).body.text).toBe('Hello.')
  })

  test('that fail open are told of; that fail closed deny, also when they are late [R69]', async () => {
    const throws: HookHandler = () => {
      throw new Error('an internal matter')
    }
    const at = { point: 'pre_llm_request', timeout_ms: 20 }
    const open = await hooked([{ id: 'throws', ...at }], { throws })
    const frames = await (await open.stream('/sessions/stream', { json: create })).all()
    expect(frames.find(({ event }) => event === 'hook_failed')?.json).toMatchObject({
      hook_id: 'throws',
      error: 'failed unexpectedly',
    })
    expect(frames.at(-1)?.event).toBe('run_completed')
    for (const [handler, reason_code] of [
      [throws, 'runtime_error'],
      [() => new Promise<undefined>(() => {}), 'timeout'],
      [() => ({ decision: 'maybe' }) as never, 'runtime_error'],
    ] as const) {
      const { stream } = await hooked([{ id: 'x', ...at, capability: 'guardrail' }], { x: handler })
      const closed = await (await stream('/sessions/stream', { json: create })).all()
      expect(closed.find(({ event }) => event === 'hook_denied')?.json).toMatchObject({ hook_id: 'x', reason_code })
      expect(closed.at(-1)?.json).toMatchObject({ type: 'run_failed', code: 'HOOK_DENIED' })
    }
  })

  test('in the background hold nobody up, and what they propose is published at the next point', async () => {
    let release = () => {}
    const { api, stream } = await hooked(
      [{ id: 'later', point: 'run_completed', mode: 'background', capability: 'rewrite' }],
      {
        later: () =>
          new Promise((resolve) => {
            release = () => resolve({ patches: [{ patch_type: 'run_result', text: 'better' }] })
          }),
      },
    )
    const { body } = await within('the turn', api.post<RunResult>('/sessions', create))
    expect(body.text).toBe('Hello.')
    release()
    const turns = `/sessions/${body.session_id}/turns`
    const published = await until('the proposal is published', async () => {
      const frames = await (await stream(`${turns}/stream`, { json: create })).all()
      return frames.find(({ event }) => event === 'hook_patch_published')
    })
    expect(published.json).toMatchObject({
      hook_id: 'later',
      point: 'run_completed',
      envelope: { revision: 1, patch: { patch_type: 'run_result', text: 'better' } },
    })
  })

  test('in the background end with the server', async () => {
    let aborted: Promise<void> | undefined
    const { api, close } = await hooked(
      [{ id: 'hangs', point: 'run_completed', mode: 'background', timeout_ms: 600_000 }],
      {
        hangs: (_, { signal }) => {
          aborted = new Promise((resolve) => signal.addEventListener('abort', () => resolve()))
          return new Promise(() => {})
        },
      },
    )
    expect((await api.post<RunResult>('/sessions', create)).body.text).toBe('Hello.')
    await within('the server to close', close())
    await within('the hook to hear of it', aborted ?? Promise.reject())
  })

  test('are interrupted with the turn', async () => {
    let aborted: Promise<void> | undefined
    const { api, stream } = await hooked([{ id: 'hangs', point: 'run_started', capability: 'guardrail' }], {
      hangs: (_, { signal }) => {
        aborted = new Promise((resolve) => signal.addEventListener('abort', () => resolve()))
        return new Promise(() => {})
      },
    })
    const opened = await stream('/sessions/stream', { json: create })
    await opened.upTo('hook_started')
    await api.post(`/sessions/${opened.frames[0]?.json.session_id}/interrupt`)
    expect((await opened.all()).at(-1)?.event).toBe('run_interrupted')
    await within('the hook to hear of it', aborted ?? Promise.reject())
  })

  test('may be done without, where the configuration says so', async () => {
    const at = { point: 'pre_llm_request', capability: 'guardrail' }
    const { api } = await hooked(
      [
        { id: 'soft', ...at, allow_disable: true },
        { id: 'hard', ...at, enabled: false },
      ],
      {
        soft: () => deny(),
        hard: () => deny(),
      },
    )
    const without = (...disable: string[]) =>
      api.post<RunResult>('/sessions', { ...create, hooks_override: { disable } })
    expectProblem(await api.post('/sessions', create), 403, 'HOOK_DENIED')
    expect((await without('soft')).body.text).toBe('Hello.')
    expectInvalid(await without('soft', 'nobody'), '/hooks_override/disable/1')
    const firm = await hooked([{ id: 'firm', ...at }], { firm: () => deny() })
    const answer = await firm.api.post('/sessions', { ...create, hooks_override: { disable: ['firm'] } })
    expectInvalid(answer, '/hooks_override/disable/0')
  })

  test('see long texts cut, so that they are never more than 128 KiB', async () => {
    const sizes: number[] = []
    const { api } = await hooked([{ id: 'look', point: 'run_started' }], {
      look: (invocation) => {
        sizes.push(JSON.stringify(invocation).length)
        return undefined
      },
    })
    for (const length of [10, 500_000]) await api.post('/sessions', { prompt: 'x'.repeat(length) })
    expect(sizes[0]).toBeLessThan(200)
    expect(sizes[1]).toBeGreaterThan(16_000)
    expect(sizes[1]).toBeLessThanOrEqual(128 * 1024)
  })
})

test('what a hook rewrites or forbids is not there in another form', async () => {
  const script: Script = [{ text: 'The code is 1234.' }, { text: '{"code":"1234"}' }, { text: 'Next.' }]
  const seen: unknown[] = []
  const { api } = await hooked(
    [{ id: 'hide', point: 'run_completed', capability: 'rewrite' }],
    {
      hide: ({ result }) => {
        seen.push(result)
        return { patches: [{ patch_type: 'run_result', text: 'hidden' }] }
      },
    },
    script,
  )
  const output_schema = { type: 'object', properties: { code: { type: 'string' } } }
  const { body } = await api.post<RunResult>('/sessions', { ...create, output_schema })
  expect(body.text).toBe('hidden')
  expect(body).not.toHaveProperty('structured_output')
  expect(seen).toEqual(['{"code":"1234"}'])

  let isStrict = true
  const strict = await hooked(
    [{ id: 'judge', point: 'post_llm_response', capability: 'guardrail' }],
    { judge: () => (isStrict ? deny() : undefined) },
    script,
  )
  const denied = await strict.api.post<{ session_id: string }>('/sessions', create)
  expectProblem(denied, 403, 'HOOK_DENIED')
  isStrict = false
  await strict.api.post(`/sessions/${denied.body.session_id}/turns`, { prompt: 'and now?' })
  expect(JSON.stringify(strict.model.told()[1])).not.toContain('1234')
  expect(JSON.stringify(await readMessages(strict.api, denied.body.session_id))).not.toContain('The code')
})

describe('a hook over HTTP', () => {
  async function judge(answer: (body: HookInvocation, response: http.ServerResponse) => void) {
    const asked: { body: HookInvocation; headers: http.IncomingHttpHeaders }[] = []
    const server = http.createServer((request, response) => {
      let text = ''
      request.on('data', (chunk) => {
        text += chunk
      })
      request.on('end', () => {
        const body = JSON.parse(text) as HookInvocation
        asked.push({ body, headers: request.headers })
        answer(body, response)
      })
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    onTestFinished(() => {
      server.closeAllConnections()
      server.close()
    })
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
    const headers = { authorization: `Bearer \${JUDGE_TOKEN}` }
    return { asked, runtime: { type: 'http', url, headers } }
  }
  const guard = { id: 'judge', point: 'pre_llm_request', capability: 'guardrail', timeout_ms: 500 }

  test('is asked in JSON, with its headers, and heard', async () => {
    const { asked, runtime } = await judge((_, response) => response.end(JSON.stringify(deny('no way'))))
    const { api } = await hooked([{ ...guard, runtime }])
    const { detail } = expectProblem(await api.post('/sessions', create), 403, 'HOOK_DENIED')
    expect(detail).toContain('no way')
    expect(asked[0]?.body).toMatchObject({ point: 'pre_llm_request', llm_request: { message_count: 1 } })
    expect(asked[0]?.headers).toMatchObject({
      'content-type': 'application/json',
      authorization: 'Bearer the-judge-knows',
    })
  })

  test('that repeats its headers is not heard to', async () => {
    const { runtime } = await judge((_, response) => response.end(JSON.stringify(deny('Bearer the-judge-knows it'))))
    const { stream } = await hooked([{ ...guard, runtime }])
    const opened = await stream('/sessions/stream', { json: create })
    const frames = await opened.all()
    expect(frames.find(({ event }) => event === 'hook_denied')?.json.message).toBe('… it')
    expect(opened.text).not.toContain('the-judge-knows')
  })

  test.each<[string, (response: http.ServerResponse) => void]>([
    ['204', (response) => response.writeHead(204).end()],
    ['nothing', (response) => response.end()],
    ['allow', (response) => response.end('{"decision":{"decision":"allow"}}')],
    ['an empty object', (response) => response.end('{}')],
  ])('allows with %s', async (_, answer) => {
    const { runtime } = await judge((_, response) => answer(response))
    const { api } = await hooked([{ ...guard, runtime }])
    expect((await api.post<RunResult>('/sessions', create)).body.text).toBe('Hello.')
  })

  test.each<[string, string, (response: http.ServerResponse) => void]>([
    ['500', 'answered 500', (response) => response.writeHead(500).end('a stack')],
    ['a redirect', 'answered 302', (response) => response.writeHead(302, { location: 'http://127.0.0.1:1/' }).end()],
    ['no JSON', 'answered with something that is no JSON', (response) => response.end('<html>')],
    ['something else', 'answered with something that is no hook response', (response) => response.end('[1]')],
    ['too much', 'answered with more than 128 KiB', (response) => response.end('x'.repeat(200_000))],
    ['no end', 'did not answer within 500 ms', (response) => response.write('{')],
    ['a broken connection', 'could not be reached', (response) => response.destroy()],
    ['half an answer', 'broke off its answer', (response) => response.write('{', () => response.destroy())],
  ])('that answers with %s has failed, and tells nothing of what it said', async (_, error, answer) => {
    const { runtime } = await judge((_, response) => answer(response))
    const { stream } = await hooked([{ ...guard, runtime, failure_policy: 'fail_open' }])
    const frames = await (await stream('/sessions/stream', { json: create })).all()
    expect(frames.find(({ event }) => event === 'hook_failed')?.json.error).toBe(error)
    expect(frames.at(-1)?.event).toBe('run_completed')
  })
})

test('without a configuration there are none to do without', async () => {
  const { api } = await ownServer({ MODEL: models.compatible, OPENAI_COMPATIBLE_BASE_URL: 'http://127.0.0.1:1/v1' })
  const answer = await api.post('/sessions', { ...create, hooks_override: { disable: ['a'] } })
  expectProblem(answer, 501, 'CAPABILITY_UNAVAILABLE')
})

test('a wrong file stops the start with a sentence, and one that nobody reads is warned of', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'suricate-hooks-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const file = join(folder, 'file.json')
  writeFileSync(file, '{"hooks": 1, "mcpServers": 1}')
  for (const name of ['HOOKS_CONFIG', 'MCP_CONFIG']) {
    const env = { MODEL: models.compatible, OPENAI_COMPATIBLE_BASE_URL: 'http://127.0.0.1:1', [name]: file }
    await expect(buildApp(loadConfig({ env }))).rejects.toThrow(
      new RegExp(`^${name}: The .* configuration ${file} is wrong`),
    )
    let logged = ''
    const sink = new Writable({
      write(chunk, _, done) {
        logged += chunk
        done()
      },
    })
    const unread = await buildApp(loadConfig({ env: { [name]: file } }), { logger: pino(sink) })
    await unread.close()
    expect(logged).toContain(`${name} is for the agent llm, and no model is set up`)
  }
})
