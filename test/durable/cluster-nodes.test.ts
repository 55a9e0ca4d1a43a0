import { once } from 'node:events'
import { afterAll, describe, expect, test } from 'vitest'
import {
  createIdle,
  expectProblem,
  type RunResult,
  readMessages,
  readSession,
  readTurn,
  type SessionList,
  type Turn,
  type TurnList,
} from '../helpers/contract.ts'
import { type Answer, until } from '../helpers/http.ts'
import { patience } from '../helpers/slowness.ts'
import { type Frame, textOf, types } from '../helpers/sse.ts'
import { killLeftovers } from '../process/child.ts'
import { between, pooled } from '../promises/support.ts'
import type { BrokenPath } from './broken-path.ts'
import { type ClusterNode, ownCluster } from './cluster.ts'

afterAll(killLeftovers)

const ASYNC = { prefer: 'respond-async' }
const TERMINAL = /^run_(completed|failed|interrupted)$/
const CLOCK = new URL('../process/shifted-clock.mjs', import.meta.url)
const HOUR_MS = 3_600_000

const endOfTurn = (turn: number) => (frame: Frame) => frame.json.turn === turn && TERMINAL.test(frame.event)
const orderOf = (frames: readonly Frame[]) =>
  frames
    .filter(({ event }) => event === 'run_started' || TERMINAL.test(event))
    .map(({ event, json }) => [event, json.turn])
const start = <T = Turn>(node: ClusterNode, id: string, prompt: string, headers: Record<string, string> = ASYNC) =>
  node.api.post<T>(`/sessions/${id}/turns`, { prompt }, headers)
const enqueue = (node: ClusterNode, id: string, prompt: string) =>
  node.api.post<Turn>(`/sessions/${id}/turns`, { prompt, on_busy: 'enqueue' }, ASYNC)

/** Says a few words, with time between them in which a commit may go astray. */
const SPOKEN = 'say one\nwait 60\ndeltas 10 1\nwait 60\nsay two'

async function logOf(node: ClusterNode, id: string, turn: number): Promise<string[]> {
  const log = await node.stream(`/sessions/${id}/events?after=0`)
  await log.upTo(endOfTurn(turn))
  log.leave()
  return log.frames.flatMap(({ json, block }) => (json.seq === undefined ? [] : [block]))
}

async function exits(...nodes: ClusterNode[]): Promise<void> {
  expect(await Promise.all(nodes.map((node) => node.drain()))).toEqual(nodes.map(() => 0))
}

/** What is under way at the first of three nodes when it is killed; resolves with what must be true then. */
type Story = (nodes: readonly [ClusterNode, ClusterNode, ClusterNode]) => Promise<() => Promise<void>>

const stories: Record<string, Story> = {
  'a turn that others read and wait for': async ([a, b, c]) => {
    const id = await createIdle(a.api, { agent: 'scripted' })
    const key = { 'idempotency-key': 'lost' }
    const prompt = 'usage 3 4\nsay So far.\ntool add {"a":1,"b":2}\nsay And\nhang'
    const follower = await b.stream(`/sessions/${id}/events`)
    const own = await a.stream(`/sessions/${id}/turns/stream`, { json: { prompt }, headers: key })
    await own.upTo(({ json }) => json.delta === 'And')
    const reader = await b.stream(`/sessions/${id}/turns/1/events`)
    await reader.upTo(({ json }) => json.delta === 'And')
    const waiting = start(b, id, prompt, key)
    waiting.catch(() => {})
    return async () => {
      // Whoever reads at another node is told, and not cut off.
      expect((await reader.all()).at(-1)?.json).toMatchObject({ type: 'run_failed', code: 'TURN_LOST' })
      expect(reader.end).toBe('clean')
      await follower.upTo('run_failed')
      expect(await own.ended()).toBe('destroyed')
      expectProblem(await waiting, 500, 'TURN_LOST')
      expectProblem(await start(c, id, prompt, key), 500, 'TURN_LOST')
      expect(await readTurn(b.api, id, 1)).toMatchObject({ status: 'failed', error: { code: 'TURN_LOST' } })
      const { state, billing } = await readSession(c.api, id)
      expect(state).toMatchObject({ is_active: false, turn: 1, last_assistant_text: 'And' })
      expect(billing.usage).toMatchObject({ input_tokens: 3, output_tokens: 4 })
      const texts = JSON.stringify(await readMessages(b.api, id))
      for (const text of ['So far.', 'And']) expect(texts).toContain(`"text":"${text}"`)
      const next = await start<RunResult>(b, id, 'say On we go.', {})
      expect([next.status, next.body]).toMatchObject([200, { turn: 2, text: 'On we go.' }])
      await follower.upTo(endOfTurn(2))
      await a.restart()
      for (const path of ['messages', 'turns', 'turns/1/events', 'turns/2/events']) {
        const [one, two] = await Promise.all([a, b].map((node) => node.api.get(`/sessions/${id}/${path}`)))
        expect(one?.text).toBe(two?.text)
      }
    }
  },

  'a line of turns': async ([a, b, c]) => {
    const id = await createIdle(a.api, { agent: 'scripted' })
    await start(a, id, 'say first\nhang')
    const line = await c.stream(`/sessions/${id}/events?after=0`)
    await line.upTo('text_delta')
    expect((await enqueue(b, id, 'say second')).body).toMatchObject({ turn: 2, status: 'queued' })
    expect((await enqueue(a, id, 'say third')).body).toMatchObject({ turn: 3, status: 'queued' })
    return async () => {
      await line.upTo(endOfTurn(3))
      expect(orderOf(line.frames)).toEqual([
        ['run_started', 1],
        ['run_failed', 1],
        ['run_started', 2],
        ['run_completed', 2],
        ['run_started', 3],
        ['run_completed', 3],
      ])
      expect(textOf(line.frames)).toBe('firstsecondthird')
    }
  },

  'the last turn of an archived session': async ([a, b, c]) => {
    const id = await createIdle(a.api, { agent: 'scripted' })
    await start(a, id, 'say before\nhang')
    const reader = await c.stream(`/sessions/${id}/events?after=0`)
    await reader.upTo('text_delta')
    expect((await b.api.delete(`/sessions/${id}`)).status).toBe(200)
    return async () => {
      expect(types(await reader.all()).slice(-2)).toEqual(['run_failed', 'done'])
      expect(reader.end).toBe('clean')
    }
  },

  'a host': async ([a, b]) => {
    const host = { agent: 'scripted', comms_name: 'host', host_mode: true, prompt: 'say ready' }
    const id = (await a.api.post<Turn>('/sessions', host)).body.session_id
    const taken = await b.stream(`/sessions/${id}/interactions/stream`, { json: { body: 'x\nsay two\nhang' } })
    await taken.upTo('text_delta')
    const waiting = await b.api.post<{ interaction_id: string }>(`/sessions/${id}/interactions`, { body: 'say three' })
    expect(waiting.status, waiting.text).toBe(202)
    return async () => {
      expect((await taken.all()).at(-1)?.json).toMatchObject({ type: 'interaction_failed', code: 'TURN_LOST' })
      expect(taken.end).toBe('clean')
      await until('the host is ended', async () => (await readTurn(b.api, id, 1)).status === 'failed')
      const later = await b.stream(`/sessions/${id}/interactions/${waiting.body.interaction_id}/events`)
      expect((await start<RunResult>(b, id, 'say on', {})).status).toBe(200)
      expect(types(await later.all()).at(-1)).toBe('interaction_complete')
      expect(JSON.stringify(await readMessages(b.api, id))).toContain('say three')
    }
  },
}

// They wait for leases most of the time, so they wait together; before that, two cores start eleven servers.
describe.concurrent('a node', { timeout: patience(120_000) }, () => {
  test('that is killed loses its turns and nothing else; others end them, and the sessions go on', async ({
    onTestFinished,
  }) => {
    const nodes = await ownCluster(3, {}, { onFinished: onTestFinished })
    const checks = await Promise.all(Object.values(stories).map((story) => story(nodes)))
    await nodes[0].kill()
    await Promise.all(checks.map((check) => check()))
    await exits(...nodes)
  })

  test.for<[string, (node: ClusterNode) => void, (node: ClusterNode) => void]>([
    ['that stands still past its lease', (node) => node.pause(), (node) => node.wake()],
    // What it wrote is under way all the time, and comes to the database when it may not write any more.
    ['whose commits come past its lease', (node) => node.path?.freeze(), (node) => node.path?.mend()],
  ])('%s has lost its turns, and shows nobody what it goes on to say', async ([, stop, goOn], { onTestFinished }) => {
    const [a, b] = await ownCluster(2, {}, { breakable: true, onFinished: onTestFinished })
    const id = await createIdle(a.api, { agent: 'scripted' })
    const json = { prompt: 'say before\nwait 500\nsay  after' }
    const own = await a.stream(`/sessions/${id}/turns/stream`, { json })
    await own.upTo('text_delta')
    stop(a)
    const reader = await b.stream(`/sessions/${id}/turns/1/events`)
    expect((await reader.all()).at(-1)?.json).toMatchObject({ type: 'run_failed', code: 'TURN_LOST' })
    const next = await start<RunResult>(b, id, 'say mine', {})
    expect([next.status, next.body]).toMatchObject([200, { turn: 2, text: 'mine' }])
    goOn(a)
    // It was cut off, or it is told what happened; it is not told a story of its own.
    await own.ended()
    expect(textOf(own.frames)).toBe('before')
    expect(own.frames.map(({ event }) => event).filter((event) => /^run_(completed|interrupted)$/.test(event))).toEqual(
      [],
    )
    // The node is of use again.
    const again = await until('it takes turns', async () => {
      const answer = await start<RunResult>(a, id, 'say back', {})
      return answer.status === 200 && answer
    })
    expect(again.body).toMatchObject({ turn: 3, text: 'back' })
    const [one, two] = await Promise.all([a, b].map((node) => logOf(node, id, 3)))
    expect(one).toEqual(two)
    expect(one?.join()).not.toContain('"delta":" after"')
    expect(JSON.stringify(await readMessages(a.api, id))).not.toContain('"text":"before after"')
    await exits(a, b)
  })

  test('that is not told whether its commits were made keeps its turns, and writes nothing twice', async ({
    onTestFinished,
  }) => {
    const [a, b] = await ownCluster(2, {}, { breakable: true, onFinished: onTestFinished })
    const path = a.path as BrokenPath
    const id = await createIdle(a.api, { agent: 'scripted' })
    const rounds = 8
    for (let turn = 1; turn <= rounds; turn++) {
      const key = { 'idempotency-key': `lost-answer-${turn}` }
      const reader = await b.stream(`/sessions/${id}/events`)
      await reader.upTo('session_loaded')
      // In every other round it is the start itself that nobody hears of.
      if (turn % 2 === 0) path.loseAnswers(1)
      const answer = until('the turn is answered', async () => {
        const { status, body } = await start<RunResult>(a, id, SPOKEN, key)
        if (status !== 503) return { status, body }
      })
      await reader.upTo('run_started')
      path.loseAnswers(between(Math.random, 1, 2))
      expect(await answer).toMatchObject({ status: 200, body: { turn, text: `one${'x'.repeat(10)}two` } })
      await reader.upTo(endOfTurn(turn))
      reader.leave()
      path.mend()
    }
    const [one, two] = await Promise.all([a, b].map((node) => logOf(node, id, rounds)))
    expect(one).toEqual(two)
    expect((await b.api.get<TurnList>(`/sessions/${id}/turns`)).body.total).toBe(rounds)
    await exits(a, b)
  })

  test('whose wall clock is two hours ahead of the other one loses no turn, nor does that', async ({
    onTestFinished,
  }) => {
    const child = () => ({ preload: CLOCK, ipc: true })
    const nodes = await ownCluster(2, {}, { child, onFinished: onTestFinished })
    // One of them is ahead, the other one is behind.
    for (const [{ child: process }, shift] of nodes.map((node, i) => [node, [HOUR_MS, -HOUR_MS][i]] as const)) {
      const set = once(process, 'message')
      process.send(shift as number)
      await set
    }
    // Longer than any lease.
    const prompt = 'say before\nwait 7000\nsay  after'
    const turns = await Promise.all(
      nodes.map(async (node, i) => {
        const id = await createIdle(node.api, { agent: 'scripted' })
        const key = { 'idempotency-key': `clock-${i}` }
        const [own, far] = await Promise.all([
          node.stream(`/sessions/${id}/turns/stream`, { json: { prompt }, headers: key }),
          until('the turn is there', () => (nodes[1 - i] as ClusterNode).stream(`/sessions/${id}/events?after=0`)),
        ])
        return { id, key, own, far }
      }),
    )
    for (const { id, key, own, far } of turns) {
      expect((await own.all()).at(-1)?.json).toMatchObject({ type: 'run_completed', result: { text: 'before after' } })
      await far.upTo('run_completed')
      for (const node of nodes) {
        const again = await start<RunResult>(node, id, prompt, key)
        expect([again.status, again.body]).toMatchObject([200, { turn: 1, text: 'before after' }])
      }
    }
    await exits(...nodes)
  })
})

test('a node that is asked to go lets its turns finish, leaves its line to the others, and exits with 0', async () => {
  const [a, b] = await ownCluster(2, { DRAIN_MS: 1_000 })
  const short = await createIdle(a.api, { agent: 'scripted' })
  const follower = await b.stream(`/sessions/${short}/events`)
  const cutOff = await a.stream(`/sessions/${short}/events`)
  const own = await a.stream(`/sessions/${short}/turns/stream`, { json: { prompt: 'say begun\nwait 400\nsay  done' } })
  const far = await b.stream(`/sessions/${short}/turns/1/events`)
  await far.upTo('text_delta')
  const long = await createIdle(a.api, { agent: 'scripted' })
  const caller = start<RunResult>(a, long, 'say So far.\nhang', {})
  caller.catch(() => {})
  const line = await b.stream(`/sessions/${long}/events?after=0`)
  await line.upTo('text_delta')
  expect((await enqueue(a, long, 'say second')).status).toBe(202)
  expect((await enqueue(b, long, 'say third')).status).toBe(202)

  const exited = a.drain()
  for (const stream of [own, far]) {
    const frames = await stream.all()
    expect([textOf(frames), frames.at(-1)?.event, stream.end]).toEqual(['begun done', 'run_completed', 'clean'])
  }
  expect(await caller).toMatchObject({ status: 200, body: { text: 'So far.', stop_reason: 'cancelled' } })
  expect(await exited).toBe(0)
  expect(await cutOff.ended()).toBe('destroyed')
  await line.upTo(endOfTurn(3))
  expect(orderOf(line.frames)).toEqual([
    ['run_started', 1],
    ['run_interrupted', 1],
    ['run_started', 2],
    ['run_completed', 2],
    ['run_started', 3],
    ['run_completed', 3],
  ])
  const next = await start<RunResult>(b, short, 'say on', {})
  expect([next.status, next.body]).toMatchObject([200, { turn: 2, text: 'on' }])
  await follower.upTo(endOfTurn(2))
  await exits(b)
})

test('MAX_CLUSTER_TURNS holds for all nodes together, and gives back what ends, is interrupted or lost', async () => {
  const limit = 3
  const nodes = await ownCluster(3, { MAX_CLUSTER_TURNS: limit })
  const [a, b, c] = nodes
  const nodeOf = (i: number) => nodes[i % 3] as ClusterNode
  const active = async (node: ClusterNode) => {
    const { body } = await node.api.get<SessionList>('/sessions?limit=100')
    return body.sessions.filter(({ is_active }) => is_active).length
  }
  const expectFull = (answers: readonly Answer[]) => {
    for (const answer of answers) {
      expectProblem(answer, 503, 'SESSION_CAPACITY_REACHED')
      expect(answer.headers['retry-after']).toMatch(/^[1-9]\d?$/)
    }
  }

  // Creates that race: three begin, nine are refused.
  const json = { agent: 'scripted', prompt: 'say x\nhang' }
  const creates = await Promise.all(
    Array.from({ length: 12 }, (_, i) => nodeOf(i).api.post<Turn>('/sessions', json, ASYNC)),
  )
  const running = creates.filter(({ status }) => status === 202).map(({ body }) => body.session_id)
  expect(running).toHaveLength(limit)
  expectFull(creates.filter(({ status }) => status !== 202))
  for (const node of nodes) expect(await active(node)).toBe(limit)
  // What is interrupted at another node is given back.
  for (const [i, id] of running.entries()) {
    expect((await nodeOf(i + 1).api.post(`/sessions/${id}/interrupt`)).status).toBe(200)
  }
  await until('all are over', async () => (await active(a)) === 0)

  // Turns that come to their end: all of them run, never more than three at a time.
  const ids = await pooled(12, 4, (i) => createIdle(nodeOf(i).api, { agent: 'scripted' }))
  const most: number[] = []
  let left = ids.length
  const running12 = Promise.all(
    ids.map(async (id, i) => {
      await until(`there is room for turn ${i}`, async () => {
        const answer = await start<RunResult>(nodeOf(i), id, 'say x\nwait 60', {})
        if (answer.status !== 200) expectFull([answer])
        else expect(answer.body.text).toBe('x')
        return answer.status === 200
      })
      left--
    }),
  )
  while (left > 0) most.push(await active(nodeOf(most.length)))
  await running12
  expect(Math.max(...most)).toBeLessThanOrEqual(limit)
  expect(Math.max(...most)).toBeGreaterThan(0)

  // Turns whose node is killed: their places are taken until others have ended them, and free then.
  for (const id of ids.slice(0, limit)) expect((await start(a, id, 'say x\nhang')).status).toBe(202)
  const others = ids.slice(limit)
  expectFull(await Promise.all(others.map((id, i) => start([b, c][i % 2] as ClusterNode, id, 'say x\nhang'))))
  await a.kill()
  for (const [i, id] of others.slice(0, limit).entries()) {
    const node = [b, c][i % 2] as ClusterNode
    await until('there is room again', async () => (await start(node, id, 'say x\nhang')).status === 202)
  }
  expectFull(await Promise.all(others.slice(limit).map((id) => start(b, id, 'say x\nhang'))))
  // A place may be free a moment before the turn that had it is ended for all to see.
  await until('no more than may run are active', async () => (await active(c)) === limit)
  for (const id of ids.slice(0, limit)) {
    const { turns } = (await c.api.get<TurnList>(`/sessions/${id}/turns`)).body
    expect(turns.map(({ status }) => status)).toEqual(['completed', 'failed'])
  }
  await exits(b, c)
})
