/**
 * Follows a turn with nothing but `fetch`, loses the connection on purpose and goes on where it was.
 *
 *   npx tsx examples/fetch-resume.ts        (SURICATE_URL and SURICATE_KEY say where and with which key)
 */
const base = process.env.SURICATE_URL ?? 'http://127.0.0.1:8080'
const auth: Record<string, string> =
  process.env.SURICATE_KEY === undefined ? {} : { authorization: `Bearer ${process.env.SURICATE_KEY}` }
const PROMPT = 'One two three four five six seven eight nine ten'
const CUT_AFTER = 6
const TERMINAL = ['run_completed', 'run_failed', 'run_interrupted']

interface StreamEvent {
  type: string
  seq?: number
  delta?: string
}

/** Parses an event stream: yields the JSON of each block's `data`. Comments, `retry` and unknown fields fall away. */
async function* parseEvents(body: ReadableStream<Uint8Array>): AsyncGenerator<StreamEvent> {
  const decoder = new TextDecoder()
  let pending = ''
  let data: string[] = []
  for await (const chunk of body) {
    const lines = (pending + decoder.decode(chunk, { stream: true })).split('\n')
    pending = lines.pop() ?? ''
    for (const line of lines) {
      if (line.startsWith('data: ')) data.push(line.slice(6))
      if (line !== '' || data.length === 0) continue
      yield JSON.parse(data.join('\n')) as StreamEvent
      data = []
    }
  }
}

/**
 * Yields a turn's events, each once and in order, up to the one that ends it.
 *
 * A connection that ends before that, cleanly or not, is opened again with `Last-Event-ID`. `connected` is called with
 * every new connection and what breaks it.
 */
async function* followTurn(turnUrl: string, connected: (cut: () => void) => void): AsyncGenerator<StreamEvent> {
  let last = 0
  for (;;) {
    const connection = new AbortController()
    connected(() => connection.abort())
    try {
      const response = await fetch(`${turnUrl}/events`, {
        headers: { ...auth, 'last-event-id': String(last) },
        signal: connection.signal,
      })
      if (response.status === 204) return
      if (response.status !== 200 || response.body === null) throw new Refused(await response.text())
      for await (const event of parseEvents(response.body)) {
        if (event.seq !== undefined) last = event.seq
        yield event
        if (TERMINAL.includes(event.type)) return
      }
    } catch (error) {
      if (error instanceof Refused) throw error
    } finally {
      connection.abort()
    }
    console.log(`cut after event ${last}; connecting again`)
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
}

/** The server answered with a problem: trying again would not help. */
class Refused extends Error {}

async function post(path: string, body: unknown, headers: Record<string, string> = {}): Promise<Response> {
  const response = await fetch(base + path, {
    method: 'POST',
    headers: { ...auth, 'content-type': 'application/json', ...headers },
    body: JSON.stringify(body),
  })
  if (!response.ok) throw new Refused(await response.text())
  return response
}

const created = await post(
  '/sessions',
  { prompt: PROMPT, agent: 'echo', provider_params: { delay_ms: 50 } },
  { prefer: 'respond-async' },
)
const turnUrl = new URL(created.headers.get('location') ?? '', base).href

let connections = 0
let cut = () => {}
let text = ''
const seqs: number[] = []
for await (const event of followTurn(turnUrl, (cutThis) => {
  connections++
  cut = cutThis
})) {
  console.log(event.seq, event.type, event.delta ?? '')
  if (event.seq !== undefined) seqs.push(event.seq)
  if (event.type === 'text_delta') text += event.delta
  if (seqs.length === CUT_AFTER && connections === 1) cut()
}

const gapless = seqs.every((seq, index) => seq === index + 1)
if (text !== PROMPT || !gapless || connections < 2) {
  throw new Error(`Expected "${PROMPT}" over two connections without a gap, got "${text}": ${seqs.join()}`)
}
console.log(`${connections} connections, ${seqs.length} events, nothing lost, nothing twice: ${text}`)
