import { pino } from 'pino'
import { describe, expect, onTestFinished, test } from 'vitest'
import type { AppParts } from '../../src/app.ts'
import { createIdle, expectProblem, NOBODY, type RunResult, readTurn } from '../helpers/contract.ts'
import { gatedAgent } from '../helpers/gate.ts'
import { type Client, until } from '../helpers/http.ts'
import { events, openStream, types } from '../helpers/sse.ts'
import { plant } from './plant.ts'
import { durableStores, startNode } from './stores.ts'

const failed = { type: 'run_failed', code: 'INTERNAL_ERROR' }
/** Every table that a turn writes to. */
const TABLES = ['turn', 'message', 'chunk', 'session', 'spent_turn']

async function start(url: string, settings = {}, parts: AppParts = {}) {
  const gate = gatedAgent()
  const node = await startNode(url, settings, { ...parts, agents: [gate.agent] })
  onTestFinished(() => gate.open())
  const { api, server, close } = node
  const stream = (path: string, json?: unknown) => openStream(server.url + path, json === undefined ? {} : { json })
  return { api, gate, stream, close }
}
type Started = Awaited<ReturnType<typeof start>>

/** A turn that has said one word, which is persisted. */
async function talking({ api, gate }: Started, prompt: string) {
  const id = await createIdle(api, { agent: 'gated' })
  const answer = api.post<RunResult>(`/sessions/${id}/turns`, { prompt })
  const run = await gate.run(prompt)
  await run.say('kept')
  await until('the turn is persisted', async () => (await readTurn(api, id, 1)).status === 'running')
  return { id, answer, run }
}

const expectReady = async (api: Client) => expect((await api.get('/ready')).status).toBe(200)

describe.each(Object.entries(durableStores))('what the %s store refuses', (_, place) => {
  test('fails the turn of its session alone, and that session goes on later', async () => {
    const url = await place()
    const node = await start(url, { MAX_ACTIVE_TURNS: 2 })
    const { api, gate, stream } = node
    const other = await talking(node, 'stand by')
    const watched = await stream(`/sessions/${other.id}/turns/1/events`)
    for (const table of TABLES) {
      const { id, answer, run } = await talking(node, table)
      const turn = await stream(`/sessions/${id}/turns/1/events`)
      const session = await stream(`/sessions/${id}/events`)
      for (const one of [turn, session]) await one.upTo('text_delta')
      const weed = await plant(url, table, `new.${table === 'session' ? 'id' : 'session'} = '${id}'`)
      await Promise.all([run.say(' refused'), other.run.say(`, ${table}`)])
      run.finish()
      expectProblem(await answer, 500, 'INTERNAL_ERROR')
      for (const one of [turn, session]) expect((await one.upTo('run_failed')).json).toMatchObject(failed)
      expect(types(turn.frames).filter((type) => type.startsWith('run_'))).toEqual(['run_started', 'run_failed'])
      await watched.upTo(({ json }) => json.delta === `, ${table}`)
      await expectReady(api)
      await weed()
      const next = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: `${table} again` })
      ;(await gate.run(`${table} again`)).finish({ text: 'and on' })
      expect((await next).body).toMatchObject({ turn: 2, text: 'and on' })
      expect(await readTurn(api, id, 1)).toMatchObject({ status: 'failed', error: { code: 'INTERNAL_ERROR' } })
      const all = await stream(`/sessions/${id}/events?after=0`)
      await all.upTo('run_completed')
      const seqs = events(all.frames).flatMap(({ seq }) => seq ?? [])
      expect(seqs).toEqual(seqs.map((_, i) => i + 1))
    }
    other.run.finish()
    expect((await other.answer).body.text).toBe(['kept', ...TABLES].join(', '))
  })

  test('fails the request alone that asked for it, be it a new session, an import, a fork or an interaction', async () => {
    const url = await place()
    const node = await start(url, { MAX_SESSIONS: 3 })
    const { api, gate } = node
    const other = await talking(node, 'stand by')
    const source = await createIdle(api, { agent: 'gated', labels: { marked: 'source' } })
    const exported = (await api.get<Record<string, unknown>>(`/sessions/${source}/export`)).body
    let weed = await plant(url, 'session', `new.metadata like '%marked%'`)
    const refused = await Promise.all([
      api.post('/sessions', { agent: 'gated', initial_turn: 'deferred', labels: { marked: 'x' } }),
      api.post('/sessions/import', { ...exported, id: NOBODY }),
    ])
    for (const answer of refused) expectProblem(answer, 500, 'INTERNAL_ERROR')
    expectProblem(await api.post(`/sessions/${source}/fork`, {}), 500, 'INTERNAL_ERROR')
    await weed()
    expect((await api.get<{ total: number }>('/sessions')).body.total).toBe(2)
    // Their places are free, and so is the id.
    expect((await api.post('/sessions/import', { ...exported, id: NOBODY })).status).toBe(201)

    weed = await plant(url, 'interaction', `new.data like '%marked%'`)
    const inbox = `/sessions/${other.id}/interactions`
    const key = { 'idempotency-key': 'k' }
    expectProblem(await api.post(inbox, { body: 'marked' }, key), 500, 'INTERNAL_ERROR')
    expect((await api.post(inbox, { body: 'welcome' })).status).toBe(202)
    await weed()
    expect((await api.post(inbox, { body: 'marked' }, key)).status).toBe(202)
    expect((await api.get('/ready')).status).toBe(200)
    other.run.finish()
    expect((await other.answer).body).toMatchObject({ turn: 1, text: 'kept' })
    const next = api.post<RunResult>(`/sessions/${other.id}/turns`, { prompt: 'on' })
    const run = await gate.run('on')
    expect(run.injected).toContain('welcome')
    run.finish()
    expect((await next).status).toBe(200)
  })

  test('is logged with its cause, and the next start goes on without it', async () => {
    const url = await place()
    const lines: string[] = []
    const logger = pino({ level: 'error' }, { write: (line) => void lines.push(line) })
    const node = await start(url, { LOG_LEVEL: 'error' }, { logger })
    const { id, run } = await talking(node, 'go')
    const weed = await plant(url, 'chunk', `new.session = '${id}'`)
    await run.say(' refused')
    await until('the log has it', () => lines.some((line) => /planted/.test(line) && line.includes(id)))
    await node.close()
    const { api, gate } = await start(url)
    await expectReady(api)
    expectProblem(await api.post(`/sessions/${id}/turns`, { prompt: 'x' }), 500, 'INTERNAL_ERROR')
    const other = await createIdle(api, { agent: 'gated' })
    expect((await api.get(`/sessions/${other}`)).status).toBe(200)
    await weed()
    const next = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'on' })
    ;(await gate.run('on')).finish({ text: 'and on' })
    expect((await next).body.text).toBe('and on')
  })
})

test('a reader at another node is told as well, and that node can go on with the session', async () => {
  const url = await (durableStores.postgres as () => Promise<string>)()
  const [here, there] = [await start(url), await start(url)]
  const { id, answer, run } = await talking(here, 'go')
  const reader = await there.stream(`/sessions/${id}/turns/1/events`)
  await reader.upTo('text_delta')
  const weed = await plant(url, 'chunk', `new.session = '${id}'`)
  run.finish()
  expectProblem(await answer, 500, 'INTERNAL_ERROR')
  expect((await reader.upTo('run_failed')).json).toMatchObject({ type: 'run_failed', turn: 1 })
  for (const { api } of [here, there]) await expectReady(api)
  await weed()
  const next = there.api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'on' })
  ;(await there.gate.run('on')).finish({ text: 'and on' })
  expect((await next).body).toMatchObject({ turn: 2, text: 'and on' })
})
