import { describe, expect, test } from 'vitest'
import { createIdle, expectInvalid, type RunResult } from '../helpers/contract.ts'
import { textOf } from '../helpers/sse.ts'
import { useServer } from '../helpers/suite.ts'

const server = useServer()
const { api } = server

const STREAM = [
  'text/event-stream',
  'Text/Event-Stream',
  'text/event-stream;q=1.0',
  'text/event-stream, application/json;q=0.9',
  'application/json;q=0.5, text/event-stream',
  'application/json;q=0.5, text/event-stream;q=0.6',
  'text/event-stream, */*;q=0.1',
  'application/json;q=0, text/event-stream',
]

const JSON_ONLY = [
  undefined,
  '*/*',
  'application/json',
  'application/*',
  'application/json, text/event-stream;q=0.9',
  'text/event-stream;q=0.5, application/json;q=0.6',
  'text/event-stream;q=0, application/json',
  'text/event-stream;q=0.1, */*;q=0.2',
  'application/json, text/plain, */*',
]

describe('a POST that has a /stream twin', () => {
  test.each(STREAM)('answers with the stream to Accept: %s', async (accept) => {
    const created = await server.stream('/sessions', { json: { prompt: 'a b' }, headers: { accept } })
    expect(created.status).toBe(200)
    expect(created.headers['content-type']).toMatch(/^text\/event-stream/)
    expect(textOf(await created.all())).toBe('a b')
    expect(created.end).toBe('clean')
    const location = String(created.headers.location)
    expect(location).toMatch(/^\/sessions\/[0-9a-f-]{36}\/turns\/1$/)
    const id = location.split('/')[2]
    const started = await server.stream(`/sessions/${id}/turns`, { json: { prompt: 'c d' }, headers: { accept } })
    expect(started.status).toBe(200)
    expect(textOf(await started.all())).toBe('c d')
    expect(started.headers.location).toBe(`/sessions/${id}/turns/2`)
    expect(started.headers['content-location']).toBe(`/sessions/${id}/turns/2`)
  })

  test.each(JSON_ONLY)('answers with JSON to Accept: %s', async (accept) => {
    const headers: Record<string, string> = accept === undefined ? {} : { accept }
    const created = await api.post<RunResult>('/sessions', { prompt: 'a b' }, headers)
    expect(created.status).toBe(201)
    expect(created.headers['content-type']).toMatch(/^application\/json/)
    expect(created.body.text).toBe('a b')
    const started = await api.post<RunResult>(`/sessions/${created.body.session_id}/turns`, { prompt: 'c d' }, headers)
    expect(started.status).toBe(200)
    expect(started.body.text).toBe('c d')
  })

  test('refuses with a problem document, whatever was accepted', async () => {
    expectInvalid(await api.post('/sessions', { prompt: '' }, { accept: 'text/event-stream' }), 'prompt')
    const id = await createIdle(api)
    expectInvalid(await api.post(`/sessions/${id}/turns`, {}, { accept: 'text/event-stream' }), 'prompt')
  })
})

describe('a /stream twin', () => {
  test.each([undefined, '*/*', 'application/json', 'text/event-stream'])(
    'answers with the stream to Accept: %s',
    async (accept) => {
      const headers: Record<string, string> = accept === undefined ? {} : { accept }
      const created = await server.stream('/sessions/stream', { json: { prompt: 'a' }, headers })
      expect(created.status).toBe(200)
      expect(textOf(await created.all())).toBe('a')
      const id = String(created.headers.location).split('/')[2]
      const started = await server.stream(`/sessions/${id}/turns/stream`, { json: { prompt: 'b' }, headers })
      expect(textOf(await started.all())).toBe('b')
    },
  )
})

describe('a GET stream', () => {
  test.each([undefined, '*/*', 'text/event-stream'])('answers with the stream to Accept: %s', async (accept) => {
    const headers: Record<string, string> = accept === undefined ? {} : { accept }
    const { body } = await api.post<RunResult>('/sessions', { prompt: 'a' })
    const stream = await server.stream(`/sessions/${body.session_id}/turns/1/events`, { headers })
    expect(stream.status).toBe(200)
    expect(textOf(await stream.all())).toBe('a')
  })
})
