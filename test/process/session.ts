import { get, type IncomingMessage } from 'node:http'
import { client } from '../helpers/http.ts'
import { type EventStream, openStream } from '../helpers/sse.ts'

/** A session of the scripted agent in a served process. */
export class RemoteSession {
  readonly url: string

  constructor(url: string) {
    this.url = url
  }

  static async create(base: string): Promise<RemoteSession> {
    const { body } = await client(() => base).post<{ session_id: string }>('/sessions', {
      agent: 'scripted',
      initial_turn: 'deferred',
    })
    return new RemoteSession(`${base}/sessions/${body.session_id}`)
  }

  /** Starts a turn and reads its stream up to the first event. */
  async run(prompt: string): Promise<EventStream> {
    const stream = await openStream(`${this.url}/turns/stream`, { json: { prompt } })
    await stream.upTo('run_started')
    return stream
  }

  /** Starts a turn as a caller that waits for its result, and returns once it runs. */
  async wait(prompt: string) {
    const answer = client(() => this.url).post('/turns', { prompt })
    answer.catch(() => {})
    const events = await openStream(`${this.url}/events?after=0`)
    await events.upTo('run_started')
    events.leave()
    return { answer }
  }

  follow(query = ''): Promise<EventStream> {
    return openStream(`${this.url}/events${query}`)
  }
}

export interface Refusal {
  status: number | undefined
  text: string
  /** False when the connection broke off instead of ending. */
  complete: boolean
}

/** What a reader gets who is turned away: bytes that are no frames yet, and a connection that breaks. */
export function turnedAway(url: string): Promise<Refusal> {
  return new Promise((resolve, reject) => {
    const request = get(url, { agent: false }, (response: IncomingMessage) => {
      // The reset that follows is how such an answer ends.
      request.off('error', reject).on('error', () => {})
      let text = ''
      response.on('data', (chunk) => {
        text += chunk
      })
      response.on('error', () => {})
      response.on('close', () => resolve({ status: response.statusCode, text, complete: response.complete }))
    }).on('error', reject)
  })
}
