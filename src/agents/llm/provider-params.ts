import type { AnthropicProviderOptions } from '@ai-sdk/anthropic'
import type { GoogleGenerativeAIProviderOptions } from '@ai-sdk/google'
import type { OpenAIResponsesProviderOptions } from '@ai-sdk/openai'
import { InvalidParamsError } from '../../core/errors.ts'
import { isObject } from '../tools/json.ts'
import type { JsonObject } from '../tools/tool.ts'

/** What a member may have inside: `true` is anything, of lists each element. */
type Shape = true | { readonly [member: string]: Shape }
type ShapesOf<Options> = { readonly [Member in keyof Options]?: Shape }

interface Params {
  /** The options of the SDK's adapter. */
  readonly options: Readonly<Record<string, Shape>>
  /** The settings of a call that the provider has, by the adapter's name. */
  readonly settings: readonly string[]
}

const ANTHROPIC = {
  thinking: { type: true, budgetTokens: true, display: true },
  effort: true,
  disableParallelToolUse: true,
  cacheControl: { type: true, ttl: true },
  metadata: { userId: true },
  speed: true,
  inferenceGeo: true,
  taskBudget: { type: true, total: true, remaining: true },
  anthropicBeta: true,
  sendReasoning: true,
  structuredOutputMode: true,
  toolStreaming: true,
} satisfies ShapesOf<AnthropicProviderOptions>

const OPENAI = {
  include: true,
  instructions: true,
  logprobs: true,
  maxToolCalls: true,
  metadata: true,
  parallelToolCalls: true,
  promptCacheKey: true,
  promptCacheRetention: true,
  reasoningEffort: true,
  reasoningSummary: true,
  safetyIdentifier: true,
  serviceTier: true,
  strictJsonSchema: true,
  systemMessageMode: true,
  forceReasoning: true,
  textVerbosity: true,
  truncation: true,
  user: true,
} satisfies ShapesOf<OpenAIResponsesProviderOptions>

const GOOGLE = {
  responseModalities: true,
  thinkingConfig: { thinkingBudget: true, includeThoughts: true, thinkingLevel: true },
  cachedContent: true,
  structuredOutputs: true,
  safetySettings: { category: true, threshold: true },
  threshold: true,
  audioTimestamp: true,
  labels: true,
  mediaResolution: true,
  serviceTier: true,
} satisfies ShapesOf<GoogleGenerativeAIProviderOptions>

const PARAMS = new Map<string, Params>([
  ['anthropic', { options: ANTHROPIC, settings: ['temperature', 'topP', 'topK', 'stopSequences'] }],
  ['openai', { options: OPENAI, settings: ['temperature', 'topP'] }],
  [
    'google',
    {
      options: GOOGLE,
      settings: ['temperature', 'topP', 'topK', 'stopSequences', 'seed', 'presencePenalty', 'frequencyPenalty'],
    },
  ],
])
/** Members of the request have these already. */
const ELSEWHERE = new Map([
  ['model', 'model'],
  ['maxTokens', 'max_tokens'],
  ['maxOutputTokens', 'max_tokens'],
  ['maxCompletionTokens', 'max_tokens'],
])
/** Where the provider's own API has the options inside of one member, and the adapter has them side by side. */
const GROUPS = new Map<string, Readonly<Record<string, Readonly<Record<string, string>>>>>([
  [
    'openai',
    { reasoning: { effort: 'reasoningEffort', summary: 'reasoningSummary' }, text: { verbosity: 'textVerbosity' } },
  ],
  ['anthropic', { output_config: { effort: 'effort' } }],
])
/** What this server says in every call of a compatible endpoint. */
const OURS = ['messages', 'tools', 'toolChoice', 'stream', 'streamOptions']

export interface ReadParams {
  /** For the adapter, by its names. */
  readonly options: JsonObject
  /** Settings of the call, by the SDK's names. */
  readonly settings: JsonObject
}

/**
 * `provider_params` of a request, in the names of the provider's API or of the SDK's adapter. Throws an
 * `InvalidParamsError` for what the provider's adapter would drop. A compatible endpoint is sent all that is not ours.
 */
export function readProviderParams(provider: string, params: JsonObject): ReadParams {
  const read = { options: {} as JsonObject, settings: {} as JsonObject }
  const known = PARAMS.get(provider)
  for (const [given, value] of Object.entries(ungrouped(provider, params))) {
    const at = `/provider_params/${given.replaceAll('~', '~0').replaceAll('/', '~1')}`
    const name = camelCase(given)
    const member = ELSEWHERE.get(name)
    if (member !== undefined) throw new InvalidParamsError(at, `has no place here: use the request's ${member}`)
    if (name === 'temperature' || known?.settings.includes(name)) {
      if (name === 'temperature' && typeof value !== 'number') throw new InvalidParamsError(at, 'must be a number')
      read.settings[name] = value
    } else if (known === undefined) {
      if (OURS.includes(name)) throw new InvalidParamsError(at, 'has no place here: this server sets it')
      Object.defineProperty(read.options, given, { value, enumerable: true })
    } else {
      const shape = Object.hasOwn(known.options, name) ? known.options[name] : undefined
      if (shape === undefined) {
        const names = [...Object.keys(known.options), ...known.settings].map(snakeCase)
        throw new InvalidParamsError(at, `is not known for ${provider}; known are ${names.sort().join(', ')}`)
      }
      read.options[name] = shaped(value, shape, at)
    }
  }
  return read
}

function ungrouped(provider: string, params: JsonObject): JsonObject {
  const groups = GROUPS.get(provider) ?? {}
  const members = Object.entries(params).flatMap(([given, value]): [string, unknown][] => {
    const names = Object.hasOwn(groups, given) ? groups[given] : undefined
    if (names === undefined) return [[given, value]]
    const at = `/provider_params/${given}`
    const shape = Object.fromEntries(Object.keys(names).map((name) => [name, true as const]))
    return Object.entries(shaped(value, shape, at) as JsonObject).map(([name, one]) => [names[name] as string, one])
  })
  return Object.fromEntries(members)
}

function shaped(value: unknown, shape: Shape, at: string): unknown {
  if (shape === true) return value
  if (Array.isArray(value)) return value.map((one, i) => shaped(one, shape, `${at}/${i}`))
  if (!isObject(value)) throw new InvalidParamsError(at, 'must be an object')
  const members = Object.entries(value).map(([given, one]) => {
    const name = camelCase(given)
    const inside = Object.hasOwn(shape, name) ? shape[name] : undefined
    if (inside !== undefined) return [name, shaped(one, inside, `${at}/${given}`)]
    throw new InvalidParamsError(
      `${at}/${given}`,
      `is not known; known are ${Object.keys(shape).map(snakeCase).join(', ')}`,
    )
  })
  return Object.fromEntries(members)
}

function camelCase(name: string): string {
  return name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase())
}

function snakeCase(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)
}
