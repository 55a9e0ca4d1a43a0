import { describe, expect, onTestFinished, test } from 'vitest'
import { ContextSizes } from '../../../src/agents/llm/context-sizes.ts'
import { estimateTokens } from '../../../src/agents/llm/history.ts'
import { overflowOf } from '../../../src/agents/llm/overflow.ts'
import { shortened, withBoundedResults } from '../../../src/agents/llm/shorten.ts'
import { piecesOf } from '../../../src/agents/llm/summary.ts'
import type { Message } from '../../../src/core/transcript.ts'
import type { RunResult } from '../../helpers/contract.ts'
import { models, STREAM, saying, startWireServer, type Told } from '../../helpers/model-server.ts'
import { types } from '../../helpers/sse.ts'
import { ownServer } from '../../helpers/suite.ts'

const LIMIT = 2_000
const isSummary = ({ messages }: Told) => JSON.stringify(messages.at(-1)).includes('Summarise the conversation')

/** A compatible model that refuses what is longer than its context. */
async function small(refusal: (tokens: number) => unknown, settings: Record<string, string | number> = {}) {
  const wire = await startWireServer(({ body }, response) => {
    const told = body as unknown as Told
    const tokens = Math.ceil(Buffer.byteLength(JSON.stringify(told.messages)) / 4)
    if (tokens > LIMIT) return response.writeHead(400).end(JSON.stringify(refusal(tokens)))
    return response.writeHead(200, STREAM).end(saying({ text: isSummary(told) ? 'What matters.' : 'Yes.' }))
  })
  onTestFinished(() => wire.close())
  const server = await ownServer({ ...wire.settings, MODEL: models.compatible, ...settings })
  return { ...server, told: () => wire.calls.map(({ body }) => body as unknown as Told) }
}

const withLimit = (tokens: number) => ({
  error: {
    message: `This model's maximum context length is ${LIMIT} tokens. However, your messages resulted in ${tokens} tokens.`,
    code: 'context_length_exceeded',
  },
})
const withoutLimit = () => ({ error: 'the request exceeds the available context size, try increasing it' })
const words = (chars: number) => 'word '.repeat(chars / 5)

describe('a session that is longer than its model can be told', () => {
  test.each([
    ['says', withLimit],
    ['does not say', withoutLimit],
  ])('goes on where the provider %s how long that is', async (_, refusal) => {
    const { api, told } = await small(refusal)
    const { body } = await api.post<RunResult>('/sessions', { prompt: `Keep this. ${words(14_000)} And this.` })
    expect(body).toMatchObject({ text: 'Yes.', stop_reason: 'end_turn' })
    expect(told()).toHaveLength(2)
    const sent = String(told()[1]?.messages[0]?.content)
    expect(sent).toMatch(/^Keep this.*The message was cut: it has 140\d\d bytes.*And this\.$/s)
    const next = await api.post<RunResult>(`/sessions/${body.session_id}/turns`, { prompt: 'And now?' })
    expect(next.body).toMatchObject({ text: 'Yes.' })
    // What was learned is not learned again.
    expect(told()).toHaveLength(3)
    expect(String(told()[2]?.messages.at(-1)?.content)).toBe('And now?')
  })

  test('is summarised then, in pieces that fit', async () => {
    const { api, stream, told } = await small(withLimit)
    const { body } = await api.post<RunResult>('/sessions', { prompt: 'turn 1' })
    const path = `/sessions/${body.session_id}/turns`
    for (let turn = 2; turn <= 6; turn++) await api.post(path, { prompt: `turn ${turn} ${words(1_000)}` })
    const frames = await (await stream(`${path}/stream`, { json: { prompt: `turn 7 ${words(6_000)}` } })).all()
    expect(types(frames)).toEqual(expect.arrayContaining(['compaction_started', 'compaction_completed']))
    expect(frames.at(-1)?.json.result).toMatchObject({ text: 'Yes.' })
    expect(told().filter(isSummary).length).toBeGreaterThan(0)
    expect(JSON.stringify(told().at(-1)?.messages)).toContain('What matters.')
  })

  test('fails where nothing helps, after one more try', async () => {
    const { api, told } = await small(withLimit)
    const answer = await api.post('/sessions', { prompt: 'go', system_prompt: words(10_000) })
    expect(answer.status).toBe(502)
    expect(answer.text).toContain('maximum context length')
    expect(told()).toHaveLength(2)
  })

  test('is never refused where a setting says how long that is', async () => {
    const { api, told } = await small(withLimit, { CONTEXT_TOKENS: `compatible=${LIMIT}` })
    const { body } = await api.post<RunResult>('/sessions', { prompt: words(14_000) })
    expect(body.text).toBe('Yes.')
    expect(told()).toHaveLength(1)
  })
})

test.each([
  [
    'OpenAI',
    { code: 'context_length_exceeded' },
    "This model's maximum context length is 8192 tokens, however you requested 10000 tokens",
    8_192,
    10_000,
  ],
  [
    'OpenAI responses',
    { code: 'context_length_exceeded' },
    'Your input exceeds the context window of this model.',
    undefined,
    undefined,
  ],
  ['Anthropic', {}, 'prompt is too long: 210000 tokens > 200000 maximum', 200_000, 210_000],
  [
    'Anthropic with max_tokens',
    {},
    'input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000, decrease',
    200_000,
    undefined,
  ],
  [
    'Google',
    {},
    'The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).',
    1_048_576,
    1_200_000,
  ],
  [
    'llama.cpp',
    { code: 'exceed_context_size_error' },
    'the request exceeds the available context size (4096 tokens), try increasing it',
    4_096,
    undefined,
  ],
  ['Ollama', {}, 'the input length exceeds the context length', undefined, undefined],
  ['Groq', {}, 'Please reduce the length of the messages or completion.', undefined, undefined],
  [
    'Mistral',
    {},
    'Prompt contains 40000 tokens, too large for model with 32768 maximum context length',
    32_768,
    40_000,
  ],
  ['xAI', {}, "This model's maximum prompt length is 131072 but the request contains 150000 tokens.", 131_072, 150_000],
  ['TGI', {}, '`inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000', 4_096, undefined],
])('an overflow is recognised as %s says it', (_, { code }: { code?: string }, text, limit, actual) => {
  const found = overflowOf({ text, codes: code === undefined ? [] : [code] }, 400)
  expect(found).toEqual({ ...(limit ? { limit } : {}), ...(actual ? { actual } : {}) })
})

test.each([
  ['Request too large for gpt-4 on tokens per min (TPM): Limit 30000, Requested 40000', 'rate_limit_exceeded', 429],
  ['max_tokens is too large: 9000', 'invalid_value', 400],
  ['Invalid API key', 'invalid_api_key', 401],
])('no overflow is: %s', (text, code, status) => {
  expect(overflowOf({ text, codes: [code] }, status)).toBeUndefined()
})

test('what a model can be told is what is set for it, its provider or all, and no more than was learned', () => {
  const sizes = new ContextSizes(
    new Map([
      ['compatible/a', 1_000],
      ['compatible', 2_000],
      ['*', 4_000],
    ]),
  )
  const room = (model: string) => sizes.room(model)
  expect([room('compatible/a'), room('compatible/b'), room('openai/c')]).toEqual([750, 1_500, 3_000])
  expect(sizes.room('compatible/a', 600)).toBe(400)
  sizes.learn('compatible/b', 3_000, { limit: 500, actual: 1_500 })
  expect(room('compatible/b')).toBe(750)
  expect(new ContextSizes().room('compatible/b')).toBeUndefined()
})

describe('a history is shortened', () => {
  const user = (content: string): Message => ({ role: 'user', content })
  const results = (...contents: string[]): Message => ({
    role: 'tool_results',
    results: contents.map((content, i) => ({ tool_use_id: String(i), content, is_error: false })),
  })
  const lengths = (messages: readonly Message[]) =>
    messages.map((message) =>
      message.role === 'tool_results'
        ? message.results.map((one) => one.content.length)
        : (message as { content: string }).content.length,
    )

  test('at its largest tool results first, and not at all where it fits', () => {
    const history = [user(words(2_000)), results(words(8_000), words(500)), user('now')]
    expect(shortened(history, 10_000)).toEqual(history)
    const shown = shortened(history, 1_500)
    expect(estimateTokens(shown)).toBeLessThanOrEqual(1_500)
    expect(lengths(shown)).toMatchObject([2_000, [expect.any(Number), 500], 3])
  })

  test('at its largest messages then, and never at its system prompt', () => {
    const system: Message = { role: 'system', content: words(2_000) }
    const shown = shortened([system, user('é'.repeat(20_000)), user('short')], 1_500)
    expect(estimateTokens(shown)).toBeLessThanOrEqual(1_500)
    expect(shown[0]).toEqual(system)
    expect(shown[2]).toEqual(user('short'))
    expect(JSON.stringify(shown)).not.toContain('�')
  })

  test('at tool results over their limit, with a note', () => {
    const [shown] = withBoundedResults([results(words(1_000), 'short')], 100)
    expect(shown).toMatchObject({
      results: [{ content: expect.stringContaining('The result was cut: it has 1000 bytes') }, { content: 'short' }],
    })
    expect(
      Buffer.byteLength((shown as { results: { content: string }[] }).results[0]?.content ?? ''),
    ).toBeLessThanOrEqual(400)
  })

  test('into pieces that are all of it', () => {
    const pieces = piecesOf([user('é€😀'.repeat(500)), results('x')], 100)
    expect(pieces.join('')).toBe(`user: ${'é€😀'.repeat(500)}\n\ntool: x`)
    for (const piece of pieces) expect(Buffer.byteLength(piece)).toBeLessThanOrEqual(400)
  })
})
