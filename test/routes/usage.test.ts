import { describe, expect, test } from 'vitest'
import type { Problem } from '../helpers/contract.ts'
import { gatedAgent } from '../helpers/gate.ts'
import { ownServer, useServer } from '../helpers/suite.ts'
import { reportOf, spender } from '../helpers/usage.ts'

describe('what turns cost', () => {
  test('is counted whatever became of them, and stays when their sessions are archived', async () => {
    const gate = gatedAgent()
    const { api } = await ownServer({}, { gates: [gate], agents: [spender] })
    const create = (body: object) => api.post<{ session_id: string; turn: number }>('/sessions', body)
    const first = await create({ agent: 'spender', model: 'm/1', prompt: 'go', labels: { team: 'red', tier: '1' } })
    await create({ agent: 'spender', model: 'm/1', prompt: 'fail', labels: { tier: '1', team: 'red' } })
    await create({ agent: 'echo', prompt: 'one two', labels: { team: 'blue' } })
    await api.send('DELETE', `/sessions/${first.body.session_id}`)

    const held = await create({ agent: 'gated', initial_turn: 'deferred' } as object)
    const session = `/sessions/${held.body.session_id}`
    await api.post(`${session}/turns`, { prompt: 'hold' }, { prefer: 'respond-async' })
    const run = await gate.run('hold')
    await run.say('so far')
    expect((await reportOf(api)).groups.map(({ key }) => key)).toEqual(['spender', 'echo'])
    await api.post(`${session}/interrupt`)
    await api.get(`${session}/turns/1/events`)

    const { groups, ...rest } = await reportOf(api)
    expect(rest).toMatchObject({ group_by: 'agent', complete: true })
    expect(groups).toEqual([
      {
        key: 'spender',
        turns: 2,
        tokens: { input_tokens: 30, output_tokens: 15, total_tokens: 45 },
        tool_calls: 2,
        model_calls: 3,
        duration_ms: expect.any(Number),
      },
      expect.objectContaining({ key: 'echo', turns: 1, model_calls: 1, tool_calls: 0 }),
      expect.objectContaining({ key: 'gated', turns: 1 }),
    ])
    const keys = async (by: string) =>
      (await reportOf(api, `?group_by=${by}`)).groups.map(({ key, turns }) => [key, turns])
    expect(await keys('model')).toEqual([
      ['m/1', 2],
      [null, 2],
    ])
    expect(await keys('label.team')).toEqual([
      ['red', 2],
      ['blue', 1],
      [null, 1],
    ])
    expect(await keys('label.none')).toEqual([[null, 4]])
  })

  test('is asked for by minutes, in any time zone', async () => {
    const { api } = await ownServer()
    await api.post('/sessions', { prompt: 'x' })
    const now = Date.now()
    const at = (ms: number) => new Date(ms).toISOString()
    const hour = 3_600_000
    expect((await reportOf(api, `?from=${at(now - hour)}&to=${at(now + hour)}`)).groups).toHaveLength(1)
    expect((await reportOf(api, `?to=${at(now - hour)}`)).groups).toEqual([])
    expect((await reportOf(api, `?from=${at(now + hour)}`)).groups).toEqual([])
    const odd = await reportOf(api, '?from=2026-01-01T02:00:59.5%2B02:00&to=2026-01-01T00:01:00.001Z')
    expect(odd).toMatchObject({ from: '2026-01-01T00:00:00.000Z', to: '2026-01-01T00:02:00.000Z' })
    // Before this server began it cannot know.
    expect(odd.complete).toBe(false)
  })
})

describe('what cannot be asked for', () => {
  const { api } = useServer()

  test.each([
    ['group_by=colour', '/group_by'],
    ['group_by=label.', '/group_by'],
    ['group_by=', '/group_by'],
    [`group_by=label.${'x'.repeat(129)}`, '/group_by'],
    ['from=yesterday', '/from'],
    ['from=2026-01-01', '/from'],
    ['from=1767225600', '/from'],
    ['to=2026-13-01T00:00:00Z', '/to'],
    ['to=2016-12-31T23:59:60Z', '/to'],
    ['from=2026-01-01T00:00:00+02:00', '/from'],
    ['from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z', '/to'],
    ['from=2026-01-01T00:00:00Z&to=2026-01-01T00:00:00Z', '/to'],
    ['from=2026-01-01T00:00:00Z&from=2026-01-02T00:00:00Z', '/from'],
    ['until=2026-01-01T00:00:00Z', '/until'],
  ])('%s is 400 and says where', async (query, path) => {
    const { status, body } = await api.get<Problem>(`/usage?${query}`)
    expect([status, body.code]).toEqual([400, 'INVALID_PARAMS'])
    expect(body.errors?.[0]?.path).toBe(path)
  })
})
