import { expect, onTestFinished, test, vi } from 'vitest'
import { LEASE_MS } from '../../src/core/cluster.ts'
import type { DurableStore } from '../../src/core/durable-store.ts'
import { StoreUnavailableError } from '../../src/core/errors.ts'
import { openDurableStore } from '../../src/stores/index.ts'
import { createIdle, expectProblem, type RunResult, readTurn, type Turn } from '../helpers/contract.ts'
import { type Gate, gatedAgent } from '../helpers/gate.ts'
import { until } from '../helpers/http.ts'
import { newDatabase } from '../helpers/postgres.ts'
import { openStream } from '../helpers/sse.ts'
import { useStoreKind } from '../helpers/store-kind.ts'
import { type Node, startNode } from './stores.ts'

/** Methods that fail, of stores opened with the scheme `cut:`. */
let failing: (method: string) => boolean = () => false

/** How often nodes that can be cut off have tried to renew their leases. */
let beats = 0
const twoBeats = () => {
  const after = beats + 2
  return until('it has tried twice to renew its lease', () => beats >= after)
}

function cuttable<T extends object>(target: T): T {
  return new Proxy(target, {
    get(_, name: keyof T & string) {
      const value = target[name]
      if (name === 'cluster') return cuttable(value as object)
      if (typeof value !== 'function') return value
      return async (...args: unknown[]) => {
        if (name === 'beat') beats++
        if (failing(name) && name !== 'close') throw new StoreUnavailableError(new Error('cut off'))
        return value.apply(target, args)
      }
    },
  })
}

useStoreKind('cut', {
  durable: async (url) =>
    cuttable((await openDurableStore(decodeURIComponent(url.replace(/^cut:/, '')))) as DurableStore),
})

interface Owner extends Node {
  gate: Gate
}

async function nodeOver(url: string, settings = {}): Promise<Owner> {
  const gate = gatedAgent()
  const node = await startNode(url, settings, { agents: [gate.agent] })
  onTestFinished(() => {
    failing = () => false
    gate.open()
  })
  return { ...node, gate }
}

/** One that can be cut off, and one that cannot. */
async function pair(): Promise<{ cut: Owner; whole: Owner }> {
  const url = await newDatabase()
  const cut = await nodeOver(`cut:${encodeURIComponent(url)}`)
  return { cut, whole: await nodeOver(url) }
}

async function open(node: Node, path: string, json?: unknown) {
  const stream = await openStream(node.server.url + path, json === undefined ? {} : { json })
  onTestFinished(() => stream.leave())
  return stream
}

const isReady = async ({ api }: Node) => (await api.get('/ready')).status === 200
/** Both have heard of one another. */
const haveMet = ({ cut, whole }: { cut: Owner; whole: Owner }) =>
  until('they know of one another', async () => (await isReady(cut)) && (await isReady(whole)))

test('a server that is cut off while others are there gives up its turns, and learns what became of them', async () => {
  const nodes = await pair()
  const { cut, whole } = nodes
  await haveMet(nodes)
  const [running, archived] = [
    await createIdle(cut.api, { agent: 'gated' }),
    await createIdle(cut.api, { agent: 'gated' }),
  ]
  const stream = await open(cut, `/sessions/${running}/turns/stream`, { prompt: 'run' })
  const run = await cut.gate.run('run')
  await run.say('so far')
  await stream.upTo('text_delta')
  const caller = cut.api.post(
    `/sessions/${running}/turns`,
    { prompt: 'next', on_busy: 'enqueue' },
    { 'idempotency-key': 'k' },
  )
  await until('it is in line', async () => (await whole.api.get(`/sessions/${running}/turns/2`)).status === 200)
  const waiting = await cut.api.post<{ interaction_id: string }>(`/sessions/${archived}/interactions`, {
    body: 'waits',
  })
  const last = cut.api.post<Turn>(`/sessions/${archived}/turns`, { prompt: 'last' }, { prefer: 'respond-async' })
  await cut.gate.run('last')
  expect((await last).status).toBe(202)
  await cut.api.delete(`/sessions/${archived}`)
  const reader = await open(whole, `/sessions/${running}/events?after=0`)
  await twoBeats()

  failing = () => true
  await until('the agent is told', () => run.signal.aborted)
  await stream.all()
  expect(stream.end).toBe('destroyed')
  await until('requests are refused', async () => !(await isReady(cut)))
  expectProblem(await cut.api.post('/sessions', { prompt: 'x' }), 503, 'STORE_UNAVAILABLE')
  await reader.upTo(({ json }) => json.type === 'run_failed')
  ;(await whole.gate.run('next')).finish({ text: 'ran elsewhere' })

  failing = () => false
  await until('it is there again', () => isReady(cut))
  // Nobody waits for a store for longer than five seconds; who did not have to is told what became of the turn.
  const told = await caller
  if (told.status === 200) expect(told.body).toMatchObject({ turn: 2, text: 'ran elsewhere' })
  else expectProblem(told, 503, 'OUTCOME_UNKNOWN')
  await until('the last turn is over', async () => (await readTurn(cut.api, archived, 1)).status === 'failed')
  expect(await readTurn(cut.api, running, 1)).toMatchObject({ status: 'failed', error: { code: 'TURN_LOST' } })
  const part = await open(cut, `/sessions/${archived}/interactions/${waiting.body.interaction_id}/events`)
  expect((await part.all()).at(-1)?.event).toBe('interaction_failed')
  const again = { prompt: 'next', on_busy: 'enqueue' }
  const attached = await cut.api.post<RunResult>(`/sessions/${running}/turns`, again, { 'idempotency-key': 'k' })
  expect(attached.body).toMatchObject({ turn: 2, text: 'ran elsewhere' })
})

test('a server that is alone goes on with its turns, however long it is cut off', async () => {
  const node = await nodeOver(`cut:${encodeURIComponent(await newDatabase())}`)
  const id = await createIdle(node.api, { agent: 'gated' })
  const stream = await open(node, `/sessions/${id}/turns/stream`, { prompt: 'run' })
  const run = await node.gate.run('run')
  await run.say('one')
  await stream.upTo('text_delta')
  failing = () => true
  await until('requests are refused', async () => !(await isReady(node)))
  // Longer than a lease, by its own clock.
  const now = performance.now.bind(performance)
  const clock = vi.spyOn(performance, 'now').mockImplementation(() => now() + 2 * LEASE_MS)
  onTestFinished(() => clock.mockRestore())
  await twoBeats()
  await run.say(' two')
  run.finish()
  failing = () => false
  const { json } = await stream.upTo('run_completed')
  expect(json.result).toMatchObject({ text: 'one two' })
})

test('what cannot be claimed is refused, and not left claimed', async () => {
  const { cut, whole } = await pair()
  const id = await createIdle(whole.api, { agent: 'echo' })
  failing = (method) => method === 'claim'
  expectProblem(await cut.api.post(`/sessions/${id}/turns`, { prompt: 'x' }), 503, 'STORE_UNAVAILABLE')
  failing = (method) => method === 'turns' || method === 'release'
  expectProblem(await cut.api.post(`/sessions/${id}/turns`, { prompt: 'x' }), 503, 'STORE_UNAVAILABLE')
  failing = () => false
  await until('it can be used elsewhere', async () => {
    return (await whole.api.post(`/sessions/${id}/turns`, { prompt: 'x' })).status === 200
  })
  expect((await cut.api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'y' })).body).toMatchObject({ turn: 2 })
})
