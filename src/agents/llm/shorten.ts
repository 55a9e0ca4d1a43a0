import type { Message } from '../../core/transcript.ts'
import { estimateTokens } from './history.ts'

const BYTES_A_TOKEN = 4
/** What is shorter is left alone. */
const SHORTEST = 400
/** Of what is kept of a text, so much is its beginning. */
const HEAD_SHARE = 2 / 3

/** A history in which no tool result has more than so many tokens. */
export function withBoundedResults(messages: readonly Message[], maxTokens: number): Message[] {
  return capped(messages, { results: maxTokens * BYTES_A_TOKEN, texts: Number.POSITIVE_INFINITY })
}

/**
 * A history of at most so many tokens, as far as shortening helps: the largest tool results first, then the largest
 * messages. What is told to a model, never what is kept.
 */
export function shortened(messages: readonly Message[], maxTokens: number): Message[] {
  const over = () => (estimateTokens(shown) - maxTokens) * BYTES_A_TOKEN
  let shown = [...messages]
  if (over() <= 0) return shown
  const results = shown.flatMap((message) => (message.role === 'tool_results' ? message.results.map(contentBytes) : []))
  shown = capped(shown, { results: capFor(results, over()), texts: Number.POSITIVE_INFINITY })
  if (over() <= 0) return shown
  const texts = shown.flatMap(textBytes)
  return capped(shown, { results: Number.POSITIVE_INFINITY, texts: capFor(texts, over()) })
}

/** The most bytes that each may have, so that all together lose so many. */
function capFor(sizes: readonly number[], excess: number): number {
  const descending = [...sizes].sort((a, b) => b - a)
  let sum = 0
  for (const [i, size] of descending.entries()) {
    sum += size
    const next = descending[i + 1] ?? 0
    if (sum - next * (i + 1) >= excess) return Math.max(SHORTEST, Math.floor((sum - excess) / (i + 1)))
  }
  return SHORTEST
}

function capped(messages: readonly Message[], { results, texts }: { results: number; texts: number }): Message[] {
  return messages.map((message) => {
    if (message.role === 'system') return message
    if (message.role === 'user') return { ...message, content: cut(message.content, texts, 'message') }
    if (message.role === 'tool_results') {
      const max = Math.min(results, texts)
      return {
        ...message,
        results: message.results.map((one) => ({ ...one, content: cut(one.content, max, 'result') })),
      }
    }
    const blocks = message.blocks.map((block) =>
      block.block_type === 'text'
        ? { ...block, data: { ...block.data, text: cut(block.data.text, texts, 'message') } }
        : block,
    )
    return { ...message, blocks }
  })
}

function textBytes(message: Message): number[] {
  if (message.role === 'system') return []
  if (message.role === 'user') return [contentBytes(message)]
  if (message.role === 'tool_results') return message.results.map(contentBytes)
  return message.blocks.flatMap((block) => (block.block_type === 'text' ? [Buffer.byteLength(block.data.text)] : []))
}

function contentBytes({ content }: { content: string }): number {
  return Buffer.byteLength(content)
}

/** Its beginning and its end, with a note between them. */
function cut(text: string, maxBytes: number, what: 'message' | 'result'): string {
  // A character has at most three bytes: most texts need not be counted.
  if (text.length * 3 <= maxBytes) return text
  const bytes = Buffer.from(text)
  if (bytes.length <= maxBytes) return text
  const note = `\n[The ${what} was cut: it has ${bytes.length} bytes, of which the middle was left out.]\n`
  // Its two line breaks have two characters each in JSON.
  const room = Math.max(0, maxBytes - note.length - 2)
  const head = Math.ceil(room * HEAD_SHARE)
  const decoder = new TextDecoder('utf-8', { ignoreBOM: true })
  // `stream` leaves out a character that the cut has halved; at the beginning of the tail they are passed over.
  const beginning = decoder.decode(bytes.subarray(0, head), { stream: true })
  let from = bytes.length - (room - head)
  while (from < bytes.length && ((bytes[from] as number) & 0xc0) === 0x80) from++
  return beginning + note + bytes.toString('utf8', from)
}
