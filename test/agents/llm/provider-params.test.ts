import { expect, onTestFinished, test } from 'vitest'
import { expectProblem } from '../../helpers/contract.ts'
import { beginnings, endings, models, type ProviderName, STREAM, startWireServer } from '../../helpers/model-server.ts'
import { ownServer } from '../../helpers/suite.ts'

const wire = async (provider: ProviderName, provider_params: object, model: string = models[provider]) => {
  const server = await startWireServer((_, response) =>
    response.writeHead(200, STREAM).end(beginnings[provider]('Yes.') + endings[provider]),
  )
  onTestFinished(() => server.close())
  const { api } = await ownServer(server.settings)
  const answer = await api.post('/sessions', { agent: 'llm', model, prompt: 'go', max_tokens: 4_000, provider_params })
  return { answer, body: server.calls[0]?.body }
}

test.each<[ProviderName, object, object, string?]>([
  [
    'anthropic',
    { thinking: { type: 'enabled', budget_tokens: 1_024 } },
    { thinking: { type: 'enabled', budget_tokens: 1_024 } },
  ],
  [
    'anthropic',
    { thinking: { type: 'enabled', budgetTokens: 1_024 } },
    { thinking: { type: 'enabled', budget_tokens: 1_024 } },
  ],
  ['anthropic', { top_k: 5, stop_sequences: ['x'] }, { top_k: 5, stop_sequences: ['x'] }],
  ['anthropic', { metadata: { user_id: 'u1' } }, { metadata: { user_id: 'u1' } }],
  ['openai', { reasoning_effort: 'low' }, { reasoning: { effort: 'low' } }, 'openai/gpt-5'],
  [
    'openai',
    { reasoning: { effort: 'low', summary: 'auto' } },
    { reasoning: { effort: 'low', summary: 'auto' } },
    'openai/gpt-5',
  ],
  ['openai', { text: { verbosity: 'low' } }, { text: { verbosity: 'low' } }],
  [
    'openai',
    { top_p: 0.5, service_tier: 'auto', metadata: { my_key: 'x' } },
    { top_p: 0.5, service_tier: 'auto', metadata: { my_key: 'x' } },
  ],
  [
    'google',
    { thinking_config: { thinking_budget: 0, include_thoughts: true } },
    { generationConfig: { thinkingConfig: { thinkingBudget: 0, includeThoughts: true } } },
  ],
  [
    'google',
    { thinkingConfig: { thinkingBudget: 0 }, top_k: 3, seed: 1 },
    { generationConfig: { thinkingConfig: { thinkingBudget: 0 }, topK: 3, seed: 1 } },
  ],
  [
    'google',
    { safety_settings: [{ category: 'HARM_CATEGORY_HATE_SPEECH', threshold: 'OFF' }] },
    { safetySettings: [{ category: 'HARM_CATEGORY_HATE_SPEECH', threshold: 'OFF' }] },
  ],
  [
    'compatible',
    { top_p: 0.5, min_p: 0.1, chat_template_kwargs: { enable_thinking: false } },
    { top_p: 0.5, min_p: 0.1, chat_template_kwargs: { enable_thinking: false } },
  ],
])('%s is sent %j', async (provider, params, expected, model) => {
  const { answer, body } = await wire(provider, params, model)
  expect(answer.status, answer.text).toBe(201)
  expect(body).toMatchObject(expected)
})

test.each<[ProviderName, object, string]>([
  ...(['anthropic', 'openai', 'google', 'compatible'] as const).flatMap(
    (provider): [ProviderName, object, string][] => [
      [provider, { model: 'x' }, '/model'],
      [provider, { max_tokens: 1 }, '/max_tokens'],
      [provider, { maxOutputTokens: 1 }, '/maxOutputTokens'],
      [provider, { temperature: 'hot' }, '/temperature'],
      [provider, { messages: [] }, '/messages'],
      [provider, { stream: false }, '/stream'],
      [provider, { tools: [] }, '/tools'],
    ],
  ),
  ...(['anthropic', 'openai', 'google'] as const).map((provider): [ProviderName, object, string] => [
    provider,
    { constructor: 1 },
    '/constructor',
  ]),
  ['anthropic', { reasoning_effort: 'low' }, '/reasoning_effort'],
  ['anthropic', { seed: 1 }, '/seed'],
  ['anthropic', { thinking: { type: 'enabled', budget: 1 } }, '/thinking/budget'],
  ['anthropic', { mcp_servers: [] }, '/mcp_servers'],
  ['openai', { top_k: 1 }, '/top_k'],
  ['openai', { reasoning: { effort: 'low', depth: 1 } }, '/reasoning/depth'],
  ['openai', { store: true }, '/store'],
  ['google', { safety_settings: [{ category: 'x', level: 1 }] }, '/safety_settings/0/level'],
  ['google', { thinking_config: 1 }, '/thinking_config'],
])('%s is not sent %j, and the request is refused by name', async (provider, params, path) => {
  const { answer, body } = await wire(provider, params)
  expect(expectProblem(answer, 400, 'INVALID_PARAMS').errors?.[0]?.path).toBe(`/provider_params${path}`)
  expect(body).toBeUndefined()
})
