import type { Block } from '../../core/transcript.ts'
import type { TokenCounts } from '../../core/usage.ts'
import { parseArguments } from '../arguments.ts'
import { type ModelEvent, ModelFault } from './model.ts'

type Metadata = Record<string, unknown>

/** The parts of the SDK's stream that matter here. */
export type AnswerPart =
  | { type: 'text-start' | 'text-end' | 'reasoning-start' | 'reasoning-end'; id: string; providerMetadata?: Metadata }
  | { type: 'text-delta' | 'reasoning-delta'; id: string; delta: string; providerMetadata?: Metadata }
  | { type: 'tool-call'; toolCallId: string; toolName: string; input: string; providerMetadata?: Metadata }
  | { type: 'finish'; finishReason: { unified: string; raw?: string | undefined }; usage: SdkUsage }
  | { type: 'error'; error: unknown }

interface SdkUsage {
  inputTokens: { total?: number | undefined; cacheRead?: number | undefined; cacheWrite?: number | undefined }
  outputTokens: { total?: number | undefined }
}

/** More than this is no answer any more; in characters. */
const MAX_ANSWER = 16 * 1024 * 1024
const MAX_MESSAGE = 500

/** Folds the SDK's stream into deltas and one `finish`. `heard` is called for every part. Throws what went wrong. */
export async function* answerOf(
  stream: AsyncIterable<unknown>,
  heard: () => void,
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
      case 'error':
        throw part.error
    }
  }
  if (finish === undefined) throw new ModelFault("The model's answer broke off", true)
  const { unified, raw } = finish.finishReason
  // A stream that was cut is handed on as one that ended for no reason.
  const isCut = unified === 'error' || (unified === 'other' && raw === undefined)
  if (isCut) throw new ModelFault("The model's answer broke off", true)
  yield { type: 'finish', stopReason: stopReasonOf(finish.finishReason), usage: countsOf(finish.usage), blocks }
}

/**
 * What failed, in words for the caller: no key, no header, no address, no page of HTML. `secrets` are taken out of what
 * the provider said.
 */
export function toFault(error: unknown, provider: string, secrets: readonly string[], silenceMs?: number): ModelFault {
  if (error instanceof ModelFault) return error
  if (silenceMs !== undefined) {
    return new ModelFault(`${provider} said nothing for ${silenceMs} ms`, true, { cause: error })
  }
  const { statusCode, message, responseHeaders, isRetryable, data } = error as {
    statusCode?: number
    message?: string
    responseHeaders?: Record<string, string>
    isRetryable?: boolean
    data?: unknown
  }
  if (typeof statusCode === 'number' && statusCode >= 400) {
    const retryable = statusCode === 408 || statusCode === 429 || statusCode >= 500
    const said = data === undefined || message === undefined ? '' : `: ${withoutSecrets(message, secrets)}`
    return new ModelFault(`${provider} answered ${statusCode}${said}`, retryable, {
      cause: error,
      retryAfterMs: retryable ? retryAfterOf(responseHeaders) : undefined,
    })
  }
  if (isRetryable === true || isBroken(error)) {
    return new ModelFault(`${provider} could not be reached, or broke off`, true, { cause: error })
  }
  return new ModelFault(`${provider} did not answer as it should`, isOverloaded(error), { cause: error })
}

function withoutSecrets(message: string, secrets: readonly string[]): string {
  let text = message
  for (const secret of secrets) text = text.replaceAll(secret, '…')
  return text.slice(0, MAX_MESSAGE)
}

function isBroken(error: unknown): boolean {
  const {
    name,
    code,
    message = '',
    cause,
  } = error as { name?: string; code?: string; message?: string; cause?: unknown }
  if (code !== undefined && /^(ECONN|EPIPE|ETIMEDOUT|ENOTFOUND|EAI_AGAIN|UND_ERR)/.test(code)) return true
  if (name === 'TypeError' && /terminated|fetch failed/.test(message)) return true
  // How the compatible provider says that the stream was cut.
  if (name === 'AI_InvalidResponseDataError' && /without a finish reason/.test(message)) return true
  return cause instanceof Error && isBroken(cause)
}

/** An error that came inside of a stream that had begun well. */
function isOverloaded(error: unknown): boolean {
  const text = typeof error === 'string' ? error : JSON.stringify(error ?? null)
  return /overloaded|rate_limit|server_error|api_error|timeout/i.test(text)
}

function retryAfterOf(headers: Record<string, string> | undefined): number | undefined {
  const ms = Number(headers?.['retry-after-ms'])
  if (Number.isFinite(ms) && ms >= 0) return ms
  const given = headers?.['retry-after']
  if (given === undefined) return undefined
  const seconds = Number(given)
  const delay = Number.isFinite(seconds) ? seconds * 1_000 : Date.parse(given) - Date.now()
  return Number.isFinite(delay) ? Math.max(0, delay) : undefined
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

function countsOf({ inputTokens, outputTokens }: SdkUsage): TokenCounts {
  const counts: TokenCounts = { input_tokens: inputTokens.total ?? 0, output_tokens: outputTokens.total ?? 0 }
  if (inputTokens.cacheWrite) counts.cache_creation_tokens = inputTokens.cacheWrite
  if (inputTokens.cacheRead) counts.cache_read_tokens = inputTokens.cacheRead
  return counts
}
