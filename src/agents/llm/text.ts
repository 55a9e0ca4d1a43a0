import type { Block } from '../../core/transcript.ts'

/** The text blocks of an answer, joined. */
export function textOf(blocks: readonly Block[]): string {
  return joined(blocks, 'text')
}

/** Its reasoning blocks, joined. */
export function reasoningOf(blocks: readonly Block[]): string {
  return joined(blocks, 'reasoning')
}

function joined(blocks: readonly Block[], type: 'text' | 'reasoning'): string {
  let text = ''
  for (const block of blocks) if (block.block_type === type) text += block.data.text
  return text
}
