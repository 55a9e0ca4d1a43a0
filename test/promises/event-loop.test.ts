import { describe, expect, test } from 'vitest'
import type { SessionAgentBuilder } from '../../src/core/agent.ts'
import { createIdle } from '../helpers/contract.ts'
import { client, within } from '../helpers/http.ts'
import { startServer } from '../helpers/server.ts'
import { patience } from '../helpers/slowness.ts'

const EVENTS = 100_000

/** What came to an end, in order. */
type Order = string[]

/** Says all there is to say without ever waiting for anything; `began` is told before the first word. */
function torrent(began: () => void, order: Order): SessionAgentBuilder {
  return {
    name: 'torrent',
    buildAgent: () => ({
      async *run() {
        began()
        for (let i = 0; i < EVENTS; i++) yield { type: 'text_delta', delta: 'x' }
        order.push('the torrent')
        return { text: '' }
      },
    }),
  }
}

/** Thinks without a pause until it is done, and then says one word. */
function hog(began: () => void, order: Order): SessionAgentBuilder {
  return {
    name: 'hog',
    buildAgent: () => ({
      async *run() {
        began()
        for (let i = 0; i < 300_000_000; i++) Math.imul(i, i)
        order.push('the torrent')
        yield { type: 'text_delta', delta: 'x' }
        return undefined
      },
    }),
  }
}

/** What others had to wait for: who comes later in `order` than the turn that does not pause. */
async function held(make: (began: () => void, order: Order) => SessionAgentBuilder): Promise<string[]> {
  const order: Order = []
  let others: Promise<unknown> = Promise.resolve()
  const agent = make(() => {
    const api = client(() => server.url)
    const note = (what: string) => () => order.push(what)
    others = Promise.all([
      api.get('/health').then(note('a GET')),
      api.get(`/sessions/${loud}`).then(note('a read of the same session')),
      api.post(`/sessions/${quiet}/turns`, { prompt: 'one two' }).then(note("another session's turn")),
      api.post('/sessions', { prompt: 'three' }).then(note('a new session')),
    ])
  }, order)
  const server = await startServer({ RETAIN_BYTES: 1_048_576 }, { agents: [agent] })
  const api = client(() => server.url)
  const quiet = await createIdle(api)
  const loud = await createIdle(api, { agent: agent.name })
  await within('the turn that does not pause', api.post(`/sessions/${loud}/turns`, { prompt: 'go' }), patience(25_000))
  await others
  await server.close()
  return order.slice(order.indexOf('the torrent') + 1)
}

describe(`an agent that says ${EVENTS} things without a pause`, () => {
  test('lets other turns and requests begin and end before it is done', async () => {
    expect(await held(torrent)).toEqual([])
  })

  test('lets its own reader and an interrupt through', async () => {
    let announce: () => void = () => {}
    const began = new Promise<void>((resolve) => {
      announce = resolve
    })
    const order: Order = []
    const server = await startServer({}, { agents: [torrent(() => announce(), order)] })
    const api = client(() => server.url)
    const id = await createIdle(api, { agent: 'torrent' })
    const answer = api.post<{ stop_reason: string }>(`/sessions/${id}/turns`, { prompt: 'go' })
    await began
    expect((await api.post(`/sessions/${id}/interrupt`, {})).status).toBe(200)
    expect((await answer).body.stop_reason).toBe('cancelled')
    expect(order).toEqual([])
    await server.close()
  })
})

test('the checker notices an agent that keeps the event loop to itself', async () => {
  const late = await held(hog)
  expect(late.sort()).toEqual(['a GET', 'a new session', 'a read of the same session', "another session's turn"])
})
