import { afterEach, describe, expect, onTestFinished, test } from 'vitest'
import {
  createIdle,
  expectProblem,
  type Message,
  type RunResult,
  readMessages,
  readSession,
  readTurn,
} from '../helpers/contract.ts'
import { type Client, client, until } from '../helpers/http.ts'
import { openStream, types } from '../helpers/sse.ts'
import { reportOf } from '../helpers/usage.ts'
import { killLeftovers, type Served, serve } from '../process/child.ts'
import { quickStores } from './stores.ts'

afterEach(killLeftovers)

const textsOf = (messages: readonly Message[]) =>
  messages.flatMap((message) => {
    const { role, content, blocks } = message as unknown as {
      role: string
      content?: string
      blocks?: { block_type: string; data: { text?: string } }[]
    }
    return role === 'user' ? [`> ${content}`] : (blocks ?? []).flatMap(({ data }) => data.text ?? [])
  })

describe.each(Object.entries(quickStores))('%s: after a kill in the middle of a turn', (_, place) => {
  async function crashing() {
    const settings = { STORE_URL: await place() }
    let server: Served = await serve(settings)
    const api = client(() => server.url)
    const crash = async () => {
      server.child.kill('SIGKILL')
      await server.exited
      server = await serve(settings)
    }
    const stream = async (path: string, json?: unknown, headers = {}) => {
      const opened = await openStream(server.url + path, { headers, ...(json === undefined ? {} : { json }) })
      onTestFinished(() => opened.leave())
      return opened
    }
    return { api, crash, stream }
  }

  /** Where several servers may share the store, a lease has to run out first. */
  const knownToBeLost = (api: Client, id: string) =>
    until('the turn is known to be lost', async () => (await readTurn(api, id, 1)).status === 'failed')

  test('the turn is lost, what it had said is not, and the next one runs', async () => {
    const { api, crash, stream } = await crashing()
    const id = await createIdle(api, { agent: 'scripted' })
    const prompt = 'usage 3 4\nsay So far.\ntool add {"a":1,"b":2}\nsay And\nhang'
    const opened = await stream(`/sessions/${id}/turns/stream`, { prompt }, { 'idempotency-key': 'k' })
    await opened.upTo(({ json }) => json.delta === 'And')
    const seen = opened.frames.at(-1)?.json.seq
    await crash()
    expect((await opened.ended()).toString()).toBe('destroyed')
    const rest = await stream(`/sessions/${id}/turns/1/events?after=${seen}`)
    const [end] = await rest.all()
    expect(end?.json).toMatchObject({ type: 'run_failed', code: 'TURN_LOST', seq: Number(seen) + 1 })
    const turn = await readTurn(api, id, 1)
    expect(turn).toMatchObject({ status: 'failed', error: { code: 'TURN_LOST', session_id: id, turn: 1 } })
    const { state, billing } = await readSession(api, id)
    expect(state).toMatchObject({ is_active: false, turn: 1, last_assistant_text: 'And' })
    expect(billing.usage).toMatchObject({ input_tokens: 3, output_tokens: 4 })
    expect(await reportOf(api)).toMatchObject({
      groups: [{ key: 'scripted', turns: 1, tokens: billing.usage, tool_calls: 1, model_calls: 2 }],
      complete: true,
    })
    expect(textsOf(await readMessages(api, id))).toEqual([`> ${prompt}`, 'So far.', 'And'])
    const again = await api.post(`/sessions/${id}/turns`, { prompt }, { 'idempotency-key': 'k' })
    expectProblem(again, 500, 'TURN_LOST')
    const next = await api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'say On we go.' })
    expect(next.body).toMatchObject({ turn: 2, text: 'On we go.' })
  })

  test('a tool call that was under way has an answer in the history', async () => {
    const { api, crash, stream } = await crashing()
    const id = await createIdle(api, { agent: 'scripted' })
    const opened = await stream(`/sessions/${id}/turns/stream`, { prompt: 'tool sleep {"ms":60000}' })
    await opened.upTo('tool_execution_started')
    await crash()
    await knownToBeLost(api, id)
    const messages = await readMessages(api, id)
    const results = messages.find(({ role }) => role === 'tool_results') as unknown as { results: object[] }
    expect(results.results).toMatchObject([{ is_error: true }])
    const exported = await api.get<object>(`/sessions/${id}/export`)
    await api.delete(`/sessions/${id}`)
    expect((await api.post('/sessions/import', exported.body)).status).toBe(201)
  })

  test('turns in line run, in their order', async () => {
    const { api, crash } = await crashing()
    const id = await createIdle(api, { agent: 'scripted' })
    for (const prompt of ['hang', 'say second', 'say third']) {
      const body = { prompt, on_busy: 'enqueue' }
      expect((await api.post(`/sessions/${id}/turns`, body, { prefer: 'respond-async' })).status).toBe(202)
    }
    await crash()
    await until('the line is done', async () => (await readTurn(api, id, 3)).status === 'completed')
    const turns = await Promise.all([1, 2, 3].map((turn) => readTurn(api, id, turn)))
    expect(turns.map(({ status }) => status)).toEqual(['failed', 'completed', 'completed'])
    expect(turns.map(({ result }) => result?.text)).toEqual([undefined, 'second', 'third'])
  })

  test('what a host had taken ends, what it had done stays, and what it had not taken waits', async () => {
    const { api, crash, stream } = await crashing()
    const host = await api.post<{ session_id: string }>('/sessions', {
      agent: 'scripted',
      comms_name: 'host',
      host_mode: true,
      prompt: 'say ready',
    })
    const id = host.body.session_id
    const inject = (body: string) => stream(`/sessions/${id}/interactions/stream`, { body })
    expect(types(await (await inject('x\nsay one')).all()).at(-1)).toBe('interaction_complete')
    const hanging = await inject('x\nsay two\nhang')
    await hanging.upTo(({ json }) => json.delta === 'two')
    expect((await api.post(`/sessions/${id}/interactions`, { body: 'say three' })).status).toBe(202)
    await crash()
    await knownToBeLost(api, id)
    expect(await readTurn(api, id, 1)).toMatchObject({ status: 'failed', error: { code: 'TURN_LOST' } })
    const ended = await stream(`/sessions/${id}/interactions/${hanging.frames[0]?.json.interaction_id}/events`)
    expect((await ended.all()).at(-1)?.json).toMatchObject({ type: 'interaction_failed', code: 'TURN_LOST' })
    const texts = textsOf(await readMessages(api, id))
    expect(texts.filter((text) => /^ready$/.test(text))).toHaveLength(1)
    expect(texts.filter((text) => text.includes('say one'))).toHaveLength(1)
    expect(texts.filter((text) => text.includes('say two'))).toHaveLength(1)
    const next = await api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'say on' })
    expect(next.status, next.text).toBe(200)
    expect(JSON.stringify(await readMessages(api, id))).toContain('say three')
  })
})
