import { afterAll, expect, onTestFinished, test } from 'vitest'
import { createIdle, type RunResult, readSession, readTurn, type Turn } from '../helpers/contract.ts'
import { until, within } from '../helpers/http.ts'
import { sharedPostgres } from '../helpers/postgres.ts'
import { patience } from '../helpers/slowness.ts'
import type { Frame } from '../helpers/sse.ts'
import { killLeftovers } from '../process/child.ts'
import { between, SEED, scale, seeded } from '../promises/support.ts'
import type { BrokenPath } from './broken-path.ts'
import { differences, violations, type Witness } from './checker.ts'
import { type ClusterNode, logOf, ownCluster } from './cluster.ts'
import { IN_PASSING, Listener, newWitness, Storyteller, seenBy } from './storyteller.ts'

afterAll(killLeftovers)

const SCRIPT = 'say Once upon a time\ndeltas 15\nwait 60\ntool add {"a":1,"b":2}\nwait 60\ndeltas 15\nsay The end.'
/** Longer than a lease, so that a node comes back to turns that are no longer its own. */
const PAST_LEASE: readonly [number, number] = [6_000, 7_000]
const SETTINGS = { STREAM_HEARTBEAT_MS: 500, RETAIN_EVENTS: 1_000_000, RETAIN_BYTES: 1_000_000_000 }

const random = seeded(SEED)
const pick = <T>(from: readonly T[]): T => from[between(random, 0, from.length - 1)] as T
const pass = (low: number, high: number) => new Promise((resolve) => setTimeout(resolve, between(random, low, high)))

type Fault = (node: ClusterNode & { path: BrokenPath }) => Promise<unknown>

/** A session with a turn that goes on until its node is lost, or somebody interrupts it. */
async function takeHostage(node: ClusterNode): Promise<string> {
  const json = { agent: 'scripted', prompt: 'say Help!\nhang' }
  let last: unknown
  try {
    return await until('a turn runs at the node', async () => {
      const answer = await node.api.post<Turn>('/sessions', json, { prefer: 'respond-async' })
      last = answer.text
      return answer.status === 202 && answer.body.session_id
    })
  } catch (error) {
    throw new Error(`A node that is well starts no turn: ${last}`, { cause: error })
  }
}

/** What a node suffers. Each is over, and what it broke is whole, when its promise resolves. */
class Faults {
  /** Sessions whose turn was lost with its node for certain. */
  readonly killed: string[] = []
  /** Those whose turn may have gone on, where the database stood still with the node. */
  readonly paused: string[] = []

  readonly long: Record<string, Fault> = {
    'stands still past its lease': async (node) => {
      this.paused.push(await takeHostage(node))
      node.pause()
      await pass(...PAST_LEASE)
      node.wake()
    },
    'has a connection that takes everything and delivers it past the lease': async ({ path }) => {
      path.freeze()
      await pass(...PAST_LEASE)
      path.mend()
    },
    'is cut off from its database': async ({ path }) => {
      path.cut()
      await pass(1_000, 7_000)
      path.mend()
    },
  }

  readonly short: Record<string, Fault> = {
    'is killed': async (node) => {
      this.killed.push(await takeHostage(node))
      await node.kill()
      await pass(0, 500)
      await node.restart()
    },
    'is restarted, as for an upgrade': async (node) => {
      expect(await node.drain()).toBe(0)
      await node.restart()
    },
    'is not told what became of what it asked for': async ({ path }) => {
      path.loseAnswers(between(random, 1, 4))
      await until('answers are lost', () => path.answersToLose === 0)
    },
    'hears nothing of its database, which hears everything': async ({ path }) => {
      path.freeze('node')
      await pass(200, 2_000)
      path.mend()
    },
    'has a slow database': async ({ path }) => {
      path.slow(between(random, 50, 300))
      await pass(1_000, 2_000)
      path.mend()
    },
    'loses its database, as all do, in a crash': async () => {
      const database = await sharedPostgres()
      await database.stop()
      await pass(0, 1_500)
      await database.start()
    },
  }
}

/** Lets nodes suffer, each one thing at a time, and every fault once before any comes again. */
function inflicting(nodes: readonly ClusterNode[], told: readonly Witness[]) {
  const whole = [...nodes]
  return async (faults: Record<string, Fault>, count: number) => {
    let names: string[] = []
    for (let i = 0; i < count; i++) {
      if (names.length === 0) names = Object.keys(faults)
      const [name] = names.splice(between(random, 0, names.length - 1), 1) as [string]
      const [node] = whole.splice(between(random, 0, whole.length - 1), 1) as [ClusterNode & { path: BrokenPath }]
      await (faults[name] as Fault)(node)
      whole.push(node)
      // Not the next before somebody was told something; then at any instant.
      const before = seenBy(told)
      await until(`a story goes on after a node that ${name}`, () => seenBy(told) > before)
      await pass(0, 400)
    }
  }
}

/** Interrupts whatever runs, at whatever node, until it is told to stop; says what answers were wrong. */
function meddle(ids: readonly string[], nodes: readonly ClusterNode[]) {
  let isOver = false
  const wrong: string[] = []
  const meddling = (async () => {
    while (!isOver) {
      await pass(200, 800)
      const asked = pick(nodes).api.post(`/sessions/${pick(ids)}/interrupt`)
      asked.catch(() => {})
      const answer = await within('an answer', asked, patience(3_000)).catch(() => undefined)
      if (answer !== undefined && ![200, ...IN_PASSING].includes(answer.status)) wrong.push(answer.text)
    }
    return wrong
  })()
  return async () => {
    isOver = true
    return meddling
  }
}

/** When turns began and ended, for whoever has to find out why. */
function outline(log: readonly Frame[]): string {
  const marks = log.filter(({ event }) => event.startsWith('run_'))
  return marks.map(({ id, event, json }) => `${id} ${event.slice(4)} ${json.turn}`).join(', ')
}

const counts = { long: scale(3, 60), short: scale(7, 160) }

test(`nothing that anybody was told is lost while three nodes suffer ${counts.long + counts.short} faults (seed ${SEED})`, {
  timeout: patience(120_000 + counts.long * 20_000),
}, async () => {
  const nodes = await ownCluster(3, SETTINGS, { breakable: true })
  const url = () => pick(nodes).url
  const ids = await Promise.all(Array.from({ length: 5 }, () => createIdle(pick(nodes).api, { agent: 'scripted' })))
  const witnesses = ids.map(newWitness)
  // Some leave a node that is silent soon, some stay with it for longer than it may stand still.
  const patience = { url, turnMs: 60_000, script: SCRIPT }
  const tellers = witnesses.flatMap((witness, i) =>
    i < 3
      ? [2_000, 7_500].map((silenceMs) => new Storyteller(witness, { ...patience, silenceMs, onBusy: 'enqueue' }))
      : [new Storyteller(witness, { ...patience, silenceMs: 2_000 })],
  )
  const listeners = witnesses.map(
    (witness, i) => new Listener(witness, { url, silenceMs: i % 2 === 0 ? 2_000 : 7_500 }),
  )
  const telling = Promise.all(tellers.map((teller) => teller.run()))
  const listening = Promise.all(listeners.map((listener) => listener.run()))
  const stopMeddling = meddle(ids, nodes)
  onTestFinished(async () => {
    for (const each of [...tellers, ...listeners]) each.stop()
    await stopMeddling()
  })

  // Two nodes suffer at a time; the third has only its database to lose.
  const faults = new Faults()
  const inflict = inflicting(nodes, witnesses)
  await Promise.race([
    Promise.all([inflict(faults.long, counts.long), inflict(faults.short, counts.short)]),
    // Nobody leaves before it is told to, unless something is wrong.
    telling,
    ...nodes.map(async ({ died }) => {
      throw new Error(await died)
    }),
  ])
  const wrong = await stopMeddling()
  for (const teller of tellers) teller.stop()
  await telling
  for (const listener of listeners) listener.stop()
  await listening

  // All is whole, and soon known to be.
  for (const node of nodes) await until('the node is ready', async () => (await node.api.get('/ready')).status === 200)
  const found = [...wrong]
  for (const [i, witness] of witnesses.entries()) {
    const { session, keys } = witness
    await Promise.all(
      nodes.map((node) => until('nothing runs', async () => !(await readSession(node.api, session)).state.is_active)),
    )
    const json = { prompt: 'say Still here.' }
    const next = await until('the session goes on', async () => {
      const { api } = nodes[i % 3] as ClusterNode
      const answer = await api.post<RunResult>(`/sessions/${session}/turns`, json, { 'idempotency-key': 'the last' })
      return answer.status !== 503 && answer
    })
    expect(next.status, next.text).toBe(200)
    keys.push('the last')
    const logs = await Promise.all(nodes.map((node) => logOf(node, session, next.body.turn)))
    const wrongs = [...violations(witness, logs[0] as Frame[]), ...differences(session, logs)]
    if (wrongs.length > 0) found.push(...wrongs, `${session}: ${outline(logs[0] as Frame[])}`)
    const failures = (logs[0] as Frame[]).filter(({ event }) => event === 'run_failed')
    for (const { json } of failures) expect(json.code).toBe('TURN_LOST')
    expect(witness.seen.size).toBeGreaterThan(0)
  }
  expect(found).toEqual([])
  // Else nobody was disturbed, and nothing was shown.
  expect(faults.killed.length).toBeGreaterThan(0)
  for (const node of nodes) {
    for (const id of faults.killed) {
      expect(await readTurn(node.api, id, 1)).toMatchObject({ status: 'failed', error: { code: 'TURN_LOST' } })
    }
  }
  for (const id of faults.paused) {
    // It may have kept its lease, if its database stood still with it.
    await pick(nodes).api.post(`/sessions/${id}/interrupt`)
    await until('it is over', async () => (await readTurn(pick(nodes).api, id, 1)).status !== 'running')
  }
  expect(await Promise.all(nodes.map((node) => node.drain()))).toEqual([0, 0, 0])
})
