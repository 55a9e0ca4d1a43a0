import { describe, expect, test } from 'vitest'
import {
  createIdle,
  expectInvalid,
  expectProblem,
  type Message,
  NOBODY,
  type RunResult,
  readMessages,
  readSession,
  readTurn,
  type SessionList,
  said,
  type Turn,
  usage,
} from '../helpers/contract.ts'
import { type Gate, type GatedRun, gatedAgent } from '../helpers/gate.ts'
import { until, within } from '../helpers/http.ts'
import { type EventStream, type Frame, types } from '../helpers/sse.ts'
import { ownServer, type Suite, useServer } from '../helpers/suite.ts'

const gate = gatedAgent()
const deaf = gatedAgent('deaf-gate', { deaf: true })
const server = useServer({ MAX_QUEUED_TURNS: 2 }, { gates: [gate, deaf] })
const { api } = server

let hosts = 0

interface Host {
  id: string
  name: string
  /** The run of its prompt, which the test lets finish. */
  first: GatedRun
  /** A session that may send to it. */
  peer: string
  peerName: string
}

/** A host whose first run is under way. */
async function newHost(on: Suite = server, gated: Gate = gate): Promise<Host> {
  const name = `host-${++hosts}`
  const peerName = `peer-of-${name}`
  const peer = await createIdle(on.api, { comms_name: peerName })
  const answer = await on.api.post<Turn>('/sessions', {
    agent: gated.agent.name,
    comms_name: name,
    host_mode: true,
    prompt: name,
  })
  expect(answer.status, answer.text).toBe(202)
  return { id: answer.body.session_id, name, first: await gated.run(name), peer, peerName }
}

/** The same, and it waits for what comes in. */
async function waitingHost(on: Suite = server, gated: Gate = gate): Promise<Host> {
  const host = await newHost(on, gated)
  host.first.finish()
  await until('the first run is in the transcript', async () => (await readMessages(on.api, host.id)).length > 0)
  return host
}

async function inject(id: string, body: string): Promise<string> {
  const answer = await api.post<{ interaction_id: string }>(`/sessions/${id}/interactions`, { body })
  expect(answer.status, answer.text).toBe(202)
  return answer.body.interaction_id
}

async function send({ peer, name }: Host, command: object): Promise<string> {
  const answer = await api.post<{ envelope_id: string }>(`/sessions/${peer}/comms`, { to: name, ...command })
  expect(answer.status, answer.text).toBe(200)
  return answer.body.envelope_id
}

const tell = (host: Host, body: string) => send(host, { kind: 'peer_message', body })
const ask = (host: Host, intent: string) => send(host, { kind: 'peer_request', intent })
const respond = (host: Host, result: string) => send(host, { kind: 'peer_response', in_reply_to: NOBODY, result })

const event = (body: string) => `[EVENT via webhook] ${body}`
const message = ({ peerName }: Host, body: string) => `[COMMS MESSAGE from ${peerName}]\n${body}`
const response = ({ peerName }: Host, result: string) =>
  `[COMMS RESPONSE from ${peerName}]\nin_reply_to: ${NOBODY}\nstatus: completed\nresult: ${result}`
const request = ({ peerName }: Host, id: string, intent: string) =>
  [
    `[COMMS REQUEST from ${peerName}]`,
    `id: ${id}`,
    `intent: ${intent}`,
    'params: null',
    `To answer, send a peer_response to "${peerName}" with in_reply_to "${id}".`,
  ].join('\n')

const user = (content: string): Message => ({ role: 'user', content })

/** Lets a run say `text` and end. */
async function say(run: GatedRun, text: string): Promise<void> {
  await run.say(text)
  run.finish()
}

const follow = (id: string) => server.stream(`/sessions/${id}/turns/1/events`)
const isTerminal = ({ event: type }: Frame) =>
  /^(interaction_(complete|failed)|run_(completed|failed|interrupted))$/.test(type)

/** What ended in a stream, in order: interactions by their ids, the turn by its event. */
async function endsOf(stream: EventStream): Promise<[string, unknown][]> {
  const frames = await stream.all()
  expect(stream.end).toBe('clean')
  return frames.filter(isTerminal).map((frame) => [frame.event, frame.json.interaction_id ?? 'turn'])
}

describe('asking for host mode', () => {
  test('without a comms_name is 400, since nobody could end it, and makes no session [R81]', async () => {
    const count = async () => (await api.get<SessionList>('/sessions?limit=0')).body.total
    const before = await count()
    for (const path of ['/sessions', '/sessions/stream']) {
      expectInvalid(await api.post(path, { prompt: 'x', host_mode: true }), 'comms_name')
    }
    expect(await count()).toBe(before)
  })

  test('of a session without a name is 400, and it stays idle [R81]', async () => {
    const id = await createIdle(api)
    for (const path of ['turns', 'turns/stream']) {
      expectInvalid(await api.post(`/sessions/${id}/${path}`, { prompt: 'x', host_mode: true }), 'host_mode')
    }
    expect((await readSession(api, id)).state).toMatchObject({ is_active: false, turn: 0 })
  })

  test('of a first turn that is deferred is 400: it belongs to the turn', async () => {
    const json = { initial_turn: 'deferred', host_mode: true, comms_name: 'deferred-host' }
    expectInvalid(await api.post('/sessions', json), 'host_mode')
  })

  test('is answered at once with 202 and the turn, on creation and later', async () => {
    const created = await api.post<Turn>('/sessions', {
      agent: 'gated',
      prompt: 'answered at once',
      host_mode: true,
      comms_name: 'at-once',
    })
    expect(created.status).toBe(202)
    const id = created.body.session_id
    expect(created.headers.location).toBe(`/sessions/${id}/turns/1`)
    expect(created.body).toMatchObject({ turn: 1, status: 'running', prompt: 'answered at once' })
    await gate.run('answered at once')
    await api.post(`/sessions/${id}/interrupt`)
    const started = await api.post<Turn>(`/sessions/${id}/turns`, { prompt: 'and again', host_mode: true })
    expect(started.status).toBe(202)
    expect(started.body).toMatchObject({ turn: 2, status: 'running' })
    await gate.run('and again')
    await api.post(`/sessions/${id}/interrupt`)
  })

  test('with Prefer: wait=N is waited for no longer than that', async () => {
    const headers = { prefer: 'wait=0' }
    const json = { agent: 'gated', prompt: 'no patience', host_mode: true, comms_name: 'impatient' }
    const answer = await api.post<Turn>('/sessions', json, headers)
    expect(answer.status).toBe(202)
    expect(answer.headers['preference-applied']).toBe('wait=0')
    await gate.run('no patience')
    await api.post(`/sessions/${answer.body.session_id}/interrupt`)

    const peer = await createIdle(api, { comms_name: 'friend of the patient' })
    const id = await createIdle(api, { agent: 'gated', comms_name: 'patient' })
    const waiting = { prefer: 'wait=60' }
    const call = api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'patience', host_mode: true }, waiting)
    await say(await gate.run('patience'), 'done')
    await api.post(`/sessions/${peer}/comms`, { kind: 'peer_message', to: 'patient', body: 'dismiss' })
    const waited = await call
    expect(waited.status).toBe(200)
    expect(waited.body).toMatchObject({ turn: 1, text: 'done', stop_reason: 'end_turn' })
  })

  test('may be a stream, which goes on until the host ends', async () => {
    const peer = await createIdle(api, { comms_name: 'friend of the streamed' })
    const id = await createIdle(api, { agent: 'gated', comms_name: 'streamed' })
    const json = { prompt: 'streamed host', host_mode: true }
    const stream = await server.stream(`/sessions/${id}/turns/stream`, { json })
    ;(await gate.run('streamed host')).finish()
    const interaction = await inject(id, 'something to stream')
    await say(await gate.run(event('something to stream')), 'streamed')
    await api.post(`/sessions/${peer}/comms`, { kind: 'peer_message', to: 'streamed', body: 'dismiss' })
    const ends = await endsOf(stream)
    expect(ends[0]).toEqual(['interaction_complete', interaction])
    expect(ends.at(-1)).toEqual(['run_completed', 'turn'])
  })
})

describe('a host', () => {
  test('runs its agent for what comes in, one run after another, each in the transcript before the next', async () => {
    const host = await newHost()
    await say(host.first, 'ready')
    const one = await inject(host.id, 'first thing')
    const run = await gate.run(event('first thing'))
    expect(run).toMatchObject({ turn: 1, injected: undefined })
    expect(await readMessages(api, host.id)).toEqual(said(host.name, 'ready'))
    // What comes during a run is for the run after it.
    const two = await inject(host.id, 'second thing')
    expect(run.context.takeInjected()).toBeUndefined()
    await say(run, 'did the first')
    await say(await gate.run(event('second thing')), 'did the second')
    await tell(host, 'dismiss')
    const stream = await follow(host.id)
    expect(await endsOf(stream)).toEqual([
      ['interaction_complete', one],
      ['interaction_complete', two],
      ['interaction_complete', expect.stringMatching(/-/)],
      ['run_completed', 'turn'],
    ])
    expect(await readMessages(api, host.id)).toEqual([
      ...said(host.name, 'ready'),
      ...said(event('first thing'), 'did the first'),
      ...said(event('second thing'), 'did the second'),
    ])
    const numbers = stream.frames.filter((frame) => frame.event === 'turn_started')
    expect(numbers.map(({ json }) => json.turn_number)).toEqual([0, 1, 2])
  })

  test('ends with the result of its last run and the usage of all of them', async () => {
    const host = await newHost()
    await host.first.say('ready')
    host.first.finish({ usage: { input_tokens: 1, output_tokens: 2 } })
    const interaction = await inject(host.id, 'how much')
    const run = await gate.run(event('how much'))
    await run.say('this much')
    run.finish({ usage: { input_tokens: 10, output_tokens: 20 } })
    await until('the run is over', async () => (await readMessages(api, host.id)).length === 4)
    await tell(host, 'dismiss')
    await (await follow(host.id)).all()
    const turn = await readTurn(api, host.id, 1)
    expect(turn).toMatchObject({ status: 'completed', prompt: host.name })
    expect(turn.result).toEqual({
      session_id: host.id,
      turn: 1,
      text: 'this much',
      stop_reason: 'end_turn',
      turns: 2,
      tool_calls: 0,
      usage: usage(11, 22),
      session_usage: usage(11, 22),
    })
    // The interaction has the result of its own run.
    const its = await server.stream(`/sessions/${host.id}/interactions/${interaction}/events`)
    expect((await its.all()).at(-1)?.json.result).toMatchObject({ text: 'this much', turns: 1, usage: usage(10, 20) })
  })

  test('deals with what waited before it began, after its prompt', async () => {
    const id = await createIdle(api, { agent: 'gated', comms_name: 'late-host' })
    await inject(id, 'was there before')
    await api.post(`/sessions/${id}/turns`, { prompt: 'late host', host_mode: true })
    const first = await gate.run('late host')
    expect(first.injected).toBeUndefined()
    first.finish()
    ;(await gate.run(event('was there before'))).finish()
    await api.delete(`/sessions/${id}`)
    expect((await (await follow(id)).all()).at(-1)?.event).toBe('run_completed')
  })

  test('gives an interaction that is followed a run of its own, and its stream that run and nothing else [R82]', async () => {
    const host = await newHost()
    await inject(host.id, 'not followed')
    const stream = await server.stream(`/sessions/${host.id}/interactions/stream`, {
      json: { body: 'followed', source: 's' },
    })
    await inject(host.id, 'not followed either')
    await say(host.first, 'ready')
    await say(await gate.run('[EVENT via s] followed'), 'for you alone')
    const frames = await stream.all()
    expect(stream.end).toBe('clean')
    expect(types(frames)).toEqual([
      'interaction_started',
      'turn_started',
      'text_delta',
      'text_complete',
      'turn_completed',
      'interaction_complete',
    ])
    expect(frames.at(-1)?.json.interaction_id).toBe(frames[0]?.json.interaction_id)
    expect(frames.at(-1)?.json.result).toMatchObject({ text: 'for you alone', stop_reason: 'end_turn' })
    // All others are one run, after those.
    const others = `${event('not followed')}\n\n${event('not followed either')}`
    const batch = await gate.run(others)
    expect(gate.begun.slice(-3)).toEqual([host.name, '[EVENT via s] followed', others])
    batch.finish()
    await api.post(`/sessions/${host.id}/interrupt`)
  })

  test('deals with requests one by one, with messages in one run, and puts responses into the history [R85]', async () => {
    const host = await newHost()
    const ids = [
      await tell(host, 'm1'),
      await ask(host, 'r1'),
      await respond(host, 'a1'),
      await tell(host, 'm2'),
      await ask(host, 'r2'),
      await inject(host.id, 'e1'),
      await respond(host, 'a2'),
    ] as [string, string, string, string, string, string, string]
    const [m1, r1, a1, m2, r2, e1, a2] = ids
    await say(host.first, 'ready')
    const prompts = [
      request(host, r1, 'r1'),
      request(host, r2, 'r2'),
      [message(host, 'm1'), message(host, 'm2'), event('e1')].join('\n\n'),
    ]
    for (const prompt of prompts) await say(await gate.run(prompt), prompt.slice(0, 9))
    await tell(host, 'dismiss')
    const ends = await endsOf(await follow(host.id))
    expect(ends.slice(0, 7)).toEqual([a1, a2, r1, r2, m1, m2, e1].map((id) => ['interaction_complete', id]))
    expect(ends).toHaveLength(9)
    expect(await readMessages(api, host.id)).toEqual([
      ...said(host.name, 'ready'),
      user(`${response(host, 'a1')}\n\n${response(host, 'a2')}`),
      ...prompts.flatMap((prompt) => said(prompt, prompt.slice(0, 9))),
    ])
  })

  test('runs for responses where nothing else came, for somebody asked for them', async () => {
    const host = await newHost()
    await respond(host, 'a1')
    await respond(host, 'a2')
    await say(host.first, 'ready')
    const prompt = `${response(host, 'a1')}\n\n${response(host, 'a2')}`
    await say(await gate.run(prompt), 'thanks')
    await until('the run is over', async () => (await readMessages(api, host.id)).length === 4)
    expect(await readMessages(api, host.id)).toEqual([...said(host.name, 'ready'), ...said(prompt, 'thanks')])
    await api.post(`/sessions/${host.id}/interrupt`)
  })

  test('gives a request whose events are reserved, and a note to itself, a run each', async () => {
    const host = await newHost()
    const input = { kind: 'input', body: 'to myself', allow_self_session: true, stream: 'reserve_interaction' }
    expect((await api.post(`/sessions/${host.id}/comms`, input)).status).toBe(200)
    await inject(host.id, 'beside it')
    host.first.finish()
    ;(await gate.run('[EVENT via rpc] to myself')).finish()
    ;(await gate.run(event('beside it'))).finish()
    await api.post(`/sessions/${host.id}/interrupt`)
  })
})

describe('a host that waits', () => {
  test('hears what its agent reports meanwhile, as part of the turn', async () => {
    const host = await waitingHost()
    const report = { type: 'budget_warning', budget_type: 'tokens', used: 8, limit: 10, percent: 80 } as const
    host.first.context.session.emit(report)
    const stream = await follow(host.id)
    expect((await stream.upTo('budget_warning')).json).toMatchObject({ ...report, turn: 1 })
    await api.delete(`/sessions/${host.id}?mode=cancel`)
  })

  test('has no tool call that could be approved', async () => {
    const host = await waitingHost()
    const answer = await api.post(`/sessions/${host.id}/turns/1/approvals/c`, { approved: true })
    expectProblem(answer, 404, 'APPROVAL_NOT_FOUND')
    await api.delete(`/sessions/${host.id}?mode=cancel`)
  })
})

describe('dismissing a host', () => {
  test.each(['dismiss', 'DISMISS', '  Dismiss\n'])(
    'by a peer that says %j ends it well, and its agent is not told [R86]',
    async (body) => {
      const host = await waitingHost()
      const stream = await follow(host.id)
      const dismissal = await tell(host, body)
      expect((await endsOf(stream)).at(-2)).toEqual(['interaction_complete', dismissal])
      expect(stream.frames.at(-1)).toMatchObject({
        event: 'run_completed',
        json: { result: { stop_reason: 'end_turn' } },
      })
      expect(await readMessages(api, host.id)).toHaveLength(2)
      expect((await readSession(api, host.id)).state.is_active).toBe(false)
      expect(gate.begun.filter((prompt) => /dismiss/i.test(prompt) && prompt.includes(host.peerName))).toEqual([])
      // It goes on as any other session.
      const next = api.post<RunResult>(`/sessions/${host.id}/turns`, { prompt: `after ${host.name}` })
      const run = await gate.run(`after ${host.name}`)
      expect(run.injected).toBeUndefined()
      run.finish()
      expect((await next).status).toBe(200)
    },
  )

  test('comes after what was taken together with it, and leaves what comes later to the next turn [R86]', async () => {
    const host = await newHost()
    const dismissal = await tell(host, 'dismiss')
    const before = await inject(host.id, 'together with it')
    await say(host.first, 'ready')
    const run = await gate.run(event('together with it'))
    const after = await inject(host.id, 'later than it')
    const stream = await follow(host.id)
    await say(run, 'still did it')
    expect(await endsOf(stream)).toEqual([
      ['interaction_complete', before],
      ['interaction_complete', dismissal],
      ['run_completed', 'turn'],
    ])
    const next = api.post(`/sessions/${host.id}/turns`, { prompt: 'the next turn' })
    const second = await gate.run('the next turn')
    expect(second.injected).toBe(event('later than it'))
    second.finish()
    await next
    const its = await server.stream(`/sessions/${host.id}/interactions/${after}/events`)
    expect((await its.all()).at(-1)).toMatchObject({ event: 'interaction_complete', json: { turn: 2 } })
  })

  test('is for peers: the same word in an event, a request or a longer message is text like any other [R86]', async () => {
    const host = await newHost()
    const asked = await ask(host, 'dismiss')
    await tell(host, 'dismiss all of it')
    await inject(host.id, 'DISMISS')
    host.first.finish()
    ;(await gate.run(request(host, asked, 'dismiss'))).finish()
    ;(await gate.run(`${message(host, 'dismiss all of it')}\n\n${event('DISMISS')}`)).finish()
    const input = { kind: 'input', body: 'dismiss', allow_self_session: true }
    await api.post(`/sessions/${host.id}/comms`, input)
    ;(await gate.run('[EVENT via rpc] dismiss')).finish()
    expect((await readTurn(api, host.id, 1)).status).toBe('running')
    await api.post(`/sessions/${host.id}/interrupt`)
  })
})

describe('a run of a host that fails', () => {
  test('fails its interaction, then all that wait, and then the turn [R83 R84]', async () => {
    const host = await newHost()
    const followed = await server.stream(`/sessions/${host.id}/interactions/stream`, { json: { body: 'will fail' } })
    const asked = await ask(host, 'not come to')
    const batched = await inject(host.id, 'nor to this')
    const dismissal = await tell(host, 'dismiss')
    await say(host.first, 'ready')
    const run = await gate.run(event('will fail'))
    const later = await inject(host.id, 'came during the run')
    const stream = await follow(host.id)
    await run.say('half')
    run.fail(new Error('broken on purpose'))
    const mine = String(followed.headers.location).split('/').at(-2) as string
    const ends = await endsOf(stream)
    expect(ends).toEqual([
      ['interaction_failed', mine],
      ...[asked, batched, dismissal, later].map((id) => ['interaction_failed', id]),
      ['run_failed', 'turn'],
    ])
    const failure = { code: 'INTERNAL_ERROR' }
    expect((await followed.all()).at(-1)?.json).toMatchObject({ type: 'interaction_failed', ...failure })
    expect(followed.end).toBe('clean')
    const error = stream.frames.at(-1)?.json.error
    expect(String(error)).not.toContain('on purpose')
    for (const frame of stream.frames.filter(isTerminal)) expect(frame.json).toMatchObject({ ...failure, error })
    expect(gate.begun.filter((prompt) => /not come to|nor to this|came during/.test(prompt))).toEqual([])
    expect((await readTurn(api, host.id, 1)).status).toBe('failed')
    // What earlier runs said is kept, and so is what this one had said.
    const [prompt, answer] = said(event('will fail'), 'half')
    expect(await readMessages(api, host.id)).toEqual([
      ...said(host.name, 'ready'),
      prompt,
      { ...answer, stop_reason: 'cancelled' },
    ])
    const next = api.post(`/sessions/${host.id}/turns`, { prompt: 'after the failure' })
    const second = await gate.run('after the failure')
    expect(second.injected).toBeUndefined()
    second.finish()
    expect((await next).status).toBe(200)
  })
})

describe('while a host is in flight', () => {
  test('another turn is 409, or waits in line until it ends', async () => {
    const host = await waitingHost()
    const refused = await api.post(`/sessions/${host.id}/turns`, { prompt: 'x' })
    expect(expectProblem(refused, 409, 'SESSION_BUSY').active_turn).toMatchObject({ turn: 1, status: 'running' })
    expectProblem(await api.post(`/sessions/${host.id}/turns`, { prompt: 'x', host_mode: true }), 409, 'SESSION_BUSY')
    const enqueued = await api.post<Turn>(`/sessions/${host.id}/turns`, {
      prompt: 'in line behind it',
      host_mode: true,
      on_busy: 'enqueue',
    })
    expect({ status: enqueued.status, turn: enqueued.body.turn }).toEqual({ status: 202, turn: 2 })
    await tell(host, 'dismiss')
    ;(await gate.run('in line behind it')).finish()
    await inject(host.id, 'for the second')
    const second = await gate.run(event('for the second'))
    expect(second.turn).toBe(2)
    const interrupting = api.post<RunResult>(`/sessions/${host.id}/turns`, {
      prompt: 'instead of it',
      on_busy: 'interrupt',
    })
    ;(await gate.run('instead of it')).finish()
    expect((await interrupting).body).toMatchObject({ turn: 3, stop_reason: 'end_turn' })
    expect((await readTurn(api, host.id, 2)).status).toBe('interrupted')
  })

  test('it is read and listed at once, as active, whether it runs or waits [R87]', async () => {
    const running = await newHost()
    const waiting = await waitingHost()
    for (const { id } of [running, waiting]) {
      expect((await readSession(api, id)).state).toMatchObject({ session_id: id, is_active: true, turn: 1 })
      const { body } = await api.get<SessionList>('/sessions?active=true&limit=1000')
      expect(body.sessions.map(({ session_id }) => session_id)).toContain(id)
      expect((await api.get(`/sessions/${id}/export`)).status).toBe(200)
      expect(await readTurn(api, id, 1)).toMatchObject({ status: 'running' })
    }
    await api.delete(`/sessions/${running.id}?mode=cancel`)
    await api.delete(`/sessions/${waiting.id}?mode=cancel`)
  })

  test('an interrupt ends it at once while it waits, with what it came to [R87]', async () => {
    const host = await newHost()
    await say(host.first, 'ready')
    await until('it waits', async () => (await readMessages(api, host.id)).length === 2)
    const stream = await follow(host.id)
    const answer = await api.post(`/sessions/${host.id}/interrupt`, { turn: 1 })
    expect(answer.body).toEqual({ session_id: host.id, turn: 1, interrupted: true })
    expect((await stream.all()).at(-1)).toMatchObject({
      event: 'run_interrupted',
      json: { result: { text: 'ready', stop_reason: 'cancelled', turns: 1 } },
    })
    expect((await readSession(api, host.id)).state.is_active).toBe(false)
    expectProblem(await api.post(`/sessions/${host.id}/interrupt`), 409, 'SESSION_NOT_RUNNING')
  })

  test('an interrupt in a run cancels that, its interaction and all that wait [R87]', async () => {
    const host = await waitingHost()
    const interaction = await ask(host, 'to be cancelled')
    const taken = await ask(host, 'taken with it')
    const run = await gate.run(request(host, interaction, 'to be cancelled'))
    await run.say('half')
    const waiting = await inject(host.id, 'never begun')
    const stream = await follow(host.id)
    await api.post(`/sessions/${host.id}/interrupt`)
    expect(await endsOf(stream)).toEqual([
      ['interaction_failed', interaction],
      ['interaction_failed', taken],
      ['interaction_failed', waiting],
      ['run_interrupted', 'turn'],
    ])
    for (const frame of stream.frames.filter(({ event: type }) => type === 'interaction_failed')) {
      expect(frame.json.code).toBe('CANCELLED')
    }
    expect(stream.frames.at(-1)?.json.result).toMatchObject({ text: 'half', stop_reason: 'cancelled', turns: 2 })
    expect(gate.begun).not.toContain(event('never begun'))
  })

  test('an interrupt ends it whose agent does not listen, too [R87]', async () => {
    const host = await waitingHost(server, deaf)
    const interaction = await inject(host.id, 'to deaf ears')
    await deaf.run(event('to deaf ears'))
    const stream = await follow(host.id)
    await api.post(`/sessions/${host.id}/interrupt`)
    expect(await endsOf(stream)).toEqual([
      ['interaction_failed', interaction],
      ['run_interrupted', 'turn'],
    ])
  })

  test('archiving answers at once and ends it after what waits [R87]', async () => {
    const host = await waitingHost()
    const interaction = await inject(host.id, 'the last of all')
    const run = await gate.run(event('the last of all'))
    const behind = await inject(host.id, 'and one behind it')
    const stream = await follow(host.id)
    expect((await api.delete(`/sessions/${host.id}`)).body).toEqual({ session_id: host.id, archived: true })
    expectProblem(await api.post(`/sessions/${host.id}/interactions`, { body: 'x' }), 410, 'INBOX_CLOSED')
    run.finish()
    ;(await gate.run(event('and one behind it'))).finish()
    expect(await endsOf(stream)).toEqual([
      ['interaction_complete', interaction],
      ['interaction_complete', behind],
      ['run_completed', 'turn'],
    ])
  })

  test('archiving ends one that waits by itself, and cancels one with mode=cancel [R87]', async () => {
    const [drained, cancelled] = [await waitingHost(), await waitingHost()]
    const streams = [await follow(drained.id), await follow(cancelled.id)] as const
    await api.delete(`/sessions/${drained.id}`)
    expect((await streams[0].all()).at(-1)?.event).toBe('run_completed')
    await api.delete(`/sessions/${cancelled.id}?mode=cancel`)
    expect((await streams[1].all()).at(-1)?.event).toBe('run_interrupted')
  })
})

describe('a server that drains', () => {
  test('ends hosts that wait at once, and others after what waits', async () => {
    const drained = gatedAgent()
    const own = await ownServer({ DRAIN_MS: 20_000 }, { gates: [drained] })
    const waiting = await waitingHost(own, drained)
    const running = await newHost(own, drained)
    const queued = await own.api.post(`/sessions/${running.id}/interactions`, { body: 'before the end' })
    expect(queued.status).toBe(202)
    const streams = [
      await own.stream(`/sessions/${waiting.id}/turns/1/events`),
      await own.stream(`/sessions/${running.id}/turns/1/events`),
    ] as const
    const closing = own.close()
    expect((await streams[0].all()).at(-1)?.event).toBe('run_completed')
    await say(running.first, 'ready')
    await say(await drained.run(event('before the end')), 'done')
    const frames = await streams[1].all()
    expect(frames.at(-1)).toMatchObject({ event: 'run_completed', json: { result: { text: 'done' } } })
    expect(frames.at(-2)?.event).toBe('interaction_complete')
    await within('the server to close', closing)
  })
})
