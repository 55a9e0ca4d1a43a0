import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { OpenApiDocument } from '../../src/plugins/openapi-document.ts'
import { NOBODY } from '../helpers/contract.ts'
import { type Answer, send } from '../helpers/http.ts'
import { startServer, type TestServer } from '../helpers/server.ts'
import { openStream } from '../helpers/sse.ts'

interface Known {
  id: string
  method: string
  path: string
  hasBody: boolean
  /** What stands in the document for a status. */
  responses: Record<string, { description?: string; content?: object; $ref?: string }>
}

let server: TestServer
let locked: TestServer
let small: TestServer
let document: OpenApiDocument
const operations: Known[] = []

beforeAll(async () => {
  server = await startServer({ MAX_SESSIONS: 3, UPLOAD_LIMIT: 1_048_576 })
  locked = await startServer({ API_KEYS: '[{"key":"k"}]' })
  small = await startServer({ MAX_STREAMS: 1 })
  document = await server.app.openapi()
  for (const [path, methods] of Object.entries(document.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const { operationId: id, requestBody, responses } = operation
      operations.push({ id, method: method.toUpperCase(), path, hasBody: requestBody !== undefined, responses })
    }
  }
})

afterAll(async () => {
  for (const started of [server, locked, small]) await started?.close()
})

/** Where an operation is, with something in the place of each parameter. */
function at({ path }: Known, session = NOBODY): string {
  return path
    .replace('{session_id}', session)
    .replace('{interaction_id}', NOBODY)
    .replace(/\{\w+\}/g, '1')
}

/** What is wrong with an answer by what its operation lists: its status, and the code of its problem. */
function faultOf({ id, responses }: Known, { status, body, text }: Answer): string | undefined {
  const declared = responses[status]
  if (declared === undefined) return `${id} does not list ${status}: ${text.slice(0, 200)}`
  if (status < 400) return undefined
  const name = String(declared.$ref).split('/').at(-1) ?? ''
  const codes = document.components.responses[name]?.description.split(', ') ?? []
  const { code } = body as { code: string }
  return codes.includes(code) ? undefined : `${id} does not list ${code} for ${status}: ${codes}`
}

const prompts: Record<string, object> = {
  createSession: { prompt: 'x' },
  createSessionStream: { prompt: 'x' },
  startTurn: { prompt: 'x' },
  startTurnStream: { prompt: 'x' },
  injectInteraction: { body: 'x' },
  injectInteractionStream: { body: 'x' },
  sendComms: { kind: 'peer_message', to: 'nobody', body: 'x' },
  answerApproval: { approved: true },
}

type Probe = [name: string, ask: (known: Known) => Promise<Answer> | undefined, expected: readonly number[]]
const JSON_TYPE = 'application/json'
const post = (base: () => TestServer, known: Known, target: string, headers: Record<string, string> = {}) =>
  send(base().url + target, known.method, { headers, ...(known.hasBody ? { json: prompts[known.id] ?? {} } : {}) })
const withBody = (known: Known, headers: Record<string, string>, bytes: string) =>
  known.hasBody ? send(server.url + at(known), known.method, { headers, bytes }) : undefined

const probes: Probe[] = [
  ['no key', (known) => post(() => locked, known, at(known)), [401, 200, 501]],
  ['another host', (known) => post(() => server, known, at(known), { host: 'evil.example' }), [403]],
  ['a URL that is too long', (known) => post(() => server, known, `${at(known)}?${'x'.repeat(9_000)}`), [414]],
  [
    'two cursors',
    (known) => send(server.url + at(known), known.method, { headers: { 'last-event-id': ['1', '2'] } }),
    [400],
  ],
  ['what is not JSON', (known) => withBody(known, { 'content-type': JSON_TYPE }, '{'), [400]],
  ['text', (known) => withBody(known, { 'content-type': 'text/plain' }, 'x'), [415]],
  ['a body that is too large', (known) => withBody(known, { 'content-type': JSON_TYPE }, ' '.repeat(1_048_577)), [413]],
  ['nothing that is there', (known) => post(() => server, known, at(known)), [200, 201, 400, 404, 501]],
  [
    'a stream, while as many as may be are open',
    (known) => {
      if (!(known.id in prompts) || known.id === 'sendComms' || known.id === 'answerApproval') return undefined
      return post(() => small, known, at(known), { accept: 'text/event-stream' })
    },
    [429],
  ],
]

describe('every operation lists what it answers', () => {
  test.each(probes)('to %s', async (_, ask, expected) => {
    const reader = await send<{ session_id: string }>(`${small.url}/sessions`, 'POST', {
      json: { initial_turn: 'deferred' },
    })
    const open = await openStream(`${small.url}/sessions/${reader.body.session_id}/events`)
    const faults: string[] = []
    for (const known of operations) {
      const answer = await ask(known)
      if (answer === undefined) continue
      const fault = faultOf(known, answer)
      if (fault !== undefined) faults.push(fault)
      if (!expected.includes(answer.status))
        faults.push(`${known.id} is ${answer.status}: ${answer.text.slice(0, 200)}`)
    }
    open.leave()
    expect(faults).toEqual([])
  })

  test('when it fails: the errors of a turn are those of the request that waits for it', async () => {
    const start = operations.filter(({ id }) => id === 'createSession' || id === 'startTurn')
    for (const known of start) {
      const session = await send<{ session_id: string }>(`${locked.url}/sessions`, 'POST', {
        json: { agent: 'scripted', initial_turn: 'deferred' },
        headers: { authorization: 'Bearer k' },
      })
      const json = { prompt: 'fail on purpose', ...(known.id === 'createSession' ? { agent: 'scripted' } : {}) }
      const headers = { authorization: 'Bearer k' }
      const answer = await send(locked.url + at(known, session.body.session_id), 'POST', { json, headers })
      expect(answer.status).toBe(500)
      expect(faultOf(known, answer)).toBeUndefined()
      const listed = Object.values(known.responses).flatMap(({ $ref }) => {
        const name = String($ref).split('/').at(-1) ?? ''
        return document.components.responses[name]?.description.split(', ') ?? []
      })
      const ofTurns = [
        'AGENT_ERROR',
        'PROVIDER_ERROR',
        'BUDGET_EXHAUSTED',
        'HOOK_DENIED',
        'SKILL_NOT_FOUND',
        'TURN_LOST',
      ]
      expect(listed, known.id).toEqual(expect.arrayContaining(ofTurns))
    }
  })
})

test('unions are told apart by a constant that the document names', () => {
  for (const name of ['Block', 'Message', 'CommsCommand', 'CommsReceipt', 'AgentEvent']) {
    const schema = document.components.schemas[name] as {
      anyOf?: { $ref: string }[]
      oneOf?: { $ref: string }[]
      discriminator?: { propertyName: string; mapping: Record<string, string> }
    }
    const { propertyName = '', mapping = {} } = schema.discriminator ?? {}
    const variants = (schema.anyOf ?? schema.oneOf ?? []).map(({ $ref }) => $ref)
    expect(Object.values(mapping).toSorted(), name).toEqual(variants.toSorted())
    for (const [value, ref] of Object.entries(mapping)) {
      const variant = document.components.schemas[ref.split('/').at(-1) ?? ''] as {
        properties: Record<string, { const?: string }>
        required: string[]
      }
      expect(variant.properties[propertyName]?.const, `${name} ${ref}`).toBe(value)
      expect(variant.required).toContain(propertyName)
    }
  }
})

test('the reference for people has the stream that Accept asks for, beside the JSON', async () => {
  const { body } = await send<OpenApiDocument>(`${server.url}/docs/json`, 'GET')
  for (const id of ['createSession', 'startTurn', 'injectInteraction']) {
    const found = Object.values(body.paths).flatMap((path) => Object.values(path))
    const operation = found.find(({ operationId }) => operationId === id)
    expect(operation?.responses[200]?.content, id).toHaveProperty(['text/event-stream'])
  }
})
