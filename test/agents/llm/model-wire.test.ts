import type { ServerResponse } from 'node:http'
import { afterAll, beforeEach, describe, expect, onTestFinished, test } from 'vitest'
import { httpHook } from '../../../src/agents/hooks/http-hook.ts'
import { type ModelEvent, ModelFault } from '../../../src/agents/llm/model.ts'
import { mcpFetch } from '../../../src/agents/tools/mcp-fetch.ts'
import {
  beginnings,
  endings,
  models,
  type ProviderName,
  providerNames,
  providersAt,
  STREAM,
  startWireServer,
} from '../../helpers/model-server.ts'

let answer: (response: ServerResponse) => void = (response) => response.end()
const wire = await startWireServer((_, response) => answer(response))
afterAll(() => wire.close())
const providers = providersAt(wire.settings)

interface TimeOuts {
  headersTimeout?: number
  bodyTimeout?: number
}
type Finish = Extract<ModelEvent, { type: 'finish' }>

async function finishOf(provider: ProviderName, does: typeof answer): Promise<Finish> {
  answer = does
  const messages = [{ role: 'user' as const, content: 'x'.repeat(4_000) }]
  const { signal } = new AbortController()
  for await (const event of providers.model(models[provider]).call({ messages, tools: [], signal })) {
    if (event.type === 'finish') return event
  }
  throw new Error('The call did not finish')
}

const chunk = (delta: object, more: object = {}) =>
  `data: ${JSON.stringify({ id: 'c', created: 1, model: 'm', choices: [{ index: 0, delta }], ...more })}\n\n`
const stream = (text: string) => (response: ServerResponse) => response.writeHead(200, STREAM).end(text)
const usage = { prompt_tokens: 7, completion_tokens: 5 }
const toolCall = { tool_calls: [{ index: 0, id: 'a', function: { name: 'add', arguments: '{"a":1}' } }] }

describe('a stream that says [DONE] and no reason for its end', () => {
  test('is an answer where it has text', async () => {
    const { blocks, ...rest } = await finishOf(
      'compatible',
      stream(`${chunk({ content: 'Yes' }, { usage })}data: [DONE]\n\n`),
    )
    expect(blocks).toEqual([{ block_type: 'text', data: { text: 'Yes' } }])
    expect(rest).toMatchObject({ stopReason: 'end_turn', usage: { input_tokens: 7, output_tokens: 5 } })
  })

  test('is an answer where it has tool calls', async () => {
    const { blocks } = await finishOf('compatible', stream(`${chunk(toolCall)}data:[DONE]\n\n`))
    expect(blocks).toEqual([{ block_type: 'tool_use', data: { id: 'a', name: 'add', args: { a: 1 } } }])
  })

  test('is heard however it is cut into pieces', async () => {
    const finish = await finishOf('compatible', async (response) => {
      response.writeHead(200, STREAM)
      for (const byte of `${chunk({ content: 'Yes' })}data: [DONE]\n\n`) {
        await new Promise<void>((resolve) => response.write(byte, () => setImmediate(resolve)))
      }
      response.end()
    })
    expect(finish.blocks).toMatchObject([{ data: { text: 'Yes' } }])
  })

  test.each([
    ['it says nothing', `${chunk({ content: '' })}data: [DONE]\n\n`],
    ['it only thinks', `${chunk({ reasoning_content: 'hm' })}data: [DONE]\n\n`],
    ['[DONE] is part of the text', chunk({ content: 'data: [DONE]' })],
    ['it is cut off before [DONE]', chunk({ content: 'Yes' })],
  ])('is none where %s', async (_, text) => {
    await expect(finishOf('compatible', stream(text))).rejects.toMatchObject({ name: 'ModelFault', retryable: true })
  })
})

describe('tokens that nobody counted', () => {
  test.each([
    ['no usage', {}],
    ['a usage of nothing', { usage: { prompt_tokens: 0, completion_tokens: 0 } }],
  ])('are estimated, and marked so: %s', async (_, more) => {
    const text =
      chunk({ content: 'y'.repeat(400) }) +
      chunk({}, { choices: [{ index: 0, delta: {}, finish_reason: 'stop' }], ...more })
    const finish = await finishOf('compatible', stream(`${text}data: [DONE]\n\n`))
    expect(finish.usage.estimated).toBe(true)
    expect(finish.usage.input_tokens).toBeGreaterThan(999)
    expect(finish.usage.input_tokens).toBeLessThan(1_100)
    expect(finish.usage.output_tokens).toBeGreaterThan(99)
    expect(finish.usage.output_tokens).toBeLessThan(150)
  })

  test('are not, where the provider counted them', async () => {
    for (const provider of providerNames) {
      const { usage } = await finishOf(provider, stream(beginnings[provider]('Yes') + endings[provider]))
      expect(usage, provider).toEqual({ input_tokens: 7, output_tokens: 5 })
    }
  })
})

describe('the time-outs of the HTTP client', () => {
  const CLIENT = Symbol.for('undici.globalDispatcher.1')
  const globals = globalThis as unknown as Record<symbol, { dispatch(options: TimeOuts, handler: unknown): boolean }>

  // Nobody can wait for 300 s: this client fails at once where it would fail then. 0 is no time-out.
  beforeEach(async () => {
    await (await fetch('data:,')).text()
    const client = globals[CLIENT]
    if (client === undefined) throw new Error('Node keeps its HTTP client elsewhere')
    globals[CLIENT] = {
      dispatch: (options, handler) => {
        if (options.headersTimeout !== 0 || options.bodyTimeout !== 0) throw new Error('timed out')
        return client.dispatch(options, handler)
      },
    }
    onTestFinished(() => {
      globals[CLIENT] = client
    })
  })

  test.each(providerNames)('are not those of a model: %s', async (provider) => {
    const finish = await finishOf(provider, stream(beginnings[provider]('slow') + endings[provider]))
    expect(finish.blocks).toMatchObject([{ data: { text: 'slow' } }])
  })

  test('are not those of a tool or a hook, and would be without us', async () => {
    answer = (response) => response.writeHead(200, STREAM).end('data: {}\n\n')
    const url = wire.settings.OPENAI_BASE_URL ?? ''
    const call = { method: 'POST', body: JSON.stringify({ id: 1, method: 'tools/call' }) }
    expect(await (await mcpFetch(() => {})(url, call)).text()).toContain('data: {}')
    const notice = { method: 'POST', body: JSON.stringify({ method: 'notifications/initialized' }) }
    expect((await mcpFetch(() => {})(url, notice)).status).toBe(200)
    answer = (response) => response.end()
    const invocation = { point: 'run_started' as const, session_id: 's', prompt: 'p' }
    const { signal } = new AbortController()
    await httpHook({ url, headers: {}, secrets: [] })(invocation, { signal })
    await expect(fetch(url, call)).rejects.toThrow('fetch failed')
  })
})

test('a provider that cannot be reached is told of without its address', async () => {
  const gone = await startWireServer(() => {})
  gone.close()
  const { signal } = new AbortController()
  const model = providersAt(gone.settings).model(models.compatible)
  const failed = model.call({ messages: [{ role: 'user', content: 'go' }], tools: [], signal })
  const fault = await failed[Symbol.asyncIterator]()
    .next()
    .catch((error: unknown) => error)
  expect(fault).toBeInstanceOf(ModelFault)
  expect((fault as ModelFault).message).toMatch(/^compatible could not be reached, or broke off \(ECONN\w+\)$/)
})
