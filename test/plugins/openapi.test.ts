import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js'
import formats from 'ajv-formats'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { parse as parseYaml } from 'yaml'
import type { SessionAgentBuilder } from '../../src/core/agent.ts'
import { problemStatus } from '../../src/plugins/problems.ts'
import { NOBODY } from '../helpers/contract.ts'
import { gatedAgent } from '../helpers/gate.ts'
import { client, send } from '../helpers/http.ts'
import { startServer, type TestServer } from '../helpers/server.ts'
import { type EventStream, type OpenStream, openStream } from '../helpers/sse.ts'

interface Schema {
  $ref?: string
  type?: string
  const?: unknown
  properties?: Record<string, Schema>
  required?: string[]
  oneOf?: Schema[]
  discriminator?: { propertyName: string; mapping: Record<string, string> }
  [keyword: string]: unknown
}
type Content = Record<string, { schema?: Schema; itemSchema?: Schema }>
interface Header {
  description: string
  schema: Schema
}
interface Response {
  description: string
  headers: Record<string, Header>
  content?: Content
}
interface Operation {
  operationId: string
  summary: string
  description?: string
  tags: string[]
  security?: object[]
  parameters?: { in: string; name: string; description?: string; required?: boolean; schema: Schema }[]
  requestBody?: { content: Content }
  responses: Record<string, Response>
}
interface Document {
  openapi: string
  security: object[]
  paths: Record<string, Record<string, Operation>>
  components: {
    schemas: Record<string, Schema>
    responses: Record<string, Response>
    headers: Record<string, Header>
    securitySchemes: Record<string, object>
  }
}

const file = (path: string) => readFileSync(new URL(`../../openapi/${path}`, import.meta.url), 'utf8')

/** Sections 1 and 7 of the contract, and what the browser section adds. */
const CONTRACT = `
  POST /sessions createSession
  POST /sessions/stream createSessionStream
  GET /sessions listSessions
  GET /sessions/{session_id} readSession
  DELETE /sessions/{session_id} archiveSession
  POST /sessions/{session_id}/turns startTurn
  POST /sessions/{session_id}/turns/stream startTurnStream
  GET /sessions/{session_id}/turns listTurns
  GET /sessions/{session_id}/turns/{turn} readTurn
  GET /sessions/{session_id}/turns/{turn}/events streamTurnEvents
  POST /sessions/{session_id}/turns/{turn}/approvals/{call_id} answerApproval
  POST /sessions/{session_id}/interrupt interruptTurn
  GET /sessions/{session_id}/events streamSessionEvents
  GET /sessions/{session_id}/messages listMessages
  GET /sessions/{session_id}/export exportSession
  POST /sessions/import importSession
  POST /sessions/{session_id}/fork forkSession
  POST /sessions/{session_id}/interactions injectInteraction
  POST /sessions/{session_id}/interactions/stream injectInteractionStream
  GET /sessions/{session_id}/interactions/{interaction_id}/events streamInteractionEvents
  GET /sessions/{session_id}/peers listPeers
  POST /sessions/{session_id}/comms sendComms
  GET /agents listAgents
  GET /skills listSkills
  GET /capabilities readCapabilities
  GET /usage readUsage
  GET /health health
  GET /ready ready
  POST /stream-tokens createStreamToken
`
const STREAMS = [
  'createSessionStream',
  'startTurnStream',
  'streamTurnEvents',
  'streamSessionEvents',
  'injectInteractionStream',
  'streamInteractionEvents',
]
/** Headers that a client goes by. */
const HEADERS = [
  'location',
  'content-location',
  'preference-applied',
  'retry-after',
  'www-authenticate',
  'x-request-id',
]
const NOT_AVAILABLE = ['createStreamToken']

/** Yields one event of each type that an agent may yield, so that every schema of an event is put to the test. */
const garrulous: SessionAgentBuilder = {
  name: 'garrulous',
  defaultModel: 'none/at-all',
  tools: [{ name: 'nothing', description: 'Does nothing' }],
  buildAgent: () => ({
    async *run({ prompt }, { approve }) {
      yield { type: 'skills_resolved', skills: ['a'], injection_bytes: 1 }
      yield { type: 'skill_resolution_failed', reference: 'b', error: 'not there' }
      yield { type: 'retrying', attempt: 1, max_attempts: 3, error: 'busy', delay_ms: 5 }
      const hook = { hook_id: 'h', point: 'run_started' } as const
      const patch = { patch_type: 'assistant_text', text: 'x' }
      const envelope = { revision: 1, ...hook, patch, published_at: new Date(0).toISOString() }
      yield { type: 'hook_started', ...hook }
      yield { type: 'hook_completed', ...hook, duration_ms: 1 }
      yield { type: 'hook_failed', ...hook, error: 'x' }
      yield { type: 'hook_denied', ...hook, reason_code: 'policy_violation', message: 'x' }
      yield { type: 'hook_rewrite_applied', ...hook, patch }
      yield { type: 'hook_patch_published', ...hook, envelope }
      await approve({ id: 'c', name: 't', args: {}, timeoutMs: prompt === 'ask' ? 60_000 : 1 })
      yield { type: 'compaction_started', input_tokens: 9, estimated_history_tokens: 8, message_count: 2 }
      yield { type: 'compaction_completed', summary_tokens: 1, messages_before: 2, messages_after: 1 }
      yield { type: 'compaction_failed', error: 'no' }
      yield { type: 'budget_warning', budget_type: 'tokens', used: 8, limit: 10, percent: 80 }
      yield { type: 'reasoning_delta', delta: 'hm' }
      yield { type: 'tool_call_requested', id: '1', name: 'nothing', args: { any: ['thing', null] } }
      yield { type: 'tool_execution_started', id: '1', name: 'nothing' }
      yield { type: 'tool_execution_timed_out', id: '1', name: 'nothing', timeout_ms: 5 }
      yield { type: 'tool_execution_completed', id: '1', name: 'nothing', result: '', is_error: true, duration_ms: 5 }
      yield { type: 'tool_result_received', id: '1', name: 'nothing', is_error: true }
      yield { type: 'text_delta', delta: 'said' }
      return {
        usage: { input_tokens: 1, output_tokens: 2, cache_creation_tokens: 3, cache_read_tokens: 4 },
        structured_output: { any: 'thing' },
        schema_warnings: [{ provider: 'none', path: '/a', message: 'ignored' }],
      }
    },
  }),
}

/** A folder with one skill. */
const skills = mkdtempSync(join(tmpdir(), 'suricate-skills-'))
mkdirSync(join(skills, 'greet'))
writeFileSync(join(skills, 'greet', 'SKILL.md'), '---\ndescription: How to greet\n---\nSay hello.')

const gate = gatedAgent()
let server: TestServer
let document: Document
/** The same with the components that are no schemas in the places that refer to them. */
let whole: Document
let operations: { method: string; path: string; operation: Operation }[]

beforeAll(async () => {
  server = await startServer(
    { MAX_SESSIONS: 16, SKILLS_DIR: skills, RETAIN_EVENTS: 40, STREAM_HEARTBEAT_MS: 30, DRAIN_MS: 5_000 },
    { agents: [gate.agent, garrulous] },
  )
  document = (await server.app.openapi()) as unknown as Document
  whole = inlined(document, document) as Document
  operations = Object.entries(whole.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ method: method.toUpperCase(), path, operation })),
  )
})

afterAll(async () => {
  gate.open()
  rmSync(skills, { recursive: true })
  await server.close()
})

function inlined(value: unknown, { components }: Document): unknown {
  if (Array.isArray(value)) return value.map((item) => inlined(item, { components } as Document))
  if (typeof value !== 'object' || value === null) return value
  const [, kind, name = ''] = /^#\/components\/(responses|headers)\/(.+)$/.exec(String((value as Schema).$ref)) ?? []
  const target = kind === undefined ? value : components[kind as 'responses' | 'headers'][name]
  return Object.fromEntries(
    Object.entries(target as object).map(([key, item]) => [key, inlined(item, { components } as Document)]),
  )
}

const operationOf = (id: string): Operation => {
  const found = operations.find(({ operation }) => operation.operationId === id)
  if (found === undefined) throw new Error(`The document has no operation ${id}`)
  return found.operation
}

describe('the document', () => {
  test('has exactly the operations of the contract, by method, path and id', () => {
    const expected = CONTRACT.trim()
      .split('\n')
      .map((line) => line.trim())
    const found = operations.map(({ method, path, operation }) => `${method} ${path} ${operation.operationId}`)
    expect(found.toSorted()).toEqual(expected.toSorted())
  })

  test('of version 3.1 and of version 3.2 is the one that is checked in', async () => {
    expect(document.openapi).toMatch(/^3\.1\.\d$/)
    const [served, next] = [
      await send(`${server.url}/openapi.json`, 'GET'),
      await send(`${server.url}/openapi-3.2.json`, 'GET'),
    ]
    expect(served.headers['content-type']).toMatch(/^application\/json/)
    expect(served.body).toEqual(JSON.parse(file('openapi.json')))
    expect(next.body).toEqual(JSON.parse(file('openapi-3.2.json')))
    expect(`${JSON.stringify(served.body, null, 2)}\n`).toBe(file('openapi.json'))
    expect(`${JSON.stringify(next.body, null, 2)}\n`).toBe(file('openapi-3.2.json'))
  })

  test('is the same in YAML', async () => {
    const { text, headers } = await send(`${server.url}/openapi.yaml`, 'GET')
    expect(headers['content-type']).toMatch(/^application\/yaml/)
    expect(parseYaml(text)).toEqual(document)
  })

  test('of version 3.2 says the same, and beside each stream what an item of it is', () => {
    const next = JSON.parse(file('openapi-3.2.json')) as Document
    expect(next.openapi).toBe('3.2.0')
    let items = 0
    for (const methods of Object.values(next.paths)) {
      for (const { responses } of Object.values(methods)) {
        const media = responses[200]?.content?.['text/event-stream']
        if (media === undefined) continue
        items++
        expect(media.itemSchema?.properties?.data).toMatchObject({
          contentMediaType: 'application/json',
          contentSchema: media.schema,
        })
        delete media.itemSchema
      }
    }
    expect(items).toBe(STREAMS.length)
    expect({ ...next, openapi: document.openapi }).toEqual(document)
  })

  test('refers only to what it has, and has nothing that nobody refers to', () => {
    const text = JSON.stringify(document)
    const referred = [...text.matchAll(/"#\/components\/((?:schemas|responses|headers)\/[^"]+)"/g)].map(
      ([, name]) => name,
    )
    expect([...text.matchAll(/"\$ref":"(?!#\/components\/(?:schemas|responses|headers)\/)/g)]).toEqual([])
    const { schemas, responses, headers } = document.components
    const there = Object.entries({ schemas, responses, headers }).flatMap(([kind, members]) =>
      Object.keys(members).map((name) => `${kind}/${name}`),
    )
    expect([...new Set(referred)].toSorted()).toEqual(there.toSorted())
  })

  test('has a place for each problem response, header and body, and says nothing of them twice', () => {
    for (const path of Object.values(document.paths)) {
      for (const { operationId: id, responses } of Object.values(path)) {
        for (const [status, response] of Object.entries(responses)) {
          if (Number(status) >= 400) expect(Object.keys(response), id).toEqual(['$ref'])
          for (const header of Object.values(response.headers ?? {})) expect(Object.keys(header), id).toEqual(['$ref'])
          for (const media of Object.values(response.content ?? {})) {
            expect(Object.keys(media.schema ?? {}), id).toEqual(['$ref'])
          }
        }
      }
    }
    const enums = [...JSON.stringify(document).matchAll(/"enum":\[("[^\]]+)\]/g)].map(([, values = '']) => values)
    const long = enums.filter((values) => values.split(',').length > 3)
    expect(new Set(long).size).toBe(long.length)
  })

  test('describes every operation, parameter, header, component and member', () => {
    const silent: string[] = []
    const check = (value: Schema, at: string): void => {
      const isReference = value.$ref !== undefined
      if (!isReference && !/\S/.test(String(value.description ?? ''))) silent.push(at)
      for (const [name, member] of Object.entries(value.properties ?? {})) check(member, `${at}.${name}`)
    }
    for (const [name, schema] of Object.entries(document.components.schemas)) check(schema, name)
    for (const [name, header] of Object.entries(document.components.headers)) check(header as unknown as Schema, name)
    for (const { operation } of operations) {
      check(operation as unknown as Schema, operation.operationId)
      for (const parameter of operation.parameters ?? []) {
        check(parameter as unknown as Schema, `${operation.operationId} ${parameter.name}`)
      }
    }
    expect(silent).toEqual([])
  })

  test('declares how to authenticate, and which operations want no key', () => {
    expect(document.components.securitySchemes).toMatchObject({ bearer: { type: 'http', scheme: 'bearer' } })
    expect(document.security).toContainEqual({ bearer: [] })
    for (const { operation } of operations) {
      const isOpen = ['health', 'ready'].includes(operation.operationId)
      expect(operation.security ?? document.security, operation.operationId).toEqual(isOpen ? [] : document.security)
    }
  })
})

describe('every operation', () => {
  test('has an id of its own, a summary, a tag, one success, and the problems that any request can meet', () => {
    expect(new Set(operations.map(({ operation }) => operation.operationId)).size).toBe(operations.length)
    for (const { method, operation } of operations) {
      const { operationId: id, summary, tags, responses, requestBody } = operation
      expect(id).toMatch(/^[a-z][A-Za-z]+$/)
      expect(summary, id).toMatch(/\S/)
      expect(tags, id).toHaveLength(1)
      expect(Object.keys(responses).filter((status) => /^2/.test(status)).length, id).toBeGreaterThan(0)
      for (const status of ['400', '403', '408', '414', '431', '500']) expect(responses, id).toHaveProperty(status)
      if (requestBody !== undefined) for (const status of ['413', '415']) expect(responses, id).toHaveProperty(status)
      if (method === 'POST') expect(requestBody?.content, id).toHaveProperty('application/json')
    }
  })

  test('declares every parameter of its path', () => {
    for (const { path, operation } of operations) {
      const wanted = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name)
      const declared = (operation.parameters ?? []).filter((parameter) => parameter.in === 'path')
      expect(declared.map(({ name }) => name).toSorted()).toEqual(wanted.toSorted())
      for (const { required } of declared) expect(required).toBe(true)
    }
  })

  test('answers problems as problem documents, and names the codes of each status', () => {
    for (const { operation } of operations) {
      for (const [status, { description, content }] of Object.entries(operation.responses)) {
        if (Number(status) < 400) continue
        expect(content).toEqual({ 'application/problem+json': { schema: { $ref: '#/components/schemas/Problem' } } })
        for (const code of description.split(', ')) {
          expect({
            id: operation.operationId,
            code,
            status: problemStatus[code as keyof typeof problemStatus],
          }).toEqual({ id: operation.operationId, code, status: Number(status) })
        }
      }
    }
  })
})

describe('a stream', () => {
  test('is the only thing that its operation lists as 200, and its schema is that of one event', () => {
    for (const { operation } of operations) {
      const content = operation.responses[200]?.content ?? {}
      const streams = STREAMS.includes(operation.operationId)
      if (streams)
        expect(content).toEqual({ 'text/event-stream': { schema: { $ref: '#/components/schemas/AgentEvent' } } })
      else expect(Object.keys(content), operation.operationId).not.toContain('text/event-stream')
    }
  })

  test('has a cursor, in a header and in the query, where it can be resumed', () => {
    for (const id of ['streamTurnEvents', 'streamSessionEvents', 'streamInteractionEvents']) {
      const names = operationOf(id).parameters?.map((parameter) => `${parameter.in} ${parameter.name.toLowerCase()}`)
      expect(names, id).toEqual(expect.arrayContaining(['header last-event-id', 'query after', 'query heartbeat']))
    }
    for (const id of ['createSessionStream', 'startTurnStream']) {
      const names = operationOf(id).parameters?.map((parameter) => `${parameter.in} ${parameter.name.toLowerCase()}`)
      const expected = ['header last-event-id', 'header idempotency-key', 'query on_disconnect', 'query heartbeat']
      expect(names, id).toEqual(expect.arrayContaining(expected))
    }
    for (const id of ['createSession', 'startTurn']) {
      const names = operationOf(id).parameters?.map((parameter) => `${parameter.in} ${parameter.name.toLowerCase()}`)
      expect(names, id).toEqual(expect.arrayContaining(['header idempotency-key', 'header prefer']))
    }
  })

  test('says that a reader who has seen the end is answered 204', () => {
    for (const id of STREAMS) {
      const { responses } = operationOf(id)
      expect(Object.keys(responses).filter((status) => /^2/.test(status))).toEqual(['200', '204'])
    }
  })

  test('consists of events that are told apart by a constant type, each a component with a name', () => {
    const { oneOf = [], discriminator } = document.components.schemas.AgentEvent as Schema
    expect(discriminator?.propertyName).toBe('type')
    const mapping = discriminator?.mapping ?? {}
    expect(Object.values(mapping).toSorted()).toEqual(oneOf.map(({ $ref }) => String($ref)).toSorted())
    for (const [type, ref] of Object.entries(mapping)) {
      const name = ref.replace('#/components/schemas/', '')
      expect(name).toBe(type.replace(/(?:^|_)([a-z])/g, (_, letter: string) => letter.toUpperCase()))
      const schema = document.components.schemas[name]
      expect(schema?.properties?.type, name).toMatchObject({ const: type, type: 'string' })
      expect(schema?.required, name).toContain('type')
    }
  })
})

describe('what the server really says', () => {
  /** Holds bodies against the document, as it stands or, stricter, so that what it does not name is a fault. */
  class Judge {
    readonly #ajv = new Ajv2020({ strict: false, allErrors: true })
    readonly #checks = new Map<string, ValidateFunction>()

    constructor(schemas: Document) {
      formats.default(this.#ajv)
      this.#ajv.addSchema(closed(schemas) as object, 'document')
    }

    /** What is wrong; nothing, if nothing is. */
    faults(pointer: string, value: unknown): string[] {
      let check = this.#checks.get(pointer)
      if (check === undefined) {
        check = this.#ajv.compile({ $ref: `document#${pointer}` })
        this.#checks.set(pointer, check)
      }
      if (check(value)) return []
      return (check.errors ?? []).map(({ instancePath, message, params }) => {
        return `${pointer}${instancePath} ${message} ${JSON.stringify(params)} in ${JSON.stringify(value).slice(0, 300)}`
      })
    }
  }

  /** Nothing beside what a schema names: for our own answers, where a member that is not described was forgotten. */
  function closed(value: unknown): unknown {
    if (Array.isArray(value)) return value.map(closed)
    if (typeof value !== 'object' || value === null) return value
    const copy = Object.fromEntries(Object.entries(value).map(([key, item]) => [key, closed(item)])) as Schema
    const isObject = copy.type === 'object' && typeof copy.properties === 'object' && !Array.isArray(copy.properties)
    if (isObject && copy.additionalProperties === undefined) copy.additionalProperties = false
    return copy
  }

  const escaped = (part: string) =>
    part.replaceAll('~', '~0').replaceAll('/', '~1').replaceAll('{', '%7B').replaceAll('}', '%7D')

  let judge: Judge
  const faults: string[] = []
  /** `operationId status` of everything that was answered. */
  const answered = new Set<string>()
  const seenTypes = new Set<string>()
  const problemCodes = new Set<string>()

  function pointerTo(id: string, ...rest: string[]): string {
    const found = operations.find(({ operation }) => operation.operationId === id)
    return ['', 'paths', found?.path ?? '', found?.method.toLowerCase() ?? '', ...rest].map(escaped).join('/')
  }

  /** The headers that are declared are there, and those that are there are declared. */
  function judgeHeaders(id: string, status: number, headers: Record<string, unknown>): void {
    const declared = Object.keys(operationOf(id).responses[status]?.headers ?? {}).map((name) => name.toLowerCase())
    for (const name of HEADERS) {
      // These depend on more than the status: on the preference that was sent, and on which problem it is.
      const isFree = name === 'preference-applied' || (status >= 400 && name !== 'x-request-id')
      if (name in headers && !declared.includes(name)) faults.push(`${id} ${status} does not declare ${name}`)
      if (!(name in headers) && declared.includes(name) && !isFree) faults.push(`${id} ${status} has no ${name}`)
    }
  }

  function judgeAnswer(id: string, status: number, type: string | undefined, body: unknown): void {
    answered.add(`${id} ${status}`)
    const declared = operationOf(id).responses[status]
    if (declared === undefined) {
      faults.push(`${id} does not declare ${status}`)
      return
    }
    // Never with a body; generators need the type of the stream that it ends.
    if (status === 204) return
    const media = Object.keys(declared.content ?? {})
    const essence = type?.split(';')[0]
    if (media.length === 0 ? type !== undefined : !media.includes(String(essence))) {
      faults.push(`${id} ${status} is ${type}, declared ${media.join()}`)
    }
    if (media.length === 0 || essence === 'text/event-stream') return
    faults.push(...judge.faults(pointerTo(id, 'responses', String(status), 'content', String(essence), 'schema'), body))
    if (status >= 400) problemCodes.add((body as { code: string }).code)
  }

  interface Ask {
    json?: unknown
    headers?: Record<string, string>
    base?: string
  }

  /** One request, held against the document on its way out and on its way back. */
  async function call<T = Record<string, never>>(id: string, target: string, { json, headers = {}, base }: Ask = {}) {
    const found = operations.find(({ operation }) => operation.operationId === id)
    const pattern = found?.path.replace(/\{\w+\}/g, '[^/?]+').replaceAll('/', '\\/')
    expect(target, id).toMatch(new RegExp(`^${pattern}(\\?.*)?$`))
    const answer = await send<T>((base ?? server.url) + target, found?.method ?? '', {
      headers,
      ...(json === undefined ? {} : { json }),
    })
    if (json !== undefined && answer.status < 400) judgeRequest(id, json)
    judgeAnswer(id, answer.status, answer.headers['content-type'], answer.body)
    judgeHeaders(id, answer.status, answer.headers)
    return answer
  }

  function judgeRequest(id: string, json: unknown): void {
    faults.push(...judge.faults(pointerTo(id, 'requestBody', 'content', 'application/json', 'schema'), json))
  }

  async function stream(id: string, target: string, options: OpenStream = {}): Promise<EventStream> {
    const opened = await openStream(server.url + target, options)
    if (options.json !== undefined) judgeRequest(id, options.json)
    judgeAnswer(id, opened.status, opened.headers['content-type'], undefined)
    judgeHeaders(id, opened.status, opened.headers)
    return opened
  }

  function judgeEvents(opened: EventStream): void {
    for (const { json, event } of opened.frames) {
      seenTypes.add(event)
      const { mapping = {} } = (document.components.schemas.AgentEvent as Schema).discriminator ?? {}
      faults.push(...judge.faults('/components/schemas/AgentEvent', json))
      faults.push(...judge.faults(mapping[event]?.slice(1) ?? '', json))
    }
  }

  beforeAll(async () => {
    judge = new Judge(whole)
    type Id = { session_id: string }

    // What this server is.
    for (const [id, path] of [
      ['health', '/health'],
      ['ready', '/ready'],
      ['listAgents', '/agents'],
      ['readCapabilities', '/capabilities'],
      ['listSkills', '/skills'],
    ] as const) {
      await call(id, path)
    }

    // Sessions and their turns, in every way that one can end.
    const all = await call<Id>('createSession', '/sessions', {
      json: {
        agent: 'garrulous',
        model: 'none/other',
        prompt: 'x',
        labels: { a: 'b' },
        system_prompt: 'be brief',
        max_tokens: 9,
        provider_params: { any: 1 },
      },
    })
    const many = `/sessions/${all.body.session_id}`
    const deferred = await call<Id>('createSession', '/sessions', {
      json: { initial_turn: 'deferred', agent: 'scripted' },
    })
    const one = `/sessions/${deferred.body.session_id}`
    await call('createSession', '/sessions', { json: { prompt: 'later' }, headers: { prefer: 'respond-async' } })
    await call('startTurn', `${one}/turns`, { json: { prompt: 'think a b\ntool add {"a":1,"b":2}\nsay c' } })
    await call('startTurn', `${one}/turns`, { json: { prompt: 'fail on purpose' } })
    await call('startTurn', `${one}/turns`, { json: { prompt: 'throw' } })
    await call('createSession', '/sessions', { json: { prompt: 'fail now', agent: 'scripted' } })
    const held = await call<Id>('createSession', '/sessions', { json: { initial_turn: 'deferred', agent: 'gated' } })
    const gated = `/sessions/${held.body.session_id}`
    await call('startTurn', `${gated}/turns`, { json: { prompt: 'hold' }, headers: { prefer: 'respond-async' } })
    const run = await gate.run('hold')
    await run.say('so far')
    await call('startTurn', `${gated}/turns`, {
      json: { prompt: 'next', on_busy: 'enqueue' },
      headers: { prefer: 'respond-async' },
    })
    await call('startTurn', `${gated}/turns`, { json: { prompt: 'refused' } })
    await call('startTurnStream', `${gated}/turns/stream`, { json: { prompt: 'refused' } })
    for (const turn of [1, 2]) await call('readTurn', `${gated}/turns/${turn}`)
    await call('listTurns', `${gated}/turns`)
    await call('readSession', gated)
    await call('forkSession', `${gated}/fork`, { json: { turn: 1 } })
    await call('interruptTurn', `${gated}/interrupt`, { json: { turn: 1 } })
    ;(await gate.run('next')).finish()
    await call('interruptTurn', `${one}/interrupt`)
    for (const session of [many, one, gated]) {
      await call('readSession', session)
      await call('listTurns', `${session}/turns?limit=2&offset=1`)
      await call('readTurn', `${session}/turns/1`)
      await call('listMessages', `${session}/messages`)
      await call('exportSession', `${session}/export`)
    }
    await call('listSessions', '/sessions?limit=2&offset=1&label=a%3Db&active=false')
    await call('listSessions', '/sessions')

    // Streams.
    const posted = await stream('createSessionStream', '/sessions/stream', {
      json: { agent: 'garrulous', prompt: 'x' },
    })
    const quiet = await stream('streamSessionEvents', `${gated}/events?heartbeat=event`)
    const beats = quiet.upTo('heartbeat')
    const started = await stream('startTurnStream', `${one}/turns/stream?heartbeat=event`, {
      json: { prompt: 'think a b\ntool sleep {"ms":1}\nsay c\ndeltas 60' },
    })
    const failed = await stream('startTurnStream', `${many}/turns/stream`, { json: { prompt: 'x' } })
    // Over before the next one: it would be refused as busy.
    await failed.all()
    const asking = await stream('startTurnStream', `${many}/turns/stream`, { json: { prompt: 'ask' } })
    const { turn } = (await asking.upTo('tool_approval_requested')).json
    await call('answerApproval', `${many}/turns/${turn}/approvals/c`, { json: { approved: false, reason: 'no' } })
    await call('answerApproval', `${many}/turns/${turn}/approvals/c`, { json: { approved: true } })
    for (const opened of [posted, started, failed, asking]) await opened.all()
    await beats
    const failing = await stream('startTurnStream', `${one}/turns/stream`, { json: { prompt: 'fail on purpose' } })
    const truncated = await stream('streamTurnEvents', `${one}/turns/1/events`)
    for (const opened of [failing, truncated]) await opened.all()
    const hanging = await stream('startTurnStream', `${one}/turns/stream`, { json: { prompt: 'say a\nhang' } })
    await hanging.upTo('text_delta')
    await call('interruptTurn', `${one}/interrupt`, { json: {} })
    await hanging.all()
    const last = hanging.frames.at(-1)?.id ?? ''
    await stream('streamTurnEvents', `${one}/turns/${hanging.frames[0]?.json.turn}/events?after=${last}`)
    await call('archiveSession', `${gated}?mode=drain`)
    await quiet.all()
    await stream('streamSessionEvents', `${gated}/events?after=${quiet.frames.findLast(({ id }) => id)?.id ?? 0}`)
    for (const opened of [posted, quiet, started, failed, failing, truncated, hanging]) judgeEvents(opened)

    // Inboxes, peers and hosts.
    type Queued = { interaction_id: string }
    const named = (comms_name: string, more: object = {}) => ({
      json: { agent: 'scripted', comms_name, peer_meta: { description: 'd', labels: { a: 'b' } }, ...more },
    })
    const asker = await call<Id>('createSession', '/sessions', named('asker', { initial_turn: 'deferred' }))
    const hosting = await call<Id>(
      'createSession',
      '/sessions',
      named('host', { prompt: 'say ready', host_mode: true }),
    )
    const host = `/sessions/${hosting.body.session_id}`
    const watched = await stream('streamTurnEvents', `${host}/turns/1/events`)
    const event = await stream('injectInteractionStream', `${host}/interactions/stream`, {
      json: { body: { any: ['thing'] }, source: 's' },
    })
    await event.all()
    const queued = await call<Queued>('injectInteraction', `${host}/interactions`, { json: { body: 'x' } })
    const its = `${host}/interactions/${queued.body.interaction_id}/events`
    const again = await stream('streamInteractionEvents', its)
    await again.all()
    await stream('streamInteractionEvents', `${its}?after=${again.frames.at(-1)?.id}`)
    await call('streamInteractionEvents', `${host}/interactions/${NOBODY}/events`)
    const peer = `/sessions/${asker.body.session_id}`
    const comms = (json: object) => call('sendComms', `${peer}/comms`, { json })
    await call('listPeers', `${peer}/peers`)
    await comms({ kind: 'input', body: 'note', source: 'stdin', stream: 'none', allow_self_session: true })
    await comms({ kind: 'peer_request', to: 'host', intent: 'sum', params: [1, 2], stream: 'reserve_interaction' })
    await comms({ kind: 'peer_response', to: 'host', in_reply_to: NOBODY, status: 'failed', result: null })
    await comms({ kind: 'peer_message', to: 'nobody', body: 'x' })
    const broken = await stream('injectInteractionStream', `${host}/interactions/stream`, {
      json: { body: 'x\nfail on purpose' },
    })
    await broken.all()
    await comms({ kind: 'peer_message', to: 'host', body: 'Dismiss' })
    await watched.all()
    for (const opened of [watched, event, again, broken]) judgeEvents(opened)

    // Those that a request started, seen to their end.
    const attach = async (id: string, path: string, json: object, meanwhile?: () => Promise<unknown>) => {
      const headers = { 'idempotency-key': `attach-${id}` }
      const opened = await stream(id, path, { json, headers })
      await meanwhile?.()
      const frames = await opened.all()
      const seen = { ...headers, 'last-event-id': String(frames.at(-1)?.id) }
      expect((await stream(id, path, { json, headers: seen })).status).toBe(204)
    }
    await attach('createSessionStream', '/sessions/stream', { agent: 'echo', prompt: 'x' })
    await attach('startTurnStream', `${one}/turns/stream`, { prompt: 'say x' })
    await attach('injectInteractionStream', `${one}/interactions/stream`, { body: 'x' }, () =>
      call('startTurn', `${one}/turns`, { json: { prompt: 'say x' } }),
    )

    const brief = (await call<Id>('createSession', '/sessions', { json: { agent: 'echo', prompt: 'x' } })).body
      .session_id
    const told = await stream('streamTurnEvents', `/sessions/${brief}/turns/1/events`)
    await told.all()
    await call('archiveSession', `/sessions/${brief}`)
    await stream('streamSessionEvents', `/sessions/${brief}/events?after=${told.frames.at(-1)?.id}`)

    // Out and in again.
    const exported = (await call<object>('exportSession', `${one}/export`)).body
    await call('importSession', '/sessions/import', { json: exported })
    await call('importSession', '/sessions/import', { json: { ...exported, id: NOBODY } })
    await call('forkSession', `${one}/fork`, { json: {} })
    await call('exportSession', `${gated}/export`)

    // What it all cost.
    for (const by of ['agent', 'model', 'label.a']) await call('readUsage', `/usage?group_by=${by}`)
    await call('readUsage', '/usage?from=2026-01-01T00:00:00Z&to=2025-01-01T00:00:00Z')

    // What goes wrong.
    const key = { 'idempotency-key': 'k' }
    await call('startTurn', `${one}/turns`, { json: { prompt: 'say a' }, headers: key })
    await call('startTurn', `${one}/turns`, { json: { prompt: 'say b' }, headers: key })
    await call('createSession', '/sessions', { json: { prompt: '' } })
    await call('createSession', '/sessions', { json: { prompt: 'x', skill_references: ['a'] } })
    await call('readSession', `/sessions/${NOBODY.replace('0', '1')}`)
    await call('readTurn', `${one}/turns/99`)
    await call('listSessions', '/sessions?limit=x')
    await call('health', '/health', { headers: { host: 'evil.example' } })
    await call('createStreamToken', '/stream-tokens', { json: { body: 'x' } })
    for (let i = 0; i < 16; i++) await call('createSession', '/sessions', { json: { initial_turn: 'deferred' } })

    // A server that lets nobody in, and one that closes.
    const guarded = await startServer({ API_KEYS: '[{"key":"k"}]' })
    await call('listSessions', '/sessions', { base: guarded.url })
    await guarded.close()
    const closing = await startServer({ DRAIN_MS: 5_000 })
    const running = await openStream(`${closing.url}/sessions/stream`, { json: { agent: 'scripted', prompt: 'hang' } })
    const { json: begun } = await running.upTo('run_started')
    const closed = closing.close()
    await call('ready', '/ready', { base: closing.url })
    await call('createSession', '/sessions', { base: closing.url, json: { prompt: 'x' } })
    await client(() => closing.url).post(`/sessions/${begun.session_id}/interrupt`, {})
    await closed
  })

  test('is what the document says, in every answer and every event of a walk through the whole of it', () => {
    expect(faults).toEqual([])
  })

  test('was all of it: every operation succeeded, in every way that the document has, or is not available', () => {
    const successes = operations.flatMap(({ operation: { operationId: id, responses } }) =>
      Object.keys(responses)
        .filter((status) => Number(status) < 400)
        .map((status) => `${id} ${NOT_AVAILABLE.includes(id) ? '501' : status}`),
    )
    expect(successes.filter((success) => !answered.has(success))).toEqual([])
  })

  test('had every event that there is', () => {
    const { mapping = {} } = (document.components.schemas.AgentEvent as Schema).discriminator ?? {}
    const types = Object.keys(mapping)
    expect([...seenTypes].toSorted()).toEqual(types.toSorted())
  })

  test('had most of the problems that there are', () => {
    expect(problemCodes.size).toBeGreaterThanOrEqual(14)
  })

  test('would not pass if it were something else', () => {
    const turn = { type: 'text_delta', seq: 1, turn: 1, delta: 'x' }
    const event = (value: object) => judge.faults('/components/schemas/AgentEvent', value).length
    expect(event(turn)).toBe(0)
    expect(event({ ...turn, type: 'text' })).toBeGreaterThan(0)
    expect(event({ ...turn, delta: 5 })).toBeGreaterThan(0)
    expect(event({ ...turn, seq: 0 })).toBeGreaterThan(0)
    expect(event({ ...turn, other: 1 })).toBeGreaterThan(0)
    expect(judge.faults('/components/schemas/Problem', { type: 'x' }).length).toBeGreaterThan(0)
    expect(judge.faults('/components/schemas/Usage', { input_tokens: 0.5, output_tokens: 0 }).length).toBeGreaterThan(0)
  })
})
