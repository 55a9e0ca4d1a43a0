import type { ServerResponse } from 'node:http'
import { pino } from 'pino'
import { afterAll, describe, expect, onTestFinished, test } from 'vitest'
import { ModelFault } from '../../../src/agents/llm/model.ts'
import { expectProblem } from '../../helpers/contract.ts'
import { client } from '../../helpers/http.ts'
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
import { startServer } from '../../helpers/server.ts'

let answer: (response: ServerResponse) => void = (response) => response.end()
const wire = await startWireServer((_, response) => answer(response))
afterAll(() => wire.close())

const providers = providersAt(wire.settings)

/** What one call of a model comes to: its answer's text, or its fault. */
async function call(provider: ProviderName, does: typeof answer): Promise<{ text: string } | ModelFault> {
  answer = does
  let text = ''
  try {
    const messages = [{ role: 'user' as const, content: 'go' }]
    const { signal } = new AbortController()
    for await (const event of providers.model(models[provider]).call({ messages, tools: [], signal })) {
      if (event.type === 'text') text += event.delta
    }
    return { text }
  } catch (error) {
    if (error instanceof ModelFault) return error
    throw error
  }
}

async function faultOf(provider: ProviderName, does: typeof answer): Promise<ModelFault> {
  const outcome = await call(provider, does)
  expect(outcome, 'the call to fail').toBeInstanceOf(ModelFault)
  return outcome as ModelFault
}

const json = (status: number, body: unknown) => (response: ServerResponse) =>
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
const text =
  (status: number, body: string, type = 'text/plain') =>
  (response: ServerResponse) =>
    response.writeHead(status, { 'content-type': type }).end(body)
const data = (event: unknown) => `data: ${JSON.stringify(event)}\n\n`

const bodies: readonly [shape: string, body: unknown, said: string][] = [
  ['OpenAI', { error: { message: 'No such model', type: 'invalid_request_error', code: 'x' } }, 'No such model'],
  [
    'Anthropic',
    { type: 'error', error: { type: 'not_found_error', message: 'model: x' } },
    'model: x (not_found_error)',
  ],
  ['Google, in a list', [{ error: { code: 400, message: 'Bad call', status: 'INVALID_ARGUMENT' } }], 'Bad call'],
  ['an error that is text', { error: 'model "x" not found, try pulling it first' }, 'try pulling it first'],
  ['vLLM', { object: 'error', message: 'too long', type: 'BadRequestError', code: 400 }, 'too long'],
  ['FastAPI', { detail: 'Not Found' }, 'Not Found'],
  [
    'FastAPI, a list',
    { detail: [{ loc: ['body', 'messages', 0], msg: 'field required', type: 'missing' }] },
    'body.messages.0: field required',
  ],
  ['FastAPI around another', { detail: { error: { message: 'inside' } } }, 'inside'],
  ['a list of errors', { errors: [{ message: 'first' }, { message: 'second' }] }, 'first; second'],
  ['a message alone', { message: 'Forbidden' }, 'Forbidden'],
  [
    'a gateway with the answer of another inside',
    { error: { message: 'Provider returned error', code: 400, metadata: { raw: '{"error":{"message":"deep"}}' } } },
    'Provider returned error: deep',
  ],
  ['JSON within a message', { error: { message: '{"error": {"message": "wrapped"}}' } }, 'wrapped'],
]

describe.each(providerNames)('an error of %s', (provider) => {
  test.each(bodies)('is told as the provider says it: %s', async (_, body, said) => {
    const refused = await faultOf(provider, json(400, body))
    expect(refused.message).toContain(`${provider} answered 400: `)
    expect(refused.message).toContain(said)
    expect(refused.retryable).toBe(false)
    const success = await faultOf(provider, json(200, body))
    expect(success.message).toContain(said)
    expect(success.retryable).toBe(false)
  })

  test.each(bodies)('is told where it comes in the middle of a stream: %s', async (_, body, said) => {
    const fault = await faultOf(provider, (response) =>
      response.writeHead(200, STREAM).end(`${beginnings[provider]('half')}event: error\n${data(body)}`),
    )
    expect(fault.message).toContain(`${provider} ended its answer with an error: `)
    expect(fault.message).toContain(said)
  })

  test.each([
    ['overloaded', { type: 'error', error: { type: 'overloaded_error', message: 'Overloaded' } }],
    ['429', { error: { message: 'Slow down', code: 429 } }],
    ['502', { error: { message: 'Provider returned error', code: '502' } }],
    ['unavailable', { error: { code: 503, message: 'Later', status: 'UNAVAILABLE' } }],
    ['response.failed', { type: 'response.failed', response: { error: { code: 'server_error', message: 'Sorry' } } }],
    ['in the choice', { choices: [{ index: 0, delta: {}, error: { code: 502, message: 'Upstream' } }] }],
  ])('passes, in the middle of a stream or at its beginning: %s', async (_, event) => {
    for (const begun of [beginnings[provider]('half'), '']) {
      const fault = await faultOf(provider, (response) =>
        response.writeHead(200, STREAM).end(`${begun}event: error\n${data(event)}`),
      )
      expect(fault, fault.message).toMatchObject({ retryable: true, retryAfterMs: undefined })
      expect(fault.message).toMatch(/Overloaded|Slow down|Provider returned|Later|Sorry|Upstream/)
    }
  })

  test('does not pass where nothing but money helps, or the request is wrong', async () => {
    const quota = { error: { message: 'You exceeded your current quota', code: 'insufficient_quota' } }
    expect(await faultOf(provider, json(429, quota))).toMatchObject({ retryable: false })
    for (const error of [quota.error, { type: 'invalid_request_error', message: 'prompt is odd' }]) {
      const stream = (response: ServerResponse) =>
        response.writeHead(200, STREAM).end(beginnings[provider]('half') + data({ type: 'error', error }))
      expect(await faultOf(provider, stream)).toMatchObject({ retryable: false })
    }
  })

  test('is called what it is where it is no stream at all', async () => {
    const page = await faultOf(provider, text(200, '\n<!DOCTYPE html><html><title>Welcome</title>', 'text/html'))
    expect(page.message).toBe(
      `${provider} answered 200 with a web page instead of a stream of events: check its base URL`,
    )
    const other = await faultOf(provider, json(200, { status: 'ok' }))
    expect(other.message).toContain('answered 200 with JSON instead of a stream')
    const plain = await faultOf(provider, text(200, 'It works!'))
    expect(plain.message).toContain('answered 200 with text instead of a stream')
    for (const fault of [page, other, plain]) expect(fault.retryable).toBe(false)
  })

  test('may be plain text, or a page of which nothing is repeated', async () => {
    expect((await faultOf(provider, text(502, 'upstream connect error'))).message).toBe(
      `${provider} answered 502: upstream connect error`,
    )
    expect((await faultOf(provider, text(502, '<html>nginx</html>', 'text/html'))).message).toBe(
      `${provider} answered 502`,
    )
  })

  test('is cleaned of everything that lets somebody in', async () => {
    const message =
      'Incorrect API key sk-proj-abc123def456 for https://u:pa55word@host/v1?key=AIzaSyD-12345678901&x=1, ' +
      `Authorization: Bearer tok_12345678, x-api-key: abcd-efgh-1234, ${Object.values(wire.settings).join(' ')}`
    const fault = await faultOf(provider, json(401, { error: { message } }))
    const shown = `${fault.message} ${(fault.cause as Error).message}`
    expect(shown).not.toMatch(/sk-proj|pa55word|AIzaSy|tok_1234|abcd-efgh|secret-\d/)
    expect(shown).toContain('Incorrect API key')
    expect(shown).toContain('x=1')
  })

  test('of another type than it says does not matter to a stream', async () => {
    const does = (response: ServerResponse) =>
      response
        .writeHead(200, { 'content-type': 'application/json' })
        .end(`: waiting\n\n${beginnings[provider]('whole')}${endings[provider]}`)
    expect(await call(provider, does)).toEqual({ text: 'whole' })
  })
})

test('an error that a gateway puts beside its choices is one', async () => {
  const chunk = {
    id: 'gen-1',
    created: 1,
    model: 'm',
    provider: 'p',
    error: { code: 'server_error', message: 'Provider disconnected unexpectedly' },
    choices: [{ index: 0, delta: { content: '' }, finish_reason: 'error' }],
  }
  const fault = await faultOf('compatible', (response) =>
    response.writeHead(200, STREAM).end(`${beginnings.compatible('half')}${data(chunk)}data: [DONE]\n\n`),
  )
  expect(fault.message).toContain('Provider disconnected unexpectedly (server_error)')
  expect(fault.retryable).toBe(true)
})

test('the log says why a turn failed, and holds no request and no key', async () => {
  const lines: Record<string, unknown>[] = []
  const logger = pino({ level: 'debug' }, { write: (line: string) => lines.push(JSON.parse(line)) })
  answer = json(401, { error: `No, not with ${wire.settings.OPENAI_COMPATIBLE_API_KEY}` })
  const server = await startServer({ ...wire.settings, LOG_LEVEL: 'debug' }, { logger })
  onTestFinished(() => server.close())
  const failed = await client(() => server.url).post('/sessions', {
    agent: 'llm',
    model: models.compatible,
    prompt: 'my own affair',
  })
  const { detail } = expectProblem(failed, 502, 'PROVIDER_ERROR')
  expect(detail).toBe('compatible answered 401: No, not with …')
  expect(lines.find(({ msg }) => msg === 'turn ended')).toMatchObject({
    level: 40,
    outcome: 'failed',
    code: 'PROVIDER_ERROR',
    error: detail,
    causes: [expect.stringContaining('AI_APICallError')],
  })
  expect(JSON.stringify(lines)).not.toMatch(/my own affair|compatible-secret/)
})
