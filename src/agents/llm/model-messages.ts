import type { Block, Message } from '../../core/transcript.ts'
import type { JsonObject } from '../tools/tool.ts'

/** What every provider takes. */
const MAX_TOOL_NAME = 64

type Options = { providerOptions?: Record<string, JsonObject> }
type Part = Options &
  (
    | { type: 'text' | 'reasoning'; text: string }
    | { type: 'tool-call'; toolCallId: string; toolName: string; input: unknown }
    | {
        type: 'tool-result'
        toolCallId: string
        toolName: string
        output: { type: 'text' | 'error-text'; value: string }
      }
  )
export type PromptMessage =
  | ({ role: 'system'; content: string } & Options)
  | ({ role: 'user' | 'assistant' | 'tool'; content: Part[] } & Options)

export interface PromptOptions {
  /** The key under which the provider's data lies in `meta`: what another provider signed is left out. */
  readonly provider: string
  /** Reasoning that nobody signed goes back to the model. */
  readonly sendsReasoning?: boolean
}

/** A transcript in the form that the SDK takes. */
export function toPrompt(messages: readonly Message[], options: PromptOptions): PromptMessage[] {
  const prompt: PromptMessage[] = []
  const names = new Map<string, string>()
  for (const message of messages) {
    if (message.role === 'system') prompt.push({ role: 'system', content: message.content })
    else if (message.role === 'user') prompt.push({ role: 'user', content: [{ type: 'text', text: message.content }] })
    else if (message.role === 'block_assistant') {
      const content = message.blocks.flatMap((block) => toPart(block, options, names))
      // An answer that was broken off before it said anything is none, for a provider.
      const says = content.some(({ type, providerOptions }) => type !== 'reasoning' || providerOptions !== undefined)
      if (says) prompt.push({ role: 'assistant', content })
    } else {
      const content = message.results.map(
        ({ tool_use_id, content, is_error }): Part => ({
          type: 'tool-result',
          toolCallId: tool_use_id,
          toolName: sendable(names.get(tool_use_id) ?? ''),
          output: { type: is_error ? 'error-text' : 'text', value: content },
        }),
      )
      prompt.push({ role: 'tool', content })
    }
  }
  return prompt
}

function toPart(block: Block, { provider, sendsReasoning }: PromptOptions, names: Map<string, string>): Part[] {
  const own = block.data.meta?.[provider] as JsonObject | undefined
  const options: Options = own === undefined ? {} : { providerOptions: { [provider]: own } }
  if (block.block_type === 'tool_use') {
    const { id, name, args } = block.data
    names.set(id, name)
    const input = typeof args === 'object' && args !== null ? args : {}
    return [{ type: 'tool-call', toolCallId: id, toolName: sendable(name), input, ...options }]
  }
  const { text } = block.data
  if (block.block_type === 'reasoning') {
    const isOwn = own !== undefined || (sendsReasoning === true && block.data.meta === undefined && text !== '')
    return isOwn ? [{ type: 'reasoning', text, ...options }] : []
  }
  return text.trim() === '' ? [] : [{ type: 'text', text, ...options }]
}

/** Models invent names such as `functions.echo<|channel|>`; a provider refuses every history that has one. */
function sendable(name: string): string {
  return name.replace(/[^A-Za-z0-9_-]+/g, '_').slice(0, MAX_TOOL_NAME) || 'unknown'
}
