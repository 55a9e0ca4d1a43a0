import { describe, expect, test } from 'vitest'
import {
  createIdle,
  expectProblem,
  type Message,
  type MessageList,
  type Turn,
  type TurnList,
  usage,
} from '../helpers/contract.ts'
import { ownServer } from '../helpers/suite.ts'
import { durableStores, startNode } from './stores.ts'

const MIB = 1024 * 1024
const ID = '0199d3c0-0000-7000-8000-000000000000'
const stores: Record<string, () => Promise<string>> = { memory: async () => 'memory:', ...durableStores }

const user = (content: string): Message => ({ role: 'user', content })
const session = (messages: Message[]) => ({
  version: 1,
  id: ID,
  messages,
  created_at: '2026-01-02T03:04:05.678Z',
  updated_at: '2026-01-02T03:04:06.789Z',
  metadata: { session_metadata: { agent: 'echo' } },
  usage: usage(0, 0),
})

describe.each(Object.keys(stores))('on %s', (store) => {
  const start = async () => (await startNode(await (stores[store] as () => Promise<string>)())).api

  test('a page of messages ends early where it is large, and says where it goes on', async () => {
    const api = await start()
    const sizes = [10, 400_000, 400_000, 400_000, 3 * MIB, 10, 10]
    // Two bytes each, so that it is bytes that count.
    const messages = sizes.map((size, i) => user(`${i}`.padEnd(size / 2, 'é')))
    expect((await api.post('/sessions/import', session(messages))).status).toBe(201)
    const pages: MessageList[] = []
    for (let offset: number | undefined = 0; offset !== undefined; offset = pages.at(-1)?.next) {
      const answer = await api.get<MessageList>(`/sessions/${ID}/messages?offset=${offset}`)
      expect(answer.text.length > 1.1 * MIB && answer.body.messages.length > 1).toBe(false)
      pages.push(answer.body)
    }
    expect(pages.map(({ messages, total, next }) => [messages.length, total, next])).toEqual([
      [3, 7, 3],
      [1, 7, 4],
      [1, 7, 5],
      [2, 7, undefined],
    ])
    expect(pages.flatMap((page) => page.messages)).toEqual(messages)
    const { body } = await api.get<MessageList>(`/sessions/${ID}/messages?limit=2`)
    expect(body).toEqual({ messages: messages.slice(0, 2), total: 7, limit: 2, offset: 0 })
  })

  test('a list of turns leaves long texts out, and ends early where it is still large', async () => {
    const api = await start()
    const id = await createIdle(api, { agent: 'scripted' })
    const said = ['é'.repeat(2_048), `${'é'.repeat(2_048)}!`, 'x'.repeat(450_000), 'y'.repeat(450_000)]
    for (const text of [...said, ...said.slice(2)]) await api.post(`/sessions/${id}/turns`, { prompt: `say ${text}` })
    const { turns, total } = (await api.get<TurnList>(`/sessions/${id}/turns`)).body
    expect([turns.length, total]).toEqual([4, 6])
    expect(turns.map(({ result, truncated }) => [result?.text, truncated])).toEqual([
      [said[0], undefined],
      [undefined, true],
      [undefined, true],
      [undefined, true],
    ])
    const whole = (await api.get<Turn>(`/sessions/${id}/turns/2`)).body
    expect(whole.result?.text).toBe(said[1])
    const { text: _, ...result } = whole.result ?? {}
    expect(turns[1]).toEqual({ ...whole, result, truncated: true })
    const rest = (await api.get<TurnList>(`/sessions/${id}/turns?offset=4`)).body
    expect(rest.turns.map(({ turn }) => turn)).toEqual([5, 6])
  })

  test('turns whose texts are long are one page where the rest of them is short', async () => {
    const api = await start()
    const id = await createIdle(api, { agent: 'scripted' })
    for (let i = 0; i < 12; i++) await api.post(`/sessions/${id}/turns`, { prompt: 'deltas 2 65536' })
    const { turns } = (await api.get<TurnList>(`/sessions/${id}/turns?limit=1000`)).body
    expect(turns.map(({ turn, truncated }) => [turn, truncated])).toEqual(
      Array.from({ length: 12 }, (_, i) => [i + 1, true]),
    )
  })
})

test('an import may be larger than BODY_LIMIT, up to UPLOAD_LIMIT', async () => {
  const { api } = await ownServer({ BODY_LIMIT: 2_000, UPLOAD_LIMIT: 50_000 })
  const large = await api.post('/sessions/import', session([user('x'.repeat(60_000))]))
  expectProblem(large, 413, 'PAYLOAD_TOO_LARGE')
  expect(large.text).toContain('UPLOAD_LIMIT')
  expect((await api.post('/sessions/import', session([user('x'.repeat(40_000))]))).status).toBe(201)
  expectProblem(await api.post('/sessions', { prompt: 'x'.repeat(3_000) }), 413, 'PAYLOAD_TOO_LARGE')
})
