import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { AGENT_OPTIONS, type SessionAgentBuilder } from '../../src/core/agent.ts'
import { createIdle, type ExportedSession, type Message, type SessionList, usage } from '../helpers/contract.ts'
import type { Client } from '../helpers/http.ts'
import { valuesOf } from '../helpers/schema-values.ts'
import { durableStores, startNode } from './stores.ts'

/** Takes every option there is, so that nothing is refused before a store has seen it. */
const any: SessionAgentBuilder = {
  name: 'any',
  accepts: AGENT_OPTIONS,
  buildAgent: () => ({
    async *run() {
      yield { type: 'text_delta', delta: 'done' }
      return undefined
    },
  }),
}

interface Document {
  paths: Record<string, Record<string, { parameters?: Parameter[]; requestBody?: Body }>>
  components: { schemas: Record<string, object> }
}
interface Parameter {
  in: string
  name: string
  schema: { type?: string; minimum?: number; maximum?: number }
}
interface Body {
  content: Record<string, { schema: object }>
}

const stores: Record<string, () => Promise<string>> = { memory: async () => 'memory:', ...durableStores }

/** A transcript that agents could go on with: only then does an import get as far as the store. */
function mended(messages: readonly Message[]): Message[] {
  const mended: Message[] = []
  for (const message of messages) {
    if (message.role === 'tool_results' || (message.role === 'system' && mended.length > 0)) continue
    mended.push('summarises' in message ? Object.assign({}, message, { summarises: mended.length }) : message)
    const calls = (message.blocks ?? []).filter(({ block_type }) => block_type === 'tool_use')
    if (calls.length === 0) continue
    const results = calls.map(({ data }) => ({ tool_use_id: String(data.id), content: '{}', is_error: false }))
    mended.push({ role: 'tool_results', results })
  }
  return mended
}

function session(parts: Partial<ExportedSession> = {}): ExportedSession {
  return {
    version: 1,
    id: '0199d3c0-0000-7000-8000-00000000abcd',
    messages: [],
    created_at: '2026-01-02T03:04:05.678Z',
    updated_at: '2026-01-02T03:04:06.789Z',
    metadata: { session_metadata: { agent: 'any' } },
    usage: usage(1, 1),
    ...parts,
  }
}

async function documentOf(api: Client): Promise<Document> {
  return (await api.get<Document>('/openapi.json')).body
}

/** What was imported can be read, listed, exported and imported again, and is the same. */
async function keepsWhole(api: Client, given: ExportedSession): Promise<boolean> {
  const at = `/sessions/${given.id}`
  // Of a run that failed, and is made smaller.
  await api.delete(at)
  const answer = await api.post('/sessions/import', given)
  if (answer.status === 400) return false
  expect(answer.status, `${JSON.stringify(given)} ${answer.text}`).toBe(201)
  expect((await api.get(at)).body).toEqual(answer.body)
  const { total } = (await api.get<SessionList>('/sessions?limit=0')).body
  expect((await api.get<SessionList>(`/sessions?offset=${total - 1}`)).body.sessions).toHaveLength(1)
  const first = (await api.get<ExportedSession>(`${at}/export`)).body
  expect((await api.get<{ messages: Message[] }>(`${at}/messages`)).body.messages).toEqual(first.messages)
  expect((await api.delete(at)).status).toBe(200)
  const again = await api.post('/sessions/import', first)
  expect(again.status, `${JSON.stringify(first)} ${again.text}`).toBe(201)
  expect((await api.get(`${at}/export`)).body).toEqual(first)
  await api.delete(at)
  return true
}

const refused: [what: string, parts: Partial<ExportedSession>, path: string][] = [
  ['a leap second', { created_at: '2016-12-31T23:59:60Z' }, '/created_at'],
  ['an hour for an offset', { updated_at: '2026-01-01T00:00:00+01' }, '/updated_at'],
  ['an offset without a colon', { updated_at: '2026-01-01T00:00:00+0100' }, '/updated_at'],
  ['a year before 0000 in UTC', { created_at: '0000-01-01T00:00:00+00:01' }, '/created_at'],
  ['a year after 9999 in UTC', { created_at: '9999-12-31T23:59:59-01:00' }, '/created_at'],
  ['tokens beyond 2^53 together', { usage: { ...usage(1, 2 ** 53 - 1), total_tokens: 1 } }, '/usage'],
  ['tokens beyond 2^53', { usage: { ...usage(1, 1), input_tokens: 1e99 } }, '/usage/input_tokens'],
  [
    'a summary of what comes later',
    { messages: [{ role: 'user', content: 'x', summarises: 1 } as Message] },
    '/messages/0',
  ],
  [
    'an agent that there is not',
    { metadata: { session_metadata: { agent: 'nobody' } } },
    '/metadata/session_metadata/agent',
  ],
  [
    'more output than a model is asked for',
    { metadata: { session_metadata: { agent: 'any', max_tokens: 1e99 } } },
    '/metadata/session_metadata/max_tokens',
  ],
]

describe.each(Object.keys(stores))('on %s', (store) => {
  const start = async () => {
    const node = await startNode(await (stores[store] as () => Promise<string>)(), {}, { agents: [any] })
    return node.api
  }

  test('whatever an import may say can be kept, read, listed, exported and imported again', async () => {
    const api = await start()
    const document = await documentOf(api)
    const values = valuesOf(document.components.schemas.Session as object, document) as fc.Arbitrary<ExportedSession>
    let kept = 0
    await fc.assert(
      fc.asyncProperty(values, async (value) => {
        const metadata = { session_metadata: { ...(value.metadata.session_metadata as object), agent: 'any' } }
        if (await keepsWhole(api, { ...value, messages: mended(value.messages), metadata })) kept++
      }),
      { numRuns: 12, seed: 4715 },
    )
    expect(kept).toBeGreaterThan(2)
    expect((await api.get('/ready')).status).toBe(200)
  })

  test('an import that could not be kept is 400 on its member, and times are kept in UTC with milliseconds', async () => {
    const api = await start()
    const bystander = await createIdle(api, { agent: 'echo' })
    for (const [what, parts, path] of refused) {
      const { status, body } = await api.post<{ errors: { path: string }[] }>('/sessions/import', session(parts))
      expect({ status, path: body.errors?.[0]?.path }, what).toEqual({ status: 400, path })
    }
    expect((await api.get<SessionList>('/sessions')).body.total).toBe(1)
    expect((await api.post(`/sessions/${bystander}/turns`, { prompt: 'hello' })).status).toBe(200) // In UTC with milliseconds.
    const given = session({ created_at: '2026-01-31t23:30:00-01:00', updated_at: '2026-02-01T00:30:00.98765Z' })
    expect((await api.post('/sessions/import', given)).status).toBe(201)
    expect((await api.get(`/sessions/${given.id}/export`)).body).toMatchObject({
      created_at: '2026-02-01T00:30:00.000Z',
      updated_at: '2026-02-01T00:30:00.987Z',
    })
  })

  test('whatever a body may say is an answer, and the next request gets one as well', async () => {
    const api = await start()
    const document = await documentOf(api)
    const id = await createIdle(api, { agent: 'any' })
    for (const [path, { post }] of Object.entries(document.paths)) {
      const schema = post?.requestBody?.content['application/json']?.schema
      if (schema === undefined || path.endsWith('/stream') || path === '/sessions/import') continue
      const url = path.replace('{session_id}', id).replace('{turn}', '1').replace('{call_id}', 'x')
      await fc.assert(
        fc.asyncProperty(valuesOf(schema, document), async (value) => {
          const body = path === '/sessions' ? { ...(value as object), agent: 'any', host_mode: false } : value
          const answer = await api.post(url, body)
          expect(answer.status, `${path} ${JSON.stringify(body)} ${answer.text}`).toBeOneOf([
            200, 201, 202, 400, 404, 409, 501,
          ])
        }),
        { numRuns: 5, seed: 4716 },
      )
      expect((await api.get('/sessions?limit=1000')).status).toBe(200)
    }
    expect((await api.get('/ready')).status).toBe(200)

    // And whatever number a query or a header may hold; one more is 400.
    for (const [path, { get }] of Object.entries(document.paths)) {
      for (const { in: where, name, schema } of get?.parameters ?? []) {
        if (schema.type !== 'integer' || where === 'path' || path.includes('{interaction_id}')) continue
        const ask = async (value: string) => {
          const url = path.replace('{session_id}', id).replace('{turn}', '1')
          if (where === 'header') return (await api.get(url, { [name]: value })).status
          return (await api.get(`${url}?${name}=${value}`)).status
        }
        const { minimum = Number.NaN, maximum = Number.NaN } = schema
        if (!path.endsWith('/events')) {
          expect(await ask(String(minimum)), `${path} ${name}`).toBe(200)
          expect(await ask(String(maximum)), `${path} ${name}`).toBe(200)
        }
        for (const wrong of ['-1', String(BigInt(maximum) + 1n), '99999999999999999999', '1e3', '1'.padEnd(400, '0')]) {
          expect(await ask(wrong), `${path} ${name} ${wrong}`).toBe(400)
        }
      }
    }
  })
})
