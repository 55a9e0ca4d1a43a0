import type { ServerResponse } from 'node:http'
import { afterAll, describe, expect, test } from 'vitest'
import type { Message } from '../../../src/core/transcript.ts'
import {
  beginnings,
  endings,
  type ModelCall,
  models,
  type ProviderName,
  providersAt,
  STREAM,
  startWireServer,
} from '../../helpers/model-server.ts'

type Sent = { role: string; content: unknown; reasoning_content?: string }

let answer: (call: ModelCall, response: ServerResponse) => void = () => {}
const wire = await startWireServer((call, response) => answer(call, response))
afterAll(() => wire.close())

async function sent(provider: ProviderName, messages: Message[], more: object = {}, request: object = {}) {
  answer = (_, response) => response.writeHead(200, STREAM).end(beginnings[provider]('Yes') + endings[provider])
  const { signal } = new AbortController()
  const model = providersAt(wire.settings, more).model(models[provider])
  for await (const _ of model.call({ messages, tools: [], signal, ...request }));
  return wire.calls.at(-1)?.body as unknown as { messages: Sent[]; system?: { cache_control?: object }[] }
}

const user = (content: string): Message => ({ role: 'user', content })
const call = { block_type: 'tool_use' as const, data: { id: 'a', name: 'add', args: {} } }
const said = (...blocks: Extract<Message, { role: 'block_assistant' }>['blocks']): Message => ({
  role: 'block_assistant',
  blocks,
  stop_reason: 'end_turn',
})
const thought = (text: string, meta?: Record<string, unknown>) => ({
  block_type: 'reasoning' as const,
  data: { text, ...(meta === undefined ? {} : { meta }) },
})
const result: Message = { role: 'tool_results', results: [{ tool_use_id: 'a', content: '3', is_error: false }] }

describe('what a compatible model thought', () => {
  const history = [user('go'), said(thought('First I add.'), call), result]

  test('goes back to it with its answer', async () => {
    const { messages } = await sent('compatible', history)
    expect(messages[1]).toMatchObject({ role: 'assistant', reasoning_content: 'First I add.' })
  })

  test('does not, where a setting says so', async () => {
    const { messages } = await sent('compatible', history, { sendReasoning: false })
    expect(messages[1]).not.toHaveProperty('reasoning_content')
  })

  test('is not invented where it said nothing, and not told by another model', async () => {
    const foreign = thought('signed', { anthropic: { signature: 's' } })
    const { messages } = await sent('compatible', [user('go'), said(foreign, call), result])
    expect(messages[1]).not.toHaveProperty('reasoning_content')
    for (const provider of ['anthropic', 'openai', 'google'] as const) {
      expect(JSON.stringify(await sent(provider, history)), provider).not.toContain('First I add.')
    }
  })

  test('is no answer by itself', async () => {
    const { messages } = await sent('compatible', [user('go'), said(thought('Hm')), user('go on')])
    expect(messages.map(({ role }) => role)).toEqual(['user', 'user'])
  })

  test('goes back after its first tool call to one that demands it', async () => {
    const demanding = ({ body }: ModelCall, response: ServerResponse) => {
      const { messages } = body as unknown as { messages: Sent[] }
      const isMissing = messages.some(({ role, reasoning_content }) => role === 'assistant' && !reasoning_content)
      if (!isMissing) return response.writeHead(200, STREAM).end(beginnings.compatible('Yes') + endings.compatible)
      return response.writeHead(400).end('{"error":{"message":"The reasoning_content must be passed back"}}')
    }
    const model = providersAt(wire.settings).model(models.compatible)
    answer = demanding
    const { signal } = new AbortController()
    const events = []
    for await (const event of model.call({ messages: history, tools: [], signal })) events.push(event.type)
    expect(events.at(-1)).toBe('finish')
  })
})

describe("Anthropic's cache", () => {
  const mark = { cache_control: { type: 'ephemeral' } }
  const long = [
    { role: 'system' as const, content: 'Be brief. '.repeat(500) },
    user('add'),
    said(call),
    result,
    user('again'),
    said(call),
    result,
  ]

  test('is asked to keep the system prompt, the newest prompt and the end of a long history', async () => {
    const { system, messages } = await sent('anthropic', long)
    expect(system).toMatchObject([mark])
    const marks = messages.map(({ content }) => (content as object[]).map((part) => 'cache_control' in part))
    expect(marks).toEqual([[false], [false], [false, true], [false], [true]])
  })

  test('is not, for a short one, for another provider, or where it is turned off', async () => {
    const all = [
      await sent('anthropic', long.slice(1)),
      await sent('anthropic', long, { promptCache: false }),
      await sent('openai', long),
      await sent('google', long),
      await sent('compatible', long),
    ]
    for (const body of all) expect(JSON.stringify(body)).not.toContain('ephemeral')
  })

  test('is left to the request where that says how', async () => {
    const providerParams = { cacheControl: { type: 'ephemeral', ttl: '1h' } }
    const body = await sent('anthropic', long, {}, { providerParams })
    expect(JSON.stringify(body).match(/ephemeral/g)).toHaveLength(1)
  })
})

test('a tool name that a model invented goes back as one that providers take', async () => {
  const invented = (name: string) => ({ ...call, data: { ...call.data, name } })
  for (const name of ['functions.echo<|channel|>commentary', 'a b', 'é', 'x'.repeat(200), '']) {
    for (const provider of ['anthropic', 'openai', 'google', 'compatible'] as const) {
      const body = JSON.stringify(await sent(provider, [user('go'), said(invented(name)), result]))
      const names = [...body.matchAll(/"(?:name|toolName)":"([^"]*)"/g)].map(([, found]) => found)
      expect(names.length, provider).toBeGreaterThan(0)
      for (const found of names) expect(found).toMatch(/^[A-Za-z0-9_-]{1,64}$/)
    }
  }
})
