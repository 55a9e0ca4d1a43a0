import { describe, expect, test } from 'vitest'
import type { ExportedSession, RunResult } from '../helpers/contract.ts'
import type { Client } from '../helpers/http.ts'
import { openStream } from '../helpers/sse.ts'
import { durableStores, startNode } from './stores.ts'

const stores: Record<string, () => Promise<string>> = { memory: async () => 'memory:', ...durableStores }

async function exportOf(api: Client, id: string): Promise<ExportedSession> {
  return (await api.get<ExportedSession>(`/sessions/${id}/export`)).body
}

describe.each(Object.keys(stores))('on %s', (store) => {
  test('an id that comes back goes on with its seq: a cursor from before sees a gap, not another history', async () => {
    const url = await (stores[store] as () => Promise<string>)()
    const { api, server } = await startNode(url)
    const created = await api.post<RunResult>('/sessions', { agent: 'echo', prompt: 'a b c' })
    const id = created.body.session_id
    const path = `/sessions/${id}`
    const session = await exportOf(api, id)
    let last = 0
    for (const round of [1, 2, 3]) {
      if (round === 1) await api.post(`${path}/turns`, { prompt: 'd e f g h' })
      await api.delete(path)
      const old = await (await openStream(`${server.url}${path}/events?after=0`)).all()
      const before = Math.max(last, ...old.map((frame) => Number(frame.id ?? 0)))
      expect(before).toBeGreaterThan(last)
      // Upper case is the same id.
      expect((await api.post('/sessions/import', { ...session, id: id.toUpperCase() })).status).toBe(201)
      await api.post(`${path}/turns`, { prompt: `round ${round}` })

      const stream = await openStream(`${server.url}${path}/events`, {
        headers: { 'Last-Event-ID': String(before - 2) },
      })
      const [loaded, truncated, first] = [await stream.next(), await stream.next(), await stream.next()]
      stream.leave()
      expect([loaded?.event, truncated?.json]).toEqual([
        'session_loaded',
        { type: 'stream_truncated', reason: 'retention', missed_from: before - 1, missed_to: before },
      ])
      expect(first).toMatchObject({ id: String(before + 1), event: 'run_started', json: { prompt: `round ${round}` } })
      last = before
    }
  })
})
