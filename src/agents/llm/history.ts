import type { Message, UserMessage } from '../../core/transcript.ts'

/** So many turns, each begun by a user message, stay as they are when what is before them is summarised. */
export const KEPT_TURNS = 4
/** After a summary so many turns pass before the next. */
const TURNS_BETWEEN = 3

/** What a model is shown of a transcript: the newest summary in place of what it summarises. */
export function shownTo(messages: readonly Message[], preloaded = ''): Message[] {
  const first = messages[0]
  const prompts = [first?.role === 'system' ? first.content : '', preloaded].filter((text) => text !== '')
  const shown: Message[] = prompts.length === 0 ? [] : [{ role: 'system', content: prompts.join('\n\n') }]
  const at = messages.findLastIndex(isSummary)
  const from = at === -1 ? (first?.role === 'system' ? 1 : 0) : ((messages[at] as UserMessage).summarises as number)
  if (at !== -1) shown.push({ role: 'user', content: (messages[at] as UserMessage).content })
  for (let i = from; i < messages.length; i++) {
    const message = messages[i] as Message
    if (i !== at && !isSummary(message)) shown.push(message)
  }
  return shown
}

/**
 * Up to where a transcript can be summarised: so that the newest turns stay whole. `undefined` where there is too little
 * before them, or where the last summary is too near, unless it is urgent.
 */
export function summaryEnd(messages: readonly Message[], isUrgent = false): number | undefined {
  const lastSummary = messages.findLastIndex(isSummary)
  const from = lastSummary === -1 ? 0 : ((messages[lastSummary] as UserMessage).summarises as number)
  const turns = messages.flatMap((message, i) =>
    i >= from && message.role === 'user' && !isSummary(message) ? [i] : [],
  )
  if (turns.length <= KEPT_TURNS) return undefined
  if (!isUrgent && lastSummary !== -1 && turns.filter((i) => i > lastSummary).length < TURNS_BETWEEN) return undefined
  return turns[turns.length - KEPT_TURNS]
}

/** Tokens of a history, estimated where no model has counted them: four bytes each. */
export function estimateTokens(messages: readonly object[]): number {
  let bytes = 0
  for (const message of messages) bytes += Buffer.byteLength(JSON.stringify(message))
  return Math.ceil(bytes / 4)
}

function isSummary(message: Message): boolean {
  return message.role === 'user' && message.summarises !== undefined
}
