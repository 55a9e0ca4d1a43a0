/** Bytes of a tool's answer that a model, and the log, are given. */
export const MAX_RESULT_BYTES = 1024 * 1024
const MAX_MESSAGE_CHARACTERS = 2_000

/** A tool's answer, cut to `MAX_RESULT_BYTES` bytes of UTF-8 with a note at its end where it is longer. */
export function limitedResult(text: string): string {
  const total = Buffer.byteLength(text)
  if (total <= MAX_RESULT_BYTES) return text
  const note = `\n[The result was cut: it has ${total} bytes, of which only the beginning stands here.]`
  const kept = Buffer.from(text).subarray(0, MAX_RESULT_BYTES - Buffer.byteLength(note))
  // `stream` leaves out a character that the cut has halved.
  return new TextDecoder('utf-8', { ignoreBOM: true }).decode(kept, { stream: true }) + note
}

/** What a thrown value says, in 2,000 characters at the most. */
export function messageOf(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error)
  return text.length <= MAX_MESSAGE_CHARACTERS ? text : `${text.slice(0, MAX_MESSAGE_CHARACTERS - 1).toWellFormed()}…`
}
