import type { PromptMessage } from './model-messages.ts'

/** Anthropic caches no prompt that is shorter, in tokens; some of its models want more, and ignore the marks until then. */
const MINIMUM = 1_024
const MARK = { anthropic: { cacheControl: { type: 'ephemeral' } } }

/**
 * Marks up to where Anthropic keeps a prompt, so that the next call reads it from its cache: the system prompt, which all
 * sessions with the same one share, the newest user message and the end. `tokens` is the estimate of the whole request.
 */
export function withCacheMarks(prompt: readonly PromptMessage[], tokens: number): PromptMessage[] {
  if (tokens < MINIMUM) return [...prompt]
  const marked = new Set([
    prompt.findIndex(({ role }) => role === 'system'),
    prompt.findLastIndex(({ role }) => role === 'user'),
    prompt.length - 1,
  ])
  return prompt.map((message, i) => (marked.has(i) ? { ...message, providerOptions: MARK } : message))
}
