import { EventSource } from 'eventsource'
import { createParser } from 'eventsource-parser'
import { eventSchemas } from '../../src/core/events.ts'
import { dataOf, openStream } from '../helpers/sse.ts'

/** An event as an application gets it from its client. */
export interface Seen {
  /** Empty for what has no place in the log. */
  id: string
  event: string
  data: string
}

export interface Followed {
  seen: Seen[]
  /** How the last connection ended: properly, or with the 204 that says that all was seen. */
  end: 'clean' | 'seen'
}

/** Reads a stream to its end over any number of connections, each time after the last event that it has. */
export type Follower = (url: string) => Promise<Followed>

/** So often does a follower try again before it gives up; a network that is merely bad never needs it. */
const TRIES = 2_000
const TYPES = eventSchemas.map(({ title }) => String(title))

/** The reader of these tests, which holds every frame against the contract. */
export const ownReader: Follower = async (url) => {
  const seen: Seen[] = []
  let last: string | undefined
  for (let i = 0; i < TRIES; i++) {
    const headers: Record<string, string> = last === undefined ? {} : { 'last-event-id': last }
    const stream = await openStream(url, { headers }).catch(() => undefined)
    if (stream === undefined) continue
    if (stream.status === 204) return { seen, end: 'seen' }
    if (stream.status !== 200) throw new Error(`${url} after ${last}: ${stream.status}`)
    for (let frame = await stream.next(); frame !== undefined; frame = await stream.next()) {
      last = frame.id ?? last
      seen.push({ id: frame.id ?? '', event: frame.event, data: dataOf(frame.block) })
    }
    if (stream.end === 'clean') return { seen, end: 'clean' }
  }
  throw new Error(`${url} was not read to its end in ${TRIES} tries`)
}

/** `fetch` and `eventsource-parser`, as an SDK would use them. */
export const fetchParser: Follower = async (url) => {
  const seen: Seen[] = []
  let last: string | undefined
  const parser = () =>
    createParser({
      onEvent: ({ id = '', event = 'message', data }) => {
        if (id !== '') last = id
        seen.push({ id, event, data })
      },
      onError: (error) => {
        throw error
      },
    })
  for (let i = 0; i < TRIES; i++) {
    const feed = parser()
    const decoder = new TextDecoder()
    try {
      const response = await fetch(url, last === undefined ? {} : { headers: { 'last-event-id': last } })
      if (response.status === 204) return { seen, end: 'seen' }
      if (response.status !== 200) return Promise.reject(new Error(`${url} after ${last}: ${response.status}`))
      for await (const bytes of response.body as AsyncIterable<Uint8Array>) {
        feed.feed(decoder.decode(bytes, { stream: true }))
      }
      return { seen, end: 'clean' }
    } catch (error) {
      // What the network does is a TypeError here; anything else is a fault.
      if (!(error instanceof TypeError)) throw error
    }
  }
  throw new Error(`${url} was not read to its end in ${TRIES} tries`)
}

/** The `EventSource` of npm, which comes back by itself and stops at a 204. */
export const eventSource: Follower = (url) =>
  new Promise((resolve, reject) => {
    const seen: Seen[] = []
    const source = new EventSource(url)
    let previous = ''
    for (const type of TYPES) {
      source.addEventListener(type, ({ lastEventId, data }) => {
        // An event without an id of its own is given the one before it.
        const id = lastEventId === previous ? '' : lastEventId
        previous = lastEventId
        seen.push({ id, event: type, data })
      })
    }
    source.addEventListener('error', ({ code }) => {
      if (source.readyState !== source.CLOSED) return
      if (code === 204) resolve({ seen, end: 'seen' })
      else reject(new Error(`${url} after ${previous}: ${code}`))
    })
  })

export const followers = { ownReader, fetchParser, eventSource }

/** What is wrong with what a reader saw, given all that there was to see; nothing, if nothing is. */
export function streamFaults({ seen, end }: Followed, truth: readonly Seen[]): string[] {
  const faults: string[] = []
  const given = new Set<number>()
  const first = Number(truth[0]?.id)
  let highest = first - 1
  for (const { id, event, data } of seen) {
    if (id === '') continue
    const seq = Number(id)
    const real = truth[seq - first]
    if (given.has(seq)) faults.push(`doubled ${seq}`)
    else if (seq < highest) faults.push(`reordered ${seq} after ${highest}`)
    if (real === undefined) faults.push(`invented ${id}`)
    else if (event !== real.event || data !== real.data) faults.push(`changed ${seq}`)
    given.add(seq)
    highest = Math.max(highest, seq)
  }
  for (const { id } of truth) if (!given.has(Number(id))) faults.push(`lost ${id}`)
  const last = seen.at(-1)?.event ?? ''
  if (end === 'clean' && !/^(run_(completed|failed|interrupted)|done)$/.test(last)) {
    faults.push(`ended properly after ${last}`)
  }
  return faults
}
