import { Problem } from './api.js'
import { Conversation, messagesBefore } from './conversation.js'
import { Follower } from './follower.js'

const PAGE = 200
/** Raw events kept in memory. The chat does not depend on them. */
const MAX_LOG = 50_000

/**
 * The session that is on the screen: its state, its conversation, its raw event log and its connection.
 * `tell(topic, value)` is called on every change; the topics are named where they are told.
 */
export class OpenSession {
  view
  /** Messages from before the first event that there is. */
  earlier = []
  /** `{ seq?, turn?, type, raw, local? }`; `local` are remarks of this page, not events. */
  log = []
  logDropped = 0
  ended
  conversation
  follower
  #api
  #tell
  /** The stream may end before the request that ended it is answered. */
  #archiving = false
  #opening = { messages: [], turns: [] }

  constructor(api, id, tell) {
    this.id = id
    this.#api = api
    this.#tell = tell
    this.conversation = new Conversation((turn) => tell('turn', turn))
    this.follower = new Follower(api, id, {
      event: (event, raw) => this.#event(event, raw),
      notice: (notice, raw) => this.#notice(notice, raw),
      status: (status) => this.#status(status),
      note: (text) => this.#record({ type: 'connection', raw: text, local: 'note' }),
      alarm: (text) => {
        this.#record({ type: 'alarm', raw: text, local: 'alarm' })
        tell('alarm', text)
      },
    })
  }

  get path() {
    return `/sessions/${this.id}`
  }

  /** Reads what is there, then follows from the first event on. Throws a Problem when there is no such session. */
  async open() {
    await this.refresh()
    const { turn, message_count: messages } = this.view.state
    const turns = await this.#turns(Math.max(0, turn - PAGE), turn)
    this.#opening = { messages: await this.#committed(messages), turns }
    this.conversation.prompts = new Map(turns.map((known) => [known.turn, known.prompt]))
    if (turns.length === 0) this.#showEarlier(1)
    for (const known of turns) this.conversation.admit(known)
    this.follower.start()
  }

  /** The newest committed messages; none where an archived session's transcript is not kept. */
  async #committed(total) {
    try {
      const { messages } = await this.messages(Math.max(0, total - PAGE))
      return messages
    } catch (error) {
      if (error.code === 'SESSION_PERSISTENCE_DISABLED') return []
      throw error
    }
  }

  async refresh() {
    this.view = await this.#request(() => this.#api.get(this.path))
    this.#tell('view', this.view)
  }

  /** Turns `from` to `to`, whole: pages end early where they are large, and leave long texts out. */
  async #turns(from, to) {
    const turns = []
    for (let isMore = true; isMore && from + turns.length < to; ) {
      const page = await this.#api.get(`${this.path}/turns?limit=${PAGE}&offset=${from + turns.length}`)
      turns.push(...page.turns)
      isMore = page.turns.length > 0
    }
    return Promise.all(
      turns.map((known) => (known.truncated ? this.#api.get(`${this.path}/turns/${known.turn}`) : known)),
    )
  }

  async messages(offset, limit = PAGE) {
    const read = (from, most) =>
      this.#request(() => this.#api.get(`${this.path}/messages?limit=${most}&offset=${from}`))
    const page = await read(offset, limit)
    for (let { next } = page; next !== undefined; ) {
      const more = await read(next, limit - page.messages.length)
      page.messages.push(...more.messages)
      next = more.next
    }
    return page
  }

  /** Starts a turn and leaves its events to the one stream that is open. */
  async send(prompt, onBusy) {
    const body = { prompt, on_busy: onBusy }
    const { data } = await this.#request(() => this.#api.post(`${this.path}/turns`, body, { prefer: 'respond-async' }))
    this.conversation.admit(data)
    this.follower.resumeNow()
    return data
  }

  interrupt(turn) {
    return this.#request(() => this.#api.json('POST', `${this.path}/interrupt`, { body: { turn } }))
  }

  /** Allows a tool call that waits for it, or refuses it. */
  approve(turn, callId, approved) {
    const path = `${this.path}/turns/${turn}/approvals/${encodeURIComponent(callId)}`
    return this.#request(() => this.#api.json('POST', path, { body: { approved } }))
  }

  async archive(mode) {
    this.#archiving = true
    await this.#request(() => this.#api.json('DELETE', `${this.path}${mode === 'cancel' ? '?mode=cancel' : ''}`))
    this.#end('archived')
  }

  leave() {
    this.follower.stop()
  }

  async #request(work) {
    try {
      return await work()
    } catch (error) {
      if (error instanceof Problem && error.code === 'SESSION_NOT_FOUND') this.#end('gone')
      throw error
    }
  }

  /** `archived`: by this page. `over`: its stream says so. `gone`: the server does not know it. */
  #end(how) {
    if (this.ended !== undefined) return
    this.ended = how
    if (how === 'gone') this.follower.stop()
    this.#tell('ended', how)
  }

  #event(event, raw) {
    if (this.#opening.turns.length > 0) this.#showEarlier(event.turn)
    this.#record({ seq: event.seq, turn: event.turn, type: event.type, raw })
    this.conversation.apply(event)
    this.#tell('event', event)
  }

  #notice(notice, raw) {
    this.#record({ type: notice.type, raw })
    if (notice.type === 'stream_truncated') this.#tell('truncated', notice)
  }

  #status(status) {
    this.#tell('connection', status)
    if (status.phase === 'gone') this.#end('gone')
    if (status.phase === 'closed') this.#end(this.#archiving ? 'archived' : 'over')
  }

  #record(entry) {
    this.log.push(entry)
    if (this.log.length > MAX_LOG * 1.1) {
      this.logDropped += this.log.length - MAX_LOG
      this.log.splice(0, this.log.length - MAX_LOG)
    }
    this.#tell('log', entry)
  }

  #showEarlier(firstTurn) {
    const { messages, turns } = this.#opening
    this.#opening = { messages: [], turns: [] }
    this.earlier = messagesBefore(messages, turns, firstTurn)
    if (this.earlier.length > 0) this.#tell('earlier', this.earlier)
  }
}
