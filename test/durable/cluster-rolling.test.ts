import { expect, onTestFinished, test } from 'vitest'
import { createIdle, type RunResult } from '../helpers/contract.ts'
import { until } from '../helpers/http.ts'
import type { Frame } from '../helpers/sse.ts'
import { differences, violations } from './checker.ts'
import { logOf, ownCluster } from './cluster.ts'
import { Listener, newWitness, Storyteller, seenBy } from './storyteller.ts'

test('a rolling restart of three nodes under load loses nothing, and no turn', async () => {
  const nodes = await ownCluster(3, { STREAM_HEARTBEAT_MS: 500 })
  let asked = 0
  // Whoever is refused, or cut off, goes to the next.
  const url = () => (nodes[asked++ % 3] as (typeof nodes)[0]).url
  const ids = await Promise.all(nodes.map(({ api }) => createIdle(api, { agent: 'scripted' })))
  const witnesses = ids.map(newWitness)
  const tellers = witnesses.map((witness) => new Storyteller(witness, { url, silenceMs: 2_000, turnMs: 30_000 }))
  const listeners = witnesses.map((witness) => new Listener(witness, { url, silenceMs: 2_000 }))
  const telling = Promise.all(tellers.map((teller) => teller.run()))
  const listening = Promise.all(listeners.map((listener) => listener.run()))
  onTestFinished(() => {
    for (const each of [...tellers, ...listeners]) each.stop()
  })

  const rolling = (async () => {
    for (const node of nodes) {
      const before = seenBy(witnesses)
      await until('stories go on', () => seenBy(witnesses) > before)
      expect(await node.drain()).toBe(0)
      await node.restart()
    }
  })()
  // Nobody leaves before it is told to, unless something is wrong.
  await Promise.race([rolling, telling])
  await rolling
  for (const teller of tellers) teller.stop()
  await telling
  for (const listener of listeners) listener.stop()
  await listening

  const found: string[] = []
  for (const [i, witness] of witnesses.entries()) {
    const { session, keys } = witness
    const last = { 'idempotency-key': 'the last' }
    const { api } = nodes[i] as (typeof nodes)[0]
    const { body } = await api.post<RunResult>(`/sessions/${session}/turns`, { prompt: 'say Still here.' }, last)
    keys.push('the last')
    const logs = await Promise.all(nodes.map((node) => logOf(node, session, body.turn)))
    const log = logs[0] as Frame[]
    found.push(...violations(witness, log), ...differences(session, logs))
    const ends = log.filter(({ event }) => /^run_(completed|failed|interrupted)$/.test(event))
    expect(ends.map(({ event }) => event)).toEqual(keys.map(() => 'run_completed'))
  }
  expect(found).toEqual([])
  expect(await Promise.all(nodes.map((node) => node.drain()))).toEqual([0, 0, 0])
})
