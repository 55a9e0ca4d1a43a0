import { ModelFault } from './model.ts'
import { overflowOf } from './overflow.ts'
import { errorIn, type ProviderWords, wordsOf } from './provider-words.ts'
import { withoutSecrets } from './secrets.ts'

/** In characters. */
const MAX_MESSAGE = 500
const MAX_CAUSES = 6

/** Another try may succeed, where an error came inside of a stream that had begun well. */
const PASSING =
  /overloaded|rate.?limit|server.?error|api_error|internal|time.?out|timed out|unavailable|exhausted|capacity|too many|bad gateway|temporar|try again/i
/** Said with 429, and no time makes it pass. */
const LASTING = /insufficient_quota|billing/i

/** An error that the provider sent as an event of its stream. */
export class StreamError extends Error {
  override readonly name = 'StreamError'
  readonly words: ProviderWords

  constructor(words: ProviderWords) {
    super(words.text)
    this.words = words
  }
}

export interface CallFacts {
  readonly provider: string
  /** Not to be repeated to anybody. */
  readonly secrets: readonly string[]
  /** The status of the provider's answer, where there was one. */
  readonly status: number | undefined
  /** Set where the call was given up for being silent so long. */
  readonly silenceMs: number | undefined
}

interface SdkError {
  name?: string
  message?: string
  code?: string
  responseHeaders?: Record<string, string>
  responseBody?: string
  isRetryable?: boolean
  value?: unknown
  cause?: unknown
}

/**
 * What failed, in words for the caller: what the provider said, without any key, header, address or page of HTML. Its
 * `cause` is for the log, and as clean: the SDK's own errors hold the whole request.
 */
export function toFault(error: unknown, facts: CallFacts): ModelFault {
  if (error instanceof ModelFault) return error
  const { provider, secrets, status, silenceMs } = facts
  const clean = (text: string) => withoutSecrets(text, secrets).slice(0, MAX_MESSAGE)
  const cause = new Error(clean(causesOf(error)))
  if (silenceMs !== undefined) return new ModelFault(`${provider} said nothing for ${silenceMs} ms`, true, { cause })
  const { responseHeaders, responseBody, isRetryable, name } = error as SdkError
  if (status !== undefined && status >= 400) {
    const words = wordsOf(responseBody)
    const overflow = words === undefined ? undefined : overflowOf(words, status)
    const retryable = isPassing(status) && overflow === undefined && !LASTING.test(words?.codes.join(' ') ?? '')
    return new ModelFault(clean(`${provider} answered ${status}${said(words, status)}`), retryable, {
      cause,
      retryAfterMs: retryable ? retryAfterOf(responseHeaders) : undefined,
      overflow,
    })
  }
  const words = wordsInStream(error as SdkError)
  if (words !== undefined) {
    const overflow = overflowOf(words)
    const message = clean(`${provider} ended its answer with an error${said(words)}`)
    return new ModelFault(message, overflow === undefined && isPassingError(words), { cause, overflow })
  }
  if (name === 'NoStreamError') {
    const what = /^\s*</.test(responseBody ?? '') ? 'a web page' : /^\s*[[{]/.test(responseBody ?? '') ? 'JSON' : 'text'
    const message = `${provider} answered ${status} with ${what} instead of a stream of events: check its base URL`
    return new ModelFault(message, false, { cause })
  }
  if (isRetryable === true || isBroken(error)) {
    const code = codeOf(error)
    const why = code === undefined ? '' : ` (${code})`
    return new ModelFault(`${provider} could not be reached, or broke off${why}`, true, { cause })
  }
  const isGarbled = name === 'AI_JSONParseError'
  return new ModelFault(`${provider} did not answer as it should`, isGarbled, { cause })
}

function said(words: ProviderWords | undefined, status?: number): string {
  if (words === undefined) return ''
  const codes = [...new Set(words.codes)].filter((code) => code !== status && !words.text.includes(String(code)))
  return `: ${words.text}${codes.length === 0 ? '' : ` (${codes.join(', ')})`}`
}

function wordsInStream(error: SdkError): ProviderWords | undefined {
  if (error instanceof StreamError) return error.words
  const body = jsonOf(error.responseBody)
  if (error.name === 'NoStreamError') return errorIn(body)
  // Anthropic's and OpenAI's part of the SDK throw what comes first, as the body of an error: also that it fits no schema.
  const { name, value } = (body ?? {}) as SdkError
  if (error.name === 'AI_TypeValidationError' || name === 'AI_TypeValidationError') return errorIn(value ?? error.value)
  return wordsOf(body)
}

function jsonOf(text: string | undefined): unknown {
  try {
    return JSON.parse(text ?? '')
  } catch {
    return undefined
  }
}

function isPassing(status: number): boolean {
  return status === 408 || status === 429 || status >= 500
}

function isPassingError({ text, codes }: ProviderWords): boolean {
  const status = codes.map(Number).find((code) => code >= 400 && code < 600)
  if (LASTING.test(codes.join(' '))) return false
  return status === undefined ? PASSING.test(`${codes.join(' ')} ${text}`) : isPassing(status)
}

function isBroken(error: unknown): boolean {
  const { name, message = '', cause } = error as SdkError
  if (codeOf(error) !== undefined) return true
  if (name === 'TypeError' && /terminated|fetch failed/.test(message)) return true
  // How the compatible provider says that the stream was cut.
  if (name === 'AI_InvalidResponseDataError' && /without a finish reason/.test(message)) return true
  return cause instanceof Error && isBroken(cause)
}

/** The system's name for what happened to the connection. */
function codeOf(error: unknown): string | undefined {
  for (let at = error as SdkError | undefined, i = 0; at != null && i < MAX_CAUSES; at = at.cause as SdkError, i++) {
    if (typeof at.code === 'string' && /^(ECONN|EPIPE|ETIMEDOUT|ENOTFOUND|EAI_AGAIN|UND_ERR)/.test(at.code))
      return at.code
  }
  return undefined
}

function causesOf(error: unknown): string {
  const texts: string[] = []
  for (let at: unknown = error, i = 0; at != null && i < MAX_CAUSES; at = (at as SdkError).cause, i++) {
    const { name = 'Error', message = String(at) } = at as SdkError
    texts.push(`${name}: ${message}`)
  }
  return texts.join('; ')
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
