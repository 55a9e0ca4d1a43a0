import type { Block } from '../../core/transcript.ts'
import type { TokenCounts } from '../../core/usage.ts'
import { parseArguments } from '../arguments.ts'
import { StreamError } from './fault.ts'
import { estimateTokens } from './history.ts'
import { type ModelEvent, ModelFault } from './model.ts'
import { errorIn } from './provider-words.ts'

type Metadata = Record<string, unknown>

/** The parts of the SDK's stream that matter here. */
export type AnswerPart =
  | { type: 'text-start' | 'text-end' | 'reasoning-start' | 'reasoning-end'; id: string; providerMetadata?: Metadata }
  | { type: 'text-delta' | 'reasoning-delta'; id: string; delta: string; providerMetadata?: Metadata }
  | { type: 'tool-call'; toolCallId: string; toolName: string; input: string; providerMetadata?: Metadata }
  | { type: 'finish'; finishReason: { unified: string; raw?: string | undefined }; usage: SdkUsage }
  | { type: 'error'; error: unknown }
  | { type: 'raw'; rawValue: unknown }

interface SdkUsage {
  inputTokens: { total?: number | undefined; cacheRead?: number | undefined; cacheWrite?: number | undefined }
  outputTokens: { total?: number | undefined }
}

/** More than this is no answer any more; in characters. */
const MAX_ANSWER = 16 * 1024 * 1024

export interface AnswerOptions {
  /** Called for every part. */
  heard(): void
  /** Whether the stream said that it is whole. */
  isDone(): boolean
  /** Tokens of the request, for a provider that does not count them. */
  estimateInput(): number
}

/** Folds the SDK's stream into deltas and one `finish`. Throws what went wrong. */
export async function* answerOf(
  stream: AsyncIterable<unknown>,
  { heard, isDone, estimateInput }: AnswerOptions,
): AsyncGenerator<ModelEvent, void, undefined> {
  const blocks: Block[] = []
  const open = new Map<string, Extract<Block, { block_type: 'text' | 'reasoning' }>>()
  let size = 0
  let finish: Extract<AnswerPart, { type: 'finish' }> | undefined
  for await (const given of stream) {
    heard()
    const part = given as AnswerPart
    switch (part.type) {
      case 'text-start':
      case 'reasoning-start': {
        const block_type = part.type === 'text-start' ? 'text' : 'reasoning'
        const block = { block_type, data: { text: '' } } as Extract<Block, { block_type: 'text' | 'reasoning' }>
        open.set(`${block_type} ${part.id}`, block)
        blocks.push(block)
        keepMeta(block, part.providerMetadata)
        break
      }
      case 'text-delta':
      case 'reasoning-delta': {
        const type = part.type === 'text-delta' ? 'text' : 'reasoning'
        size += part.delta.length
        if (size > MAX_ANSWER) throw new ModelFault('The model answered more than 16 MiB', false)
        const block = open.get(`${type} ${part.id}`)
        if (block !== undefined) {
          block.data.text += part.delta
          keepMeta(block, part.providerMetadata)
        }
        if (part.delta !== '') yield { type, delta: part.delta }
        break
      }
      case 'text-end':
      case 'reasoning-end': {
        const block = open.get(`${part.type === 'text-end' ? 'text' : 'reasoning'} ${part.id}`)
        if (block !== undefined) keepMeta(block, part.providerMetadata)
        break
      }
      case 'tool-call': {
        const { toolCallId: id, toolName: name, input } = part
        const block: Block = { block_type: 'tool_use', data: { id, name, args: parseArguments(input) } }
        keepMeta(block, part.providerMetadata)
        blocks.push(block)
        break
      }
      case 'finish':
        finish = part
        break
      case 'raw': {
        // The SDK's schemas drop an error that stands beside other members.
        const words = errorIn(part.rawValue)
        if (words !== undefined) throw new StreamError(words)
        break
      }
      case 'error':
        if (!isMissingReason(part.error) || !isAnswer()) throw part.error
    }
  }
  if (finish === undefined) throw new ModelFault("The model's answer broke off", true)
  const { unified, raw } = finish.finishReason
  // A stream that was cut is handed on as one that ended for no reason.
  const hasNoReason = unified === 'error' || (unified === 'other' && (raw === undefined || raw === 'error'))
  if (hasNoReason && (raw === 'error' || !isAnswer())) throw new ModelFault("The model's answer broke off", true)
  const usage = countsOf(finish.usage, estimateInput, blocks)
  yield { type: 'finish', stopReason: stopReasonOf(finish.finishReason), usage, blocks }

  /** Some servers give no reason for the end, and say `[DONE]` all the same. */
  function isAnswer(): boolean {
    const says = (block: Block) =>
      block.block_type === 'tool_use' || (block.block_type === 'text' && block.data.text !== '')
    return isDone() && blocks.some(says)
  }
}

function keepMeta(block: Block, metadata: Metadata | undefined): void {
  if (metadata === undefined) return
  const known = block.data.meta ?? {}
  for (const [provider, data] of Object.entries(metadata)) {
    known[provider] = { ...(known[provider] as Metadata | undefined), ...(data as Metadata) }
  }
  block.data.meta = known
}

function stopReasonOf({ unified, raw }: { unified: string; raw?: string | undefined }) {
  if (raw === 'stop_sequence') return 'stop_sequence'
  switch (unified) {
    case 'length':
      return 'max_tokens'
    case 'content-filter':
      return 'content_filter'
    case 'tool-calls':
      return 'tool_use'
    default:
      return 'end_turn'
  }
}

/** What the provider counted. What it did not, or counted as nothing at all, is estimated, and marked so. */
function countsOf(given: SdkUsage, estimateInput: () => number, blocks: readonly Block[]): TokenCounts {
  const { inputTokens, outputTokens } = given
  const isEmpty = !inputTokens.total && !outputTokens.total
  const input = isEmpty ? undefined : inputTokens.total
  const output = isEmpty ? undefined : outputTokens.total
  const counts: TokenCounts = {
    input_tokens: input ?? estimateInput(),
    output_tokens: output ?? estimateTokens(blocks),
  }
  if (input === undefined || output === undefined) counts.estimated = true
  if (inputTokens.cacheWrite) counts.cache_creation_tokens = inputTokens.cacheWrite
  if (inputTokens.cacheRead) counts.cache_read_tokens = inputTokens.cacheRead
  return counts
}

/** How the compatible provider says that the stream ended without a finish reason. */
function isMissingReason(error: unknown): boolean {
  const { name, message } = error as { name?: string; message?: string }
  return name === 'AI_InvalidResponseDataError' && /without a finish reason/.test(message ?? '')
}
