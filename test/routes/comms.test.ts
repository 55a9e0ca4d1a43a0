import { describe, expect, test } from 'vitest'
import type { Comms, SessionAgentBuilder } from '../../src/core/agent.ts'
import {
  createIdle,
  expectInvalid,
  expectProblem,
  NOBODY,
  type RunResult,
  readMessages,
  type SessionList,
} from '../helpers/contract.ts'
import { gatedAgent } from '../helpers/gate.ts'
import { until } from '../helpers/http.ts'
import { ownServer, useServer } from '../helpers/suite.ts'

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/

interface Peer {
  name: string
  peer_id: string
  address: string
  source: string
  sendable_kinds: string[]
  capabilities: Record<string, unknown>
  meta: { description?: string; labels?: Record<string, string> }
}

type Receipt = Record<string, unknown> & { kind: string; envelope_id: string; interaction_id: string }

/** Built when the test says so, to see what happens in the meantime. */
function slowAgent() {
  const builds: (() => void)[] = []
  const agent: SessionAgentBuilder = {
    name: 'slow',
    buildAgent: () =>
      new Promise((resolve) =>
        builds.push(() =>
          resolve({
            async *run() {
              return undefined
            },
          }),
        ),
      ),
  }
  return { agent, builds }
}

const gate = gatedAgent()
const deaf = gatedAgent('deaf-gate', { deaf: true })
const slow = slowAgent()
const server = useServer({}, { gates: [gate, deaf], agents: [slow.agent] })
const { api } = server

let names = 0
/** Names that no other test has. */
const newNames = (...of: string[]) => of.map((name) => `${name}-${++names}`) as [string, ...string[]]

async function peersOf(id: string): Promise<Peer[]> {
  const answer = await api.get<{ peers: Peer[] }>(`/sessions/${id}/peers`)
  expect(answer.status, answer.text).toBe(200)
  return answer.body.peers
}

const send = (id: string, command: unknown) => api.post<Receipt>(`/sessions/${id}/comms`, command)

async function sent(id: string, command: unknown): Promise<Receipt> {
  const answer = await send(id, command)
  expect(answer.status, answer.text).toBe(200)
  return answer.body
}

/** What the next turn of a gated session finds in its inbox. */
async function inboxOf(id: string, prompt: string): Promise<string | undefined> {
  const turn = api.post(`/sessions/${id}/turns`, { prompt })
  const run = await gate.run(prompt)
  run.finish()
  await turn
  return run.injected
}

describe('the peers of a session', () => {
  test('are all others that have a name, each once, oldest first, and never itself [R89]', async () => {
    const own = await ownServer()
    const list = async (id: string) => (await own.api.get<{ peers: Peer[] }>(`/sessions/${id}/peers`)).body
    const nameless = await createIdle(own.api)
    expect(await list(nameless)).toEqual({ peers: [] })
    const meta = { description: 'reviews code', labels: { team: 'a' } }
    const z = await createIdle(own.api, { comms_name: 'z', peer_meta: meta })
    expect(await list(z)).toEqual({ peers: [] })
    const a = await createIdle(own.api, { comms_name: 'a' })
    const m = await createIdle(own.api, { comms_name: 'Ö m' })
    const peer = (name: string, peer_id: string, more: object = {}) => ({
      name,
      peer_id,
      address: `inproc://${name}`,
      source: 'inproc',
      sendable_kinds: ['peer_message', 'peer_request', 'peer_response'],
      capabilities: {},
      meta: more,
    })
    for (let i = 0; i < 2; i++) {
      expect(await list(nameless)).toEqual({ peers: [peer('z', z, meta), peer('a', a), peer('Ö m', m)] })
      expect(await list(z)).toEqual({ peers: [peer('a', a), peer('Ö m', m)] })
      expect(await list(a)).toEqual({ peers: [peer('z', z, meta), peer('Ö m', m)] })
    }
  })

  test('are gone when they are archived, and their names free [R89]', async () => {
    const [mine, theirs] = newNames('mine', 'theirs') as [string, string]
    const id = await createIdle(api, { comms_name: mine })
    const first = await createIdle(api, { comms_name: theirs })
    await api.delete(`/sessions/${first}`)
    expect((await peersOf(id)).map(({ name }) => name)).not.toContain(theirs)
    expectProblem(await send(id, { kind: 'peer_message', to: theirs, body: 'x' }), 404, 'PEER_NOT_FOUND')
    const second = await createIdle(api, { comms_name: theirs })
    expect((await peersOf(id)).filter(({ name }) => name === theirs)).toMatchObject([{ peer_id: second }])
    // Whoever is archived has no peers and sends nothing.
    expectProblem(await api.get(`/sessions/${first}/peers`), 404, 'SESSION_NOT_FOUND')
    expectProblem(await send(first, { kind: 'peer_message', to: mine, body: 'x' }), 410, 'INBOX_CLOSED')
  })

  test('do not share a name: one that is taken is refused, and makes no session', async () => {
    const [name] = newNames('only')
    const id = await createIdle(api, { comms_name: name })
    const count = async () => (await api.get<SessionList>('/sessions?limit=0')).body.total
    const before = await count()
    expectInvalid(await api.post('/sessions', { prompt: 'x', comms_name: name }), 'comms_name')
    const deferred = await api.post('/sessions', { initial_turn: 'deferred', comms_name: name })
    expect(expectInvalid(deferred, 'comms_name').detail).toContain('taken')
    expect(await count()).toBe(before)
    const fork = await api.post<{ state: { session_id: string } }>(`/sessions/${id}/fork`, {})
    expect(fork.status, fork.text).toBe(201)
    expect((await peersOf(fork.body.state.session_id)).filter((peer) => peer.name === name)).toHaveLength(1)
    // An exported session takes its name along, unless that is taken.
    const exported = (await api.get<Record<string, unknown>>(`/sessions/${id}/export`)).body
    expectInvalid(await api.post('/sessions/import', { ...exported, id: NOBODY }), 'session_metadata/comms_name')
    await api.delete(`/sessions/${id}`)
    expect((await api.post('/sessions/import', exported)).status).toBe(201)
    expect((await peersOf(fork.body.state.session_id)).filter((peer) => peer.name === name)).toMatchObject([
      { peer_id: id },
    ])
  })

  test('of two that are made at a time under one name the first that is built has it', async () => {
    const [name] = newNames('racing')
    const create = () => api.post<RunResult>('/sessions', { agent: 'slow', initial_turn: 'deferred', comms_name: name })
    const answers = [create(), create()]
    await until('both are being built', () => slow.builds.length === 2)
    for (const build of slow.builds) build()
    const [lost, won] = (await Promise.all(answers)).sort((a, b) => b.status - a.status)
    expectInvalid(lost as NonNullable<typeof lost>, 'comms_name')
    expect(won?.status).toBe(201)
  })
})

describe('sending to a peer', () => {
  test('puts a message into its inbox, in the name of who sends it', async () => {
    const [mine, theirs] = newNames('sender', 'receiver') as [string, string]
    const id = await createIdle(api, { comms_name: mine })
    const peer = await createIdle(api, { comms_name: theirs, agent: 'gated' })
    const receipt = await sent(id, { kind: 'peer_message', to: theirs, body: 'the tests\nare green' })
    expect(receipt).toEqual({
      kind: 'peer_message_sent',
      envelope_id: expect.stringMatching(UUID),
      acked: false,
    })
    await sent(id, { kind: 'peer_message', to: theirs })
    expect(await inboxOf(peer, `read ${theirs}`)).toBe(
      `[COMMS MESSAGE from ${mine}]\nthe tests\nare green\n\n[COMMS MESSAGE from ${mine}]\n`,
    )
    const stream = await server.stream(`/sessions/${peer}/interactions/${receipt.envelope_id}/events`)
    const frames = await stream.all()
    expect(frames[0]?.json).toMatchObject({ type: 'interaction_started', source: mine })
    expect(frames.at(-1)?.event).toBe('interaction_complete')
  })

  test('asks and is answered: a request says how to answer, and the answer names the request', async () => {
    const [mine, theirs] = newNames('asker', 'answerer') as [string, string]
    const id = await createIdle(api, { comms_name: mine, agent: 'gated' })
    const peer = await createIdle(api, { comms_name: theirs, agent: 'gated' })
    const asked = await sent(id, { kind: 'peer_request', to: theirs, intent: 'sum', params: { of: [1, 2] } })
    expect(asked).toEqual({
      kind: 'peer_request_sent',
      envelope_id: expect.stringMatching(UUID),
      interaction_id: asked.envelope_id,
      stream_reserved: false,
    })
    const reserved = await sent(id, {
      kind: 'peer_request',
      to: theirs,
      intent: 'wait',
      stream: 'reserve_interaction',
    })
    expect(reserved.stream_reserved).toBe(true)
    expect(await inboxOf(peer, `asked ${theirs}`)).toBe(
      [
        `[COMMS REQUEST from ${mine}]`,
        `id: ${asked.envelope_id}`,
        'intent: sum',
        'params: {\n  "of": [\n    1,\n    2\n  ]\n}',
        `To answer, send a peer_response to "${mine}" with in_reply_to "${asked.envelope_id}".`,
        '',
        `[COMMS REQUEST from ${mine}]`,
        `id: ${reserved.envelope_id}`,
        'intent: wait',
        'params: null',
        `To answer, send a peer_response to "${mine}" with in_reply_to "${reserved.envelope_id}".`,
      ].join('\n'),
    )
    const in_reply_to = asked.envelope_id
    const answered = await sent(peer, { kind: 'peer_response', to: mine, in_reply_to, result: { sum: 3 } })
    expect(answered).toEqual({
      kind: 'peer_response_sent',
      envelope_id: expect.stringMatching(UUID),
      in_reply_to,
    })
    await sent(peer, {
      kind: 'peer_response',
      to: mine,
      in_reply_to: reserved.envelope_id,
      status: 'failed',
      result: 'no time',
    })
    await sent(peer, { kind: 'peer_response', to: mine, in_reply_to: reserved.envelope_id, status: 'accepted' })
    expect(await inboxOf(id, `answered ${mine}`)).toBe(
      [
        `[COMMS RESPONSE from ${theirs}]\nin_reply_to: ${in_reply_to}\nstatus: completed\nresult: {\n  "sum": 3\n}`,
        `[COMMS RESPONSE from ${theirs}]\nin_reply_to: ${reserved.envelope_id}\nstatus: failed\nresult: no time`,
        `[COMMS RESPONSE from ${theirs}]\nin_reply_to: ${reserved.envelope_id}\nstatus: accepted\nresult: null`,
      ].join('\n\n'),
    )
  })

  test('can be done by an agent, too', async () => {
    const [mine, theirs] = newNames('agent', 'other') as [string, string]
    const id = await createIdle(api, { comms_name: mine, agent: 'gated' })
    const peer = await createIdle(api, { comms_name: theirs, agent: 'gated' })
    const turn = api.post(`/sessions/${id}/turns`, { prompt: `send from ${mine}` })
    const run = await gate.run(`send from ${mine}`)
    const comms = run.context.comms as Comms
    expect((await comms.peers()).filter(({ name }) => name === theirs)).toMatchObject([{ peer_id: peer }])
    expect(await comms.send({ kind: 'peer_message', to: theirs, body: 'hi' })).toMatchObject({ acked: false })
    const loop: Record<string, unknown> = {}
    loop.loop = loop
    await expect(comms.send({ kind: 'peer_request', to: theirs, intent: 'x', params: loop })).rejects.toThrow(
      expect.objectContaining({ code: 'INVALID_PARAMS' }),
    )
    await expect(comms.send({ kind: 'peer_message', to: mine })).rejects.toThrow(
      expect.objectContaining({ code: 'PEER_NOT_FOUND' }),
    )
    run.finish()
    await turn
    expect(await inboxOf(peer, `heard by ${theirs}`)).toBe(`[COMMS MESSAGE from ${mine}]\nhi`)
  })

  test('is over for an agent whose turn was interrupted, whether it heard of that or not', async () => {
    const [mine, theirs] = newNames('deaf', 'spared') as [string, string]
    const id = await createIdle(api, { comms_name: mine, agent: 'deaf-gate' })
    const peer = await createIdle(api, { comms_name: theirs, agent: 'gated' })
    const turn = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'not to be heard' })
    const { context } = await deaf.run('not to be heard')
    await api.post(`/sessions/${id}/interrupt`)
    const abort = expect.objectContaining({ name: 'AbortError' })
    await expect(context.comms?.send({ kind: 'peer_message', to: theirs })).rejects.toThrow(abort)
    expect((await turn).body.stop_reason).toBe('cancelled')
    await expect(context.comms?.send({ kind: 'peer_message', to: theirs })).rejects.toThrow(abort)
    expect(await inboxOf(peer, `spared ${theirs}`)).toBeUndefined()
  })

  test('is over for an agent whose session is archived, as soon as its last turn is over', async () => {
    const [mine, theirs] = newNames('gone', 'staying') as [string, string]
    const id = await createIdle(api, { comms_name: mine, agent: 'gated' })
    const peer = await createIdle(api, { comms_name: theirs, agent: 'gated' })
    const turn = api.post(`/sessions/${id}/turns`, { prompt: `last of ${mine}` })
    const run = await gate.run(`last of ${mine}`)
    const comms = run.context.comms as Comms
    await api.delete(`/sessions/${id}`)
    expect(await comms.send({ kind: 'peer_message', to: theirs, body: 'bye' })).toMatchObject({
      kind: 'peer_message_sent',
    })
    run.finish()
    await turn
    const closed = expect.objectContaining({ code: 'INBOX_CLOSED' })
    await expect(comms.send({ kind: 'peer_message', to: theirs, body: 'still here' })).rejects.toThrow(closed)
    await expect(comms.send({ kind: 'input', body: 'x', allow_self_session: true })).rejects.toThrow(closed)
    expect(await inboxOf(peer, `said goodbye to ${theirs}`)).toBe(`[COMMS MESSAGE from ${mine}]\nbye`)
  })

  test('is nothing for an agent without a name', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const turn = api.post(`/sessions/${id}/turns`, { prompt: 'no name' })
    const run = await gate.run('no name')
    expect(run.context.comms).toBeUndefined()
    run.finish()
    await turn
  })

  test('that is not there, or is oneself, is PEER_NOT_FOUND [R89]', async () => {
    const [mine] = newNames('lonely')
    const id = await createIdle(api, { comms_name: mine })
    const kinds = [
      { kind: 'peer_message', body: 'x' },
      { kind: 'peer_request', intent: 'x' },
      { kind: 'peer_response', in_reply_to: NOBODY },
    ]
    for (const command of kinds) {
      for (const to of ['nobody', mine, mine.toUpperCase(), ` ${mine}`, '__proto__']) {
        const problem = expectProblem(await send(id, { ...command, to }), 404, 'PEER_NOT_FOUND')
        expect(problem.detail).toContain(`"${to}"`)
      }
    }
    await api.post(`/sessions/${id}/turns`, { prompt: 'nothing came in' })
    expect(await readMessages(api, id)).toHaveLength(2)
  })

  test('needs a name of the session: without one it has nobody to be', async () => {
    const [theirs] = newNames('named')
    await createIdle(api, { comms_name: theirs })
    const id = await createIdle(api)
    const problem = expectInvalid(await send(id, { kind: 'peer_message', to: theirs, body: 'x' }), 'kind')
    expect(problem.detail).toContain('comms_name')
  })

  test('whose inbox is full is INBOX_FULL, and names the session that is', async () => {
    const [mine, theirs] = newNames('busybody', 'flooded') as [string, string]
    const id = await createIdle(api, { comms_name: mine })
    const peer = await createIdle(api, { comms_name: theirs })
    const command = { kind: 'peer_message', to: theirs, body: 'x' }
    for (let i = 0; i < 32; i++) await Promise.all(Array.from({ length: 32 }, () => sent(id, command)))
    const refused = await send(id, command)
    expect(expectProblem(refused, 503, 'INBOX_FULL')).toMatchObject({ session_id: peer })
    expect(refused.headers['retry-after']).toMatch(/^\d+$/)
  })
})

describe('input for the session itself', () => {
  test('comes in as an event, from rpc unless it says otherwise, and needs no name', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const command = { kind: 'input', body: 'a note', allow_self_session: true }
    const receipt = await sent(id, command)
    expect(receipt).toEqual({
      kind: 'input_accepted',
      interaction_id: expect.stringMatching(UUID),
      stream_reserved: false,
    })
    const reserved = await sent(id, { ...command, source: 'stdin', stream: 'reserve_interaction' })
    expect(reserved.stream_reserved).toBe(true)
    expect(await inboxOf(id, 'noted')).toBe('[EVENT via rpc] a note\n\n[EVENT via stdin] a note')
  })

  test.each([{}, { allow_self_session: false }])('with %j is 400, and nothing comes in [R90]', async (more) => {
    const id = await createIdle(api)
    expectInvalid(await send(id, { kind: 'input', body: 'x', ...more }), 'allow_self_session')
    await api.post(`/sessions/${id}/turns`, { prompt: 'nothing came in' })
    expect(await readMessages(api, id)).toHaveLength(2)
  })
})

describe('a command that is none is 400 and says what is wrong with it', () => {
  test.each<[string, unknown]>([
    ['kind', {}],
    ['kind', { kind: 'peer_shout', to: 'x' }],
    ['kind', { kind: null, to: 'x' }],
    ['kind', { kind: ['input'], body: 'x', allow_self_session: true }],
    ['kind', { kind: 'constructor' }],
    ['body', { kind: 'input', allow_self_session: true }],
    ['body', { kind: 'input', body: { a: 1 }, allow_self_session: true }],
    ['source', { kind: 'input', body: 'x', source: 'telepathy', allow_self_session: true }],
    ['stream', { kind: 'input', body: 'x', stream: 'all', allow_self_session: true }],
    ['allow_self_session', { kind: 'input', body: 'x', allow_self_session: 'true' }],
    ['to', { kind: 'input', body: 'x', to: 'y', allow_self_session: true }],
    ['to', { kind: 'peer_message', body: 'x' }],
    ['to', { kind: 'peer_message', to: '', body: 'x' }],
    ['to', { kind: 'peer_message', to: 'x'.repeat(129), body: 'x' }],
    ['body', { kind: 'peer_message', to: 'x', body: 1 }],
    ['stream', { kind: 'peer_message', to: 'x', body: 'x', stream: 'none' }],
    ['intent', { kind: 'peer_request', to: 'x' }],
    ['intent', { kind: 'peer_request', to: 'x', intent: '' }],
    ['in_reply_to', { kind: 'peer_response', to: 'x' }],
    ['in_reply_to', { kind: 'peer_response', to: 'x', in_reply_to: 'the last one' }],
    ['in_reply_to', { kind: 'peer_response', to: 'x', in_reply_to: `urn:uuid:${NOBODY}` }],
    ['status', { kind: 'peer_response', to: 'x', in_reply_to: NOBODY, status: 'done' }],
    ['', []],
    ['', 'input'],
    ['', null],
  ])('%s: %j', async (path, command) => {
    const id = await createIdle(api)
    const problem = expectInvalid(await send(id, command), path)
    // Not the complaints of kinds that it is not.
    expect(problem.errors).toHaveLength(1)
  })

  test('and the session has to be there', async () => {
    const command = { kind: 'input', body: 'x', allow_self_session: true }
    expectProblem(await send(NOBODY, command), 404, 'SESSION_NOT_FOUND')
    expectProblem(await api.get(`/sessions/${NOBODY}/peers`), 404, 'SESSION_NOT_FOUND')
    expectInvalid(await api.get('/sessions/x/peers'), 'session_id')
  })
})
