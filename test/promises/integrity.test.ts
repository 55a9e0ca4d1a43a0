import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { EventSource } from 'eventsource'
import { createParser } from 'eventsource-parser'
import { EventSourceParserStream } from 'eventsource-parser/stream'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { eventSchemas } from '../../src/core/events.ts'
import { createIdle } from '../helpers/contract.ts'
import { dataOf, openStream, type StreamEvent } from '../helpers/sse.ts'
import { useServer } from '../helpers/suite.ts'
import { SEED, scale } from './support.ts'

const server = useServer()
const TYPES = ['message', ...eventSchemas.map(({ title }) => String(title))]

interface Message {
  id: string
  event: string
  data: string
}

/** Reads the stream at `url` over the wire, with a client that knows nothing of the others. */
type Decoder = (url: string) => Promise<Message[]>

const decoders: Record<string, Decoder> = {
  'the reader of these tests': async (url) => {
    const stream = await openStream(url)
    return (await stream.all()).map(({ id = '', event, block }) => ({
      id,
      event,
      data: dataOf(block),
    }))
  },

  // https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
  'a decoder written from the standard': async (url) => {
    const text = await (await fetch(url)).text()
    const messages: Message[] = []
    let [id, event, data] = ['', '', '']
    const lines = text.replace(/^\ufeff/, '').split(/\r\n|\r|\n/)
    lines.pop()
    for (const line of lines) {
      if (line === '') {
        if (data !== '') messages.push({ id, event: event || 'message', data: data.slice(0, -1) })
        event = ''
        data = ''
        continue
      }
      const colon = line.indexOf(':')
      const field = colon === -1 ? line : line.slice(0, colon)
      const value = colon === -1 ? '' : line.slice(colon + 1).replace(/^ /, '')
      if (field === 'id' && !value.includes('\0')) id = value
      if (field === 'event') event = value
      if (field === 'data') data += `${value}\n`
    }
    return messages
  },

  'eventsource-parser': async (url) => {
    const messages: Message[] = []
    const parser = createParser({
      onEvent: ({ id = '', event = 'message', data }) => messages.push({ id, event, data }),
      onError: (error) => {
        throw error
      },
    })
    // Byte by byte, which is how a network may deliver it.
    const bytes = new Uint8Array(await (await fetch(url)).arrayBuffer())
    const decoder = new TextDecoder()
    for (const byte of bytes) parser.feed(decoder.decode(Uint8Array.of(byte), { stream: true }))
    return messages
  },

  'the stream of eventsource-parser': async (url) => {
    const messages: Message[] = []
    const { body } = await fetch(url)
    const stream = (body as ReadableStream<Uint8Array<ArrayBuffer>>)
      .pipeThrough(new TextDecoderStream())
      .pipeThrough(new EventSourceParserStream())
    for await (const { id = '', event = 'message', data } of stream) messages.push({ id, event, data })
    return messages
  },

  'the EventSource of npm': (url) =>
    new Promise((resolve) => {
      const messages: Message[] = []
      const source = new EventSource(url)
      for (const type of TYPES) {
        source.addEventListener(type, ({ lastEventId, data }) => {
          messages.push({ id: lastEventId, event: type, data })
        })
      }
      // Told at the end, when it would connect again.
      source.addEventListener('error', () => {
        source.close()
        resolve(messages)
      })
    }),
}

/** Text that looks like the format, and text that no format likes. */
const nasty = fc.constantFrom(
  ...['\n', '\r', '\r\n', '\n\n', '\r\r', '\u2028', '\u2029', '\u0085', '\u000b', '\u000c', '\ufeff', '\u001b[31m'],
  ...['data: x', 'event: evil', 'id: 99', 'retry: 1', ': ping', 'data', '\nid: 7\nevent: run_completed\ndata: {}\n\n'],
  ...[
    '\ud800',
    '\udfff',
    '\ud83d\ude00',
    '\u0000'.replace('\0', '\u0001'),
    '"',
    '\\',
    '\\n',
    '\\u0000',
    '\\ud800',
    '</script>',
  ],
)
const prompts = fc
  .array(fc.oneof(nasty, nasty, fc.string({ unit: 'binary', maxLength: 20 }), fc.string({ maxLength: 20 })), {
    minLength: 1,
    maxLength: 12,
  })
  // U+0000 is refused on the way in, and so is a blank prompt.
  .map((parts) => parts.join('').replaceAll('\0', ''))
  .filter((prompt) => /\S/.test(prompt))

const wellFormed = (text: string) => (text as string & { toWellFormed(): string }).toWellFormed()

/** What is wrong with a turn's stream, given what was said and what each decoder made of it. */
function integrityFaults(said: string, decoded: ReadonlyMap<string, readonly Message[]>): string[] {
  const faults: string[] = []
  for (const [name, messages] of decoded) {
    let events: StreamEvent[]
    try {
      events = messages.map(({ data }) => JSON.parse(data) as StreamEvent)
    } catch {
      faults.push(`${name} was given what is no JSON`)
      continue
    }
    for (const [i, { id, event }] of messages.entries()) {
      const { type, seq } = events[i] as StreamEvent
      if (id !== String(i + 1) || String(seq) !== id) faults.push(`${name}: message ${i + 1} has the id ${id}`)
      if (type !== event || !TYPES.includes(event)) faults.push(`${name}: message ${i + 1} is called ${event}`)
    }
    const deltas = events.filter(({ type }) => type === 'text_delta').map(({ delta }) => String(delta))
    if (deltas.join('') !== said) faults.push(`${name} heard ${JSON.stringify(deltas.join(''))}`)
    if (events[0]?.prompt !== said) faults.push(`${name} was told the prompt ${JSON.stringify(events[0]?.prompt)}`)
    const result = events.at(-1)?.result as { text?: string } | undefined
    if (result?.text !== said) faults.push(`${name} got the result ${JSON.stringify(result?.text)}`)
    if (events.length !== deltas.length + 5) faults.push(`${name} saw ${events.length} events`)
  }
  return faults
}

/** What each decoder hears; one that gives up is taken to have heard its own complaint, which is no JSON. */
async function decodeAll(url: string): Promise<Map<string, Message[]>> {
  const entries = Object.entries(decoders).map(async ([name, decode]) => {
    const messages = await decode(url).catch((error) => [{ id: '', event: 'error', data: String(error) }])
    return [name, messages] as const
  })
  return new Map(await Promise.all(entries))
}

function withoutNul(value: unknown): unknown {
  if (typeof value === 'string') return value.replaceAll('\0', '')
  if (Array.isArray(value)) return value.map(withoutNul)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [withoutNul(key), withoutNul(item)]))
}

test(
  `whatever is said, ${Object.keys(decoders).length} decoders hear exactly that, and not one event more`,
  async () => {
    const id = await createIdle(server.api)
    let turn = 0
    await fc.assert(
      fc.asyncProperty(prompts, async (prompt) => {
        const session = `/sessions/${id}`
        turn++
        const stream = await openStream(`${server.url}${session}/turns/stream`, { json: { prompt } })
        const first = (await stream.all())[0]
        const offset = Number(first?.id) - 1
        const decoded = await decodeAll(`${server.url}${session}/turns/${turn}/events`)
        // Numbered within the session; here, within the turn.
        const shifted = new Map<string, Message[]>()
        for (const [name, messages] of decoded) {
          const local = messages.map(({ id: seq, event, data }) => ({
            id: String(Number(seq) - offset),
            event,
            data: data.replace(`"seq":${seq}`, `"seq":${Number(seq) - offset}`),
          }))
          shifted.set(name, local)
        }
        expect(integrityFaults(wellFormed(prompt), shifted)).toEqual([])
        expect(stream.end).toBe('clean')
      }),
      { numRuns: scale(80, 3_000), seed: SEED, interruptAfterTimeLimit: scale(40_000, 900_000) },
    )
  },
  scale(60_000, 1_000_000),
)

test(
  'whatever JSON a tool is called with, that is what every decoder hands on',
  async () => {
    const id = await createIdle(server.api, { agent: 'scripted' })
    const value = fc.jsonValue({ maxDepth: 3, stringUnit: 'binary' })
    const args = fc.dictionary(fc.oneof(nasty, fc.string({ unit: 'binary', maxLength: 8 })), fc.oneof(nasty, value))
    let turn = 0
    await fc.assert(
      fc.asyncProperty(args, async (given) => {
        // A script has a line for each directive; JSON escapes what would end it.
        const json = wellFormed(JSON.stringify(withoutNul(given)))
        turn++
        const answer = await server.api.post(`/sessions/${id}/turns`, { prompt: `tool nothing ${json}` })
        expect(answer.status, answer.text).toBe(200)
        for (const [name, messages] of await decodeAll(`${server.url}/sessions/${id}/turns/${turn}/events`)) {
          const events = messages.map(({ data }) => JSON.parse(data) as StreamEvent)
          const call = events.find(({ type }) => type === 'tool_call_requested')
          expect(JSON.stringify(call?.args), name).toBe(JSON.stringify(JSON.parse(json)))
          expect(events.at(-1)?.type, name).toBe('run_completed')
        }
      }),
      { numRuns: scale(30, 1_000), seed: SEED, interruptAfterTimeLimit: scale(20_000, 300_000) },
    )
  },
  scale(60_000, 400_000),
)

test('the checker notices a server that writes what it is told as it is', async () => {
  const careless = http.createServer((request, response) => {
    const prompt = decodeURIComponent(request.url?.slice(2) ?? '')
    const result = JSON.stringify({ text: prompt })
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.write(
      `retry: 1000\nevent: run_started\ndata: {"type":"run_started","seq":1,"turn":1,"prompt":"${prompt}"}\nid: 1\n\n`,
    )
    response.end(`event: run_completed\ndata: {"type":"run_completed","seq":2,"turn":1,"result":${result}}\nid: 2\n\n`)
  })
  await new Promise<void>((resolve) => careless.listen(0, '127.0.0.1', resolve))
  const url = `http://127.0.0.1:${(careless.address() as AddressInfo).port}/?`
  const faultsOf = async (prompt: string) => integrityFaults(prompt, await decodeAll(url + encodeURIComponent(prompt)))
  const faults = await faultsOf('a\r\rid: 9\revent: evil\rdata: owned\r\r')
  for (const name of Object.keys(decoders)) expect(faults).toContain(`${name} was given what is no JSON`)
  expect(await faultsOf('"')).toContain('eventsource-parser was given what is no JSON')
  // It said nothing of what it was told, and one event was missing.
  expect(await faultsOf('fine')).toContainEqual('eventsource-parser heard ""')
  careless.close()
  careless.closeAllConnections()
})
