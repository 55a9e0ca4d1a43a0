import { describe, expect, test } from 'vitest'
import {
  createIdle,
  type ExportedSession,
  expectInvalid,
  expectProblem,
  type RunResult,
  readMessages,
  readSession,
  readTurn,
  type SessionList,
  type SessionView,
  said,
  type Turn,
  type TurnList,
} from '../helpers/contract.ts'
import { until } from '../helpers/http.ts'
import { type Frame, textOf, types } from '../helpers/sse.ts'
import asking from './asking-agent.ts'
import { type Reachable, useCluster } from './cluster.ts'

/** Sessions as a whole, their inboxes, keys and names, over several nodes. */
const nodes = useCluster(3, {}, { agents: [asking] })

const ASYNC = { prefer: 'respond-async' }
const TERMINAL = /^run_(completed|failed|interrupted)$/

let names = 0
/** What no other test uses: as a name, a label or a key. */
const fresh = (name: string) => `${name}-${++names}`

const blocksOf = (frames: readonly Frame[]) =>
  frames.filter(({ json }) => json.seq !== undefined).map(({ block }) => block)

async function inject(node: Reachable, id: string, body: string, headers = {}): Promise<string> {
  const answer = await node.api.post<{ interaction_id: string }>(`/sessions/${id}/interactions`, { body }, headers)
  expect(answer.status, answer.text).toBe(202)
  return answer.body.interaction_id
}

describe('an interaction', () => {
  test('that is put in at one node is dealt with by a host at another, and its stream ends', async () => {
    const [a, b, c] = nodes()
    const [name, peerName] = [fresh('host'), fresh('peer')]
    const host = { agent: 'scripted', comms_name: name, host_mode: true, prompt: 'say ready' }
    const created = await a.api.post<Turn>('/sessions', host)
    expect(created.status, created.text).toBe(202)
    const id = created.body.session_id
    const turn = await c.stream(`/sessions/${id}/turns/1/events`)
    const streamed = await b.stream(`/sessions/${id}/interactions/stream`, { json: { body: 'x\nsay for you' } })
    expect(types(await streamed.all()).at(-1)).toBe('interaction_complete')
    expect(streamed.end).toBe('clean')
    expect(textOf(streamed.frames)).toContain('for you')
    const interaction = streamed.frames[0]?.json.interaction_id
    for (const node of nodes()) {
      const replay = await node.stream(`/sessions/${id}/interactions/${interaction}/events`)
      expect(blocksOf(await replay.all())).toEqual(blocksOf(streamed.frames))
    }
    const quiet = await inject(c, id, 'x\nsay in passing')
    const followed = await a.stream(`/sessions/${id}/interactions/${quiet}/events`)
    expect(types(await followed.all()).at(-1)).toBe('interaction_complete')
    // A peer at another node ends it.
    const peer = await createIdle(b.api, { comms_name: peerName })
    const dismissed = await b.api.post(`/sessions/${peer}/comms`, { kind: 'peer_message', to: name, body: 'dismiss' })
    expect(dismissed.status, dismissed.text).toBe(200)
    expect(types(await turn.all()).at(-1)).toBe('run_completed')
    const texts = JSON.stringify(await readMessages(b.api, id))
    for (const text of ['ready', 'for you', 'in passing'])
      expect(texts.match(new RegExp(`"text":"[^"]*${text}"`, 'g'))).toHaveLength(1)
  })

  test('reaches the turn that runs at another node', async () => {
    const [a, b] = nodes()
    const id = await createIdle(a.api, { agent: 'asking' })
    const stream = await a.stream(`/sessions/${id}/turns/stream`, { json: { prompt: 'listen' } })
    await stream.upTo('text_delta')
    const interaction = await inject(b, id, 'disk full')
    const followed = await b.stream(`/sessions/${id}/interactions/${interaction}/events`)
    const frames = await stream.all()
    expect(frames.at(-1)?.json.result).toMatchObject({ text: '[EVENT via webhook] disk full' })
    expect(types(await followed.all()).at(-1)).toBe('interaction_complete')
    expect(JSON.stringify(await readMessages(b.api, id))).toContain('disk full')
  })

  test('into an idle session waits for the next turn, whichever node runs that', async () => {
    const [a, b, c] = nodes()
    const id = await createIdle(a.api, { agent: 'echo' })
    const interactions = [await inject(b, id, 'one'), await inject(c, id, 'two')]
    const streams = await Promise.all(
      interactions.map((one, i) => (nodes()[i] as Reachable).stream(`/sessions/${id}/interactions/${one}/events`)),
    )
    const turn = await c.api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'hello' })
    expect(turn.status, turn.text).toBe(200)
    for (const stream of streams) expect(types(await stream.all()).at(-1)).toBe('interaction_complete')
    const texts = JSON.stringify(await readMessages(b.api, id))
    expect(texts.indexOf('[EVENT via webhook] one')).toBeGreaterThan(0)
    expect(texts.indexOf('[EVENT via webhook] two')).toBeGreaterThan(texts.indexOf('[EVENT via webhook] one'))
  })
})

describe('archiving at one node a session whose turn runs at another', () => {
  async function running(prompt: string) {
    const [a] = nodes()
    const label = fresh('archived')
    const id = await createIdle(a.api, { agent: 'scripted', labels: { label } })
    const readers = await Promise.all(nodes().map((node) => node.stream(`/sessions/${id}/events`)))
    const caller = a.api.post<RunResult>(`/sessions/${id}/turns`, { prompt })
    for (const reader of readers) await reader.upTo('text_delta')
    return { id, readers, caller, label }
  }

  test.each([
    ['lets the turn finish', '', 'say before\nwait 400\nsay  after', 'run_completed', 'before after'],
    ['interrupts it with mode=cancel', '?mode=cancel', 'say before\nhang', 'run_interrupted', 'before'],
  ])('%s; nobody gets a new turn, all readers are told', async (_, query, prompt, end, text) => {
    const [, b] = nodes()
    const { id, readers, caller, label } = await running(prompt)
    const archived = await b.api.delete(`/sessions/${id}${query}`)
    expect([archived.status, archived.body]).toEqual([200, { session_id: id, archived: true }])
    for (const node of nodes()) {
      expectProblem(await node.api.post(`/sessions/${id}/turns`, { prompt: 'say no' }), 404, 'SESSION_NOT_FOUND')
      expectProblem(await node.api.post(`/sessions/${id}/interactions`, { body: 'x' }), 410, 'INBOX_CLOSED')
      expectProblem(await node.api.delete(`/sessions/${id}`), 404, 'SESSION_NOT_FOUND')
      expect((await node.api.get<SessionList>(`/sessions?label=label%3D${label}`)).body.total).toBe(0)
    }
    for (const reader of readers) {
      const seen = types(await reader.all())
      expect(seen.filter((type) => TERMINAL.test(type))).toEqual([end])
      expect(seen.at(-1)).toBe('done')
      expect(reader.end).toBe('clean')
    }
    expect(await caller).toMatchObject({ status: 200, body: { text } })
    for (const node of nodes()) {
      expect((await readSession(node.api, id)).state.is_active).toBe(false)
      expect((await readTurn(node.api, id, 1)).result?.text).toBe(text)
    }
  })

  test('cancels the turns in line, also those that another node put there', async () => {
    const [, b, c] = nodes()
    const { id, readers } = await running('say before\nhang')
    const queued = c.api.post(`/sessions/${id}/turns`, { prompt: 'say never', on_busy: 'enqueue' })
    await until('it is in line', async () => (await c.api.get<TurnList>(`/sessions/${id}/turns`)).body.total === 2)
    await b.api.delete(`/sessions/${id}?mode=cancel`)
    for (const reader of readers) {
      expect(textOf(await reader.all())).toBe('before')
      expect(reader.frames.at(-1)?.event).toBe('done')
    }
    expect(await queued).toMatchObject({ status: 200, body: { turn: 2, text: '', stop_reason: 'cancelled' } })
    for (const node of nodes()) expect((await readTurn(node.api, id, 2)).status).toBe('interrupted')
  })
})

describe('the same Idempotency-Key', () => {
  test('at three nodes at once creates one session, and all get its result', async () => {
    for (let i = 0; i < 5; i++) {
      const label = fresh('created')
      const key = { 'idempotency-key': fresh('key') }
      const json = { agent: 'scripted', prompt: 'say once\nwait 50', labels: { label } }
      const answers = await Promise.all(
        [...nodes(), ...nodes()].map((node) => node.api.post<RunResult>('/sessions', json, key)),
      )
      for (const answer of answers) {
        expect([answer.status, answer.body]).toEqual([201, answers[0]?.body])
        expect(answer.body.text).toBe('once')
      }
      const [, b, c] = nodes()
      expect((await b.api.get<SessionList>(`/sessions?label=label%3D${label}`)).body.total).toBe(1)
      expectProblem(await c.api.post('/sessions', { ...json, prompt: 'other' }, key), 422, 'IDEMPOTENCY_KEY_REUSED')
    }
  })

  test('at three nodes at once starts one turn, and all get its result', async () => {
    const [a, b, c] = nodes()
    const id = await createIdle(a.api, { agent: 'scripted' })
    for (let turn = 1; turn <= 5; turn++) {
      const key = { 'idempotency-key': `again${turn}` }
      const json = { prompt: 'say once\nwait 50' }
      const answers = await Promise.all(
        [...nodes(), ...nodes()].map((node) => node.api.post<RunResult>(`/sessions/${id}/turns`, json, key)),
      )
      for (const answer of answers) expect([answer.status, answer.body]).toEqual([200, answers[0]?.body])
      expect(answers[0]?.body).toMatchObject({ turn, text: 'once' })
      const other = await c.api.post(`/sessions/${id}/turns`, { prompt: 'other' }, key)
      expectProblem(other, 422, 'IDEMPOTENCY_KEY_REUSED')
    }
    expect((await b.api.get<TurnList>(`/sessions/${id}/turns`)).body.total).toBe(5)
  })

  test('at three nodes at once puts in one interaction', async () => {
    const [a, , c] = nodes()
    const id = await createIdle(a.api, { agent: 'echo' })
    const key = { 'idempotency-key': 'inject' }
    const ids = await Promise.all([...nodes(), ...nodes()].map((node) => inject(node, id, 'only once', key)))
    expect(new Set(ids).size).toBe(1)
    const other = await c.api.post(`/sessions/${id}/interactions`, { body: 'other' }, key)
    expectProblem(other, 422, 'IDEMPOTENCY_KEY_REUSED')
    await c.api.post(`/sessions/${id}/turns`, { prompt: 'hello' })
    expect(await inject(a, id, 'only once', key)).toBe(ids[0])
    const prompts = JSON.stringify((await readMessages(a.api, id)).filter(({ role }) => role === 'user'))
    expect(prompts.split('only once')).toHaveLength(2)
  })

  test('attaches at another node to the turn that runs, and to it when it is over', async () => {
    const [a, b, c] = nodes()
    const id = await createIdle(a.api, { agent: 'scripted' })
    const key = { 'idempotency-key': 'attach' }
    const json = { prompt: 'say here\nwait 300' }
    expect((await a.api.post<Turn>(`/sessions/${id}/turns`, json, { ...key, ...ASYNC })).status).toBe(202)
    const again = await b.api.post<Turn>(`/sessions/${id}/turns`, json, { ...key, ...ASYNC })
    expect([again.status, again.body]).toMatchObject([202, { turn: 1 }])
    const stream = await c.stream(`/sessions/${id}/turns/stream`, { json, headers: key })
    const waited = await b.api.post<RunResult>(`/sessions/${id}/turns`, json, key)
    expect([waited.status, waited.body]).toMatchObject([200, { turn: 1, text: 'here' }])
    expect((await stream.all()).at(-1)?.json.result).toEqual(waited.body)
    for (const node of nodes()) {
      expect((await node.api.post(`/sessions/${id}/turns`, json, key)).body).toEqual(waited.body)
    }
    expect((await a.api.get<TurnList>(`/sessions/${id}/turns`)).body.total).toBe(1)
  })
})

test('a session is exported, forked and imported at any node', async () => {
  const [a, b, c] = nodes()
  const { body } = await a.api.post<RunResult>('/sessions', { agent: 'echo', prompt: 'hello there' })
  const id = body.session_id
  const exported = await b.api.get<ExportedSession>(`/sessions/${id}/export`)
  expect(exported.body).toMatchObject({ id, messages: said('hello there', 'hello there') })
  const fork = await b.api.post<SessionView>(`/sessions/${id}/fork`, {})
  expect(fork.status, fork.text).toBe(201)
  const forked = fork.body.state.session_id
  const next = await c.api.post<RunResult>(`/sessions/${forked}/turns`, { prompt: 'on' })
  expect([next.status, next.body.text]).toEqual([200, 'on'])
  expect(await readMessages(a.api, forked)).toEqual([...said('hello there', 'hello there'), ...said('on', 'on')])
  expect(await readMessages(c.api, id)).toEqual(said('hello there', 'hello there'))
  expectProblem(await c.api.post('/sessions/import', exported.body), 409, 'SESSION_EXISTS')
  await a.api.delete(`/sessions/${id}`)
  // All at once: the session is there once.
  const imports = await Promise.all(nodes().map((node) => node.api.post('/sessions/import', exported.body)))
  expect(imports.map(({ status }) => status).sort()).toEqual([201, 409, 409])
  for (const node of nodes()) expect(await readMessages(node.api, id)).toEqual(said('hello there', 'hello there'))
  const again = await b.api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'back' })
  expect([again.status, again.body.text]).toEqual([200, 'back'])
})

describe('named sessions', () => {
  const peersOf = async (node: Reachable, id: string) =>
    (await node.api.get<{ peers: { name: string; peer_id: string }[] }>(`/sessions/${id}/peers`)).body.peers

  test('see one another and write to one another, whichever nodes they are used at', async () => {
    const [a, b, c] = nodes()
    const [ada, bob] = [fresh('ada'), fresh('bob')]
    const from = await createIdle(a.api, { agent: 'asking', comms_name: ada })
    const to = await createIdle(b.api, { agent: 'echo', comms_name: bob })
    for (const node of nodes()) {
      expect(await peersOf(node, from)).toContainEqual(expect.objectContaining({ name: bob, peer_id: to }))
      expect(await peersOf(node, to)).toContainEqual(expect.objectContaining({ name: ada, peer_id: from }))
    }
    const sent = await a.api.post<{ envelope_id: string }>(`/sessions/${from}/comms`, {
      kind: 'peer_message',
      to: bob,
      body: 'the tests are green',
    })
    expect(sent.status, sent.text).toBe(200)
    const told = await c.api.post<RunResult>(`/sessions/${from}/turns`, { prompt: `tell ${bob} by-the-agent` })
    expect(told.body, told.text).toMatchObject({ text: 'told' })
    await b.api.post(`/sessions/${to}/turns`, { prompt: 'read' })
    const envelope = await c.stream(`/sessions/${to}/interactions/${sent.body.envelope_id}/events`)
    expect(types(await envelope.all()).at(-1)).toBe('interaction_complete')
    const texts = JSON.stringify(await readMessages(c.api, to))
    for (const text of ['the tests are green', 'by-the-agent']) {
      expect(texts).toContain(`[COMMS MESSAGE from ${ada}]\\n${text}`)
    }
  })

  test('do not share a name, and have it to themselves only as long as they live', async () => {
    const [a, b, c] = nodes()
    const name = fresh('only')
    const id = await createIdle(a.api, { comms_name: name })
    expectInvalid(await b.api.post('/sessions', { initial_turn: 'deferred', comms_name: name }), 'comms_name')
    expectInvalid(await c.api.post('/sessions', { prompt: 'x', comms_name: name }), 'comms_name')
    await b.api.delete(`/sessions/${id}`)
    const watcher = await createIdle(c.api, { comms_name: fresh('watcher') })
    expect((await peersOf(a, watcher)).map((peer) => peer.name)).not.toContain(name)
    // Of three that ask at once one has it.
    const racing = await Promise.all(
      nodes().map((node) => node.api.post<RunResult>('/sessions', { initial_turn: 'deferred', comms_name: name })),
    )
    expect(racing.map(({ status }) => status).sort()).toEqual([201, 400, 400])
    const winner = racing.find(({ status }) => status === 201)?.body.session_id
    for (const node of nodes()) {
      expect((await peersOf(node, watcher)).filter((peer) => peer.name === name)).toMatchObject([{ peer_id: winner }])
    }
  })
})
