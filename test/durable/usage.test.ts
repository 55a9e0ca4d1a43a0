import { describe, expect, test } from 'vitest'
import { openDurableStore } from '../../src/stores/index.ts'
import { createIdle, type RunResult } from '../helpers/contract.ts'
import { gatedAgent } from '../helpers/gate.ts'
import type { Client } from '../helpers/http.ts'
import { reportOf, spender } from '../helpers/usage.ts'
import { durableStores, startNode } from './stores.ts'

describe.each(Object.entries(durableStores))('%s: what turns cost', (kind, place) => {
  const run = async (api: Client, prompt: string, agent = 'spender') =>
    (await api.post<RunResult>('/sessions', { agent, prompt, labels: { prompt } })).body.session_id
  /** Turns, tokens, tool calls and model calls by the agent. */
  const countsOf = async (api: Client, query = '') => {
    const { groups } = await reportOf(api, query)
    return groups.map(({ key, turns, tokens, tool_calls, model_calls }) => [
      key,
      ...[turns, tokens.total_tokens, tool_calls, model_calls],
    ])
  }
  const later = () => Date.now() + 3_600_000
  const tidied = async (url: string) => {
    const store = await openDurableStore(url)
    while (await store?.sweep({ archived: later(), keys: 0, spent: later(), usage: 0 })) {}
    await store?.close()
  }

  test('is exact right after every turn, over restarts, and when nothing is left of the sessions', async () => {
    const url = await place()
    const gate = gatedAgent()
    const parts = { agents: [gate.agent, spender] }
    const first = await startNode(url, {}, parts)
    const ids: string[] = []
    for (let i = 1; i <= 5; i++) {
      ids.push(await run(first.api, 'go'))
      expect(await countsOf(first.api)).toEqual([['spender', i, 30 * i, i, 2 * i]])
    }
    await run(first.api, 'fail')
    const held = await createIdle(first.api, { agent: 'gated' })
    await first.api.post(`/sessions/${held}/turns`, { prompt: 'hold' }, { prefer: 'respond-async' })
    await (await gate.run('hold')).say('so far')
    for (const id of ids) await first.api.delete(`/sessions/${id}`)
    const before = await reportOf(first.api, '?group_by=label.prompt')
    expect(before.groups.map(({ key, turns }) => [key, turns])).toEqual([
      ['go', 5],
      ['fail', 1],
    ])
    await first.close()

    const all = [
      ['spender', 6, 165, 6, 11],
      ['gated', 1, 0, 0, 1],
    ]
    const second = await startNode(url, {}, parts)
    expect(await countsOf(second.api)).toEqual(all)
    await second.close()
    await tidied(url)
    const third = await startNode(url, {}, parts)
    expect((await third.api.get(`/sessions/${ids[0]}`)).status).toBe(404)
    expect(await countsOf(third.api)).toEqual(all)
    await run(third.api, 'go')
    expect(await countsOf(third.api)).toEqual([['spender', 7, 195, 7, 13], all[1]])
    const { complete, from } = await reportOf(third.api)
    expect([complete, from]).toEqual([true, before.from])
    expect((await reportOf(third.api, `?from=${from}`)).complete).toBe(true)
    const at = (ms: number) => new Date(Date.parse(from) + ms).toISOString()
    expect(await reportOf(third.api, `?from=${at(-1)}`)).toMatchObject({ complete: false })
    expect((await reportOf(third.api, `?to=${from}`)).groups).toEqual([])
  })

  test('is counted once for a session that leaves memory and comes back', async () => {
    const node = await startNode(await place(), { MAX_SESSIONS: 1 }, { agents: [spender] })
    const ids = [await run(node.api, 'go'), await run(node.api, 'go')]
    for (const id of [...ids, ...ids]) await node.api.post(`/sessions/${id}/turns`, { prompt: 'go' })
    expect(await countsOf(node.api)).toEqual([['spender', 6, 180, 6, 12]])
  })

  test('is answered by every server for all of them, where there are several', async () => {
    if (kind === 'sqlite') return
    const url = await place()
    const nodes = await Promise.all([1, 2, 3].map(() => startNode(url, {}, { agents: [spender] })))
    let turns = 0
    for (let round = 0; round < 3; round++) {
      for (const { api } of nodes) {
        await run(api, 'go')
        turns++
        for (const other of nodes) {
          expect(await countsOf(other.api)).toEqual([['spender', turns, 30 * turns, turns, 2 * turns]])
        }
      }
    }
    await nodes[0]?.close()
    expect(await countsOf((nodes[1] as (typeof nodes)[number]).api)).toEqual([['spender', 9, 270, 9, 18]])
  })
})
