import { beforeAll, describe, expect, test } from 'vitest'
import { useServer } from '../helpers/suite.ts'

const server = useServer()

interface Operation {
  operationId?: string
  summary?: string
  parameters?: { name: string; in: string }[]
  responses: Record<string, { $ref?: string; content?: Record<string, unknown> }>
}
let document: {
  openapi: string
  paths: Record<string, Record<string, Operation>>
  components: { responses: Record<string, Operation['responses'][string]> }
}

beforeAll(async () => {
  document = (await server.api.get<typeof document>('/openapi.json')).body
})

const OPERATIONS = [
  ['post', '/sessions', 'createSession', '201'],
  ['post', '/sessions/stream', 'createSessionStream', '200'],
  ['get', '/sessions', 'listSessions', '200'],
  ['get', '/sessions/{session_id}', 'readSession', '200'],
  ['delete', '/sessions/{session_id}', 'archiveSession', '200'],
  ['post', '/sessions/{session_id}/turns', 'startTurn', '200'],
  ['post', '/sessions/{session_id}/turns/stream', 'startTurnStream', '200'],
  ['get', '/sessions/{session_id}/turns', 'listTurns', '200'],
  ['get', '/sessions/{session_id}/turns/{turn}', 'readTurn', '200'],
  ['get', '/sessions/{session_id}/turns/{turn}/events', 'streamTurnEvents', '200'],
  ['post', '/sessions/{session_id}/interrupt', 'interruptTurn', '200'],
  ['get', '/sessions/{session_id}/events', 'streamSessionEvents', '200'],
  ['get', '/sessions/{session_id}/messages', 'listMessages', '200'],
  ['get', '/sessions/{session_id}/export', 'exportSession', '200'],
  ['post', '/sessions/import', 'importSession', '201'],
  ['post', '/sessions/{session_id}/fork', 'forkSession', '201'],
  ['post', '/sessions/{session_id}/interactions', 'injectInteraction', '202'],
  ['post', '/sessions/{session_id}/interactions/stream', 'injectInteractionStream', '200'],
  ['get', '/sessions/{session_id}/interactions/{interaction_id}/events', 'streamInteractionEvents', '200'],
  ['get', '/sessions/{session_id}/peers', 'listPeers', '200'],
  ['post', '/sessions/{session_id}/comms', 'sendComms', '200'],
  ['get', '/agents', 'listAgents', '200'],
  ['get', '/capabilities', 'readCapabilities', '200'],
  ['get', '/health', 'health', '200'],
  ['get', '/ready', 'ready', '200'],
] as const

const STREAMS = [
  'createSessionStream',
  'startTurnStream',
  'streamTurnEvents',
  'streamSessionEvents',
  'injectInteractionStream',
  'streamInteractionEvents',
]

describe('/openapi.json', () => {
  test('is an OpenAPI 3.1 document', () => {
    expect(document.openapi).toMatch(/^3\.1\./)
  })

  test.each(OPERATIONS)(
    'has %s %s as %s with its success %s, a summary and its problems',
    (method, path, id, success) => {
      const operation = document.paths[path]?.[method]
      expect(operation?.operationId).toBe(id)
      expect(operation?.summary).toMatch(/\S/)
      expect(Object.keys(operation?.responses ?? {})).toContain(success)
      const types = Object.keys(operation?.responses[success]?.content ?? {})
      if (STREAMS.includes(id)) expect(types).toEqual(['text/event-stream'])
      else expect(types).not.toContain('text/event-stream')
      if (path.includes('{session_id}')) {
        const name = operation?.responses['404']?.$ref?.replace('#/components/responses/', '') ?? ''
        expect(Object.keys(document.components.responses[name]?.content ?? {})).toEqual(['application/problem+json'])
      }
    },
  )

  test('declares Last-Event-ID and after where a stream can be resumed', () => {
    for (const path of [
      '/sessions/{session_id}/turns/{turn}/events',
      '/sessions/{session_id}/events',
      '/sessions/{session_id}/interactions/{interaction_id}/events',
    ]) {
      const parameters = document.paths[path]?.get?.parameters?.map(
        ({ name, in: where }) => `${where} ${name.toLowerCase()}`,
      )
      expect(parameters).toEqual(expect.arrayContaining(['header last-event-id', 'query after']))
    }
  })

  test('gives every operation an id of its own', () => {
    const ids = Object.values(document.paths).flatMap((item) =>
      Object.values(item).map((operation) => operation.operationId),
    )
    expect(ids.every((id) => id !== undefined)).toBe(true)
    expect(new Set(ids).size).toBe(ids.length)
  })
})
