/** What a provider said of an error. */
export interface ProviderWords {
  readonly text: string
  /** Its codes, types and statuses, such as `overloaded_error` or 429. */
  readonly codes: readonly (string | number)[]
}

type Members = Readonly<Record<string, unknown>>

const MAX_DEPTH = 8
/** What these say is that there was an error, not which. */
const EMPTY_CODES = new Set(['error', 'response.failed'])
const ANSWERS = ['choices', 'candidates', 'output', 'content']

/**
 * The error in a body or in an event of a stream, in whichever shape it stands: `{"error": {…}}`, `{"error": "text"}`,
 * `{"object": "error", "message"}`, FastAPI's `{"detail"}`, OpenAI's `response.failed`, an error beside or within the
 * `choices`. `undefined` for anything that is an answer.
 */
export function errorIn(value: unknown): ProviderWords | undefined {
  if (Array.isArray(value)) return value.map(errorIn).find((words) => words !== undefined)
  if (!isMembers(value)) return undefined
  const { type, error, errors, object, detail, message, choices } = value
  if (isGiven(error) || isGiven(errors)) return wordsOf(value)
  if (type === 'error' || object === 'error') return wordsOf(value) ?? { text: 'it did not say why', codes: [] }
  if (type === 'response.failed') {
    const failed = isMembers(value.response) ? value.response.error : undefined
    return wordsOf(failed) ?? { text: 'it did not say why', codes: [] }
  }
  const chosen = Array.isArray(choices) && isMembers(choices[0]) ? choices[0].error : undefined
  if (isGiven(chosen)) return wordsOf(chosen)
  if (ANSWERS.some((member) => value[member] !== undefined)) return undefined
  return isGiven(detail) || typeof message === 'string' ? wordsOf(value) : undefined
}

/** All that is said in what is known to be an error. A page of HTML says nothing. */
export function wordsOf(value: unknown, depth = 0): ProviderWords | undefined {
  if (depth > MAX_DEPTH) return undefined
  if (typeof value === 'string') return wordsOfText(value, depth)
  if (Array.isArray(value)) {
    const all = value.slice(0, 5).flatMap((one) => wordsOf(one, depth + 1) ?? [])
    if (all.length === 0) return undefined
    return { text: all.map(({ text }) => text).join('; '), codes: all.flatMap(({ codes }) => codes) }
  }
  if (!isMembers(value)) return undefined
  const { metadata, loc } = value
  const inner = [value.error, value.errors, value.detail, isMembers(metadata) ? metadata.raw : undefined]
  const said = [value.message, value.msg, value.error_description, ...inner].flatMap(
    (one) => wordsOf(one, depth + 1) ?? [],
  )
  const codes = [value.code, value.type, value.status, value.error_code].filter(isCode)
  const texts = [...new Set(said.map(({ text }) => text))]
  if (texts.length === 0) return codes.length === 0 ? undefined : { text: String(codes[0]), codes }
  const place = Array.isArray(loc) ? `${loc.join('.')}: ` : ''
  return { text: place + texts.join(': '), codes: [...codes, ...said.flatMap((one) => one.codes)] }
}

/** Many a gateway hands on another's body as text. */
function wordsOfText(value: string, depth: number): ProviderWords | undefined {
  const text = value.trim()
  if (text === '' || text.startsWith('<')) return undefined
  if (/^[[{]/.test(text)) {
    try {
      return wordsOf(JSON.parse(text), depth + 1) ?? { text, codes: [] }
    } catch {
      // Then it is no JSON, but words all the same.
    }
  }
  return { text, codes: [] }
}

function isGiven(value: unknown): boolean {
  return (typeof value === 'string' && value !== '') || (typeof value === 'object' && value !== null)
}

function isCode(value: unknown): value is string | number {
  return typeof value === 'number' || (typeof value === 'string' && value !== '' && !EMPTY_CODES.has(value))
}

function isMembers(value: unknown): value is Members {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
