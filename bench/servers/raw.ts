/**
 * The base of every ratio: a bare `node:http` server that pulls the agent, stringifies each event and writes what a burst
 * produced in one write.
 *
 * It leaves out all that makes a session server: sessions, a log, resume, validation, routing, problem documents,
 * admission, limits, interrupts, slow readers, heartbeats, shutdown. It is what a team writes before it needs those, done
 * without waste, so the distance to it is the price of a session server and not of a framework.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { run, running } from '../agent.ts'
import { serve } from '../control.ts'

const SESSION_ID = '01900000-0000-7000-8000-000000000000'
const NO_USAGE = { input_tokens: 0, output_tokens: 0, total_tokens: 0 }
const STREAM_HEAD = { 'content-type': 'text/event-stream', 'cache-control': 'no-cache, no-transform' }

/** What several turns, and those who only read them, have in common: where the numbers are and who listens. */
interface Topic {
  seq: number
  turn: number
  readers: Set<ServerResponse>
}

const topics = new Map<string, Topic>()

/** A turn's way out: frames gather until the tick ends and leave in one write, the same bytes for every reader. */
class Turn {
  readonly #topic: Topic
  readonly #response: ServerResponse
  readonly #turn: number
  #frames = ''
  #scheduled = false
  #over = false

  constructor(topic: Topic, response: ServerResponse) {
    this.#topic = topic
    this.#response = response
    this.#turn = ++topic.turn
  }

  async run(prompt: string): Promise<void> {
    const controller = new AbortController()
    const response = this.#response
    response.on('close', () => {
      if (!response.writableFinished) controller.abort()
    })
    response.writeHead(200, STREAM_HEAD)
    // A tick that is asked for outside of a microtask comes before the microtasks in which the agent runs: without this
    // the first event would leave alone, in a write of its own, which costs a short turn a quarter of its speed.
    await undefined
    this.#send({ type: 'run_started', ...this.#stamp(), session_id: SESSION_ID, prompt })
    this.#send({ type: 'turn_started', ...this.#stamp(), turn_number: 0 })
    const outputs = run({ prompt }, controller)
    let text = ''
    while (true) {
      const next = await outputs.next()
      if (next.done) break
      // The bench agent yields nothing else.
      if (next.value.type !== 'text_delta') continue
      const { delta } = next.value
      text += delta
      this.#send({ type: 'text_delta', seq: ++this.#topic.seq, turn: this.#turn, delta })
    }
    this.#send({ type: 'text_complete', ...this.#stamp(), content: text })
    this.#send({ type: 'turn_completed', ...this.#stamp(), stop_reason: 'end_turn', usage: NO_USAGE })
    const result = {
      session_id: SESSION_ID,
      turn: this.#turn,
      text,
      stop_reason: 'end_turn',
      turns: 1,
      tool_calls: 0,
      usage: NO_USAGE,
      session_usage: NO_USAGE,
    }
    this.#over = true
    this.#send({ type: 'run_completed', ...this.#stamp(), session_id: SESSION_ID, result, usage: NO_USAGE })
  }

  #stamp() {
    return { seq: ++this.#topic.seq, turn: this.#turn }
  }

  #send(event: { type: string; seq: number; turn: number; [field: string]: unknown }): void {
    this.#frames += `event: ${event.type}\ndata: ${JSON.stringify(event)}\nid: ${event.seq}\n\n`
    if (this.#scheduled) return
    this.#scheduled = true
    process.nextTick(flush, this)
  }

  flush(): void {
    const { readers } = this.#topic
    const frames = readers.size === 0 ? this.#frames : Buffer.from(this.#frames)
    this.#frames = ''
    this.#scheduled = false
    for (const reader of readers) reader.write(frames)
    if (this.#over) this.#response.end(frames)
    else this.#response.write(frames)
  }
}

function flush(turn: Turn): void {
  turn.flush()
}

function topicOf(name: string): Topic {
  let topic = topics.get(name)
  if (topic === undefined) {
    topic = { seq: 0, turn: 0, readers: new Set() }
    topics.set(name, topic)
  }
  return topic
}

/** POST /turns, with a JSON body of `prompt` and `topic`. */
function startTurn(request: IncomingMessage, response: ServerResponse): void {
  const parts: Buffer[] = []
  request.on('data', (part: Buffer) => parts.push(part))
  request.on('end', () => {
    const { prompt, topic } = JSON.parse(Buffer.concat(parts).toString()) as { prompt: string; topic: string }
    new Turn(topicOf(topic), response).run(prompt).catch((error) => response.destroy(error))
  })
}

/** GET /{topic}: reads the turns of a topic from now on; while there are none it is an idle open stream. */
function openStream(name: string, response: ServerResponse): void {
  const { readers } = topicOf(name)
  readers.add(response)
  response.on('close', () => {
    readers.delete(response)
    if (readers.size === 0) topics.delete(name)
  })
  response.writeHead(200, STREAM_HEAD)
  response.write('event: session_loaded\ndata: {"type":"session_loaded"}\n\n')
}

const server = createServer((request, response) => {
  if (request.method === 'POST') {
    startTurn(request, response)
    return
  }
  openStream((request.url ?? '/').slice(1), response)
})

server.listen(0, '127.0.0.1', () => serve((server.address() as AddressInfo).port, () => running.count))
