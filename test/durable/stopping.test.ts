import { expect, test } from 'vitest'
import { createIdle, expectProblem, type RunResult, readSession, readTurn, type TurnList } from '../helpers/contract.ts'
import { until } from '../helpers/http.ts'
import { openStream, textOf, types } from '../helpers/sse.ts'
import { durableStores, type Node, startNode } from './stores.ts'

const ASYNC = { prefer: 'respond-async' }
const NEVER_RAN = ['run_started', 'run_interrupted']

async function eventsOf({ server }: Node, id: string, turn: number) {
  const stream = await openStream(`${server.url}/sessions/${id}/turns/${turn}/events`)
  return stream.all()
}

/** A turn that runs, and turns in line after it. */
async function withQueue({ api }: Node, waiting: number): Promise<string> {
  const id = await createIdle(api, { agent: 'scripted' })
  await api.post(`/sessions/${id}/turns`, { prompt: 'say here\nhang' }, ASYNC)
  for (let turn = 2; turn < waiting + 2; turn++) {
    await api.post(`/sessions/${id}/turns`, { prompt: `say ${turn}`, on_busy: 'enqueue' }, ASYNC)
  }
  return id
}

const statuses = async ({ api }: Node, id: string) =>
  (await api.get<TurnList>(`/sessions/${id}/turns`)).body.turns.map(({ status }) => status)

test.each(Object.entries(durableStores))(
  '%s: what was interrupted in line stays so when the process ends, and what it passed is told apart',
  async (_, place) => {
    const url = await place()
    const first = await startNode(url)
    const id = await withQueue(first, 3)
    await until('it talks', async () => (await first.api.get(`/sessions/${id}/turns/1`)).body !== undefined)
    expect((await first.api.post(`/sessions/${id}/interrupt`, { turn: 3 })).status).toBe(200)
    // The newest turn is over by now, and the one that runs is found all the same.
    expect((await first.api.post(`/sessions/${id}/interrupt`, { turn: 4 })).status).toBe(200)
    expect(await statuses(first, id)).toEqual(['running', 'queued', 'interrupted', 'interrupted'])
    await first.close()
    const second = await startNode(url)
    await until('the other runs', async () => (await readTurn(second.api, id, 2)).status === 'completed')
    expect(await statuses(second, id)).toEqual([expect.anything(), 'completed', 'interrupted', 'interrupted'])
    expect(types(await eventsOf(second, id, 3))).toEqual(NEVER_RAN)
    expect((await eventsOf(second, id, 1)).map(({ json }) => json.turn)).not.toContain(3)
  },
)

test('on another node, turns are stopped where they run, in line and in an archived session', async () => {
  const url = await (durableStores.postgres as () => Promise<string>)()
  const a = await startNode(url)
  const b = await startNode(url)
  const id = await withQueue(a, 3)
  expect((await b.api.post(`/sessions/${id}/interrupt`, { turn: 3 })).body).toMatchObject({ turn: 3 })
  for (const node of [a, b]) expect(types(await eventsOf(node, id, 3))).toEqual(NEVER_RAN)
  expect(await statuses(b, id)).toEqual(['running', 'queued', 'interrupted', 'queued'])
  // A client of the other node that leaves.
  const leaving = await openStream(`${b.server.url}/sessions/${id}/turns/stream?on_disconnect=interrupt`, {
    json: { prompt: 'say never', on_busy: 'enqueue' },
  })
  leaving.leave()
  await until('its turn is over', async () => (await readTurn(b.api, id, 5)).status === 'interrupted')
  const waiting = b.api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'say never', on_busy: 'enqueue' })
  await until('it is in line', async () => (await statuses(b, id)).length === 6)
  expect((await b.api.delete(`/sessions/${id}`)).status).toBe(200)
  expect(await waiting).toMatchObject({ status: 200, body: { turn: 6, stop_reason: 'cancelled' } })
  expect(types(await eventsOf(b, id, 4))).toEqual(NEVER_RAN)
  expect((await readTurn(b.api, id, 1)).status).toBe('running')
  expectProblem(await b.api.delete(`/sessions/${id}`), 404, 'SESSION_NOT_FOUND')
  expect((await b.api.delete(`/sessions/${id}?mode=cancel`)).status).toBe(200)
  const last = await eventsOf(b, id, 1)
  expect([textOf(last), last.at(-1)?.event]).toEqual(['here', 'run_interrupted'])
  await until('nothing runs', async () => !(await readSession(b.api, id)).state.is_active)
  expectProblem(await b.api.delete(`/sessions/${id}?mode=cancel`), 404, 'SESSION_NOT_FOUND')
  expectProblem(await b.api.post(`/sessions/${id}/interrupt`), 404, 'SESSION_NOT_FOUND')
  const all = await withQueue(a, 2)
  expect((await b.api.post(`/sessions/${all}/interrupt`, { scope: 'all' })).body).toMatchObject({ turn: 1 })
  await until('all are over', async () => (await statuses(b, all)).every((status) => status === 'interrupted'))
})
