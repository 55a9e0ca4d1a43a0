import { afterEach, describe, expect, onTestFinished, test } from 'vitest'
import type { DurableStore } from '../../src/core/durable-store.ts'
import { StoreUnavailableError } from '../../src/core/errors.ts'
import { openDurableStore } from '../../src/stores/index.ts'
import { createIdle, expectProblem, type RunResult, readTurn } from '../helpers/contract.ts'
import { gatedAgent } from '../helpers/gate.ts'
import { until } from '../helpers/http.ts'
import { openStream } from '../helpers/sse.ts'
import { useStoreKind } from '../helpers/store-kind.ts'
import { quickStores, startNode } from './stores.ts'

let isAway = false
afterEach(() => {
  isAway = false
})

/** A store that a test can take away. */
useStoreKind('flaky', {
  durable: async (url) => {
    const store = (await openDurableStore(decodeURIComponent(url.replace(/^flaky:/, '')))) as DurableStore
    return new Proxy(store, {
      get(target, name: keyof DurableStore) {
        const method = target[name] as ((...args: unknown[]) => Promise<unknown>) | undefined
        // A promise asks whether it is one.
        if (method === undefined) return undefined
        return async (...args: unknown[]) => {
          if (isAway && name !== 'close') throw new StoreUnavailableError(new Error('no route to the secret database'))
          return method.apply(target, args)
        }
      },
    })
  },
})

describe.each(Object.entries(quickStores))('while the %s store is away', (_, place) => {
  async function start(settings = {}) {
    const gate = gatedAgent()
    const node = await startNode(`flaky:${encodeURIComponent(await place())}`, settings, { agents: [gate.agent] })
    onTestFinished(() => {
      isAway = false
      gate.open()
    })
    return { ...node, gate, url: node.server.url }
  }

  test('nobody is shown what is not kept, and all of it when the store is back', async () => {
    const { api, gate, url } = await start()
    const id = await createIdle(api, { agent: 'gated' })
    const stream = await openStream(`${url}/sessions/${id}/turns/stream`, { json: { prompt: 'go' } })
    const run = await gate.run('go')
    await run.say('kept')
    await stream.upTo('text_delta')
    isAway = true
    for (const word of [' not', ' yet', ' seen']) await run.say(word)
    run.finish()
    await until('the server knows', async () => (await api.get('/ready')).status === 503)
    expect(stream.frames.map(({ json }) => json.delta).filter((delta) => delta !== undefined)).toEqual(['kept'])
    isAway = false
    const { json } = await stream.upTo('run_completed')
    expect(json.result).toMatchObject({ text: 'kept not yet seen' })
    await until('the server is ready', async () => (await api.get('/ready')).status === 200)
    expect(await readTurn(api, id, 1)).toMatchObject({ status: 'completed' })
    const next = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'on' })
    ;(await gate.run('on')).finish({ text: 'and on' })
    expect((await next).body.text).toBe('and on')
  })

  test('requests are told to come again, and learn nothing of the store', async () => {
    const { api, url } = await start({ MAX_SESSIONS: 1 })
    const { body } = await api.post<RunResult>('/sessions', { agent: 'echo', prompt: 'hello' })
    const session = `/sessions/${body.session_id}`
    // Which takes the place of the first in memory.
    await api.post('/sessions', { agent: 'echo', prompt: 'hello' })
    isAway = true
    const answers = await Promise.all([
      api.get(session),
      api.get('/sessions'),
      api.get(`${session}/messages`),
      api.get(`${session}/turns/1`),
      api.post(`${session}/turns`, { prompt: 'x' }),
      api.post('/sessions', { agent: 'echo', prompt: 'x' }, { 'idempotency-key': 'k' }),
    ])
    for (const answer of answers) {
      expectProblem(answer, 503, 'STORE_UNAVAILABLE')
      expect(answer.headers['retry-after']).toBe('1')
      expect(answer.text).not.toContain('secret')
    }
    const follow = await openStream(`${url}${session}/events`)
    expect(await follow.ended()).toBe('destroyed')
    expect(follow.text).toMatch(/^retry: \d{4}\n/)
    isAway = false
    expect((await api.get(session)).status).toBe(200)
  })

  test('a caller who waits is not kept waiting for ever', async () => {
    const { api, gate } = await start()
    const id = await createIdle(api, { agent: 'gated' })
    const waiting = api.post(`/sessions/${id}/turns`, { prompt: 'go' })
    const run = await gate.run('go')
    await until('the turn is kept', async () => (await readTurn(api, id, 1)).status === 'running')
    isAway = true
    run.finish()
    const told = await waiting
    expectProblem(told, 503, 'OUTCOME_UNKNOWN')
    expect(told.headers).not.toHaveProperty('retry-after')
    isAway = false
    await until('it is over', async () => (await readTurn(api, id, 1)).status === 'completed')
  })
})
