import { patientFetch } from '../patient-fetch.ts'

/** As much of a body that is no stream is read. */
const MAX_BODY = 64 * 1024
/** `retry:`, the longest beginning of a line in an event stream. */
const BEGINNING = 6

/** A body that is no event stream came with a status of success. */
export class NoStreamError extends Error {
  override readonly name = 'NoStreamError'
  readonly responseBody: string

  constructor(responseBody: string) {
    super('The body is not an event stream')
    this.responseBody = responseBody
  }
}

/** The connection of one model call, and what the SDK does not tell of it. */
export class ModelWire {
  /** What the provider answered; the SDK makes statuses up for errors within a stream. */
  status: number | undefined
  /** The stream said `[DONE]`: it was not cut off. */
  isDone = false

  readonly fetch: typeof fetch = async (input, init) => {
    const response = await patientFetch(input, init)
    const { body, status, statusText, headers } = response
    this.status = status
    if (!response.ok || body === null) return response
    const chunks = body[Symbol.asyncIterator]()
    const head = await readHead(chunks)
    return new Response(ReadableStream.from(this.#watched(head, chunks)), { status, statusText, headers })
  }

  async *#watched(head: readonly Uint8Array[], rest: AsyncIterator<Uint8Array>): AsyncGenerator<Uint8Array> {
    let tail = '\n'
    try {
      for (const chunk of head) {
        tail = this.#watch(tail, chunk)
        yield chunk
      }
      for (let next = await rest.next(); !next.done; next = await rest.next()) {
        tail = this.#watch(tail, next.value)
        yield next.value
      }
    } finally {
      await rest.return?.()
    }
  }

  #watch(tail: string, chunk: Uint8Array): string {
    const text = tail + Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength).toString('latin1')
    this.isDone ||= /[\r\n]data: ?\[DONE\]/.test(text)
    return text.slice(-16)
  }
}

/** The first chunks. Throws a `NoStreamError` where they do not begin a stream: by its type alone it cannot be told. */
async function readHead(chunks: AsyncIterator<Uint8Array>): Promise<Uint8Array[]> {
  const head: Uint8Array[] = []
  const decoder = new TextDecoder()
  let text = ''
  while (text.trimStart().length < BEGINNING) {
    const next = await chunks.next()
    if (next.done) break
    head.push(next.value)
    text += decoder.decode(next.value, { stream: true })
  }
  const isStream = text.trim() === '' || /^\s*(?:data|event|id|retry|:)/.test(text)
  if (isStream) return head
  while (text.length < MAX_BODY) {
    const next = await chunks.next()
    if (next.done) break
    text += decoder.decode(next.value, { stream: true })
  }
  await chunks.return?.()
  throw new NoStreamError(text.slice(0, MAX_BODY))
}
