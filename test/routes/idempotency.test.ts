import { describe, expect, test } from 'vitest'
import {
  createIdle,
  expectInvalid,
  expectProblem,
  type RunResult,
  readSession,
  type SessionList,
  type Turn,
  type TurnList,
} from '../helpers/contract.ts'
import { gatedAgent } from '../helpers/gate.ts'
import { until } from '../helpers/http.ts'
import { textOf, types } from '../helpers/sse.ts'
import { ownServer, useServer } from '../helpers/suite.ts'

const gate = gatedAgent()
const server = useServer({}, { gates: [gate] })
const { api } = server

let keys = 0
function newKey(): { 'idempotency-key': string } {
  keys++
  return { 'idempotency-key': `key-${keys}` }
}

async function turnCount(id: string): Promise<number> {
  return (await api.get<TurnList>(`/sessions/${id}/turns`)).body.total
}

async function sessionCount(): Promise<number> {
  return (await api.get<SessionList>('/sessions?limit=0')).body.total
}

describe('the same Idempotency-Key with the same body', () => {
  test('on createSession makes one session and gives the same result again', async () => {
    const key = newKey()
    const body = { agent: 'echo', prompt: 'once only' }
    const first = await api.post<RunResult>('/sessions', body, key)
    const sessions = await sessionCount()
    const second = await api.post<RunResult>('/sessions', body, key)
    expect(first.status).toBe(201)
    expect(second.status).toBe(201)
    expect(second.body).toEqual(first.body)
    expect(await sessionCount()).toBe(sessions)
    expect(await turnCount(first.body.session_id)).toBe(1)
  })

  test('on startTurn runs one turn and gives the same result again, also after later turns [R97]', async () => {
    const id = await createIdle(api, { agent: 'echo' })
    const key = newKey()
    const first = await api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'x' }, key)
    const other = await api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'x' })
    const again = await api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'x' }, key)
    expect(first.status).toBe(200)
    expect(again.status).toBe(200)
    expect(again.body).toEqual(first.body)
    expect(again.body.turn).toBe(1)
    expect(other.body.turn).toBe(2)
    expect(await turnCount(id)).toBe(2)
  })

  test('while the turn runs waits for its result instead of being refused as busy', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const key = newKey()
    const first = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'i1' }, key)
    const run = await gate.run('i1')
    const second = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'i1' }, key)
    expectProblem(await api.post(`/sessions/${id}/turns`, { prompt: 'i1' }, newKey()), 409, 'SESSION_BUSY')
    await run.say('shared')
    run.finish()
    expect((await first).body).toMatchObject({ turn: 1, text: 'shared' })
    expect((await second).status).toBe(200)
    expect((await second).body).toEqual((await first).body)
    expect(await turnCount(id)).toBe(1)
  })

  test('50 times at once on startTurn runs one turn, and all get its result', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const key = newKey()
    const calls = Array.from({ length: 50 }, () =>
      api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'fifty' }, key),
    )
    const run = await gate.run('fifty')
    await run.say('one for all')
    run.finish()
    const answers = await Promise.all(calls)
    expect(new Set(answers.map((answer) => answer.status))).toEqual(new Set([200]))
    for (const answer of answers) expect(answer.body).toEqual(answers[0]?.body)
    expect(answers[0]?.body).toMatchObject({ session_id: id, turn: 1, text: 'one for all' })
    expect(gate.begun.filter((prompt) => prompt === 'fifty')).toHaveLength(1)
    expect(await turnCount(id)).toBe(1)
  })

  test('50 times at once on createSession makes one session, and all get its result', async () => {
    const before = await sessionCount()
    const key = newKey()
    const calls = Array.from({ length: 50 }, () =>
      api.post<RunResult>('/sessions', { agent: 'gated', prompt: 'new fifty' }, key),
    )
    const run = await gate.run('new fifty')
    await run.say('one')
    run.finish()
    const answers = await Promise.all(calls)
    expect(new Set(answers.map((answer) => answer.status))).toEqual(new Set([201]))
    expect(new Set(answers.map((answer) => answer.body.session_id))).toEqual(new Set([run.sessionId]))
    expect(gate.begun.filter((prompt) => prompt === 'new fifty')).toHaveLength(1)
    expect(await sessionCount()).toBe(before + 1)
  })

  test('as a stream replays the turn from its first event, then ends cleanly', async () => {
    const id = await createIdle(api, { agent: 'echo' })
    const key = newKey()
    const first = await server.stream(`/sessions/${id}/turns/stream`, { json: { prompt: 'a b c' }, headers: key })
    await first.all()
    const again = await server.stream(`/sessions/${id}/turns/stream`, { json: { prompt: 'a b c' }, headers: key })
    await again.all()
    expect(again.status).toBe(200)
    expect(again.end).toBe('clean')
    expect(again.text).toBe(first.text)
    expect(again.headers.location).toBe(`/sessions/${id}/turns/1`)
    expect(again.headers['content-location']).toBe(`/sessions/${id}/turns/1`)
    expect(await turnCount(id)).toBe(1)
  })

  test('as a stream of createSession replays the first turn of the same session', async () => {
    const key = newKey()
    const json = { agent: 'echo', prompt: 'stream once' }
    const first = await server.stream('/sessions/stream', { json, headers: key })
    await first.all()
    const again = await server.stream('/sessions/stream', { json, headers: key })
    await again.all()
    expect(again.text).toBe(first.text)
    expect(again.headers.location).toBe(first.headers.location)
  })

  test('after a dropped socket is a resume: with Last-Event-ID the stream goes on after it', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const key = newKey()
    const path = `/sessions/${id}/turns/stream`
    const first = await server.stream(path, { json: { prompt: 'drop' }, headers: key })
    const run = await gate.run('drop')
    await run.say('one')
    const seen = await first.upTo('text_delta')
    first.leave()
    await run.say(' two')
    const second = await server.stream(path, {
      json: { prompt: 'drop' },
      headers: { ...key, 'last-event-id': String(seen.id) },
    })
    expect((await second.next())?.json).toMatchObject({ type: 'text_delta', delta: ' two', seq: Number(seen.id) + 1 })
    await run.say(' three')
    run.finish()
    const rest = await second.all()
    expect(second.end).toBe('clean')
    expect(textOf(rest)).toBe(' two three')
    expect(types(rest).at(-1)).toBe('run_completed')
    expect(await turnCount(id)).toBe(1)
  })

  test('with a Last-Event-ID that is no number is 400, on whichever route a stream is asked for', async () => {
    const id = await createIdle(api)
    const headers = { ...newKey(), accept: 'text/event-stream' }
    const starts: [string, object][] = [
      ['turns', { prompt: 'p' }],
      ['interactions', { body: 'b' }],
    ]
    for (const [path, json] of starts) {
      await api.post(`/sessions/${id}/${path}`, json, { ...headers, accept: 'application/json' })
      for (const route of [path, `${path}/stream`]) {
        for (const cursor of ['x', '1.5', '1e0', '-1']) {
          const answer = await api.post(`/sessions/${id}/${route}`, json, { ...headers, 'last-event-id': cursor })
          expectInvalid(answer, 'last-event-id')
        }
      }
    }
    expect(await turnCount(id)).toBe(1)
  })

  test('attaches across the twins: JSON to the turn of a stream, a stream to the turn of JSON', async () => {
    const id = await createIdle(api, { agent: 'echo' })
    const one = newKey()
    const stream = await server.stream(`/sessions/${id}/turns/stream`, { json: { prompt: 'p q' }, headers: one })
    const frames = await stream.all()
    const json = await api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'p q' }, one)
    expect(json.status).toBe(200)
    expect(json.body).toEqual(frames.at(-1)?.json.result)

    const two = newKey()
    const result = await api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'r s' }, two)
    const replay = await server.stream(`/sessions/${id}/turns/stream`, { json: { prompt: 'r s' }, headers: two })
    expect((await replay.all()).at(-1)?.json.result).toEqual(result.body)
    const accepted = await server.stream(`/sessions/${id}/turns`, {
      json: { prompt: 'r s' },
      headers: { ...two, accept: 'text/event-stream' },
    })
    await accepted.all()
    expect(accepted.text).toBe(replay.text)
    expect(await turnCount(id)).toBe(2)
  })

  test('with respond-async names the same turn again', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const headers = { ...newKey(), prefer: 'respond-async' }
    const first = await api.post<Turn>(`/sessions/${id}/turns`, { prompt: 'async' }, headers)
    const second = await api.post<Turn>(`/sessions/${id}/turns`, { prompt: 'async' }, headers)
    for (const answer of [first, second]) {
      expect(answer.status).toBe(202)
      expect(answer.headers.location).toBe(`/sessions/${id}/turns/1`)
      expect(answer.body).toMatchObject({ turn: 1, status: 'running' })
    }
    ;(await gate.run('async')).finish()
    expect(await turnCount(id)).toBe(1)
  })

  test('of a turn that failed gives the same failure, and runs nothing again', async () => {
    const key = newKey()
    const body = { agent: 'scripted', prompt: 'fail once and for all' }
    const first = expectProblem(await api.post('/sessions', body, key), 500, 'AGENT_ERROR')
    const second = expectProblem(await api.post('/sessions', body, key), 500, 'AGENT_ERROR')
    expect(second).toMatchObject({ session_id: first.session_id, turn: 1, detail: first.detail })
    expect(await turnCount(String(first.session_id))).toBe(1)
  })

  test('runs when the first try was refused, for nothing had run', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const blocker = api.post(`/sessions/${id}/turns`, { prompt: 'blocker' })
    const run = await gate.run('blocker')
    const key = newKey()
    expectProblem(await api.post(`/sessions/${id}/turns`, { prompt: 'refused' }, key), 409, 'SESSION_BUSY')
    run.finish()
    await blocker
    const retry = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'refused' }, key)
    ;(await gate.run('refused')).finish()
    expect((await retry).body).toMatchObject({ turn: 2, stop_reason: 'end_turn' })
  })
})

describe('the same Idempotency-Key with another body', () => {
  test('is 422 on createSession and makes nothing', async () => {
    const key = newKey()
    const first = await api.post<RunResult>('/sessions', { prompt: 'one' }, key)
    const before = await sessionCount()
    expectProblem(await api.post('/sessions', { prompt: 'two' }, key), 422, 'IDEMPOTENCY_KEY_REUSED')
    expectProblem(await api.post('/sessions/stream', { prompt: 'two' }, key), 422, 'IDEMPOTENCY_KEY_REUSED')
    expectProblem(
      await api.post('/sessions', { prompt: 'one', labels: { a: 'b' } }, key),
      422,
      'IDEMPOTENCY_KEY_REUSED',
    )
    expect(await sessionCount()).toBe(before)
    expect((await api.post<RunResult>('/sessions', { prompt: 'one' }, key)).body).toEqual(first.body)
  })

  test('is 422 on startTurn, running or over, JSON or stream, and runs nothing [R97]', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const key = newKey()
    const first = api.post(`/sessions/${id}/turns`, { prompt: 'b1' }, key)
    const run = await gate.run('b1')
    expectProblem(await api.post(`/sessions/${id}/turns`, { prompt: 'b2' }, key), 422, 'IDEMPOTENCY_KEY_REUSED')
    run.finish()
    await first
    expectProblem(await api.post(`/sessions/${id}/turns`, { prompt: 'b2' }, key), 422, 'IDEMPOTENCY_KEY_REUSED')
    expectProblem(await api.post(`/sessions/${id}/turns/stream`, { prompt: 'b2' }, key), 422, 'IDEMPOTENCY_KEY_REUSED')
    expect(await turnCount(id)).toBe(1)
    expect(gate.begun).not.toContain('b2')
  })

  test('a body that was never valid does not use up a key', async () => {
    const id = await createIdle(api, { agent: 'echo' })
    const key = newKey()
    expectInvalid(await api.post(`/sessions/${id}/turns`, { prompt: ' ' }, key), 'prompt')
    const answer = await api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'now' }, key)
    expect(answer.status).toBe(200)
    expect(answer.body.text).toBe('now')
  })
})

describe('archiving a session', () => {
  test('lets its createSession key make a new session', async () => {
    const key = newKey()
    const first = await api.post<RunResult>('/sessions', { prompt: 'again' }, key)
    await api.delete(`/sessions/${first.body.session_id}`)
    const second = await api.post<RunResult>('/sessions', { prompt: 'again' }, key)
    expect(second.status).toBe(201)
    expect(second.body.session_id).not.toBe(first.body.session_id)
    expect((await readSession(api, second.body.session_id)).state.turn).toBe(1)
  })

  test('makes a keyed turn of it 404, not a replay', async () => {
    const id = await createIdle(api, { agent: 'echo' })
    const key = newKey()
    await api.post(`/sessions/${id}/turns`, { prompt: 'x' }, key)
    await api.delete(`/sessions/${id}`)
    await until('the session is gone', async () => {
      return (await api.post(`/sessions/${id}/turns`, { prompt: 'y' })).status === 404
    })
    expectProblem(await api.post(`/sessions/${id}/turns`, { prompt: 'x' }, key), 404, 'SESSION_NOT_FOUND')
  })
})

describe('the same Idempotency-Key from two callers', () => {
  test('is two keys: neither sees what the other one started', async () => {
    const shared = await ownServer({ API_KEYS: '[{"key":"one","name":"first"},{"key":"two","name":"second"}]' })
    const as = (key: string) => ({ authorization: `Bearer ${key}`, 'idempotency-key': 'same' })
    const create = (key: string, prompt: string) => shared.api.post<RunResult>('/sessions', { prompt }, as(key))
    const first = await create('one', 'mine')
    const other = await create('two', 'mine')
    expect([first.status, other.status]).toEqual([201, 201])
    expect(other.body.session_id).not.toBe(first.body.session_id)
    expect((await create('one', 'mine')).body).toEqual(first.body)
    expect((await create('two', 'mine')).body).toEqual(other.body)
    expectProblem(await create('two', 'changed'), 422, 'IDEMPOTENCY_KEY_REUSED')

    const start = (key: string) =>
      shared.api.post<RunResult>(`/sessions/${first.body.session_id}/turns`, { prompt: 'x' }, as(key))
    expect((await start('one')).body.turn).toBe(2)
    expect((await start('two')).body.turn).toBe(3)
    expect((await start('one')).body.turn).toBe(2)
  })
})
