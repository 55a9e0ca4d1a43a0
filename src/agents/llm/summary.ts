import type { Message } from '../../core/transcript.ts'

const BYTES_A_TOKEN = 4

export const SUMMARISE =
  'Summarise the conversation so far for your own later use: what was asked, what was decided and done, facts, names, ' +
  'numbers and open ends. It will stand in place of the messages that it summarises. Answer with the summary alone.'

/** A history as text, in pieces of at most so many tokens: what does not fit into one request is summarised one by one. */
export function piecesOf(messages: readonly Message[], maxTokens: number): string[] {
  const bytes = Buffer.from(messages.map(asText).join('\n\n'))
  const size = Math.max(1, Math.floor(maxTokens * BYTES_A_TOKEN))
  const pieces: string[] = []
  for (let from = 0; from < bytes.length; ) {
    let end = Math.min(from + size, bytes.length)
    // Not in the middle of a character.
    while (end < bytes.length && end > from + 1 && ((bytes[end] as number) & 0xc0) === 0x80) end--
    pieces.push(bytes.toString('utf8', from, end))
    from = end
  }
  return pieces
}

/** What asks for the summary of one piece, on top of what was summarised before. */
export function pieceQuestion(piece: string, summary: string): string {
  const before = summary === '' ? '' : `Summary of what came before:\n${summary}\n\n`
  return `${before}Part of a conversation:\n${piece}\n\n${SUMMARISE}`
}

function asText(message: Message): string {
  if (message.role === 'system') return `system: ${message.content}`
  if (message.role === 'user') return `user: ${message.content}`
  if (message.role === 'tool_results') return message.results.map(({ content }) => `tool: ${content}`).join('\n')
  const said = message.blocks.flatMap((block) => {
    if (block.block_type === 'text') return [`assistant: ${block.data.text}`]
    return block.block_type === 'tool_use'
      ? [`assistant calls ${block.data.name} ${JSON.stringify(block.data.args)}`]
      : []
  })
  return said.join('\n')
}
