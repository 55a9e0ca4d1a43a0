import { setMaxListeners } from 'node:events'
import { type Static, Type } from '@sinclair/typebox'
import { Value } from '@sinclair/typebox/value'
import { MaxTokens } from '../../core/transcript.ts'
import type { HookHandler, HookInvocation, HookResponse } from './hook.ts'
import { HookFault } from './hook-fault.ts'

/** Largest invocation, in bytes of JSON. */
const MAX_INVOCATION_BYTES = 128 * 1024
/** Largest answer, in bytes of JSON. */
export const MAX_ANSWER_BYTES = 128 * 1024
/** Texts of an invocation that is too long are cut to the first of these lengths that helps. */
const CUTS = [16_384, 1_024, 64]
const MAX_NAMES = 1_000

const Params = Type.Record(Type.String(), Type.Unknown())
const Response = Type.Object({
  decision: Type.Optional(
    Type.Union([
      Type.Object({ decision: Type.Literal('allow') }),
      Type.Object({
        decision: Type.Literal('deny'),
        reason_code: Type.String(),
        message: Type.String(),
        payload: Type.Optional(Type.Unknown()),
      }),
    ]),
  ),
  patches: Type.Optional(
    Type.Array(
      Type.Union([
        Type.Object({
          patch_type: Type.Literal('llm_request'),
          max_tokens: Type.Optional(MaxTokens),
          temperature: Type.Optional(Type.Number({ minimum: 0, maximum: 100 })),
          provider_params: Type.Optional(Params),
        }),
        Type.Object({ patch_type: Type.Literal('assistant_text'), text: Type.String() }),
        Type.Object({ patch_type: Type.Literal('tool_args'), args: Type.Unknown() }),
        Type.Object({
          patch_type: Type.Literal('tool_result'),
          content: Type.String(),
          is_error: Type.Optional(Type.Boolean()),
        }),
        Type.Object({ patch_type: Type.Literal('run_result'), text: Type.String() }),
      ]),
    ),
  ),
})

export function tooLong(): HookFault {
  return new HookFault(`answered with more than ${MAX_ANSWER_BYTES / 1024} KiB`)
}

function noResponse(): HookFault {
  return new HookFault('answered with something that is no hook response')
}

/**
 * Asks a hook, for as long as it may take. Rejects with a `HookFault` when it is late or answers with something else,
 * with what it threw when it did, and with the signal's reason when that aborts.
 */
export async function callHook(
  handler: HookHandler,
  invocation: HookInvocation,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<HookResponse> {
  signal.throwIfAborted()
  const own = new AbortController()
  const stop = () => own.abort(signal.reason)
  // Hooks of many tool calls may wait at a time, each with a listener that it takes away: that is no leak to warn of.
  setMaxListeners(0, signal)
  signal.addEventListener('abort', stop, { once: true })
  const timer = setTimeout(
    () => own.abort(new HookFault(`did not answer within ${timeoutMs} ms`, 'timeout')),
    timeoutMs,
  )
  try {
    const over = new Promise<never>((_, reject) => {
      own.signal.addEventListener('abort', () => reject(own.signal.reason), { once: true })
    })
    const answer = (async () => handler(limited(invocation), { signal: own.signal }))()
    const response = plain(await Promise.race([answer, over]))
    if (!Value.Check(Response, response)) throw noResponse()
    return response satisfies Static<typeof Response> as HookResponse
  } catch (error) {
    throw own.signal.aborted ? own.signal.reason : error
  } finally {
    clearTimeout(timer)
    signal.removeEventListener('abort', stop)
  }
}

/** An answer as JSON has it: what that cannot say could not be told of either. Nothing at all is an answer too. */
function plain(answer: unknown): unknown {
  if (answer === undefined) return {}
  let text: string | undefined
  try {
    text = JSON.stringify(answer)
  } catch {
    throw noResponse()
  }
  if (text === undefined) throw noResponse()
  if (Buffer.byteLength(text) > MAX_ANSWER_BYTES) throw tooLong()
  return JSON.parse(text)
}

/** The invocation as it may be sent: where all of it would be too long, its long texts are cut, then its long lists. */
function limited(invocation: HookInvocation): HookInvocation {
  for (const longest of [Number.POSITIVE_INFINITY, ...CUTS]) {
    const text = withTexts(invocation, longest)
    if (Buffer.byteLength(text) <= MAX_INVOCATION_BYTES) return JSON.parse(text)
  }
  return withoutLists(JSON.parse(withTexts(invocation, CUTS.at(-1) as number)))
}

function withTexts(invocation: HookInvocation, longest: number): string {
  return JSON.stringify(invocation, (_, value: unknown) =>
    typeof value === 'string' && value.length > longest
      ? `${value.slice(0, longest)}… [${value.length} characters]`
      : value,
  )
}

/** A hook that is to judge a call must see that there is one, however much was put into it. */
function withoutLists({ tool_call, llm_request, llm_response, ...rest }: HookInvocation): HookInvocation {
  const note = '… [too long to be shown]'
  const names = llm_response?.tool_call_names ?? []
  const shown = names.length > MAX_NAMES ? [...names.slice(0, MAX_NAMES), `… [${names.length} names]`] : names
  return {
    ...rest,
    ...(tool_call === undefined ? {} : { tool_call: { ...tool_call, args: note } }),
    ...(llm_request === undefined ? {} : { llm_request: { ...llm_request, provider_params: { note } } }),
    ...(llm_response === undefined ? {} : { llm_response: { ...llm_response, tool_call_names: shown } }),
  }
}
