import type { ServerResponse } from 'node:http'
import { describe, expect, onTestFinished, test } from 'vitest'
import { llm } from '../../../src/agents/llm/index.ts'
import { OutputSchema } from '../../../src/agents/llm/output-schema.ts'
import { createModelProviders } from '../../../src/agents/llm/providers.ts'
import type { Tool } from '../../../src/agents/tools/tool.ts'
import { type RunResult, readMessages } from '../../helpers/contract.ts'
import {
  beginnings,
  endings,
  type ModelCall,
  models,
  type ProviderName,
  type Saying,
  STREAM,
  saying,
  startWireServer,
} from '../../helpers/model-server.ts'
import { ownServer } from '../../helpers/suite.ts'

type Structured = RunResult & { structured_output?: unknown }

const strict = {
  type: 'object',
  properties: { name: { type: 'string' } },
  required: ['name'],
  additionalProperties: false,
}
const loose = { type: 'object', properties: { name: { type: 'string' } } }
const answer = '{"name":"Ada"}'

const looks: Tool = {
  name: 'look',
  description: 'Looks',
  inputSchema: { type: 'object' },
  needsApproval: false,
  timeoutMs: 1_000,
  execute: async () => ({ content: 'seen', isError: false }),
}

/** An endpoint of every provider that answers as it is told to, and a server whose agent has one tool. */
async function endpoint(
  answers: (call: ModelCall, response: ServerResponse, index: number) => void,
  compactAtTokens = 0,
) {
  const wire = await startWireServer(answers)
  onTestFinished(() => wire.close())
  const provider = (name: string) => ({
    apiKey: wire.settings[`${name}_API_KEY`] ?? '',
    baseURL: wire.settings[`${name}_BASE_URL`] ?? '',
  })
  const agent = llm({
    providers: createModelProviders({
      standard: models.compatible,
      anthropic: provider('ANTHROPIC'),
      openai: provider('OPENAI'),
      google: provider('GOOGLE_GENERATIVE_AI'),
      compatible: provider('OPENAI_COMPATIBLE'),
      silenceMs: 60_000,
    }),
    toolSources: [{ name: 'test', tools: async () => [looks], close: async () => {} }],
    turnLimits: {},
    maxModelCalls: 10,
    compactAtTokens,
    approvalTimeoutMs: 1_000,
  })
  return { wire, ...(await ownServer({}, { agents: [agent] })) }
}

const says = (provider: ProviderName, text: string) => beginnings[provider](text) + endings[provider]
const ok = (response: ServerResponse, body: string) => response.writeHead(200, STREAM).end(body)
const refused = (response: ServerResponse, status: number, message: string) =>
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify({ error: { message } }))
const create = { agent: 'llm', prompt: 'Who?' }

/** What a request says of the answer's form. */
function formOf(provider: ProviderName, { body }: ModelCall): Record<string, unknown> | undefined {
  const { response_format, text } = body as {
    response_format?: { type: string; json_schema?: object }
    text?: { format?: object }
  }
  const form = provider === 'openai' ? text?.format : response_format
  return form === undefined ? undefined : { ...form, ...response_format?.json_schema }
}

describe.each(['openai', 'compatible'] as const)('%s is asked for', (provider) => {
  test.each([
    ['a schema that fits strict mode, strictly', strict, true],
    ['one that does not, not strictly', loose, false],
    ['one where the wrapper says so, strictly', { schema: strict, strict: true, name: 'who' }, true],
    ['one where the wrapper says no, not strictly', { schema: strict, strict: false }, false],
    ['one that cannot be, not strictly, whatever the wrapper says', { schema: loose, strict: true }, false],
    ['an optional member, not strictly', { ...strict, properties: { ...strict.properties, age: {} } }, false],
    ['a keyword that strict mode has not, not strictly', { ...strict, minProperties: 1 }, false],
    [
      'a format that strict mode has not, not strictly',
      { ...strict, properties: { name: { type: 'string', format: 'json-pointer' } } },
      false,
    ],
    ['an open object inside, not strictly', { ...strict, $defs: { a: { type: 'object' } } }, false],
  ])('%s', async (_, output_schema, isStrict) => {
    const value = JSON.stringify(output_schema).includes('json-pointer') ? '{"name":"/a"}' : answer
    const { api, wire } = await endpoint((_, response) => ok(response, says(provider, value)))
    const { body } = await api.post<Structured>('/sessions', { ...create, model: models[provider], output_schema })
    expect(body.structured_output, JSON.stringify(body)).toEqual(JSON.parse(value))
    const form = formOf(provider, wire.calls[1] as ModelCall)
    const name = 'name' in output_schema ? 'who' : 'output'
    expect(form).toMatchObject({ type: 'json_schema', strict: isStrict, name, schema: { type: 'object' } })
  })
})

test.each([
  ['compatible', 400, "'response_format.type' must be 'json_object' or 'text'"],
  ['compatible', 422, 'Extra inputs are not permitted'],
  ['compatible', 500, 'failed to parse grammar'],
  ['compatible', 400, 'Cannot use custom grammar constraints with tools.'],
  ['openai', 400, "Invalid parameter: 'text.format' of type 'json_schema' is not supported with this model"],
  ['google', 400, "Function calling with a response mime type: 'application/json' is unsupported"],
  ['anthropic', 400, 'Thinking may not be enabled when tool_choice forces tool use.'],
] as const)(
  '%s that refuses the form with %i is asked in plain words, and from then on at once: %s',
  async (provider, status, message) => {
    const hasForm = ({ body }: ModelCall) => {
      const choice = (body.tool_choice as { type?: string } | undefined)?.type
      const { generationConfig } = body as { generationConfig?: { responseMimeType?: string } }
      return (
        body.response_format !== undefined ||
        (body.text as { format?: unknown } | undefined)?.format !== undefined ||
        generationConfig?.responseMimeType !== undefined ||
        body.output_config !== undefined ||
        body.output_format !== undefined ||
        choice === 'tool' ||
        choice === 'any'
      )
    }
    const { api, wire } = await endpoint((call, response) =>
      hasForm(call) ? refused(response, status, message) : ok(response, says(provider, answer)),
    )
    const request = { ...create, model: models[provider], output_schema: strict }
    for (const refusals of [1, 1]) {
      const { body } = await api.post<Structured>('/sessions', request)
      expect(body.structured_output, JSON.stringify(body)).toEqual({ name: 'Ada' })
      expect(wire.calls.filter(hasForm)).toHaveLength(refusals)
    }
    expect(wire.calls).toHaveLength(5)
  },
)

test('a refusal that is about something else is what the turn fails of', async () => {
  const { api } = await endpoint((_, response, index) =>
    index === 0 ? ok(response, saying({ text: 'Ada' })) : refused(response, 400, 'no more for you'),
  )
  const { text } = await api.post('/sessions', { ...create, output_schema: strict })
  expect(text).toContain('no more for you')
})

test('the model is asked for the form with its tools declared, none to be called, and no temperature of ours', async () => {
  const script: Saying[] = [{ calls: [{ id: 'c1', name: 'look', args: {} }] }, { text: 'Ada' }, { text: answer }]
  const { api, wire } = await endpoint((_, response, index) => ok(response, saying(script[index] as Saying)))
  const { body } = await api.post<Structured>('/sessions', { ...create, output_schema: strict })
  expect(body.structured_output).toEqual({ name: 'Ada' })
  const last = wire.calls[2]?.body as { tools?: { function: { name: string } }[]; tool_choice?: string }
  expect(last.tools?.map((tool) => tool.function.name)).toEqual(['look'])
  expect(last.tool_choice).toBe('none')
  for (const call of wire.calls) expect(call.body).not.toHaveProperty('temperature')
})

test('the temperature that a session asks for is that of every call', async () => {
  const { api, wire } = await endpoint((_, response) => ok(response, saying({ text: answer })))
  await api.post('/sessions', { ...create, output_schema: strict, provider_params: { temperature: 0.5 } })
  expect(wire.calls.map(({ body }) => body.temperature)).toEqual([0.5, 0.5])
})

test('anthropic is shown the tools of its history, since it refuses one without', async () => {
  const { api, wire } = await endpoint((_, response) => ok(response, says('anthropic', answer)))
  const request = { ...create, model: models.anthropic, output_schema: strict }
  await api.post('/sessions', request)
  expect(JSON.stringify(wire.calls[1]?.body.tools)).toContain('"look"')
})

test('a tool that is called instead of an answer is not in the history, which stays one that providers take', async () => {
  const script: Saying[] = [{ text: 'Ada' }, { calls: [{ id: 'c1', name: 'look', args: {} }] }, { text: answer }]
  const { api, wire } = await endpoint((_, response, index) => ok(response, saying(script[index] as Saying)))
  const { body } = await api.post<Structured>('/sessions', { ...create, output_schema: strict })
  expect(body.structured_output).toEqual({ name: 'Ada' })
  expect(JSON.stringify(wire.calls[2]?.body.messages)).not.toContain('c1')
  const messages = await readMessages(api, body.session_id)
  expect(JSON.stringify(messages)).not.toContain('tool_use')
})

test('a summary is asked for with the tools declared, none to be called', async () => {
  const { api, wire } = await endpoint((_, response) => ok(response, saying({ text: 'Long ago.' })), 1)
  const { body } = await api.post<Structured>('/sessions', create)
  for (const _ of Array(4)) await api.post(`/sessions/${body.session_id}/turns`, { prompt: 'and then?' })
  const summary = wire.calls.find(({ body }) => JSON.stringify(body.messages).includes('Summarise the conversation'))
  expect(summary?.body).toMatchObject({ tools: [{ function: { name: 'look' } }], tool_choice: 'none' })
})

describe('the JSON of an answer is found', () => {
  test.each([
    ['in prose', `Here it is: ${answer} I hope that helps.`],
    ['in a code block with prose around', `Sure!\n\`\`\`json\n${answer}\n\`\`\`\nThat is all.`],
    ['in a code block of another name', `\`\`\`JSON5\n${answer}\n\`\`\``],
    ['after what was thought', `<think>\nPerhaps {"name":"Bob"}?\n</think>\n\n${answer}`],
    ['after what was thought, whose beginning is not told', `Perhaps {"name":"Bob"}?</think>${answer}`],
    ['after thoughts of another name', `<thinking>{"name":"Bob"}</thinking>${answer}`],
    ['after an example', `It looks like {"name":"…"}, so: ${answer}`],
    ['after an example that does not fit', `It is ${answer}, as in {"is": 1}`],
    ['after braces that are none', `{name} and {{x}} and {"a: ${answer}`],
    ['alone', ` ${answer}\n`],
  ])('%s', (_, text) => {
    expect(OutputSchema.from(strict).read(text)).toEqual({ value: { name: 'Ada' } })
  })

  test('with what looks like thought in it', () => {
    const value = { name: 'a </think> {"b": 1} "quoted\\" }' }
    expect(OutputSchema.from(strict).read(`So: ${JSON.stringify(value)}!`)).toEqual({ value })
  })

  test.each([
    ['<think>never ends {"name":', 'it is not JSON'],
    [`Here: {"name": 7}`, '/name must be string'],
    ['{"name": 1e999}', 'it is not JSON'],
    ['{'.repeat(100_000), 'it is not JSON'],
    ['{"'.repeat(100_000), 'it is not JSON'],
  ])('or the model is told why not: %#', (text, fault) => {
    expect(OutputSchema.from(strict).read(text)).toEqual({ fault: expect.stringContaining(fault) })
  })
})
