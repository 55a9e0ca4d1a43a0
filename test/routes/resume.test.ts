import { describe, expect, test } from 'vitest'
import { createIdle, expectInvalid, type RunResult, readTurn } from '../helpers/contract.ts'
import { gatedAgent } from '../helpers/gate.ts'
import type { Answer } from '../helpers/http.ts'
import { type EventStream, type Frame, textOf, types } from '../helpers/sse.ts'
import { ownServer, type Suite, useServer } from '../helpers/suite.ts'

const gate = gatedAgent()
const server = useServer({}, { gates: [gate] })
const { api } = server
const small = useServer({ RETAIN_EVENTS: 50 })

const blocks = (frames: readonly Frame[]) =>
  frames.filter((frame) => frame.id !== undefined).map((frame) => frame.block)

/** A session with one echoed turn of ten words: 15 events. */
async function fifteen() {
  const { body } = await api.post<RunResult>('/sessions', { agent: 'echo', prompt: 'a b c d e f g h i j' })
  const path = `/sessions/${body.session_id}/turns/1/events`
  const whole = await (await server.stream(path)).all()
  expect(whole.map((frame) => frame.id)).toEqual(Array.from({ length: 15 }, (_, index) => String(index + 1)))
  return { id: body.session_id, path, whole: blocks(whole) }
}

describe('resuming a turn', () => {
  test('by header or by query continues after any event, with exactly the rest', async () => {
    const { path, whole } = await fifteen()
    for (let seen = 0; seen < 15; seen++) {
      const byHeader = await server.stream(path, { headers: { 'last-event-id': String(seen) } })
      expect(blocks(await byHeader.all()), `Last-Event-ID: ${seen}`).toEqual(whole.slice(seen))
      expect(byHeader.end).toBe('clean')
      const byQuery = await server.stream(`${path}?after=${seen}`)
      expect(blocks(await byQuery.all()), `?after=${seen}`).toEqual(whole.slice(seen))
      expect(byQuery.end).toBe('clean')
    }
  })

  test('after its terminal event is 204 with no body, so that an EventSource stops', async () => {
    const { path } = await fifteen()
    for (const answer of [await api.get(path, { 'last-event-id': '15' }), await api.get(`${path}?after=15`)]) {
      expect(answer.status).toBe(204)
      expect(answer.text).toBe('')
    }
  })

  test('after the terminal event is 204 also when later turns have been', async () => {
    const { id, path } = await fifteen()
    await api.post(`/sessions/${id}/turns`, { prompt: 'more' })
    expect((await api.get(path, { 'last-event-id': '15' })).status).toBe(204)
    const second = await (await server.stream(`/sessions/${id}/turns/2/events`)).all()
    expect((await api.get(`/sessions/${id}/turns/2/events?after=${second.at(-1)?.id}`)).status).toBe(204)
  })

  test('in the middle of a running turn goes on with the next event, past or still to come', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const turn = api.post(`/sessions/${id}/turns`, { prompt: 'mid' })
    const run = await gate.run('mid')
    await run.say('one')
    const first = await server.stream(`/sessions/${id}/turns/1/events`)
    const seen = await first.upTo('text_delta')
    first.leave()
    await run.say(' two')
    const second = await server.stream(`/sessions/${id}/turns/1/events`, {
      headers: { 'last-event-id': String(seen.id) },
    })
    expect((await second.next())?.json).toMatchObject({ delta: ' two', seq: Number(seen.id) + 1 })
    const third = await server.stream(`/sessions/${id}/turns/1/events?after=${Number(seen.id) + 1}`)
    await run.say(' three')
    expect((await third.next())?.json).toMatchObject({ delta: ' three' })
    run.finish()
    await turn
    expect(types(await third.all()).at(-1)).toBe('run_completed')
  })

  test('a later cursor in the header wins over the one in the URL, as a reconnecting EventSource needs', async () => {
    const { path, whole } = await fifteen()
    const stream = await server.stream(`${path}?after=0`, { headers: { 'last-event-id': '12' } })
    expect(blocks(await stream.all())).toEqual(whole.slice(12))
  })

  test.each([
    '16',
    '99',
    '1000000000000000',
    '99999999999999999999999',
    '-1',
    '1.5',
    'x',
    '1x',
    '0x1',
    '1e1',
    '%00',
    '+1',
  ])('from the cursor %s is 400', async (cursor) => {
    const { id, path } = await fifteen()
    const query = encodeURIComponent(decodeURIComponent(cursor))
    for (const target of [path, `/sessions/${id}/events`]) {
      expectInvalid(await api.get(`${target}?after=${query}`))
      if (cursor !== '%00') expectInvalid(await api.get(target, { 'last-event-id': cursor }))
    }
  })
})

describe('a cursor that is wrong', () => {
  test.each(['16', 'x'])('%s is reported as what it came in: the header or the query parameter', async (cursor) => {
    const { id, path } = await fifteen()
    const pathsOf = (answer: Answer) => expectInvalid(answer).errors?.map((error) => error.path)
    for (const target of [path, `/sessions/${id}/events`]) {
      expect(pathsOf(await api.get(`${target}?after=${cursor}`))).toEqual(['/after'])
      expect(pathsOf(await api.get(target, { 'last-event-id': cursor }))).toEqual(['/last-event-id'])
    }
  })

  test('is the header of a POST that resumes, too', async () => {
    const id = await createIdle(api, { agent: 'echo' })
    const key = { 'idempotency-key': 'resumes' }
    await api.post(`/sessions/${id}/turns`, { prompt: 'x' }, key)
    const answer = await api.post(`/sessions/${id}/turns/stream`, { prompt: 'x' }, { ...key, 'last-event-id': '99' })
    expect(expectInvalid(answer).errors?.map((error) => error.path)).toEqual(['/last-event-id'])
  })
})

describe('resuming a session stream', () => {
  test('?after=0 replays all that was, then follows', async () => {
    const { id, whole } = await fifteen()
    await api.post(`/sessions/${id}/turns`, { prompt: 'k' })
    const stream = await server.stream(`/sessions/${id}/events?after=0`)
    expect((await stream.next())?.event).toBe('session_loaded')
    await stream.upTo((frame) => frame.event === 'run_completed' && frame.json.turn === 2)
    expect(blocks(stream.frames).slice(0, 15)).toEqual(whole)
    await api.post(`/sessions/${id}/turns`, { prompt: 'l' })
    await stream.upTo((frame) => frame.event === 'run_completed' && frame.json.turn === 3)
    expect(stream.frames.slice(1).map((frame) => frame.id)).toEqual(
      Array.from({ length: 27 }, (_, index) => String(index + 1)),
    )
  })

  test('with a cursor begins with session_loaded and goes on after it, over the ends of turns', async () => {
    const { id, whole } = await fifteen()
    await api.post(`/sessions/${id}/turns`, { prompt: 'k' })
    const stream = await server.stream(`/sessions/${id}/events`, { headers: { 'last-event-id': '13' } })
    expect((await stream.next())?.event).toBe('session_loaded')
    await stream.upTo((frame) => frame.event === 'run_completed' && frame.json.turn === 2)
    expect(blocks(stream.frames).slice(0, 2)).toEqual(whole.slice(13))
    expect(stream.frames.filter((frame) => frame.id !== undefined).map((frame) => Number(frame.id))).toEqual([
      14, 15, 16, 17, 18, 19, 20, 21,
    ])
  })

  test('with the last event as cursor waits for the next one', async () => {
    const { id } = await fifteen()
    const stream = await server.stream(`/sessions/${id}/events?after=15`)
    expect((await stream.next())?.event).toBe('session_loaded')
    await api.post(`/sessions/${id}/turns`, { prompt: 'next' })
    expect((await stream.next())?.json).toMatchObject({ type: 'run_started', seq: 16, turn: 2 })
  })

  test('of a session without events, ?after=0 is good and ?after=1 is 400', async () => {
    const id = await createIdle(api)
    const stream = await server.stream(`/sessions/${id}/events?after=0`)
    expect(stream.status).toBe(200)
    expectInvalid(await api.get(`/sessions/${id}/events?after=1`))
  })
})

/** The same numbers at every run: a failure can be run again. */
function random(seed: number): (below: number) => number {
  let state = seed
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
}

/**
 * Reads up to the last event over as many connections as it takes, each cut after so many bytes as `cut` says. A piece
 * that was too small for a single event is followed by one of twice the size, so that every event comes through.
 */
async function readInPieces(suite: Suite, path: string, isLast: (frame: Frame) => boolean, cut: () => number) {
  const seen: Frame[] = []
  let growth = 1
  for (let connections = 1; ; connections++) {
    const last = seen.at(-1)?.id
    const stream: EventStream = await suite.stream(path, {
      headers: last === undefined ? {} : { 'last-event-id': last },
      cutAfterBytes: cut() * growth,
    })
    if (stream.status !== 200) throw new Error(`${stream.status} after ${last}`)
    const before = seen.length
    for (let frame = await stream.next(); frame !== undefined; frame = await stream.next()) {
      if (frame.id !== undefined) seen.push(frame)
      if (isLast(frame)) {
        stream.leave()
        return { seen, connections }
      }
    }
    if (stream.end === 'clean') throw new Error(`A clean end before the last event, after ${last}`)
    growth = seen.length === before ? growth * 2 : 1
  }
}

describe('a reader that is cut off at random bytes, again and again', () => {
  test.each([1, 2, 3, 4])('misses nothing and sees nothing twice while the turn runs (seed %i)', async (seed) => {
    const pick = random(seed)
    const id = await createIdle(api, { agent: 'scripted' })
    const script = Array.from({ length: 40 }, (_, n) => `say wörd${n} 🦦\ndeltas 4 ${1 + pick(60)}\nwait 2`).join('\n')
    const turn = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: script })
    await api.get(`/sessions/${id}/turns`)
    const path = `/sessions/${id}/turns/1/events`
    while ((await api.get(`/sessions/${id}/turns/1`)).status === 404);
    const isLast = (frame: Frame) => frame.event === 'run_completed'
    const readers = await Promise.all([
      readInPieces(server, path, isLast, () => 300 + pick(2500)),
      readInPieces(server, path, isLast, () => 300 + pick(6000)),
      readInPieces(server, `/sessions/${id}/events`, isLast, () => 300 + pick(4000)),
    ])
    const result = (await turn).body
    const whole = await (await server.stream(path)).all()
    for (const { seen, connections } of readers) {
      expect(connections).toBeGreaterThan(5)
      expect(seen.map((frame) => frame.block)).toEqual(whole.map((frame) => frame.block))
      expect(textOf(seen)).toBe(result.text)
    }
  })

  test('misses nothing of a finished turn either, down to pieces of one event', async () => {
    const pick = random(99)
    const { body } = await api.post<RunResult>('/sessions', { agent: 'scripted', prompt: 'deltas 150 30' })
    const path = `/sessions/${body.session_id}/turns/1/events`
    const whole = blocks(await (await server.stream(path)).all())
    const isLast = (frame: Frame) => frame.event === 'run_completed'
    const { seen, connections } = await readInPieces(server, path, isLast, () => 20 + pick(400))
    expect(connections).toBeGreaterThan(40)
    expect(seen.map((frame) => frame.block)).toEqual(whole)
  })

  test('over several turns of a session stream keeps one unbroken row of numbers', async () => {
    const pick = random(7)
    const id = await createIdle(api, { agent: 'scripted' })
    const reading = readInPieces(
      server,
      `/sessions/${id}/events?after=0`,
      (frame) => frame.event === 'run_completed' && frame.json.turn === 8,
      () => 900 + pick(3000),
    )
    for (let turn = 1; turn <= 8; turn++) {
      await api.post(`/sessions/${id}/turns`, { prompt: `deltas 20 ${turn * 3}\nwait 1\ndeltas 20` })
    }
    const { seen, connections } = await reading
    expect(connections).toBeGreaterThan(5)
    expect(seen.map((frame) => frame.json.seq)).toEqual(seen.map((_, index) => index + 1))
    for (let turn = 1; turn <= 8; turn++) {
      const whole = await (await server.stream(`/sessions/${id}/turns/${turn}/events`)).all()
      expect(seen.filter((frame) => frame.json.turn === turn).map((frame) => frame.block)).toEqual(blocks(whole))
    }
  })

  test('many readers that come at any moment all see the same row', async () => {
    const id = await createIdle(api, { agent: 'gated' })
    const turn = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'crowd' })
    const run = await gate.run('crowd')
    const opened: Promise<EventStream>[] = []
    for (let n = 0; n < 60; n++) {
      const said = run.say(`${n} `)
      opened.push(server.stream(`/sessions/${id}/turns/1/events${n % 2 === 0 ? '' : '?after=0'}`))
      await said
    }
    const streams = await Promise.all(opened)
    run.finish()
    await turn
    const [first, ...others] = await Promise.all(streams.map((stream) => stream.all()))
    expect(textOf(first ?? [])).toBe(Array.from({ length: 60 }, (_, n) => `${n} `).join(''))
    for (const other of others) expect(blocks(other)).toEqual(blocks(first ?? []))
  })
})

describe('events that are no longer kept (RETAIN_EVENTS=50)', () => {
  async function longTurn() {
    const { body } = await small.api.post<RunResult>('/sessions', { agent: 'scripted', prompt: 'deltas 300' })
    // run_started, turn_started, 300 deltas, text_complete, turn_completed, run_completed
    return { id: body.session_id, last: 305 }
  }

  test('are announced by a first frame that says which are missing, then the oldest that is left follows', async () => {
    const { id, last } = await longTurn()
    for (const cursor of ['', '?after=0', '?after=7']) {
      const stream = await small.stream(`/sessions/${id}/turns/1/events${cursor}`)
      const frames = await stream.all()
      expect(stream.end).toBe('clean')
      const [truncated, ...rest] = frames
      expect(truncated).toMatchObject({ id: undefined, event: 'stream_truncated' })
      const firstLeft = Number(rest[0]?.id)
      expect(truncated?.json).toEqual({
        type: 'stream_truncated',
        reason: expect.stringMatching(/\S/),
        missed_from: cursor === '?after=7' ? 8 : 1,
        missed_to: firstLeft - 1,
      })
      expect(rest).toHaveLength(50)
      expect(rest.map((frame) => Number(frame.id))).toEqual(Array.from({ length: 50 }, (_, n) => last - 49 + n))
      expect(rest.at(-1)?.event).toBe('run_completed')
    }
  })

  test('are not announced to a reader whose next event is still kept', async () => {
    const { id, last } = await longTurn()
    for (const after of [last - 50, last - 49, last - 1]) {
      const stream = await small.stream(`/sessions/${id}/turns/1/events?after=${after}`)
      const frames = await stream.all()
      expect(frames[0]?.id).toBe(String(after + 1))
      expect(frames).toHaveLength(last - after)
    }
    const one = await small.stream(`/sessions/${id}/turns/1/events?after=${last - 51}`)
    expect((await one.next())?.json).toMatchObject({
      type: 'stream_truncated',
      missed_from: last - 50,
      missed_to: last - 50,
    })
  })

  test('are announced on a session stream before its first numbered event', async () => {
    const { id } = await longTurn()
    const stream = await small.stream(`/sessions/${id}/events`, { headers: { 'last-event-id': '10' } })
    await stream.upTo('run_completed')
    expect(types(stream.frames).slice(0, 2).sort()).toEqual(['session_loaded', 'stream_truncated'])
    const truncated = stream.frames.find((frame) => frame.event === 'stream_truncated')
    const first = stream.frames.find((frame) => frame.id !== undefined)
    expect(truncated?.json).toMatchObject({ missed_from: 11, missed_to: Number(first?.id) - 1 })
    expect(types(stream.frames).filter((type) => type === 'stream_truncated')).toHaveLength(1)
  })

  test('do not take the turn record with them', async () => {
    const { id } = await longTurn()
    expect(await readTurn(small.api, id, 1)).toMatchObject({
      status: 'completed',
      result: { text: expect.stringMatching(/^.{2400}$/s) },
    })
  })

  test('never leave a finished turn without its terminal event, even when later turns pushed all else out', async () => {
    const { body } = await small.api.post<RunResult>('/sessions', { agent: 'scripted', prompt: 'deltas 10' })
    const id = body.session_id
    await small.api.post(`/sessions/${id}/turns`, { prompt: 'deltas 300' })
    const stream = await small.stream(`/sessions/${id}/turns/1/events`)
    const frames = await stream.all()
    expect(stream.end).toBe('clean')
    expect(frames[0]?.json).toMatchObject({ type: 'stream_truncated', missed_from: 1 })
    expect(frames.at(-1)).toMatchObject({ id: '15', event: 'run_completed', json: { turn: 1, result: body } })
    expect((await small.api.get(`/sessions/${id}/turns/1/events?after=15`)).status).toBe(204)
  })

  test('never keep a terminal event from its readers, however large it is', async () => {
    const own = await ownServer({ RETAIN_BYTES: 4096 })
    const prompt = 'x'.repeat(20_000)
    const stream = await own.stream('/sessions/stream', { json: { agent: 'echo', prompt } })
    const live = await stream.all()
    expect(stream.end).toBe('clean')
    expect(live.at(-1)).toMatchObject({ event: 'run_completed', json: { result: { text: prompt } } })
    const replay = await own.stream(`${stream.headers.location}/events`)
    expect((await replay.all()).at(-1)?.block).toBe(live.at(-1)?.block)
    expect(replay.end).toBe('clean')
  })

  test('a reader that keeps up loses nothing, however long the turn', async () => {
    const id = await createIdle(small.api, { agent: 'scripted' })
    const script = Array.from({ length: 30 }, () => 'deltas 10\nwait 5').join('\n')
    const stream = await small.stream(`/sessions/${id}/turns/stream`, { json: { prompt: script } })
    const frames = await stream.all()
    expect(stream.end).toBe('clean')
    expect(frames.map((frame) => frame.id)).toEqual(Array.from({ length: 305 }, (_, n) => String(n + 1)))
  })
})
