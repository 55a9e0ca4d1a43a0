import { expect, onTestFinished, test } from 'vitest'
import { type RunResult, readMessages } from '../../helpers/contract.ts'
import { endings, models, type ProviderName, STREAM, startWireServer } from '../../helpers/model-server.ts'
import { ownServer } from '../../helpers/suite.ts'

/** Answers that carry what must return to the provider as it was. */
const answers: Record<Exclude<ProviderName, 'compatible'>, readonly object[]> = {
  anthropic: [
    {
      type: 'message_start',
      message: {
        id: 'm',
        type: 'message',
        role: 'assistant',
        model: 'claude',
        content: [],
        stop_reason: null,
        stop_sequence: null,
        usage: { input_tokens: 7, output_tokens: 1, cache_creation_input_tokens: 3, cache_read_input_tokens: 2 },
      },
    },
    { type: 'content_block_start', index: 0, content_block: { type: 'thinking', thinking: '', signature: '' } },
    { type: 'content_block_delta', index: 0, delta: { type: 'thinking_delta', thinking: 'hm' } },
    { type: 'content_block_delta', index: 0, delta: { type: 'signature_delta', signature: 'SIGNED-A' } },
    { type: 'content_block_stop', index: 0 },
    { type: 'content_block_start', index: 1, content_block: { type: 'redacted_thinking', data: 'REDACTED-B' } },
    { type: 'content_block_stop', index: 1 },
    { type: 'content_block_start', index: 2, content_block: { type: 'text', text: '' } },
    { type: 'content_block_delta', index: 2, delta: { type: 'text_delta', text: 'said' } },
    { type: 'content_block_stop', index: 2 },
    { type: 'message_delta', delta: { stop_reason: 'end_turn', stop_sequence: null }, usage: { output_tokens: 5 } },
    { type: 'message_stop' },
  ],
  openai: [
    { type: 'response.created', response: { id: 'r', created_at: 1, model: 'gpt' } },
    {
      type: 'response.output_item.added',
      output_index: 0,
      item: { type: 'reasoning', id: 'rs_1', encrypted_content: '' },
    },
    { type: 'response.reasoning_summary_part.added', item_id: 'rs_1', summary_index: 0 },
    { type: 'response.reasoning_summary_text.delta', item_id: 'rs_1', summary_index: 0, delta: 'hm' },
    { type: 'response.reasoning_summary_part.done', item_id: 'rs_1', summary_index: 0 },
    {
      type: 'response.output_item.done',
      output_index: 0,
      item: {
        type: 'reasoning',
        id: 'rs_1',
        encrypted_content: 'ENCRYPTED-C',
        summary: [{ type: 'summary_text', text: 'hm' }],
      },
    },
    { type: 'response.output_item.added', output_index: 1, item: { type: 'message', id: 'msg_1' } },
    { type: 'response.output_text.delta', item_id: 'msg_1', output_index: 1, content_index: 0, delta: 'said' },
    { type: 'response.output_item.done', output_index: 1, item: { type: 'message', id: 'msg_1' } },
    {
      type: 'response.completed',
      response: { usage: { input_tokens: 7, input_tokens_details: { cached_tokens: 2 }, output_tokens: 5 } },
    },
  ],
  google: [
    { candidates: [{ content: { role: 'model', parts: [{ text: 'hm', thought: true }] }, index: 0 }] },
    {
      candidates: [
        {
          content: { role: 'model', parts: [{ text: 'said', thoughtSignature: 'SIGNED-D' }] },
          finishReason: 'STOP',
          index: 0,
        },
      ],
      usageMetadata: {
        promptTokenCount: 7,
        candidatesTokenCount: 5,
        totalTokenCount: 12,
        cachedContentTokenCount: 2,
      },
    },
  ],
}
const marks: Record<keyof typeof answers, string[]> = {
  anthropic: ['SIGNED-A', 'REDACTED-B'],
  openai: ['ENCRYPTED-C'],
  google: ['SIGNED-D'],
}
/** Names that those providers take for models that reason. */
const reasoning: Partial<Record<ProviderName, string>> = { openai: 'openai/o3' }

async function twoTurns(first: keyof typeof answers, second: ProviderName = first) {
  const wire = await startWireServer((_, response, index) => {
    response.writeHead(200, STREAM)
    const events = answers[first].map((event) => {
      const { type } = event as { type?: string }
      return `${type === undefined ? '' : `event: ${type}\n`}data: ${JSON.stringify(event)}\n\n`
    })
    response.end(index === 0 ? events.join('') : endings[second])
  })
  onTestFinished(() => wire.close())
  const { api } = await ownServer(wire.settings)
  const { body } = await api.post<RunResult>('/sessions', {
    agent: 'llm',
    model: reasoning[first] ?? models[first],
    prompt: 'go',
  })
  return { wire, api, body, id: body.session_id }
}

test.each(Object.keys(answers) as (keyof typeof answers)[])(
  '%s: what its provider signed or encrypted returns to it as it was',
  async (provider) => {
    const { wire, api, body, id } = await twoTurns(provider)
    expect(body.text).toBe('said')
    await api.post(`/sessions/${id}/turns`, { prompt: 'and on' })
    const kept = JSON.stringify(await readMessages(api, id))
    const sent = JSON.stringify(wire.calls[1]?.body)
    for (const mark of marks[provider]) {
      expect(kept).toContain(mark)
      expect(sent).toContain(mark)
    }
  },
)

test.each(Object.keys(answers) as (keyof typeof answers)[])('%s: cached tokens are counted', async (provider) => {
  const { body } = await twoTurns(provider)
  expect(body.usage).toMatchObject({ output_tokens: 5, cache_read_tokens: 2 })
  if (provider === 'anthropic') expect(body.usage.cache_creation_tokens).toBe(3)
})

test('what one provider signed is not shown to another', async () => {
  const { wire, api, id } = await twoTurns('anthropic', 'google')
  const { body: exported } = await api.get<{ id: string; metadata: { session_metadata: object } }>(
    `/sessions/${id}/export`,
  )
  await api.delete(`/sessions/${id}`)
  const { metadata } = exported
  const moved = {
    ...exported,
    metadata: { session_metadata: { ...metadata.session_metadata, model: models.google } },
  }
  const imported = await api.post('/sessions/import', moved)
  expect(imported.status, imported.text).toBe(201)
  await api.post(`/sessions/${id}/turns`, { prompt: 'and on' })
  const sent = JSON.stringify(wire.calls[1]?.body)
  expect(sent).toContain('said')
  expect(sent).not.toMatch(/SIGNED|REDACTED|hm/)
})
