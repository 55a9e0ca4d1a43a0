import { describe, expect, test } from 'vitest'
import {
  createIdle,
  expectProblem,
  type Problem,
  type RunResult,
  readMessages,
  readSession,
  readTurn,
  type SessionList,
  said,
  type Turn,
  type TurnList,
} from '../helpers/contract.ts'
import { type Answer, until } from '../helpers/http.ts'
import { type EventStream, type Frame, textOf, types } from '../helpers/sse.ts'
import asking from './asking-agent.ts'
import { type Reachable, useCluster } from './cluster.ts'

/** What nodes over one database do for one another's sessions. Which node is asked must not matter to a client. */
const nodes = useCluster(3, {}, { agents: [asking] })

const ASYNC = { prefer: 'respond-async' }
const TERMINAL = /^run_(completed|failed|interrupted)$/

const rawOf = (frames: readonly Frame[]) => frames.map(({ raw }) => raw)
const numbered = (frames: readonly Frame[]) => frames.filter(({ json }) => json.seq !== undefined)
const blocksOf = (frames: readonly Frame[]) => numbered(frames).map(({ block }) => block)
const endOfTurn = (turn: number) => (frame: Frame) => frame.json.turn === turn && TERMINAL.test(frame.event)

/** A session whose turn runs at `node`, and has said something, until it is interrupted. */
async function hanging(node: Reachable, prompt = 'say So far.\nhang'): Promise<{ id: string; stream: EventStream }> {
  const id = await createIdle(node.api, { agent: 'scripted' })
  const stream = await node.stream(`/sessions/${id}/turns/stream`, { json: { prompt } })
  await stream.upTo('text_delta')
  return { id, stream }
}

/** Every event of a session up to the end of a turn, as `node` has them. */
async function logOf(node: Reachable, id: string, turn: number): Promise<Frame[]> {
  const stream = await node.stream(`/sessions/${id}/events?after=0`)
  await stream.upTo(endOfTurn(turn))
  stream.leave()
  return numbered(stream.frames)
}

describe('what happens at one node', () => {
  test('can be read at every other as soon as it was answered, and is the same', async () => {
    const [a, b, c] = nodes()
    for (let i = 0; i < 5; i++) {
      const body = { agent: 'scripted', labels: { round: `read-${i}` }, prompt: 'say one\ntool add {"a":1,"b":2}' }
      const created = await a.api.post<RunResult>('/sessions', body)
      expect(created.status, created.text).toBe(201)
      const id = created.body.session_id
      expect((await readSession(b.api, id)).state).toMatchObject({ turn: 1, is_active: false, labels: body.labels })
      const next = await b.api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'say two' })
      expect(next.body).toMatchObject({ turn: 2, text: 'two' })
      expect((await readTurn(c.api, id, 2)).result).toEqual(next.body)
      const paths = [
        `/sessions?label=round%3Dread-${i}`,
        `/sessions/${id}`,
        `/sessions/${id}/messages`,
        `/sessions/${id}/turns`,
        `/sessions/${id}/export`,
        `/sessions/${id}/turns/1/events`,
      ]
      const [atA, ...others] = await Promise.all(
        nodes().map((node) => Promise.all(paths.map(async (path) => (await node.api.get(path)).text))),
      )
      for (const other of others) expect(other).toEqual(atA)
      expect(JSON.parse(String(atA?.[0]))).toMatchObject({ total: 1, sessions: [{ session_id: id }] })
      await c.api.delete(`/sessions/${id}`)
      expect((await a.api.get<SessionList>(`/sessions?label=round%3Dread-${i}`)).body.total).toBe(0)
    }
  })

  test('is seen while it happens: the turn runs, and its session is active', async () => {
    const [a, b, c] = nodes()
    const { id } = await hanging(a)
    expect(await readTurn(b.api, id, 1)).toMatchObject({ status: 'running', prompt: 'say So far.\nhang' })
    expect((await readSession(c.api, id)).state).toMatchObject({ is_active: true, turn: 1 })
    await a.api.post(`/sessions/${id}/interrupt`)
    await until('it is over', async () => (await readTurn(b.api, id, 1)).status === 'interrupted')
    expect((await readSession(c.api, id)).state).toMatchObject({ is_active: false })
  })
})

describe('the stream of a turn', () => {
  const SCRIPT =
    'say Let me see.\nwait 100\ntool add {"a":1,"b":2}\nwait 100\ndeltas 50\nthink hm\nsay \u2028 é 😀 done.'

  test('is the same at every node, byte for byte, from its first event to its last', async () => {
    const [a, b, c] = nodes()
    const id = await createIdle(a.api, { agent: 'scripted' })
    const own = await a.stream(`/sessions/${id}/turns/stream`, { json: { prompt: SCRIPT } })
    const others = [await b.stream(`/sessions/${id}/turns/1/events`), await c.stream(`/sessions/${id}/turns/1/events`)]
    const expected = rawOf(await own.all())
    expect(own.frames.at(-1)?.event).toBe('run_completed')
    for (const stream of others) {
      expect(rawOf(await stream.all())).toEqual(expected)
      expect(stream.end).toBe('clean')
    }
  })

  test('that was cut at one node goes on at another, by its cursor or its key', async () => {
    const [a, b, c] = nodes()
    const id = await createIdle(a.api, { agent: 'scripted' })
    const key = { 'idempotency-key': 'cut' }
    const json = { prompt: SCRIPT }
    // More may have come than a reader has dealt with when it is cut off; its cursor is what it has dealt with.
    const first = await a.stream(`/sessions/${id}/turns/stream`, { json, headers: key })
    const cut = await first.upTo('tool_execution_started')
    first.leave()
    const second = await b.stream(`/sessions/${id}/turns/1/events`, { headers: { 'last-event-id': String(cut.id) } })
    const again = await second.upTo(({ json: event }) => event.seq === Number(cut.id) + 20)
    second.leave()
    const headers = { ...key, 'last-event-id': String(again.id) }
    const third = await c.stream(`/sessions/${id}/turns/stream`, { json, headers })
    expect(third.status).toBe(200)
    await third.all()
    expect(third.end).toBe('clean')
    const whole = blocksOf(await (await a.stream(`/sessions/${id}/turns/1/events`)).all())
    const at = Number(cut.id)
    expect(blocksOf(first.frames).slice(0, at)).toEqual(whole.slice(0, at))
    expect(blocksOf(second.frames).slice(0, 20)).toEqual(whole.slice(at, at + 20))
    expect(blocksOf(third.frames)).toEqual(whole.slice(at + 20))
    const after = `?after=${third.frames.at(-1)?.id}`
    for (const node of nodes()) expect((await node.api.get(`/sessions/${id}/turns/1/events${after}`)).status).toBe(204)
    expect((await b.api.get<TurnList>(`/sessions/${id}/turns`)).body.total).toBe(1)
  })
})

test('a turn that ended at one node is what the others have, whatever has come since', async () => {
  const [a, b] = nodes()
  const id = await createIdle(a.api, { agent: 'scripted' })
  await a.api.post(`/sessions/${id}/turns`, { prompt: 'say one' })
  await b.api.post(`/sessions/${id}/turns`, { prompt: 'say two' })
  const last = (await logOf(b, id, 2)).at(-1)?.id
  for (const { api } of nodes()) {
    // Somebody who follows the whole session has seen this turn to its end.
    expect((await api.get(`/sessions/${id}/turns/1/events?after=${last}`)).status).toBe(204)
    expectProblem(await api.get(`/sessions/${id}/turns/1/events?after=${Number(last) + 1}`), 400, 'INVALID_PARAMS')
  }
})

test('a reader of a session that nobody runs sees the turns of all nodes, in one order', async () => {
  const [a, b, c] = nodes()
  const id = await createIdle(a.api, { agent: 'scripted' })
  const readers = await Promise.all(nodes().map((node) => node.stream(`/sessions/${id}/events`)))
  for (const reader of readers) await reader.upTo('session_loaded')
  for (const [i, node] of [a, b, c, b].entries()) {
    const { status, body } = await node.api.post<RunResult>(`/sessions/${id}/turns`, { prompt: `deltas ${i + 1}` })
    expect([status, body.turn]).toEqual([200, i + 1])
  }
  const seen = await Promise.all(
    readers.map(async (reader) => {
      await reader.upTo(endOfTurn(4))
      return numbered(reader.frames)
    }),
  )
  const [first = []] = seen
  expect(first.map(({ json }) => json.seq)).toEqual(first.map((_, i) => i + 1))
  expect(types(first).filter((type) => type === 'run_started' || TERMINAL.test(type))).toEqual(
    Array.from({ length: 4 }, () => ['run_started', 'run_completed']).flat(),
  )
  for (const frames of seen) expect(blocksOf(frames)).toEqual(blocksOf(first))
  for (const node of nodes()) expect(blocksOf(await logOf(node, id, 4))).toEqual(blocksOf(first))
})

describe('a session whose turn runs at another node', () => {
  test('is busy, and the answer is enough to find and follow the turn', async () => {
    const [a, b] = nodes()
    const { id, stream } = await hanging(a)
    for (const path of ['turns', 'turns/stream']) {
      const answer = await b.api.post(`/sessions/${id}/${path}`, { prompt: 'say no' })
      const problem: Problem = expectProblem(answer, 409, 'SESSION_BUSY')
      expect(problem.active_turn).toMatchObject({ turn: 1, status: 'running' })
      expect(answer.headers.location).toBe(`/sessions/${id}/turns/1`)
      const attached = await b.stream(`${problem.links?.events}?after=0`)
      expect((await attached.next())?.event).toBe('run_started')
    }
    const { body } = await b.api.post(`/sessions/${id}/interrupt`, { turn: 1 })
    expect(body).toEqual({ session_id: id, turn: 1, interrupted: true })
    expect((await stream.all()).at(-1)).toMatchObject({
      event: 'run_interrupted',
      json: { result: { text: 'So far.', stop_reason: 'cancelled' } },
    })
    expect(await readTurn(b.api, id, 1)).toMatchObject({ status: 'interrupted' })
    expect((await b.api.get<TurnList>(`/sessions/${id}/turns`)).body.total).toBe(1)
  })

  test('takes turns into its line, and whoever waits for one at another node gets its result', async () => {
    const [a, b, c] = nodes()
    const { id } = await hanging(a)
    const queued = await b.api.post<Turn>(`/sessions/${id}/turns`, { prompt: 'say second', on_busy: 'enqueue' }, ASYNC)
    expect([queued.status, queued.body.turn, queued.body.status]).toEqual([202, 2, 'queued'])
    const json = { prompt: 'say third', on_busy: 'enqueue' }
    const waiting = c.api.post<RunResult>(`/sessions/${id}/turns`, json)
    const list = async () => (await a.api.get<TurnList>(`/sessions/${id}/turns`)).body
    await until('the third is in line', async () => (await list()).total === 3)
    const patient = b.api.post<RunResult>(
      `/sessions/${id}/turns`,
      { ...json, prompt: 'say fourth' },
      { prefer: 'wait=9' },
    )
    const streamed = await b.stream(`/sessions/${id}/turns/2/events`)
    await until('the fourth is in line', async () => (await list()).total === 4)
    expect((await list()).turns.map(({ status }) => status)).toEqual(['running', 'queued', 'queued', 'queued'])
    await c.api.post(`/sessions/${id}/interrupt`, { turn: 1 })
    expect(textOf(await streamed.all())).toBe('second')
    expect(await waiting).toMatchObject({ status: 200, body: { turn: 3, text: 'third' } })
    expect(await patient).toMatchObject({ status: 200, body: { turn: 4, text: 'fourth' } })
    expect((await list()).turns.map(({ status }) => status)).toEqual([
      'interrupted',
      'completed',
      'completed',
      'completed',
    ])
    expect(await readMessages(b.api, id)).toEqual(await readMessages(a.api, id))
  })

  test('is taken over with on_busy interrupt, before those in line', async () => {
    const [a, b, c] = nodes()
    const id = await createIdle(a.api, { agent: 'scripted' })
    const caller = a.api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'say So far.\nhang' })
    const reader = await c.stream(`/sessions/${id}/events?after=0`)
    await reader.upTo('text_delta')
    await c.api.post(`/sessions/${id}/turns`, { prompt: 'say in line', on_busy: 'enqueue' }, ASYNC)
    const mine = await b.api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'say mine', on_busy: 'interrupt' })
    expect([mine.status, mine.body.text]).toEqual([200, 'mine'])
    expect(await caller).toMatchObject({ status: 200, body: { text: 'So far.', stop_reason: 'cancelled' } })
    await reader.upTo(endOfTurn(2))
    const order = reader.frames.filter(({ event }) => event === 'run_started' || TERMINAL.test(event))
    expect(order.map(({ event, json }) => [event, json.turn])).toEqual([
      ['run_started', 1],
      ['run_interrupted', 1],
      ['run_started', mine.body.turn],
      ['run_completed', mine.body.turn],
      ['run_started', 2],
      ['run_completed', 2],
    ])
  })

  test('is interrupted from any node, once, and only in the turn that is named', async () => {
    const [a, b, c] = nodes()
    const { id, stream } = await hanging(a)
    expectProblem(await b.api.post(`/sessions/${id}/interrupt`, { turn: 2 }), 409, 'SESSION_NOT_RUNNING')
    const answers = await Promise.all([b, c].map((node) => node.api.post(`/sessions/${id}/interrupt`, { turn: 1 })))
    expect(answers.some(({ status }) => status === 200)).toBe(true)
    for (const answer of answers) if (answer.status !== 200) expectProblem(answer, 409, 'SESSION_NOT_RUNNING')
    expect(types(await stream.all()).filter((type) => TERMINAL.test(type))).toEqual(['run_interrupted'])
    for (const node of nodes()) {
      expectProblem(await node.api.post(`/sessions/${id}/interrupt`), 409, 'SESSION_NOT_RUNNING')
    }
    // It was meant for the first turn alone.
    const next = await c.api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'say next' })
    expect(next.body).toMatchObject({ turn: 2, text: 'next', stop_reason: 'end_turn' })
  })

  test('has its tool calls allowed at any node, by the first who answers', async () => {
    const [a, b, c] = nodes()
    for (const answer of [{ approved: true }, { approved: false, reason: 'too dangerous' }]) {
      const id = await createIdle(a.api, { agent: 'asking' })
      const stream = await a.stream(`/sessions/${id}/turns/stream`, { json: { prompt: 'approve' } })
      await stream.upTo('tool_approval_requested')
      const path = `/sessions/${id}/turns/1/approvals`
      expectProblem(await b.api.post(`${path}/other`, answer), 404, 'APPROVAL_NOT_FOUND')
      const answered = await b.api.post(`${path}/call-1`, answer)
      expect([answered.status, answered.body]).toEqual([200, { session_id: id, turn: 1, call_id: 'call-1', ...answer }])
      expectProblem(await c.api.post(`${path}/call-1`, { approved: true }), 404, 'APPROVAL_NOT_FOUND')
      expect((await stream.upTo('tool_approval_resolved')).json).toMatchObject({ id: 'call-1', ...answer })
      expect((await stream.all()).at(-1)?.json.result).toMatchObject({ text: answer.reason ?? 'true' })
      expectProblem(await b.api.post(`${path}/call-1`, answer), 404, 'APPROVAL_NOT_FOUND')
    }
  })
})

test('of 60 turns that are started at once at three nodes exactly one runs, and 59 are told which', async () => {
  const [a] = nodes()
  const id = await createIdle(a.api, { agent: 'scripted' })
  for (let turn = 1; turn <= 5; turn++) {
    const answers: Answer[] = await Promise.all(
      Array.from({ length: 60 }, (_, i) =>
        (nodes()[i % 3] as Reachable).api.post(`/sessions/${id}/turns`, { prompt: `say ${i}\nhang` }, ASYNC),
      ),
    )
    const accepted = answers.filter(({ status }) => status === 202)
    expect(accepted).toHaveLength(1)
    expect(accepted[0]?.body).toMatchObject({ turn, status: 'running' })
    for (const answer of answers) {
      if (answer.status !== 202) expect(expectProblem(answer, 409, 'SESSION_BUSY').active_turn?.turn).toBe(turn)
    }
    const node = nodes()[turn % 3] as Reachable
    await (await node.stream(`/sessions/${id}/turns/${turn}/events`)).upTo('text_delta')
    expect((await node.api.post(`/sessions/${id}/interrupt`, { turn })).status).toBe(200)
    await until('it is over', async () => (await readTurn(a.api, id, turn)).status === 'interrupted')
  }
  for (const node of nodes()) {
    const log = await logOf(node, id, 5)
    const marks = log.filter(({ event }) => event === 'run_started' || TERMINAL.test(event))
    expect(marks.map(({ event, json }) => [event, json.turn])).toEqual(
      [1, 2, 3, 4, 5].flatMap((turn) => [
        ['run_started', turn],
        ['run_interrupted', turn],
      ]),
    )
    expect((await node.api.get<TurnList>(`/sessions/${id}/turns`)).body.total).toBe(5)
  }
  const last = await a.api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'say last' })
  expect(last.body).toMatchObject({ turn: 6, text: 'last' })
  expect((await readMessages(nodes()[2].api, id)).slice(-2)).toEqual(said('say last', 'last'))
})
