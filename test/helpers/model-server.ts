import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { LLMock } from '@copilotkit/aimock'
import { createModelProviders, type ModelSettings } from '../../src/agents/llm/providers.ts'
import { within } from './http.ts'

/** A model of every provider that the agent `llm` can call, by the provider's name. */
export const models = {
  anthropic: 'anthropic/claude-sonnet-4-5',
  openai: 'openai/gpt-4.1',
  google: 'google/gemini-2.5-flash',
  compatible: 'compatible/llama3.2',
} as const
export type ProviderName = keyof typeof models
export const providerNames = Object.keys(models) as ProviderName[]

/** The server's settings with every provider at `url`. */
export function modelSettings(url: string): Record<string, string> {
  return {
    ANTHROPIC_API_KEY: 'sk-ant-secret-1',
    ANTHROPIC_BASE_URL: `${url}/v1`,
    OPENAI_API_KEY: 'sk-openai-secret-2',
    OPENAI_BASE_URL: `${url}/v1`,
    GOOGLE_GENERATIVE_AI_API_KEY: 'google-secret-3',
    GOOGLE_GENERATIVE_AI_BASE_URL: `${url}/v1beta`,
    OPENAI_COMPATIBLE_API_KEY: 'compatible-secret-4',
    OPENAI_COMPATIBLE_BASE_URL: `${url}/v1`,
  }
}

/** The providers of these settings, without a server around them. */
export function providersAt(settings: Record<string, string>, more: Partial<ModelSettings> = {}) {
  const at = (name: string) => ({
    apiKey: settings[`${name}_API_KEY`] ?? '',
    baseURL: settings[`${name}_BASE_URL`] ?? '',
  })
  return createModelProviders({
    standard: '',
    anthropic: at('ANTHROPIC'),
    openai: at('OPENAI'),
    google: at('GOOGLE_GENERATIVE_AI'),
    compatible: at('OPENAI_COMPATIBLE'),
    silenceMs: 60_000,
    ...more,
  })
}

/** A server that speaks the wire formats of all providers and answers with what a test has laid in for a prompt. */
export async function startModelServer(): Promise<{ mock: LLMock; settings: Record<string, string> }> {
  const mock = new LLMock({ port: 0, host: '127.0.0.1', logLevel: 'silent', chunkSize: 4 })
  await mock.start()
  return { mock, settings: modelSettings(mock.url) }
}

/** A request that a provider was sent. */
export interface ModelCall {
  readonly path: string
  readonly headers: http.IncomingHttpHeaders
  readonly body: Record<string, unknown>
  /** Resolves when the caller closes its connection. */
  readonly left: Promise<void>
}

export interface WireServer {
  readonly settings: Record<string, string>
  /** Every call so far, oldest first. */
  readonly calls: readonly ModelCall[]
  close(): void
}

/** A provider that does exactly what a test says, byte by byte. */
export async function startWireServer(
  answer: (call: ModelCall, response: http.ServerResponse, index: number) => void,
): Promise<WireServer> {
  const calls: ModelCall[] = []
  const server = http.createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      const left = new Promise<void>((resolve) => response.on('close', resolve))
      const call = {
        path: request.url ?? '',
        headers: request.headers,
        body: JSON.parse(Buffer.concat(chunks).toString()),
        left,
      }
      calls.push(call)
      answer(call, response, calls.length - 1)
    })
  })
  await within('a wire server', new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve)))
  return {
    settings: modelSettings(`http://127.0.0.1:${(server.address() as AddressInfo).port}`),
    calls,
    close: () => {
      server.closeAllConnections()
      server.close()
    },
  }
}

const sse = (...events: unknown[]) =>
  events
    .map((event) => {
      const { type } = event as { type?: string }
      return `${type === undefined ? '' : `event: ${type}\n`}data: ${JSON.stringify(event)}\n\n`
    })
    .join('')

/** How each provider's stream begins an answer with `text`. */
export const beginnings: Record<ProviderName, (text: string) => string> = {
  anthropic: (text) =>
    sse(
      {
        type: 'message_start',
        message: {
          id: 'msg_1',
          type: 'message',
          role: 'assistant',
          model: 'claude',
          content: [],
          stop_reason: null,
          stop_sequence: null,
          usage: { input_tokens: 7, output_tokens: 1 },
        },
      },
      { type: 'content_block_start', index: 0, content_block: { type: 'text', text: '' } },
      { type: 'content_block_delta', index: 0, delta: { type: 'text_delta', text } },
    ),
  openai: (text) =>
    sse(
      { type: 'response.created', response: { id: 'resp_1', created_at: 1, model: 'gpt' } },
      { type: 'response.output_item.added', output_index: 0, item: { type: 'message', id: 'msg_1' } },
      { type: 'response.output_text.delta', item_id: 'msg_1', output_index: 0, content_index: 0, delta: text },
    ),
  google: (text) => sse({ candidates: [{ content: { role: 'model', parts: [{ text }] }, index: 0 }] }),
  compatible: (text) =>
    sse({
      id: 'chat_1',
      created: 1,
      model: 'llama',
      choices: [{ index: 0, delta: { role: 'assistant', content: text } }],
    }),
}

/** How each provider's stream ends an answer that was begun so. */
export const endings: Record<ProviderName, string> = {
  anthropic: sse(
    { type: 'content_block_stop', index: 0 },
    { type: 'message_delta', delta: { stop_reason: 'end_turn', stop_sequence: null }, usage: { output_tokens: 5 } },
    { type: 'message_stop' },
  ),
  openai: sse(
    { type: 'response.output_item.done', output_index: 0, item: { type: 'message', id: 'msg_1' } },
    { type: 'response.completed', response: { usage: { input_tokens: 7, output_tokens: 5 } } },
  ),
  google: sse({
    candidates: [{ content: { role: 'model', parts: [{ text: '' }] }, finishReason: 'STOP', index: 0 }],
    usageMetadata: { promptTokenCount: 7, candidatesTokenCount: 5, totalTokenCount: 12 },
  }),
  compatible: `${sse({
    id: 'chat_1',
    created: 1,
    model: 'llama',
    choices: [{ index: 0, delta: {}, finish_reason: 'stop' }],
    usage: { prompt_tokens: 7, completion_tokens: 5, total_tokens: 12 },
  })}data: [DONE]\n\n`,
}

export const STREAM = { 'content-type': 'text/event-stream' }

/** What a scripted model says in one call. */
export interface Saying {
  text?: string
  calls?: readonly { id: string; name: string; args: unknown }[]
  input?: number
  output?: number
  /** Default: `tool_calls` where there are calls, else `stop`. */
  finish?: string
}

/** An answer in the format of `compatible`. Arguments that are a string are sent as they are. */
export function saying({ text, calls = [], input = 10, output = 5, finish }: Saying): string {
  const chunk = (delta: object, more: object = {}) =>
    `data: ${JSON.stringify({ id: 'c', created: 1, model: 'm', choices: [{ index: 0, delta, ...more }] })}\n\n`
  const usage = { prompt_tokens: input, completion_tokens: output, total_tokens: input + output }
  return [
    ...(text === undefined ? [] : [chunk({ role: 'assistant', content: text })]),
    ...calls.map(({ id, name, args }, index) => {
      const written = typeof args === 'string' ? args : JSON.stringify(args)
      return chunk({ tool_calls: [{ index, id, type: 'function', function: { name, arguments: written } }] })
    }),
    chunk({}, { finish_reason: finish ?? (calls.length > 0 ? 'tool_calls' : 'stop') }),
    `data: ${JSON.stringify({ id: 'c', created: 1, model: 'm', choices: [], usage })}\n\n`,
    'data: [DONE]\n\n',
  ].join('')
}

/** What a call told the model, in the format of `compatible`. */
export interface Told {
  readonly messages: readonly { role: string; content: unknown; tool_calls?: unknown; tool_call_id?: string }[]
  readonly tools?: readonly { function: { name: string } }[]
  readonly temperature?: number
  readonly max_tokens?: number
}

/** A `compatible` model that says one thing after another, and the last again and again. */
export async function startScriptedModel(...script: (Saying | ((told: Told) => Saying))[]) {
  const wire = await startWireServer((call, response, index) => {
    const next = script[Math.min(index, script.length - 1)] ?? {}
    const said = typeof next === 'function' ? next(call.body as unknown as Told) : next
    response.writeHead(200, STREAM).end(saying(said))
  })
  return { ...wire, told: () => wire.calls.map(({ body }) => body as unknown as Told) }
}
