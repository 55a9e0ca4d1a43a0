import { problemOf } from './api.js'
import { readFrames } from './sse.js'

const DEFAULT_RETRY_MS = 1_000
const MAX_RETRY_MS = 15_000
/** The server says something every few seconds; silence for this long means a dead line that nobody has closed. */
const SILENCE_MS = 30_000
/** A pause this long after a resume means that what was missed has arrived and the rest is live. */
const CAUGHT_UP_MS = 80

/**
 * Follows one session's events over as many connections as it takes.
 *
 * It asks for everything after the last event it has seen and counts: `seq` must rise by exactly 1, also across
 * connections. An event that comes again is dropped, one that is missing raises an alarm. Only `done` ends the
 * stream; any other end, a clean one too, means that the connection was cut and the stream is to be resumed.
 *
 * `status` is what it has to say about the connection:
 * `phase` is connecting, open, waiting (until `retryAt`), closed (the session is over), gone (404) or refused.
 */
export class Follower {
  status = { phase: 'connecting', lastSeq: 0, resumes: 0 }
  #api
  #path
  #handlers
  #connection
  #endWait = () => {}
  #stopped = false
  #retryMs = DEFAULT_RETRY_MS
  #fruitless = 0
  #wasOpen = false
  #lastHeard = 0
  #report
  #caughtUp

  /** `handlers`: `event(event, raw)`, `notice(notice, raw)`, `status(status)`, `note(text)`, `alarm(text)`. */
  constructor(api, sessionId, handlers) {
    this.#api = api
    this.#path = `/sessions/${sessionId}/events`
    this.#handlers = handlers
  }

  start() {
    this.#stopped = false
    this.#run().catch(reportError)
  }

  /** Drops the connection on purpose, as a bad network would. */
  cut() {
    this.#connection?.abort('Cut on purpose')
  }

  resumeNow() {
    this.#endWait()
  }

  stop() {
    this.#stopped = true
    this.#connection?.abort('Left')
    this.#endWait()
  }

  async #run() {
    const watchdog = setInterval(() => {
      if (this.status.phase === 'open' && Date.now() - this.#lastHeard > SILENCE_MS) {
        this.#connection?.abort(`Nothing was heard for ${SILENCE_MS / 1000} s`)
      }
    }, SILENCE_MS / 6)
    try {
      while (!this.#stopped) {
        const end = await this.#connect()
        this.#finishReport()
        if (this.#stopped) return
        if (end.phase !== undefined) return this.#set(end)
        await this.#wait(end)
      }
    } finally {
      clearInterval(watchdog)
    }
  }

  /** One connection. Says how it ended: with a `phase` for good, or with a `reason` to come back. */
  async #connect() {
    const { lastSeq } = this.status
    const connection = new AbortController()
    this.#connection = connection
    this.#set({ phase: 'connecting' })
    try {
      const [query, headers] = lastSeq === 0 ? ['?after=0', {}] : ['', { 'last-event-id': String(lastSeq) }]
      const response = await this.#api.open('GET', this.#path + query, {
        headers: { accept: 'text/event-stream', ...headers },
        signal: connection.signal,
      })
      if (response.status === 204) return { phase: 'closed' }
      if (!response.ok) return this.#refusal(await problemOf(response))
      this.#opened(lastSeq)
      return await this.#read(response.body)
    } catch (error) {
      const cause = connection.signal.aborted ? connection.signal.reason : error
      return { reason: typeof cause === 'string' ? cause : (cause.title ?? 'The connection was lost') }
    }
  }

  #refusal(problem) {
    if (problem.status === 404) return { phase: 'gone', problem }
    const passing = problem.status >= 500 || problem.status === 408 || problem.status === 429
    if (!passing) return { phase: 'refused', problem }
    return { reason: problem.title, afterMs: problem.retryAfterMs }
  }

  #opened(lastSeq) {
    this.#lastHeard = Date.now()
    if (this.#wasOpen) {
      this.status.resumes++
      this.#report = { from: lastSeq, replayed: 0, alarms: 0 }
      this.#expectPause()
    }
    this.#wasOpen = true
    this.#set({ phase: 'open' })
  }

  async #read(body) {
    for await (const frames of readFrames(body)) {
      this.#lastHeard = Date.now()
      for (const frame of frames) {
        if (frame.kind === 'retry') this.#retryMs = frame.ms
        else if (frame.kind === 'event' && this.#take(frame) === 'done') return { phase: 'closed' }
      }
      if (this.#report !== undefined) this.#expectPause()
    }
    return { reason: 'The stream ended before the session did' }
  }

  #take(frame) {
    const event = this.#parse(frame.data)
    this.#fruitless = 0
    if (frame.id === undefined) return this.#notice(event, frame.data)
    const expected = this.status.lastSeq + 1
    if (frame.id !== String(event.seq) || frame.type !== event.type) {
      this.#alarm(`Frame id ${frame.id} (${frame.type}) carries event ${event.seq} (${event.type}).`)
    }
    if (event.seq < expected) {
      return this.#alarm(`Event ${event.seq} came again after ${expected - 1}. It was dropped.`)
    }
    if (event.seq > expected) this.#alarm(`Gap: event ${expected} was due, ${event.seq} came.`)
    this.status.lastSeq = event.seq
    if (this.#report !== undefined) this.#report.replayed++
    this.#tell('event', event, frame.data)
    this.#set({})
  }

  #parse(data) {
    try {
      return JSON.parse(data)
    } catch (error) {
      this.#alarm('A frame carries something that is not JSON. Asking for it again.')
      throw error
    }
  }

  #notice(notice, raw) {
    // What is no longer kept is said, not hidden: the next event is the one after the hole.
    if (notice.type === 'stream_truncated') this.status.lastSeq = Math.max(this.status.lastSeq, notice.missed_to)
    this.#tell('notice', notice, raw)
    return notice.type
  }

  /** An error in a view must not look like a broken connection, nor cost an event. */
  #tell(handler, ...args) {
    try {
      this.#handlers[handler](...args)
    } catch (error) {
      reportError(error)
    }
  }

  #alarm(text) {
    if (this.#report !== undefined) this.#report.alarms++
    this.#tell('alarm', text)
  }

  #expectPause() {
    clearTimeout(this.#caughtUp)
    this.#caughtUp = setTimeout(() => this.#finishReport(), CAUGHT_UP_MS)
  }

  #finishReport() {
    clearTimeout(this.#caughtUp)
    const report = this.#report
    if (report === undefined) return
    this.#report = undefined
    const { from, replayed, alarms } = report
    const range = replayed === 0 ? 'nothing was missed' : `replayed ${replayed} (${from + 1} to ${from + replayed})`
    const verdict = alarms === 0 ? 'no gap' : 'ALARM, see above'
    this.#tell('note', `Resumed after seq ${from}: ${range}, ${verdict}`)
    this.#set({ report: { ...report, text: `Resumed after seq ${from} · ${range} · ${verdict}` } })
  }

  async #wait({ reason, afterMs = 0 }) {
    const backoff = Math.min(this.#retryMs * 2 ** this.#fruitless++, MAX_RETRY_MS)
    // Spread, so that all clients of a server that comes back do not come back in one instant.
    const ms = Math.max(afterMs, Math.round(backoff * (0.9 + Math.random() * 0.2)))
    const what = this.status.phase === 'open' ? 'Cut' : 'Still cut'
    this.#tell('note', `${what} after seq ${this.status.lastSeq}: ${reason}`)
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, ms)
      this.#endWait = () => {
        clearTimeout(timer)
        resolve()
      }
      this.#set({ phase: 'waiting', reason, retryAt: Date.now() + ms })
    })
    this.#endWait = () => {}
  }

  #set(change) {
    Object.assign(this.status, change)
    this.#tell('status', this.status)
  }
}
