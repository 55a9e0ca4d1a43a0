// An agent around the AI SDK's ToolLoopAgent, which calls the model and its tools by itself:
// npm start -- --agent examples/tool-loop-agent.ts --default-agent tool-loop
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { type ModelMessage, ToolLoopAgent, tool } from 'ai'
import { z } from 'zod'
// 'suricate', in a project of your own.
import { AgentError, type Message, type SessionAgentBuilder } from '../src/index.ts'

const { OPENAI_COMPATIBLE_BASE_URL: baseURL = 'http://127.0.0.1:11434/v1', OPENAI_COMPATIBLE_API_KEY: apiKey = '' } =
  process.env
const provider = createOpenAICompatible({ name: 'local', baseURL, apiKey, includeUsage: true })

const tools = {
  weather: tool({
    description: 'The weather in a city',
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => `4 °C in ${city}`,
  }),
}

export default {
  name: 'tool-loop',
  description: "The AI SDK's tool loop",
  defaultModel: 'llama3.2',
  tools: [{ name: 'weather', description: 'The weather in a city' }],
  accepts: ['system_prompt', 'model'],
  buildAgent({ model = 'llama3.2', system_prompt: instructions }) {
    const agent = new ToolLoopAgent({
      model: provider(model),
      tools,
      ...(instructions === undefined ? {} : { instructions }),
    })
    return {
      async *run({ prompt }, { signal, session }) {
        const messages: ModelMessage[] = [
          ...session.messages.flatMap(toModelMessage),
          { role: 'user', content: prompt },
        ]
        const { fullStream } = await agent.stream({ messages, abortSignal: signal })
        for await (const part of fullStream) {
          switch (part.type) {
            case 'text-delta':
              yield { type: 'text_delta', delta: part.text }
              break
            case 'tool-call':
              yield { type: 'tool_call_requested', id: part.toolCallId, name: part.toolName, args: part.input }
              break
            case 'tool-result':
            case 'tool-error': {
              const { toolCallId: id, toolName: name } = part
              const is_error = part.type === 'tool-error'
              const result = String(part.type === 'tool-error' ? part.error : part.output)
              yield { type: 'tool_execution_completed', id, name, result, is_error, duration_ms: 0 }
              yield { type: 'tool_result_received', id, name, is_error }
              break
            }
            case 'finish-step': {
              const { inputTokens: input_tokens = 0, outputTokens: output_tokens = 0 } = part.usage
              const total_tokens = input_tokens + output_tokens
              const stop_reason = part.finishReason === 'tool-calls' ? 'tool_use' : 'end_turn'
              yield { type: 'turn_completed', stop_reason, usage: { input_tokens, output_tokens, total_tokens } }
              break
            }
            case 'error':
              throw new AgentError('The model could not be called', {}, { cause: part.error })
          }
        }
        return {}
      },
    }
  },
} satisfies SessionAgentBuilder

/** What was said before; tool rounds of earlier turns are not told again. */
function toModelMessage(message: Message): ModelMessage[] {
  if (message.role === 'user') return [{ role: 'user', content: message.content }]
  if (message.role !== 'block_assistant') return []
  const text = message.blocks.map((block) => (block.block_type === 'text' ? block.data.text : '')).join('')
  return text === '' ? [] : [{ role: 'assistant', content: text }]
}
