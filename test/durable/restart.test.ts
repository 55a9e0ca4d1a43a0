import { describe, expect, onTestFinished, test } from 'vitest'
import {
  createIdle,
  expectProblem,
  type RunResult,
  readMessages,
  readSession,
  readTurn,
  type SessionList,
  type TurnList,
} from '../helpers/contract.ts'
import { gatedAgent } from '../helpers/gate.ts'
import { until, within } from '../helpers/http.ts'
import { type EventStream, type OpenStream, openStream, types } from '../helpers/sse.ts'
import { durableStores, type Node, startNode } from './stores.ts'

const open = async (node: Node, path: string, options?: OpenStream): Promise<EventStream> => {
  const stream = await openStream(node.server.url + path, options)
  onTestFinished(() => stream.leave())
  return stream
}

describe.each(Object.entries(durableStores))('%s', (_, place) => {
  test('sessions are there again after a restart, all of them and as they were', async () => {
    const url = await place()
    const first = await startNode(url)
    const { body } = await first.api.post<RunResult>('/sessions', {
      agent: 'scripted',
      prompt: 'think hm\nsay one\ntool add {"a":1,"b":2}\nusage 7 9\nsay \u2028 é 😀 "quoted"',
      system_prompt: 'Be brief.',
      labels: { team: 'blue', 'odd key': 'x=y' },
    })
    const id = body.session_id
    await first.api.post(`/sessions/${id}/turns`, { prompt: 'fail on purpose' })
    const other = await createIdle(first.api, { agent: 'echo' })
    const paths = [
      '/sessions',
      '/sessions?label=team%3Dblue',
      `/sessions/${id}`,
      `/sessions/${id}/messages`,
      `/sessions/${id}/export`,
      `/sessions/${id}/turns`,
      `/sessions/${id}/turns/2`,
      `/sessions/${id}/turns/1/events`,
      `/sessions/${id}/turns/2/events?after=12`,
      `/sessions/${other}`,
    ]
    const read = (node: Node) => Promise.all(paths.map(async (path) => (await node.api.get(path)).text))
    const before = await read(first)
    await first.close()
    const second = await startNode(url)
    expect(await read(second)).toEqual(before)
    const next = await second.api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'say again' })
    expect(next.body).toMatchObject({ turn: 3, text: 'again' })
    const log = await (await open(second, `/sessions/${id}/turns/3/events`)).all()
    const last = before[7]?.match(/^id: \d+/gm)?.length ?? 0
    expect(log[0]?.json.seq).toBeGreaterThan(last)
    await second.close()
    const third = await startNode(url)
    expect((await readSession(third.api, id)).state).toMatchObject({ turn: 3, labels: { team: 'blue' } })
    expect((await third.api.get<SessionList>('/sessions')).body.sessions.map(({ session_id }) => session_id)).toEqual([
      id,
      other,
    ])
  })

  test('seq goes on where it was, and a reader goes on where it stopped', async () => {
    const url = await place()
    const first = await startNode(url)
    const id = await createIdle(first.api, { agent: 'scripted' })
    const reader = await open(first, `/sessions/${id}/events?after=0`)
    await first.api.post(`/sessions/${id}/turns`, { prompt: 'deltas 5' })
    await reader.upTo('run_completed')
    await first.close()
    expect(await reader.ended()).toBe('destroyed')
    const second = await startNode(url)
    const seen = reader.frames.flatMap(({ json }) => (json.seq === undefined ? [] : [json.seq]))
    const again = await open(second, `/sessions/${id}/events?after=${seen.at(-1)}`)
    await second.api.post(`/sessions/${id}/turns`, { prompt: 'say more' })
    await again.upTo('run_completed')
    const later = again.frames.flatMap(({ json }) => (json.seq === undefined ? [] : [json.seq]))
    expect([...seen, ...later]).toEqual(Array.from({ length: seen.length + later.length }, (_, i) => i + 1))
    const all = await open(second, `/sessions/${id}/events?after=0`)
    await second.api.delete(`/sessions/${id}`)
    expect((await all.all()).slice(1, -1).map(({ block }) => block)).toEqual(
      [...reader.frames.slice(1), ...again.frames.slice(1)].flatMap(({ block, json }) =>
        json.seq === undefined ? [] : [block],
      ),
    )
    expect(all.frames.at(-1)?.event).toBe('done')
  })

  test('an idempotency key attaches to what it started before the restart, and to nothing else', async () => {
    const url = await place()
    const first = await startNode(url)
    const key = { 'idempotency-key': 'k1' }
    const created = await first.api.post<RunResult>('/sessions', { agent: 'echo', prompt: 'hello' }, key)
    const id = created.body.session_id
    const turn = await first.api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'again' }, key)
    await first.close()
    const second = await startNode(url)
    const same = await second.api.post<RunResult>('/sessions', { agent: 'echo', prompt: 'hello' }, key)
    expect([same.status, same.body]).toEqual([201, created.body])
    expect((await second.api.post(`/sessions/${id}/turns`, { prompt: 'again' }, key)).body).toEqual(turn.body)
    expectProblem(
      await second.api.post(`/sessions/${id}/turns`, { prompt: 'other' }, key),
      422,
      'IDEMPOTENCY_KEY_REUSED',
    )
    expect((await second.api.get<SessionList>('/sessions')).body.total).toBe(1)
    await second.api.delete(`/sessions/${id}`)
    await second.close()
    const third = await startNode(url)
    const anew = await third.api.post<RunResult>('/sessions', { agent: 'echo', prompt: 'hello' }, key)
    expect(anew.body.session_id).not.toBe(id)
  })

  test('a turn that is running at SIGTERM ends interrupted, and the session goes on', async () => {
    const url = await place()
    const gate = gatedAgent()
    const first = await startNode(url, {}, { agents: [gate.agent] })
    const id = await createIdle(first.api, { agent: 'gated' })
    const stream = await open(first, `/sessions/${id}/turns/stream`, { json: { prompt: 'go' } })
    await (await gate.run('go')).say('so far')
    await stream.upTo('text_delta')
    await first.close()
    expect((await stream.all()).at(-1)?.event).toBe('run_interrupted')
    const second = await startNode(url, {}, { agents: [gate.agent] })
    expect(await readTurn(second.api, id, 1)).toMatchObject({ status: 'interrupted', result: { text: 'so far' } })
    expect((await readSession(second.api, id)).state.is_active).toBe(false)
    const next = second.api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'on' })
    ;(await gate.run('on')).finish({ text: 'done' })
    expect((await next).body.text).toBe('done')
  })

  test('a session whose agent is not here any more can be read, and says so when it is asked', async () => {
    const url = await place()
    const gate = gatedAgent()
    const first = await startNode(url, {}, { agents: [gate.agent] })
    const id = await createIdle(first.api, { agent: 'gated' })
    await first.close()
    const second = await startNode(url)
    expect((await readSession(second.api, id)).state.agent).toBe('gated')
    const refused = await second.api.post(`/sessions/${id}/turns`, { prompt: 'x' })
    expect(expectProblem(refused, 501, 'CAPABILITY_UNAVAILABLE').detail).toContain('gated')
    await second.close()
    const third = await startNode(url, {}, { agents: [gate.agent] })
    const turn = third.api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'back' })
    ;(await gate.run('back')).finish({ text: 'here' })
    expect((await turn).body.text).toBe('here')
  })

  test('what is archived stays so, and can be read for a while', async () => {
    const url = await place()
    const first = await startNode(url)
    const { body } = await first.api.post<RunResult>('/sessions', { agent: 'echo', prompt: 'hello' })
    await first.api.delete(`/sessions/${body.session_id}`)
    await first.close()
    const second = await startNode(url)
    expect((await second.api.get<SessionList>('/sessions')).body.total).toBe(0)
    expect((await readSession(second.api, body.session_id)).state.is_active).toBe(false)
    expectProblem(await second.api.get(`/sessions/${body.session_id}/messages`), 501, 'SESSION_PERSISTENCE_DISABLED')
    expectProblem(
      await second.api.post(`/sessions/${body.session_id}/turns`, { prompt: 'x' }),
      404,
      'SESSION_NOT_FOUND',
    )
    const log = await (await open(second, `/sessions/${body.session_id}/events?after=0`)).all()
    expect(types(log).slice(-2)).toEqual(['run_completed', 'done'])
  })

  test('what waits in an inbox waits on, and what is over can be read', async () => {
    const url = await place()
    const first = await startNode(url)
    const id = await createIdle(first.api, { agent: 'echo' })
    const inject = async (node: Node, body: string) =>
      (await node.api.post<{ interaction_id: string }>(`/sessions/${id}/interactions`, { body })).body.interaction_id
    const taken = await inject(first, 'one')
    await first.api.post(`/sessions/${id}/turns`, { prompt: 'hello' })
    const waiting = await inject(first, 'two')
    await first.close()
    const second = await startNode(url)
    const over = await open(second, `/sessions/${id}/interactions/${taken}/events`)
    expect(types(await over.all())).toEqual([
      'interaction_started',
      'turn_started',
      'text_delta',
      'text_complete',
      'turn_completed',
      'interaction_complete',
    ])
    const stream = await open(second, `/sessions/${id}/interactions/${waiting}/events`)
    await second.api.post(`/sessions/${id}/turns`, { prompt: 'again' })
    expect(types(await stream.all()).at(-1)).toBe('interaction_complete')
    const messages = await readMessages(second.api, id)
    expect(JSON.stringify(messages)).toContain('[EVENT via webhook] two')
  })

  test('named sessions reach one another after a restart', async () => {
    const url = await place()
    const first = await startNode(url)
    const ids = await Promise.all(
      ['ada', 'bob'].map((comms_name) => createIdle(first.api, { agent: 'echo', comms_name })),
    )
    await first.close()
    const second = await startNode(url)
    const peers = await second.api.get<{ peers: { name: string }[] }>(`/sessions/${ids[0]}/peers`)
    expect(peers.body.peers.map(({ name }) => name)).toEqual(['bob'])
    const sent = await second.api.post(`/sessions/${ids[0]}/comms`, { kind: 'peer_message', to: 'bob', body: 'hi' })
    expect(sent.status, sent.text).toBe(200)
    const taken = await second.api.post('/sessions', { agent: 'echo', comms_name: 'ada', prompt: 'x' })
    expectProblem(taken, 400, 'INVALID_PARAMS')
  })

  test('a session that is idle leaves memory and comes back, for readers too', async () => {
    const url = await place()
    const node = await startNode(url, { IDLE_EVICT_MS: 1_000 })
    const { body } = await node.api.post<RunResult>('/sessions', { agent: 'echo', prompt: 'hello' })
    const id = body.session_id
    const reader = await open(node, `/sessions/${id}/events`)
    await reader.upTo('session_loaded')
    await until('it has left', () => node.server.app.sessions.stats.residents === 0)
    expect((await readSession(node.api, id)).state).toMatchObject({ turn: 1, last_assistant_text: 'hello' })
    expect(node.server.app.sessions.stats).toMatchObject({ residents: 0, sessions: 1 })
    const next = await node.api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'back' })
    expect(next.body).toMatchObject({ turn: 2, text: 'back' })
    expect((await within('the reader', reader.upTo('run_completed'))).json.turn).toBe(2)
  })

  test('a full server lets idle sessions leave for others, and none that runs', async () => {
    const url = await place()
    const gate = gatedAgent()
    const node = await startNode(url, { MAX_SESSIONS: 2 }, { agents: [gate.agent] })
    for (let i = 0; i < 5; i++) await node.api.post('/sessions', { agent: 'echo', prompt: `number ${i}` })
    const { body } = await node.api.get<SessionList>('/sessions')
    expect(body.total).toBe(5)
    for (const { session_id } of body.sessions) {
      const answer = await node.api.post<RunResult>(`/sessions/${session_id}/turns`, { prompt: 'again' })
      expect(answer.body.text).toBe('again')
    }
    const running = ['a', 'b'].map((prompt) => node.api.post('/sessions', { agent: 'gated', prompt }))
    const runs = [await gate.run('a'), await gate.run('b')]
    const refused = await node.api.post('/sessions', { agent: 'echo', prompt: 'no room' })
    expectProblem(refused, 503, 'SESSION_CAPACITY_REACHED')
    for (const run of runs) run.finish()
    expect((await Promise.all(running)).map(({ status }) => status)).toEqual([201, 201])
  })

  test('turns in line are there after a restart and run', async () => {
    const url = await place()
    const gate = gatedAgent()
    const first = await startNode(url, {}, { agents: [gate.agent] })
    const id = await createIdle(first.api, { agent: 'gated' })
    const start = (prompt: string) =>
      first.api.post(`/sessions/${id}/turns`, { prompt, on_busy: 'enqueue' }, { prefer: 'respond-async' })
    for (const prompt of ['one', 'two']) expect((await start(prompt)).status).toBe(202)
    const turns = await first.api.get<TurnList>(`/sessions/${id}/turns`)
    expect(turns.body.turns.map(({ status }) => status)).toEqual(['running', 'queued'])
    await first.close()
    const second = await startNode(url, {}, { agents: [gate.agent] })
    expect((await readTurn(second.api, id, 1)).status).toBe('interrupted')
    ;(await gate.run('two')).finish({ text: 'second' })
    await until('it is over', async () => (await readTurn(second.api, id, 2)).status === 'completed')
  })
})
