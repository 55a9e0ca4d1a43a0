import { describe, expect, test } from 'vitest'
import type { SessionAgentBuilder } from '../../src/core/agent.ts'
import {
  createIdle,
  expectInvalid,
  expectProblem,
  NOBODY,
  type RunResult,
  readMessages,
  readSession,
  readTurn,
  said,
  type TurnList,
} from '../helpers/contract.ts'
import { gatedAgent } from '../helpers/gate.ts'
import { within } from '../helpers/http.ts'
import { type Frame, types } from '../helpers/sse.ts'
import { ownServer, useServer } from '../helpers/suite.ts'

const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/

interface Queued {
  interaction_id: string
  queued: true
}

/** Asks for a tool, is sent something while it runs, and says what it could take of it before and after the answer. */
const tooling: SessionAgentBuilder = {
  name: 'tooling',
  buildAgent: () => ({
    async *run(_input, { comms, takeInjected }) {
      yield { type: 'tool_call_requested', id: 'c', name: 'n', args: {} }
      yield { type: 'tool_execution_started', id: 'c', name: 'n' }
      await comms?.send({ kind: 'input', body: 'meanwhile', allow_self_session: true })
      const during = takeInjected()
      yield { type: 'tool_execution_completed', id: 'c', name: 'n', result: 'ok', is_error: false, duration_ms: 1 }
      yield { type: 'tool_result_received', id: 'c', name: 'n', is_error: false }
      const after = takeInjected()
      yield { type: 'text_delta', delta: `${during} / ${after}` }
      return undefined
    },
  }),
}

const gate = gatedAgent()
const server = useServer({}, { gates: [gate], agents: [tooling] })
const { api } = server

async function inject(id: string, json: unknown, headers: Record<string, string> = {}): Promise<string> {
  const answer = await api.post<Queued>(`/sessions/${id}/interactions`, json, headers)
  expect(answer.status, answer.text).toBe(202)
  return answer.body.interaction_id
}

const streamOf = (id: string, interaction: string, query = '') =>
  server.stream(`/sessions/${id}/interactions/${interaction}/events${query}`)

const blocksOf = (frames: readonly Frame[]) => frames.map(({ block }) => block)

const isEnd = ({ event }: Frame) => event === 'interaction_complete' || event === 'interaction_failed'

/** The ends of all interactions in a session's log, up to the end of its newest turn. */
async function endsOf(id: string, turn: number): Promise<[unknown, string][]> {
  const stream = await server.stream(`/sessions/${id}/events?after=0`)
  await stream.upTo((frame) => frame.json.turn === turn && /^run_(completed|failed|interrupted)$/.test(frame.event))
  return stream.frames.filter(isEnd).map(({ event, json }) => [json.interaction_id, event])
}

describe('an event from outside', () => {
  test('is answered at once with 202 and its id, whether or not a turn runs [R79]', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const answer = await api.post<Queued>(`/sessions/${id}/interactions`, { body: 'x' })
    expect(answer.status).toBe(202)
    expect(answer.headers['content-type']).toMatch(/^application\/json(; ?charset=utf-8)?$/)
    expect(answer.headers.vary).toMatch(/\baccept\b/i)
    expect(answer.body).toEqual({ interaction_id: expect.stringMatching(UUID), queued: true })
    const turn = api.post(`/sessions/${id}/turns`, { prompt: 'meanwhile' })
    const run = await gate.run('meanwhile')
    const during = await api.post<Queued>(`/sessions/${id}/interactions`, { body: 'x' })
    expect(during.status).toBe(202)
    expect(during.body.interaction_id).not.toBe(answer.body.interaction_id)
    run.finish()
    await turn
  })

  test('runs nothing by itself: the next thing in the session is the turn that somebody asks for [R79]', async () => {
    const id = await createIdle(api)
    await inject(id, { body: 'wake up' })
    expect((await readSession(api, id)).state).toMatchObject({ is_active: false, turn: 0, message_count: 0 })
    expect((await api.get<TurnList>(`/sessions/${id}/turns`)).body.total).toBe(0)
    await api.post(`/sessions/${id}/turns`, { prompt: 'now' })
    const stream = await server.stream(`/sessions/${id}/events?after=0`)
    await stream.upTo('run_completed')
    expect(types(stream.frames)).toEqual([
      'session_loaded',
      'run_started',
      'interaction_started',
      'turn_started',
      'text_delta',
      'text_complete',
      'turn_completed',
      'interaction_complete',
      'run_completed',
    ])
  })

  test('is seen by the next turn with all others as one user message behind the prompt [R80]', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    await inject(id, { body: 'plain\nof two lines', source: 'monitor' })
    await inject(id, { body: { disk: 'full', hosts: ['a', 'b'] } })
    for (const body of [42, false, null, [], '']) await inject(id, { body, source: 'Ö "x"' })
    const turn = api.post(`/sessions/${id}/turns`, { prompt: 'what is new' })
    const run = await gate.run('what is new')
    const text = [
      '[EVENT via monitor] plain\nof two lines',
      '[EVENT via webhook] {\n  "disk": "full",\n  "hosts": [\n    "a",\n    "b"\n  ]\n}',
      '[EVENT via Ö "x"] 42',
      '[EVENT via Ö "x"] false',
      '[EVENT via Ö "x"] null',
      '[EVENT via Ö "x"] []',
      '[EVENT via Ö "x"] ',
    ].join('\n\n')
    expect(run.injected).toBe(text)
    await run.say('a lot')
    run.finish()
    await turn
    const [prompt, answer] = said('what is new', 'a lot')
    expect(await readMessages(api, id)).toEqual([prompt, { role: 'user', content: text }, answer])
  })

  test('is seen by one turn only', async () => {
    const id = await createIdle(api)
    await inject(id, { body: 'once' })
    for (const prompt of ['first', 'second']) await api.post(`/sessions/${id}/turns`, { prompt })
    const [prompt, answer] = said('first', 'first')
    expect(await readMessages(api, id)).toEqual([
      prompt,
      { role: 'user', content: '[EVENT via webhook] once' },
      answer,
      ...said('second', 'second'),
    ])
  })

  test('is taken by a running turn between two model calls, where its agent looks', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const turn = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'looking' })
    const run = await gate.run('looking')
    expect(run.injected).toBeUndefined()
    expect(run.context.takeInjected()).toBeUndefined()
    await run.say('before')
    const one = await inject(id, { body: 'one' })
    await inject(id, { body: 'two', source: 's' })
    const text = '[EVENT via webhook] one\n\n[EVENT via s] two'
    expect(run.context.takeInjected()).toBe(text)
    expect(run.context.takeInjected()).toBeUndefined()
    await run.say('after')
    const late = await inject(id, { body: 'late' })
    run.finish()
    const { body: result } = await turn
    expect(result).toMatchObject({ text: 'beforeafter', turns: 2 })
    const [prompt, before] = said('looking', 'before')
    const [, after] = said('looking', 'after')
    expect(await readMessages(api, id)).toEqual([prompt, before, { role: 'user', content: text }, after])
    expect(types(await (await streamOf(id, one)).all())).toEqual([
      'interaction_started',
      'interaction_started',
      'turn_started',
      'text_delta',
      'text_complete',
      'turn_completed',
      'interaction_complete',
    ])

    // What nobody looked for is for the next turn, and a run that is over takes nothing from it.
    expect(run.context.takeInjected()).toBeUndefined()
    const next = api.post(`/sessions/${id}/turns`, { prompt: 'looking again' })
    const second = await gate.run('looking again')
    expect(second.injected).toBe('[EVENT via webhook] late')
    second.finish()
    await next
    expect((await (await streamOf(id, late)).all()).at(-1)).toMatchObject({
      event: 'interaction_complete',
      json: { turn: 2, interaction_id: late },
    })
  })

  test('never comes between a tool call and its answer', async () => {
    const id = await createIdle(api, { agent: 'tooling', comms_name: 'tooling' })
    const { body } = await api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'go' })
    expect(body.text).toBe('undefined / [EVENT via rpc] meanwhile')
    expect((await readMessages(api, id)).map(({ role, content }) => content ?? role)).toEqual([
      'go',
      'block_assistant',
      'tool_results',
      '[EVENT via rpc] meanwhile',
      'block_assistant',
    ])
  })

  test('is not taken by a turn that was interrupted', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const turn = api.post(`/sessions/${id}/turns`, { prompt: 'cut off' })
    const run = await gate.run('cut off')
    await inject(id, { body: 'kept' })
    // In the moment of the interrupt, and when all is over.
    const taken: unknown[] = []
    run.signal.addEventListener('abort', () => taken.push(run.context.takeInjected()))
    await api.post(`/sessions/${id}/interrupt`)
    await turn
    expect([...taken, run.context.takeInjected()]).toEqual([undefined, undefined])
    const next = api.post(`/sessions/${id}/turns`, { prompt: 'after the cut' })
    const second = await gate.run('after the cut')
    expect(second.injected).toBe('[EVENT via webhook] kept')
    second.finish()
    await next
  })
})

describe('an interaction ends exactly once', () => {
  test('with the result of the turn that took it, before that turn ends', async () => {
    const id = await createIdle(api)
    const ids = [await inject(id, { body: 'a', source: 'first' }), await inject(id, { body: 'b', source: 'second' })]
    const { body: result } = await api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'so be it' })
    expect(await endsOf(id, 1)).toEqual(ids.map((interaction) => [interaction, 'interaction_complete']))
    const frames = await (await streamOf(id, ids[0] as string)).all()
    expect(frames[0]?.json).toMatchObject({
      type: 'interaction_started',
      turn: 1,
      interaction_id: ids[0],
      source: 'first',
    })
    expect(frames.at(-1)?.json).toEqual({
      type: 'interaction_complete',
      seq: expect.any(Number),
      turn: 1,
      interaction_id: ids[0],
      result,
    })
  })

  test('as failed, with the error of the turn that took it, when that fails', async () => {
    const id = await createIdle(api, { agent: 'scripted' })
    const interaction = await inject(id, { body: 'x' })
    const problem = expectProblem(await api.post(`/sessions/${id}/turns`, { prompt: 'fail badly' }), 500, 'AGENT_ERROR')
    expect(await endsOf(id, 1)).toEqual([[interaction, 'interaction_failed']])
    expect((await (await streamOf(id, interaction)).all()).at(-1)?.json).toMatchObject({
      interaction_id: interaction,
      error: problem.detail,
      code: 'AGENT_ERROR',
    })
  })

  test('as cancelled when the turn that took it is interrupted', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const interaction = await inject(id, { body: 'x' })
    const turn = api.post(`/sessions/${id}/turns`, { prompt: 'cancelled with it' })
    await gate.run('cancelled with it')
    const waiting = await inject(id, { body: 'not taken' })
    await api.post(`/sessions/${id}/interrupt`)
    await turn
    expect(await endsOf(id, 1)).toEqual([[interaction, 'interaction_failed']])
    const frames = await (await streamOf(id, interaction)).all()
    expect(frames.at(-1)?.json).toMatchObject({ code: 'CANCELLED', error: expect.stringContaining('interrupted') })
    // What it had not taken is not cancelled with it.
    const next = api.post(`/sessions/${id}/turns`, { prompt: 'goes on' })
    ;(await gate.run('goes on')).finish()
    await next
    expect(await endsOf(id, 2)).toEqual([
      [interaction, 'interaction_failed'],
      [waiting, 'interaction_complete'],
    ])
  })

  test('as failed when its session is archived before any turn takes it, and its readers hear of it', async () => {
    const id = await createIdle(api)
    const interaction = await inject(id, { body: 'too late' })
    const follower = await streamOf(id, interaction)
    await api.delete(`/sessions/${id}`)
    const frames = await follower.all()
    expect(follower.end).toBe('clean')
    expect(frames.map(({ json }) => json)).toEqual([
      {
        type: 'interaction_failed',
        seq: 1,
        turn: 0,
        interaction_id: interaction,
        error: expect.stringContaining('archived'),
        code: 'INBOX_CLOSED',
      },
    ])
    expect(types(await (await streamOf(id, interaction)).all())).toEqual(['interaction_failed'])
  })

  test('when the running turn of an archived session leaves it, and not before', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const turn = api.post(`/sessions/${id}/turns`, { prompt: 'draining' })
    const run = await gate.run('draining')
    const taken = await inject(id, { body: 'taken' })
    run.context.takeInjected()
    const left = await inject(id, { body: 'left' })
    const followers = [await streamOf(id, taken), await streamOf(id, left)]
    await api.delete(`/sessions/${id}`)
    run.finish()
    await turn
    const ends = await Promise.all(followers.map(async (stream) => (await stream.all()).at(-1)?.json))
    expect(ends).toMatchObject([{ type: 'interaction_complete' }, { type: 'interaction_failed', code: 'INBOX_CLOSED' }])
  })
})

describe('the stream of an interaction', () => {
  test('goes from interaction_started to its end, names its address, and closes cleanly', async () => {
    const id = await createIdle(api)
    const json = { body: 'watched', source: 'w' }
    const stream = await server.stream(`/sessions/${id}/interactions/stream`, { json })
    expect(stream.status).toBe(200)
    expect(stream.headers['content-type']).toMatch(/^text\/event-stream/)
    expect(stream.headers.location).toMatch(new RegExp(`^/sessions/${id}/interactions/[0-9a-f-]{36}/events$`))
    expect(stream.headers['content-location']).toBe(stream.headers.location)
    await api.post(`/sessions/${id}/turns`, { prompt: 'two words' })
    const frames = await stream.all()
    expect(stream.end).toBe('clean')
    expect(types(frames)).toEqual([
      'interaction_started',
      'turn_started',
      'text_delta',
      'text_delta',
      'text_complete',
      'turn_completed',
      'interaction_complete',
    ])
    expect(frames[0]?.json).toMatchObject({ turn: 1, source: 'w' })
    const again = await server.stream(String(stream.headers.location))
    expect(blocksOf(await again.all())).toEqual(blocksOf(frames))
    expect(again.end).toBe('clean')
  })

  test('is what a client gets that prefers events to JSON, too', async () => {
    const id = await createIdle(api)
    const headers = { accept: 'text/event-stream' }
    const stream = await server.stream(`/sessions/${id}/interactions`, { json: { body: 'x' }, headers })
    expect(stream.status).toBe(200)
    await api.post(`/sessions/${id}/turns`, { prompt: 'x' })
    expect((await stream.all()).at(-1)?.event).toBe('interaction_complete')
    expect(stream.end).toBe('clean')
  })

  test('can be read by as many as like, while it waits, while it is dealt with and when it is over [R88]', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const interaction = await inject(id, { body: 'x' })
    const early = [await streamOf(id, interaction), await streamOf(id, interaction)]
    const turn = api.post(`/sessions/${id}/turns`, { prompt: 'read by many' })
    const run = await gate.run('read by many')
    await run.say('half')
    const during = await streamOf(id, interaction)
    await during.upTo('text_delta')
    run.finish()
    await turn
    const late = await streamOf(id, interaction)
    const whole = blocksOf(await late.all())
    expect(whole).toHaveLength(6)
    for (const stream of [...early, during]) expect(blocksOf(await stream.all())).toEqual(whole)
  })

  test('goes on after Last-Event-ID or ?after, and is 204 for who has seen its end', async () => {
    const id = await createIdle(api)
    const interaction = await inject(id, { body: 'x' })
    await api.post(`/sessions/${id}/turns`, { prompt: 'a b c' })
    const whole = await (await streamOf(id, interaction)).all()
    const path = `/sessions/${id}/interactions/${interaction}/events`
    for (const [at, { id: cursor = '' }] of whole.slice(0, -1).entries()) {
      const rest = blocksOf(whole.slice(at + 1))
      const resumed = await server.stream(path, { headers: { 'last-event-id': cursor } })
      expect(blocksOf(await resumed.all())).toEqual(rest)
      const asked = await streamOf(id, interaction, `?after=${cursor}`)
      expect(blocksOf(await asked.all())).toEqual(rest)
    }
    const last = Number(whole.at(-1)?.id)
    expect((await api.get(path, { 'last-event-id': String(last) })).status).toBe(204)
    expect((await api.get(`${path}?after=${last + 1}`)).status).toBe(204)
    expectInvalid(await api.get(`${path}?after=${last + 2}`), 'after')
    expectInvalid(await api.get(path, { 'last-event-id': String(last + 2) }), 'last-event-id')
    expectInvalid(await api.get(path, { 'last-event-id': 'x' }), 'last-event-id')
  })

  test('always has its end, and says what is gone, when the session has moved on', async () => {
    const own = await ownServer({ RETAIN_EVENTS: 16 })
    const id = await createIdle(own.api, { agent: 'scripted' })
    const { body } = await own.api.post<Queued>(`/sessions/${id}/interactions`, { body: 'x' })
    const path = `/sessions/${id}/interactions/${body.interaction_id}/events`
    await own.api.post(`/sessions/${id}/turns`, { prompt: 'deltas 40' })
    const half = await own.stream(path)
    expect((await half.all())[0]?.json).toMatchObject({ type: 'stream_truncated', missed_from: 2 })
    expect(half.frames.length).toBeGreaterThan(2)
    await own.api.post(`/sessions/${id}/turns`, { prompt: 'deltas 40' })
    const whole = await own.stream(path)
    expect(types(await whole.all())).toEqual(['stream_truncated', 'interaction_complete'])
    expect(whole.frames.at(-1)?.block).toBe(half.frames.at(-1)?.block)
    expect(whole.end).toBe('clean')
  })

  test('has a HEAD that says what a GET would say', async () => {
    const id = await createIdle(api)
    const interaction = await inject(id, { body: 'x' })
    const head = await api.send('HEAD', `/sessions/${id}/interactions/${interaction}/events`)
    expect({ status: head.status, type: head.headers['content-type'], text: head.text }).toEqual({
      status: 200,
      type: 'text/event-stream',
      text: '',
    })
    expect((await api.send('HEAD', `/sessions/${id}/interactions/${NOBODY}/events`)).status).toBe(404)
  })

  test('of an interaction that the session does not have is INTERACTION_NOT_FOUND [R88]', async () => {
    const id = await createIdle(api)
    const other = await createIdle(api)
    const events = (session: string, interaction: string) =>
      api.get(`/sessions/${session}/interactions/${interaction}/events`)
    // Before and after there is an inbox.
    const problem = expectProblem(await events(id, NOBODY), 404, 'INTERACTION_NOT_FOUND')
    expect(problem).toMatchObject({ session_id: id })
    const interaction = await inject(id, { body: 'x' })
    expectProblem(await events(id, NOBODY), 404, 'INTERACTION_NOT_FOUND')
    expectProblem(await events(other, interaction), 404, 'INTERACTION_NOT_FOUND')
    expectProblem(await events(NOBODY, interaction), 404, 'SESSION_NOT_FOUND')
    expectInvalid(await events(id, 'x'), 'interaction_id')
    const upper = await api.send('HEAD', `/sessions/${id}/interactions/${interaction.toUpperCase()}/events`)
    expect(upper.status).toBe(200)
  })
})

describe('the same Idempotency-Key', () => {
  const key = (value: string) => ({ 'idempotency-key': value })

  test('with the same body is the same interaction, which is seen once', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const json = { body: { n: 1, m: 2 }, source: 's' }
    const ids = await Promise.all(Array.from({ length: 10 }, () => inject(id, json, key('k'))))
    expect(new Set(ids).size).toBe(1)
    expect(await inject(id, { source: 's', body: { m: 2, n: 1 } }, key('k'))).toBe(ids[0])
    expect(await inject(id, json, key('another'))).not.toBe(ids[0])
    const turn = api.post(`/sessions/${id}/turns`, { prompt: 'seen once' })
    const run = await gate.run('seen once')
    expect(run.injected?.match(/EVENT via s/g)).toHaveLength(2)
    run.finish()
    await turn
    // Nor is it seen again when it comes once more after its end.
    expect(await inject(id, json, key('k'))).toBe(ids[0])
    const next = api.post(`/sessions/${id}/turns`, { prompt: 'not again' })
    const second = await gate.run('not again')
    expect(second.injected).toBeUndefined()
    second.finish()
    await next
  })

  test('as a stream replays the interaction, or the rest of it after Last-Event-ID', async () => {
    const id = await createIdle(api)
    const json = { body: 'streamed' }
    const path = `/sessions/${id}/interactions/stream`
    const interaction = await inject(id, json, key('k'))
    await api.post(`/sessions/${id}/turns`, { prompt: 'x' })
    const whole = await (await streamOf(id, interaction)).all()
    const attached = await server.stream(path, { json, headers: key('k') })
    expect(attached.headers.location).toBe(`/sessions/${id}/interactions/${interaction}/events`)
    expect(blocksOf(await attached.all())).toEqual(blocksOf(whole))
    const rest = await server.stream(path, {
      json,
      headers: { ...key('k'), 'last-event-id': String(whole[1]?.id) },
    })
    expect(blocksOf(await rest.all())).toEqual(blocksOf(whole.slice(2)))
    const seen = await api.post(path, json, { ...key('k'), 'last-event-id': String(whole.at(-1)?.id) })
    expect(seen.status).toBe(204)
  })

  test('that is not known, with Last-Event-ID, is refused: there is nothing to resume', async () => {
    const id = await createIdle(api)
    const json = { body: 'x' }
    const cursor = { 'last-event-id': '1' }
    expectInvalid(await api.post(`/sessions/${id}/interactions/stream`, json, { ...key('k'), ...cursor }))
    expectInvalid(await api.post(`/sessions/${id}/interactions/stream`, json, cursor))
    expectInvalid(
      await api.post(`/sessions/${id}/interactions`, json, { ...cursor, ...key('k'), accept: 'text/event-stream' }),
    )
    await api.post(`/sessions/${id}/turns`, { prompt: 'nothing came in' })
    expect(await readMessages(api, id)).toEqual(said('nothing came in', 'nothing came in'))
  })

  test('with another body is 422, and nothing comes in', async () => {
    const id = await createIdle(api)
    await inject(id, { body: 'a' }, key('k'))
    for (const path of ['interactions', 'interactions/stream']) {
      const answer = await api.post(`/sessions/${id}/${path}`, { body: 'b' }, key('k'))
      expectProblem(answer, 422, 'IDEMPOTENCY_KEY_REUSED')
    }
    await api.post(`/sessions/${id}/turns`, { prompt: 'x' })
    expect((await readMessages(api, id))[1]).toEqual({ role: 'user', content: '[EVENT via webhook] a' })
  })

  test('of a turn and of another session is another key', async () => {
    const [id, other] = [await createIdle(api), await createIdle(api)]
    const interaction = await inject(id, { body: 'a' }, key('k'))
    expect(await inject(other, { body: 'b' }, key('k'))).not.toBe(interaction)
    const turn = await api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'a turn' }, key('k'))
    expect(turn.body).toMatchObject({ turn: 1, text: 'a turn' })
  })
})

describe('an inbox', () => {
  test('with 1,024 waiting takes no more until a turn has taken them, and each of them ends [R79]', async () => {
    const id = await createIdle(api)
    const other = await createIdle(api)
    const ids = new Set<string>()
    for (let i = 0; i < 32; i++) {
      const some = await Promise.all(Array.from({ length: 32 }, () => inject(id, { body: 'x' })))
      for (const interaction of some) ids.add(interaction)
    }
    expect(ids.size).toBe(1_024)
    for (const path of ['interactions', 'interactions/stream']) {
      const refused = await api.post(
        `/sessions/${id}/${path}`,
        { body: 'one too many' },
        { 'idempotency-key': 'again' },
      )
      const problem = expectProblem(refused, 503, 'INBOX_FULL')
      expect(problem).toMatchObject({ session_id: id, detail: expect.stringContaining('1024') })
      expect(refused.headers['retry-after']).toMatch(/^[1-9]\d*$/)
    }
    await inject(other, { body: 'a session of its own' })
    const { body } = await api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'done' })
    expect(body.text).toBe('done')
    const ends = await endsOf(id, 1)
    expect(ends).toHaveLength(1_024)
    expect(new Set(ends.map(([interaction]) => interaction))).toEqual(ids)
    // The key of what was refused is free: it may be tried again.
    await inject(id, { body: 'one too many' }, { 'idempotency-key': 'again' })
  })

  test('of an archived session is closed, at once and while its last turn runs [R79]', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const turn = api.post(`/sessions/${id}/turns`, { prompt: 'the last' })
    const run = await gate.run('the last')
    await inject(id, { body: 'before' }, { 'idempotency-key': 'k' })
    await api.delete(`/sessions/${id}`)
    const refused = async () => {
      for (const path of ['interactions', 'interactions/stream']) {
        const answer = await api.post(`/sessions/${id}/${path}`, { body: 'after' })
        expect(expectProblem(answer, 410, 'INBOX_CLOSED')).toMatchObject({ session_id: id })
      }
      const repeated = await api.post(`/sessions/${id}/interactions`, { body: 'before' }, { 'idempotency-key': 'k' })
      expectProblem(repeated, 410, 'INBOX_CLOSED')
    }
    await refused()
    run.finish()
    await turn
    expect((await readTurn(api, id, 1)).status).toBe('completed')
    await refused()
  })

  test('of a session that nobody has is not found', async () => {
    for (const path of ['interactions', 'interactions/stream']) {
      expectProblem(await api.post(`/sessions/${NOBODY}/${path}`, { body: 'x' }), 404, 'SESSION_NOT_FOUND')
      expectInvalid(await api.post(`/sessions/nobody/${path}`, { body: 'x' }), 'session_id')
    }
  })

  test('takes nothing while the server drains', async () => {
    const drained = gatedAgent()
    const own = await ownServer({ DRAIN_MS: 20_000 }, { gates: [drained] })
    const id = await createIdle(own.api, { agent: 'gated' })
    const turn = own.api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'holds it up' })
    const run = await drained.run('holds it up')
    // A request that has begun to arrive before the closing, so that its connection is still served.
    const body = '{"body":"x"}'
    const socket = await own.socket()
    socket.write(
      `POST /sessions/${id}/interactions HTTP/1.1\r\nHost: 127.0.0.1\r\n` +
        `Content-Type: application/json\r\nContent-Length: ${body.length}\r\n`,
    )
    expect((await own.api.get('/ready')).status).toBe(200)
    const closing = own.close()
    socket.write(`\r\n${body}`)
    const answer = await socket.response()
    expectProblem(answer, 503, 'SHUTTING_DOWN')
    expect(answer.headers['retry-after']).toMatch(/^\d+$/)
    run.finish()
    expect((await turn).status).toBe(200)
    await within('the server to close', closing)
  })
})

describe('what does not fit is 400', () => {
  test.each<[string, unknown]>([
    ['body', {}],
    ['body', { source: 's' }],
    ['source', { body: 'x', source: '' }],
    ['source', { body: 'x', source: ' ' }],
    ['source', { body: 'x', source: 'a\nb' }],
    ['source', { body: 'x', source: 'a\u2028b' }],
    ['source', { body: 'x', source: 'x'.repeat(129) }],
    ['source', { body: 'x', source: 1 }],
    ['source', { body: 'x', source: null }],
    ['prompt', { body: 'x', prompt: 'y' }],
    ['', 'x'],
    ['', [{ body: 'x' }]],
    ['', null],
  ])('%s: %j', async (path, json) => {
    const id = await createIdle(api)
    for (const route of ['interactions', 'interactions/stream']) {
      expectInvalid(await api.post(`/sessions/${id}/${route}`, json), path)
    }
    await api.post(`/sessions/${id}/turns`, { prompt: 'nothing came in' })
    expect(await readMessages(api, id)).toEqual(said('nothing came in', 'nothing came in'))
  })

  test('in the URL and the headers, too', async () => {
    const id = await createIdle(api)
    const json = { body: 'x' }
    expectInvalid(await api.post(`/sessions/${id}/interactions/stream?heartbeat=x`, json), 'heartbeat')
    expectInvalid(await api.post(`/sessions/${id}/interactions/stream?on_disconnect=interrupt`, json))
    expectInvalid(await api.post(`/sessions/${id}/interactions?wait=1`, json), 'wait')
    expectInvalid(await api.post(`/sessions/${id}/interactions`, json, { 'idempotency-key': '' }), 'idempotency-key')
  })
})
