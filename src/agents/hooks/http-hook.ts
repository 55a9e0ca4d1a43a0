import { parseJson } from '../../core/json.ts'
import { patientFetch } from '../patient-fetch.ts'
import { redactor } from '../tools/redactor.ts'
import type { HookHandler, HookResponse } from './hook.ts'
import { MAX_ANSWER_BYTES, tooLong } from './hook-call.ts'
import { HookFault } from './hook-fault.ts'

/** Where a hook is, and what must not be seen in anything that it says. */
export interface HttpHook {
  readonly url: string
  readonly headers: Readonly<Record<string, string>>
  readonly secrets: readonly string[]
}

/** A hook at an address: it is sent the invocation as JSON, and answers with a `HookResponse` or with nothing. */
export function httpHook({ url, headers, secrets }: HttpHook): HookHandler {
  const sent = new Headers(headers)
  sent.set('content-type', 'application/json')
  sent.set('accept', 'application/json')
  const clean = redactor(secrets)
  return async (invocation, { signal }) => {
    const response = await patientFetch(url, {
      method: 'POST',
      headers: sent,
      body: JSON.stringify(invocation),
      // Where a hook sends a turn's content is the configuration's to say.
      redirect: 'manual',
      signal,
    }).catch(() => {
      throw new HookFault('could not be reached')
    })
    if (!response.ok) {
      // Whether it was still sending is of no interest.
      await response.body?.cancel().catch(() => {})
      throw new HookFault(`answered ${response.status}`)
    }
    return parsed(await textOf(response), clean)
  }
}

async function textOf({ body }: Response): Promise<string> {
  const decoder = new TextDecoder()
  let text = ''
  let bytes = 0
  try {
    for await (const chunk of body ?? []) {
      bytes += chunk.length
      if (bytes > MAX_ANSWER_BYTES) throw tooLong()
      text += decoder.decode(chunk, { stream: true })
    }
  } catch (error) {
    throw error instanceof HookFault ? error : new HookFault('broke off its answer')
  }
  return text + decoder.decode()
}

/** What the JSON says is judged by whoever called the hook; what it repeats of its own headers is taken out here. */
function parsed(text: string, clean: (text: string) => string): HookResponse | undefined {
  if (text.trim() === '') return undefined
  try {
    return parseJson(text, (value) => (typeof value === 'string' ? clean(value) : value)) as HookResponse
  } catch {
    throw new HookFault('answered with something that is no JSON')
  }
}
