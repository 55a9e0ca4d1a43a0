import type { SessionAgent, SessionAgentBuilder, TurnContext, TurnInput } from '../core/agent.ts'
import { InvalidParamsError } from '../core/errors.ts'
import type { CreateSessionRequest } from '../core/session-service.ts'
import { pause } from './pause.ts'
import { countWords, splitWords } from './words.ts'

const MAX_DELAY_MS = 60_000

/** Answers with the prompt, word by word: the server does its job with no key and no network. */
export const echo: SessionAgentBuilder = {
  name: 'echo',
  description: 'Answers with the prompt, word by word. provider_params.delay_ms waits before each word.',
  accepts: ['system_prompt', 'max_tokens', 'provider_params'],
  buildAgent: (request) => new EchoAgent(delayOf(request), request.max_tokens ?? Number.POSITIVE_INFINITY),
}

class EchoAgent implements SessionAgent {
  readonly #delayMs: number
  readonly #maxWords: number

  constructor(delayMs: number, maxWords: number) {
    this.#delayMs = delayMs
    this.#maxWords = maxWords
  }

  async *run({ prompt }: TurnInput, { signal }: TurnContext): ReturnType<SessionAgent['run']> {
    yield { type: 'turn_started' }
    const words = splitWords(prompt)
    let said = 0
    try {
      for (; said < words.length && said < this.#maxWords; said++) {
        if (this.#delayMs > 0) await pause(this.#delayMs, signal)
        yield { type: 'text_delta', delta: words[said] as string }
      }
    } catch (error) {
      if (!signal.aborted) throw error
    }
    return {
      text: said === words.length ? prompt : words.slice(0, said).join(''),
      stop_reason: said === words.length ? 'end_turn' : 'max_tokens',
      usage: { input_tokens: countWords(prompt), output_tokens: said },
    }
  }
}

function delayOf({ provider_params }: CreateSessionRequest): number {
  const delay = provider_params?.delay_ms ?? 0
  if (typeof delay !== 'number' || !Number.isInteger(delay) || delay < 0 || delay > MAX_DELAY_MS) {
    throw new InvalidParamsError('/provider_params/delay_ms', `must be an integer from 0 to ${MAX_DELAY_MS}`)
  }
  return delay
}
