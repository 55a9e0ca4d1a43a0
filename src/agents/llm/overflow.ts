import { ModelFault } from './model.ts'
import type { ProviderWords } from './provider-words.ts'

/** A request was longer than the model's context. Counts are the provider's own, where it gave them. */
export interface Overflow {
  readonly limit?: number
  readonly actual?: number
}

const CODES =
  /context_length_exceeded|exceed_context_size|model_context_window_exceeded|string_above_max_length|request_too_large/i
const WORDS =
  /context (?:length|window|size|limit)|prompt is too long|input is too long|prompt length|too many (?:input )?tokens|token count|reduce the length|(?:prompt|input|request|messages?) (?:is |are )?(?:too (?:long|large)|exceeds?)|maximum context|max_new_tokens/i
/** About tokens, and not of the context: limits on the rate or on the answer. */
const OTHERS = /rate.?limit|per (?:minute|min|hour|day)|\bTPM\b|quota/i

const NUMBER = String.raw`\(?\s*([\d,]+)`
const LIMITS = [
  `tokens? > ${NUMBER}`,
  String.raw`\+ [\d,]+ > ${NUMBER}`,
  `maximum number of tokens allowed ${NUMBER}`,
  `maximum (?:context|prompt|input|sequence) length (?:is|of):? ${NUMBER}`,
  `context (?:length|size|window|limit)(?: is| of|:)? ${NUMBER}`,
  `with ${NUMBER} maximum context length`,
  `must be <=? ${NUMBER}`,
].map((source) => new RegExp(source, 'i'))
const ACTUALS = [
  `too long: ${NUMBER} tokens`,
  `token count ${NUMBER}`,
  `(?:resulted in|requested|contains?)(?: about| at least| a total of)? ${NUMBER}(?! maximum)`,
  `prompt contains ${NUMBER}`,
  String.raw`request ${NUMBER} tokens?\)? exceeds`,
].map((source) => new RegExp(source, 'i'))

/** Whether a provider refused a request as too long, by its code or its words. */
export function overflowOf(words: ProviderWords, status?: number): Overflow | undefined {
  const codes = words.codes.join(' ')
  const isOverflow = status === 413 || CODES.test(codes) || (WORDS.test(words.text) && !OTHERS.test(words.text))
  if (!isOverflow || status === 429) return undefined
  const limit = firstNumber(LIMITS, words.text)
  const actual = firstNumber(ACTUALS, words.text)
  return { ...(limit === undefined ? {} : { limit }), ...(actual === undefined ? {} : { actual }) }
}

/** The overflow that a failed call came to, if that is what it failed of. */
export function overflowBehind(error: unknown): Overflow | undefined {
  const fault = error instanceof ModelFault ? error : (error as Error | undefined)?.cause
  return fault instanceof ModelFault ? fault.overflow : undefined
}

function firstNumber(patterns: readonly RegExp[], text: string): number | undefined {
  for (const pattern of patterns) {
    const number = Number(pattern.exec(text)?.[1]?.replaceAll(',', ''))
    if (Number.isSafeInteger(number) && number > 0) return number
  }
  return undefined
}
