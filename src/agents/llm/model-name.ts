import { InvalidParamsError } from '../../core/errors.ts'

/** Also what other systems call them. */
const PROVIDERS: Readonly<Record<string, string>> = {
  anthropic: 'anthropic',
  openai: 'openai',
  open_a_i: 'openai',
  google: 'google',
  gemini: 'google',
  compatible: 'compatible',
}

/** `provider/name` of a request's `model`, whose provider may stand in `provider` instead. */
export function modelName(model: string, provider?: string): string {
  if (provider === undefined) return model
  const known = Object.hasOwn(PROVIDERS, provider) ? PROVIDERS[provider] : undefined
  if (known === undefined) {
    throw new InvalidParamsError('/provider', 'must be one of anthropic, openai, google, compatible')
  }
  return model.startsWith(`${known}/`) ? model : `${known}/${model}`
}
