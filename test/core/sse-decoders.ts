import { EventSource } from 'eventsource'
import { createParser } from 'eventsource-parser'
import { EventSourceParserStream } from 'eventsource-parser/stream'

/** A message as a client of an event stream sees it. */
export interface Message {
  id: string
  event: string
  data: string
}

/** Decodes a stream that arrives in these pieces. */
export type Decoder = (pieces: readonly Uint8Array[]) => Promise<Message[]>

/**
 * A decoder written from the standard alone, line by line: CR, LF and CRLF end lines, a leading BOM is dropped, `id`
 * with a NUL is ignored, an event without data is none, what follows the last blank line is dropped.
 * https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
 */
const standard: Decoder = async (pieces) => {
  const decoder = new TextDecoder('utf-8')
  let text = ''
  for (const piece of pieces) text += decoder.decode(piece, { stream: true })
  text += decoder.decode()
  const messages: Message[] = []
  let lastId = ''
  let event = ''
  let data = ''
  const lines = text.split(/\r\n|\n|\r/)
  lines.pop()
  for (const line of lines) {
    if (line === '') {
      if (data !== '') messages.push({ id: lastId, event: event || 'message', data: data.replace(/\n$/, '') })
      event = ''
      data = ''
      continue
    }
    if (line.startsWith(':')) continue
    const colon = line.indexOf(':')
    const field = colon === -1 ? line : line.slice(0, colon)
    const value = colon === -1 ? '' : line.slice(colon + 1).replace(/^ /, '')
    if (field === 'event') event = value
    if (field === 'data') data += `${value}\n`
    if (field === 'id' && !value.includes('\0')) lastId = value
  }
  return messages
}

/** `eventsource-parser`, as most clients use it. */
const parser: Decoder = async (pieces) => {
  const messages: Message[] = []
  let lastId = ''
  const decoder = new TextDecoder('utf-8')
  const feed = createParser({
    onEvent: ({ id, event, data }) => {
      if (id !== undefined) lastId = id
      messages.push({ id: lastId, event: event ?? 'message', data })
    },
    onError: (error) => {
      throw error
    },
  })
  for (const piece of pieces) feed.feed(decoder.decode(piece, { stream: true }))
  return messages
}

/** The same package's stream class. */
const parserStream: Decoder = async (pieces) => {
  const messages: Message[] = []
  let lastId = ''
  const bytes = new ReadableStream<Uint8Array<ArrayBuffer>>({
    start(controller) {
      for (const piece of pieces) controller.enqueue(new Uint8Array(piece))
      controller.close()
    },
  })
  const stream = bytes.pipeThrough(new TextDecoderStream()).pipeThrough(new EventSourceParserStream())
  for await (const { id, event, data } of stream) {
    if (id !== undefined) lastId = id
    messages.push({ id: lastId, event: event ?? 'message', data })
  }
  return messages
}

/** The `EventSource` class, fed without a network; it names the types it wants to hear, so it needs to know them. */
export function eventSource(types: readonly string[]): Decoder {
  return (pieces) =>
    new Promise((resolve, reject) => {
      const messages: Message[] = []
      const source = new EventSource('http://test.invalid/', {
        fetch: async () => {
          const body = new ReadableStream<Uint8Array<ArrayBuffer>>({
            start(controller) {
              for (const piece of pieces) controller.enqueue(new Uint8Array(piece))
              controller.close()
            },
          })
          return new Response(body, { headers: { 'content-type': 'text/event-stream' } })
        },
      })
      for (const type of new Set(['message', ...types])) {
        source.addEventListener(type, (event) => {
          messages.push({ id: event.lastEventId, event: type, data: event.data })
        })
      }
      // Told at the end of the body, when it would connect again.
      source.addEventListener('error', () => {
        source.close()
        resolve(messages)
      })
      setTimeout(() => reject(new Error('The EventSource never came to the end')), 10_000).unref()
    })
}

export const decoders: Readonly<Record<string, Decoder>> = {
  'a decoder written from the standard': standard,
  'the parser of eventsource-parser': parser,
  'the stream of eventsource-parser': parserStream,
}
