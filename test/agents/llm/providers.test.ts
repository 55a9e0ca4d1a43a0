import type { ServerResponse } from 'node:http'
import { afterAll, describe, expect, onTestFinished, test } from 'vitest'
import { llm } from '../../../src/agents/llm/index.ts'
import { STANDARD_RETRY } from '../../../src/agents/llm/retry.ts'
import type { SessionAgentBuilder } from '../../../src/core/agent.ts'
import { expectProblem, type RunResult, readMessages, readSession, type Turn } from '../../helpers/contract.ts'
import { within } from '../../helpers/http.ts'
import {
  beginnings,
  endings,
  type ModelCall,
  models,
  type ProviderName,
  providerNames,
  providersAt,
  STREAM,
  startModelServer,
  startWireServer,
} from '../../helpers/model-server.ts'
import { type Frame, textOf, types } from '../../helpers/sse.ts'
import { ownServer, useServer } from '../../helpers/suite.ts'

const { mock, settings } = await startModelServer()
const server = useServer(settings)
const { api } = server
afterAll(() => mock.stop())

/** A server whose providers do exactly what `answer` does. */
async function wired(
  answer: (call: ModelCall, response: ServerResponse, index: number) => void,
  more: Record<string, string | number> = {},
) {
  const wire = await startWireServer(answer)
  onTestFinished(() => wire.close())
  return { wire, ...(await ownServer({ ...wire.settings, ...more }, { agents: [impatient(wire.settings, more)] })) }
}

/** The same agent, for which a moment is long enough between two tries. */
function impatient(env: Record<string, string>, more: Record<string, string | number>): SessionAgentBuilder {
  return llm({
    providers: providersAt(env, { silenceMs: Number(more.MODEL_SILENCE_MS ?? 60_000) }),
    toolSources: [],
    turnLimits: {},
    maxModelCalls: 10,
    compactAtTokens: 0,
    approvalTimeoutMs: 60_000,
    retry: { ...STANDARD_RETRY, firstDelayMs: 1 },
  })
}

const ask = (model: string, prompt: string, more = {}) =>
  api.post<RunResult>('/sessions', { agent: 'llm', model, prompt, ...more })

describe.each(providerNames)('%s', (provider) => {
  const model = models[provider]

  test('answers in pieces that add up, with what it counted [R54 R55 R59]', async () => {
    const prompt = `${provider}: who are you?`
    mock.onMessage(prompt, { content: 'I am a model, and I answer in pieces.', usage: usageOf(provider) })
    const stream = await server.stream('/sessions/stream', {
      json: { agent: 'llm', model, prompt, system_prompt: 'Be brief.' },
    })
    const frames = await stream.all()
    const kinds = types(frames).filter((type) => type !== 'text_delta')
    expect(kinds).toEqual(['run_started', 'turn_started', 'text_complete', 'turn_completed', 'run_completed'])
    expect(types(frames).filter((type) => type === 'text_delta').length).toBeGreaterThan(2)
    expect(textOf(frames)).toBe('I am a model, and I answer in pieces.')
    expect(frames.at(-1)?.json.result).toMatchObject({
      text: 'I am a model, and I answer in pieces.',
      stop_reason: 'end_turn',
      turns: 1,
      usage: { input_tokens: 70, output_tokens: 18, total_tokens: 88 },
    })
    const sent = JSON.stringify(mock.getLastRequest()?.body)
    expect(sent).toContain('Be brief.')
  })

  test('is told the whole conversation', async () => {
    const first = `${provider}: my name is Ada`
    mock.onMessage(first, { content: 'Hello Ada' })
    mock.onMessage(`${provider}: what is it?`, { content: 'Ada' })
    const { body } = await ask(model, first)
    const again = await api.post<RunResult>(`/sessions/${body.session_id}/turns`, {
      prompt: `${provider}: what is it?`,
    })
    expect(again.body.text).toBe('Ada')
    const sent = mock.getLastRequest()?.body as { messages: { role: string; content: unknown }[] } | undefined
    const messages = sent?.messages ?? []
    expect(messages.map(({ role }) => role)).toEqual(['user', 'assistant', 'user'])
    expect(JSON.stringify(messages)).toContain('Hello Ada')
  })

  test('thinks aloud where it does, and that is no text', async () => {
    const prompt = `${provider}: think first`
    mock.onMessage(prompt, { content: 'Four.', reasoning: 'Two and two are four.', reasoningSignature: 'sig-1' })
    const stream = await server.stream('/sessions/stream', { json: { agent: 'llm', model, prompt } })
    const frames = await stream.all()
    expect(textOf(frames)).toBe('Four.')
    const whole = frames.find(({ event }) => event === 'reasoning_complete')
    expect(whole?.json).toMatchObject({ content: 'Two and two are four.' })
    const id = sessionOf(frames)
    const [, answer] = await readMessages(api, id)
    expect(answer).toMatchObject({
      blocks: [{ block_type: 'reasoning', data: { text: 'Two and two are four.' } }, { block_type: 'text' }],
    })
  })

  test('says how long to wait, is waited for, and answers then [R61]', async () => {
    const { wire, stream } = await wired((_, response, index) => {
      if (index === 0) return response.writeHead(429, { 'retry-after': '0' }).end(tooMany)
      return response.writeHead(200, STREAM).end(beginnings[provider]('at last') + endings[provider])
    })
    const frames = await (await stream('/sessions/stream', { json: { agent: 'llm', model, prompt: 'go' } })).all()
    expect(types(frames)).toEqual([
      'run_started',
      'turn_started',
      'retrying',
      'text_delta',
      'text_complete',
      'turn_completed',
      'run_completed',
    ])
    expect(frames[2]?.json).toMatchObject({ attempt: 1, max_attempts: 3, delay_ms: 0 })
    expect(wire.calls).toHaveLength(2)
    expect(wire.calls[1]?.body).toEqual(wire.calls[0]?.body)
  })

  test('fails for good after three more tries [R62 R63]', async () => {
    const { wire, api, stream } = await wired((_, response) => {
      response.writeHead(500, { 'retry-after-ms': '1', 'content-type': 'application/json' }).end(tooMany)
    })
    const opened = await stream('/sessions/stream', { json: { agent: 'llm', model, prompt: 'go' } })
    const frames = await opened.all()
    expect(types(frames)).toEqual(['run_started', 'turn_started', 'retrying', 'retrying', 'retrying', 'run_failed'])
    expect(frames.at(-1)?.json).toMatchObject({ code: 'PROVIDER_ERROR', error: expect.stringContaining('500') })
    expect(wire.calls).toHaveLength(4)
    const id = sessionOf(frames)
    expect((await readSession(api, id)).state.is_active).toBe(false)
  })

  test('refuses a key once, without a word of it to anybody [R62]', async () => {
    const { wire, api } = await wired((call, response) => {
      const key = [call.headers.authorization, call.headers['x-api-key'], call.headers['x-goog-api-key']].join('')
      const body = {
        error: { type: 'authentication_error', code: 401, status: 'UNAUTHENTICATED', message: `No ${key}` },
      }
      response.writeHead(401, { 'content-type': 'application/json' }).end(JSON.stringify({ type: 'error', ...body }))
    })
    const answer = await api.post('/sessions', { agent: 'llm', model, prompt: 'go' })
    const { detail } = expectProblem(answer, 502, 'PROVIDER_ERROR')
    expect(detail).toContain('401')
    expect(answer.text).not.toMatch(/secret/)
    expect(wire.calls).toHaveLength(1)
  })

  test('is cut off in the middle of its answer, tried again, and what it said before is void', async () => {
    const { wire, stream } = await wired((_, response, index) => {
      response.writeHead(200, STREAM)
      if (index > 0) return response.end(beginnings[provider]('whole') + endings[provider])
      return response.write(beginnings[provider]('half'), () => response.destroy())
    })
    const frames = await (await stream('/sessions/stream', { json: { agent: 'llm', model, prompt: 'go' } })).all()
    const seen = types(frames)
    expect(seen.slice(seen.indexOf('retrying'))).toEqual([
      'retrying',
      'text_delta',
      'text_complete',
      'turn_completed',
      'run_completed',
    ])
    expect(frames.at(-1)?.json.result).toMatchObject({ text: 'whole' })
    expect(wire.calls).toHaveLength(2)
  })

  test('ends its stream without its end, and that is a failure too', async () => {
    const { wire, api } = await wired((_, response, index) => {
      response.writeHead(200, STREAM)
      response.end(index === 0 ? beginnings[provider]('half') : beginnings[provider]('whole') + endings[provider])
    })
    const answer = await api.post<RunResult>('/sessions', { agent: 'llm', model, prompt: 'go' })
    expect(answer.body.text, answer.text).toBe('whole')
    expect(wire.calls).toHaveLength(2)
  })

  test('goes silent, which is a failure after MODEL_SILENCE_MS', async () => {
    const { wire, api } = await wired(
      (_, response, index) => {
        response.writeHead(200, STREAM)
        if (index === 0) response.write(beginnings[provider]('half'))
        else response.end(beginnings[provider]('whole') + endings[provider])
      },
      { MODEL_SILENCE_MS: 100 },
    )
    const answer = await api.post<RunResult>('/sessions', { agent: 'llm', model, prompt: 'go' })
    expect(answer.body.text).toBe('whole')
    await within('the silent call to be left', wire.calls[0]?.left ?? Promise.reject())
  })

  test('is hung up on by an interrupt, and the conversation goes on after it', async () => {
    const { wire, api, stream } = await wired((_, response, index) => {
      response.writeHead(200, STREAM)
      if (index === 0) response.write(beginnings[provider]('so far'))
      else response.end(beginnings[provider]('and on') + endings[provider])
    })
    const opened = await stream('/sessions/stream', { json: { agent: 'llm', model, prompt: 'go' } })
    await opened.upTo('text_delta')
    const id = sessionOf(opened.frames)
    expect((await api.post(`/sessions/${id}/interrupt`)).status).toBe(200)
    const frames = await opened.all()
    expect(frames.at(-1)?.json.result).toMatchObject({ text: 'so far', stop_reason: 'cancelled' })
    await within('the call to be left', wire.calls[0]?.left ?? Promise.reject())
    const next = await api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'next' })
    expect(next.body.text).toBe('and on')
    expect(JSON.stringify(wire.calls[1]?.body)).toContain('so far')
  })

  test.each([
    ['a page of HTML', 200, { 'content-type': 'text/html' }, '<html><body>Welcome to the proxy</body></html>'],
    ['nothing at all', 200, STREAM, ''],
    ['no JSON', 200, STREAM, 'data: {"half\n\n'],
    ['an error inside', 200, STREAM, `event: error\ndata: ${JSON.stringify({ type: 'error', ...errorBody() })}\n\n`],
  ])('answers with %s, which is its fault', async (_, status, headers, body) => {
    const { api } = await wired((_, response) => {
      response.writeHead(status, { 'retry-after-ms': '1', ...headers }).end(body)
    })
    const answer = await api.post('/sessions', { agent: 'llm', model, prompt: 'go', initial_turn: 'deferred' })
    expect(answer.status, answer.text).toBe(201)
    const { session_id } = answer.body as { session_id: string }
    const turn = await api.post<Turn>(`/sessions/${session_id}/turns`, { prompt: 'go' })
    expectProblem(turn, 502, 'PROVIDER_ERROR')
    expect(turn.text).not.toMatch(/html|proxy/i)
  })
})

test('a key that is missing is named', async () => {
  const { api } = await ownServer({ MODEL: models.compatible, OPENAI_COMPATIBLE_BASE_URL: 'http://127.0.0.1:1/v1' })
  const answer = await api.post('/sessions', { prompt: 'hello', model: models.anthropic })
  const { detail } = expectProblem(answer, 502, 'PROVIDER_ERROR')
  expect(detail).toContain('ANTHROPIC_API_KEY')
})

test.each(['claude', 'nobody/claude', 'anthropic/', '/claude'])('no model is called %s', async (model) => {
  const answer = await ask(model, 'hello')
  expect(expectProblem(answer, 400, 'INVALID_PARAMS').errors?.[0]?.path).toBe('/model')
})

test('no request chooses where a model is called', async () => {
  const prompt = 'Where do you live?'
  mock.onMessage(prompt, { content: 'Here.' })
  const params = { baseURL: 'http://127.0.0.1:1', base_url: 'http://127.0.0.1:1', headers: { 'x-evil': 'yes' } }
  const answer = await ask(models.compatible, prompt, { provider_params: params })
  expect(answer.body.text).toBe('Here.')
  expect(mock.getLastRequest()?.headers).not.toHaveProperty('x-evil')
})

test('MODEL makes llm the agent for requests that name none', async () => {
  const prompt = 'hello without a name'
  mock.onMessage(prompt, { content: 'Hello.' })
  const { api } = await ownServer({ ...settings, MODEL: models.compatible })
  const { body } = await api.post<RunResult>('/sessions', { prompt })
  expect(body.text).toBe('Hello.')
  expect((await readSession(api, body.session_id)).state).toMatchObject({ agent: 'llm', model: models.compatible })
})

test('an answer without end is one too many', async () => {
  const chunk = beginnings.compatible('x'.repeat(1024 * 1024))
  const { wire, api } = await wired((_, response) => {
    response.writeHead(200, STREAM)
    const more = () => {
      while (response.writable && response.write(chunk));
      if (response.writable) response.once('drain', more)
    }
    more()
  })
  const answer = await api.post('/sessions', { agent: 'llm', model: models.compatible, prompt: 'go on' })
  expect(expectProblem(answer, 502, 'PROVIDER_ERROR').detail).toContain('16 MiB')
  await within('the call to be left', wire.calls[0]?.left ?? Promise.reject())
})

const tooMany = JSON.stringify({ type: 'error', ...errorBody() })

function errorBody() {
  return { error: { type: 'overloaded_error', code: 'overloaded', status: 'OVERLOADED', message: 'Come back later' } }
}

function usageOf(provider: ProviderName) {
  if (provider === 'google') return { promptTokenCount: 70, candidatesTokenCount: 18, totalTokenCount: 88 }
  if (provider === 'compatible') return { prompt_tokens: 70, completion_tokens: 18, total_tokens: 88 }
  return { input_tokens: 70, output_tokens: 18 }
}

function sessionOf([first]: readonly Frame[]): string {
  return first?.json.session_id as string
}
