import type { createOpenAI } from '@ai-sdk/openai'
import { InvalidParamsError, ProviderError } from '../../core/errors.ts'
import { answerOf } from './answer.ts'
import { toFault } from './fault.ts'
import { estimateTokens } from './history.ts'
import type { Model, ModelEvent, ModelProviders, ModelRequest } from './model.ts'
import { toPrompt } from './model-messages.ts'
import { ModelWire } from './model-wire.ts'
import { withCacheMarks } from './prompt-cache.ts'
import { type ReadParams, readProviderParams } from './provider-params.ts'

export interface ProviderSettings {
  apiKey: string
  /** Where the provider is called, if not at its own address; '' is not set. */
  baseURL: string
}

export interface ModelSettings {
  /** `provider/name` for requests that name none; '' is none. */
  standard: string
  anthropic: ProviderSettings
  openai: ProviderSettings
  google: ProviderSettings
  compatible: ProviderSettings
  /** A call that says nothing for so long has failed, in milliseconds. */
  silenceMs: number
  /** Anthropic keeps long prompts for the next call. Default: true. */
  promptCache?: boolean
  /** What a compatible model thought goes back to it. Default: true. */
  sendReasoning?: boolean
}

type SdkModel = ReturnType<ReturnType<typeof createOpenAI>['chat']>
type CallOptions = Parameters<SdkModel['doStream']>[0]
type ProviderOptions = NonNullable<CallOptions['providerOptions']>

interface Provider {
  /** The variable without which it cannot be called. */
  needs: string
  isReady: boolean
  /** The key of its data in the SDK's options and metadata. */
  key: string
  /** A model for one call, over a connection of its own. The first call loads the provider's SDK. */
  open(name: string, wire: { fetch: typeof fetch }): Promise<SdkModel>
  /** The SDK would not declare tools that may not be called, and the provider would refuse a history with calls. */
  needsTools?: boolean
  /** Sent with every call. */
  always?: ProviderOptions[string]
  sendsReasoning?: boolean
  caches?: boolean
}

/** The providers that this server is set up for, each behind the same seam. */
export function createModelProviders(settings: ModelSettings): ModelProviders {
  const { anthropic, openai, google, compatible, silenceMs, promptCache = true, sendReasoning = true } = settings
  const secrets = [anthropic, openai, google, compatible].map(({ apiKey }) => apiKey).filter((key) => key !== '')
  const common = ({ apiKey, baseURL }: ProviderSettings) => ({ apiKey, ...(baseURL === '' ? {} : { baseURL }) })
  const providers: Record<string, Provider> = {
    anthropic: {
      needs: 'ANTHROPIC_API_KEY',
      isReady: anthropic.apiKey !== '',
      key: 'anthropic',
      caches: promptCache,
      needsTools: true,
      open: async (name, { fetch }) => {
        const { createAnthropic } = await import('@ai-sdk/anthropic')
        return createAnthropic({ ...common(anthropic), fetch })(name)
      },
    },
    openai: {
      needs: 'OPENAI_API_KEY',
      isReady: openai.apiKey !== '',
      key: 'openai',
      open: async (name, { fetch }) => {
        const { createOpenAI } = await import('@ai-sdk/openai')
        return createOpenAI({ ...common(openai), fetch }).responses(name)
      },
      // Nothing is kept at the provider: the history travels with each call.
      always: { store: false },
    },
    google: {
      needs: 'GOOGLE_GENERATIVE_AI_API_KEY',
      isReady: google.apiKey !== '',
      key: 'google',
      open: async (name, { fetch }) => {
        const { createGoogleGenerativeAI } = await import('@ai-sdk/google')
        return createGoogleGenerativeAI({ ...common(google), fetch })(name)
      },
    },
    compatible: {
      needs: 'OPENAI_COMPATIBLE_BASE_URL',
      isReady: compatible.baseURL !== '',
      key: 'compatible',
      sendsReasoning: sendReasoning,
      open: async (name, { fetch }) => {
        const { createOpenAICompatible } = await import('@ai-sdk/openai-compatible')
        const { apiKey, baseURL } = compatible
        const key = apiKey === '' ? {} : { apiKey }
        return createOpenAICompatible({
          name: 'compatible',
          baseURL,
          includeUsage: true,
          supportsStructuredOutputs: true,
          fetch,
          ...key,
        })(name)
      },
    },
  }
  const plainOnly = new Set<string>()
  return {
    standard: settings.standard === '' ? undefined : settings.standard,
    model(name) {
      const slash = name.indexOf('/')
      const id = name.slice(0, slash)
      const provider = slash > 0 && Object.hasOwn(providers, id) ? providers[id] : undefined
      if (provider === undefined || slash === name.length - 1) {
        const known = Object.keys(providers).map((one) => `${one}/…`)
        throw new InvalidParamsError('/model', `must be provider/name, one of ${known.join(', ')}`)
      }
      if (!provider.isReady) throw new ProviderError(`Models of ${id} are not set up here: set ${provider.needs}`)
      return new SdkBackedModel(id, name.slice(slash + 1), provider, { silenceMs, secrets, plainOnly })
    },
  }
}

interface CallLimits {
  silenceMs: number
  /** Not to be repeated to anybody. */
  secrets: readonly string[]
  /** Models that refused a form of the answer and answered without it. */
  plainOnly: Set<string>
}

/** Some say so with a status that means something else elsewhere: a second try costs less than a list of their words. */
function mayRefuseFormat(error: unknown, status = 0): boolean {
  if ([400, 404, 405, 415, 422, 501].includes(status)) return true
  const { responseBody = '' } = error as { responseBody?: string }
  return status >= 500 && /response_?format|json_?schema|grammar|structured/i.test(responseBody)
}

type ReadRequest = ModelRequest & ReadParams

class SdkBackedModel implements Model {
  readonly provider: string
  readonly name: string
  readonly #provider: Provider
  readonly #limits: CallLimits

  constructor(id: string, name: string, provider: Provider, limits: CallLimits) {
    this.provider = id
    this.name = name
    this.#provider = provider
    this.#limits = limits
  }

  async *call(request: ModelRequest): AsyncGenerator<ModelEvent, void, undefined> {
    const { silenceMs, secrets } = this.#limits
    // Before anything is asked: what is wrong with them is no fault of the provider.
    const params = readProviderParams(this.provider, request.providerParams ?? {})
    const silence = new AbortController()
    let timer = setTimeout(() => silence.abort(), silenceMs)
    const heard = () => {
      clearTimeout(timer)
      timer = setTimeout(() => silence.abort(), silenceMs)
    }
    const stop = new AbortController()
    const wire = new ModelWire()
    try {
      const abortSignal = AbortSignal.any([request.signal, silence.signal, stop.signal])
      const { stream } = await this.#open({ ...request, ...params }, wire, abortSignal)
      yield* answerOf(stream, {
        heard,
        isDone: () => wire.isDone,
        estimateInput: () => requestTokens(request),
      })
    } catch (error) {
      request.signal.throwIfAborted()
      const { provider } = this
      const silentMs = silence.signal.aborted ? silenceMs : undefined
      throw toFault(error, { provider, secrets, status: wire.status, silenceMs: silentMs })
    } finally {
      clearTimeout(timer)
      // Whoever stops listening in the middle must not leave the provider talking.
      stop.abort()
    }
  }

  /** Asks for the answer's form in plain words alone where the endpoint refuses to be told of it otherwise. */
  async #open({ output, ...request }: ReadRequest, wire: ModelWire, signal: AbortSignal) {
    const sdk = await this.#provider.open(this.name, wire)
    const { plainOnly } = this.#limits
    const name = `${this.provider}/${this.name}`
    const plain = () => sdk.doStream(this.#options(request, signal))
    if (output === undefined || plainOnly.has(name)) return await plain()
    try {
      return await sdk.doStream(this.#options({ ...request, output }, signal))
    } catch (error) {
      if (!mayRefuseFormat(error, wire.status)) throw error
      const answer = await plain()
      plainOnly.add(name)
      return answer
    }
  }

  #options(
    { messages, tools, mayCall = true, output, ...request }: ReadRequest,
    abortSignal: AbortSignal,
  ): CallOptions {
    const { key, always, needsTools = false, sendsReasoning = false, caches } = this.#provider
    const prompt = toPrompt(messages, { provider: key, sendsReasoning })
    // Marks of the request's own take the place of ours.
    const marks = caches && !['cacheControl', 'cache_control'].some((name) => name in (request.providerParams ?? {}))
    const strict = output === undefined ? {} : { strictJsonSchema: output.strict }
    const isTold = tools.length > 0
    const options = {
      prompt: marks ? withCacheMarks(prompt, requestTokens({ messages, tools })) : prompt,
      abortSignal,
      includeRawChunks: true,
      providerOptions: { [key]: { ...strict, ...request.options, ...always } },
      ...request.settings,
      ...(request.maxTokens === undefined ? {} : { maxOutputTokens: request.maxTokens }),
      ...(request.temperature === undefined ? {} : { temperature: request.temperature }),
      ...(output === undefined ? {} : { responseFormat: { type: 'json', schema: output.schema, name: output.name } }),
      ...(isTold ? { tools: tools.map((tool) => ({ type: 'function', ...tool })) } : {}),
      ...(isTold && !mayCall && !needsTools ? { toolChoice: { type: 'none' } } : {}),
    }
    // The same shapes, without the SDK's own JSON types.
    return options as unknown as CallOptions
  }
}

function requestTokens({ messages, tools }: Pick<ModelRequest, 'messages' | 'tools'>): number {
  return estimateTokens([...messages, ...tools])
}
