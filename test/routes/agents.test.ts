import { describe, expect, test } from 'vitest'
import {
  createIdle,
  expectInvalid,
  NO_USAGE,
  type RunResult,
  readMessages,
  readSession,
  usage,
} from '../helpers/contract.ts'
import { gatedAgent } from '../helpers/gate.ts'
import { type StreamEvent, textOf } from '../helpers/sse.ts'
import { useServer } from '../helpers/suite.ts'

const gate = gatedAgent()
const server = useServer({}, { gates: [gate] })
const { api } = server

/** Runs a script as the first turn of a new session and gives its events, without what every event has. */
async function play(prompt: string, agent = 'scripted') {
  const stream = await server.stream('/sessions/stream', { json: { agent, prompt } })
  const frames = await stream.all()
  expect(stream.end).toBe('clean')
  const id = String(frames[0]?.json.session_id)
  const [started, ...rest] = frames.map((frame) => frame.json)
  expect(started).toEqual({ type: 'run_started', seq: 1, turn: 1, session_id: id, prompt })
  const last = rest.pop()
  const events = rest.map(({ seq, turn, ...event }): StreamEvent => event)
  return { id, events, last, result: last?.result as RunResult, frames }
}

const started = (turn_number: number) => ({ type: 'turn_started', turn_number })
const delta = (text: string) => ({ type: 'text_delta', delta: text })
const complete = (content: string) => ({ type: 'text_complete', content })
const completed = (stop_reason = 'end_turn') => ({ type: 'turn_completed', stop_reason, usage: expect.any(Object) })

describe('echo', () => {
  test.each<[string, string[]]>([
    ['hello', ['hello']],
    ['hello big world', ['hello', ' big', ' world']],
    ['  two\t\nlines', ['  two', '\t\nlines']],
    ['one,two three', ['one,two', ' three']],
  ])('answers %j in one delta per word, the white space before a word with it', async (prompt, deltas) => {
    const { events, last, result } = await play(prompt, 'echo')
    expect(events).toEqual([started(0), ...deltas.map(delta), complete(prompt), completed()])
    expect(last?.type).toBe('run_completed')
    expect(result).toMatchObject({ text: prompt, stop_reason: 'end_turn', turns: 1, tool_calls: 0 })
    expect(result.usage).toEqual(usage(deltas.length, deltas.length))
  })

  test('adds up to exactly the prompt, trailing white space too', async () => {
    for (const prompt of ['x ', ' x', 'x\n\n', '\n x \n y \n']) {
      const { frames, result } = await play(prompt, 'echo')
      expect(textOf(frames)).toBe(prompt)
      expect(result.text).toBe(prompt)
    }
  })

  test('reports its usage with the model call', async () => {
    const { events } = await play('a b c', 'echo')
    expect(events.at(-1)).toEqual({ type: 'turn_completed', stop_reason: 'end_turn', usage: usage(3, 3) })
  })

  test('waits before each word when it is told so, and can be interrupted then', async () => {
    const id = await createIdle(api, { agent: 'echo', provider_params: { delay_ms: 5 } })
    const whole = await api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'a b' })
    expect(whole.body).toMatchObject({ text: 'a b', stop_reason: 'end_turn' })
    const slow = await createIdle(api, { agent: 'echo', provider_params: { delay_ms: 60_000 } })
    const stream = await server.stream(`/sessions/${slow}/turns/stream`, { json: { prompt: 'never said' } })
    await stream.upTo('turn_started')
    expect((await api.post(`/sessions/${slow}/interrupt`)).status).toBe(200)
    expect((await stream.all()).at(-1)?.json).toMatchObject({
      type: 'run_interrupted',
      result: { text: '', stop_reason: 'cancelled' },
    })
  })
})

describe('scripted', () => {
  test('say: deltas by word, the text whole, one model call', async () => {
    const { events, last, result } = await play('say hello brave world')
    expect(events).toEqual([
      started(0),
      delta('hello'),
      delta(' brave'),
      delta(' world'),
      complete('hello brave world'),
      completed(),
    ])
    expect(last).toMatchObject({
      type: 'run_completed',
      result: { text: 'hello brave world', turns: 1, tool_calls: 0 },
    })
    expect(result.stop_reason).toBe('end_turn')
  })

  test('a line that is no directive is said', async () => {
    const { frames, result } = await play('good morning')
    expect(textOf(frames)).toBe('good morning')
    expect(result.text).toBe('good morning')
    expect((await play('saying is no directive')).result.text).toBe('saying is no directive')
    expect((await play('hanging')).result.text).toBe('hanging')
  })

  test('several lines in one turn are one text, the deltas add up to it', async () => {
    const { frames, events, result } = await play('say one\nsay two\nthree')
    expect(result.text.replaceAll(/\s/g, '')).toBe('onetwothree')
    expect(textOf(frames)).toBe(result.text)
    expect(events.filter((event) => event.type === 'text_complete')).toEqual([complete(result.text)])
  })

  test('deltas N: N deltas of 8 characters; deltas N BYTES: of that size', async () => {
    const eight = await play('deltas 5')
    expect(eight.events.map((event) => event.type)).toEqual([
      'turn_started',
      ...Array.from({ length: 5 }, () => 'text_delta'),
      'text_complete',
      'turn_completed',
    ])
    expect(eight.events.slice(1, 6).map((event) => String(event.delta).length)).toEqual([8, 8, 8, 8, 8])
    const three = await play('deltas 4 3')
    expect(three.events.slice(1, 5).map((event) => String(event.delta).length)).toEqual([3, 3, 3, 3])
    expect(three.result.text).toHaveLength(12)
  })

  test('wait: passes without an event', async () => {
    const { events } = await play('say a\nwait 5\nsay b')
    expect(events.map((event) => event.type)).toEqual([
      'turn_started',
      'text_delta',
      'text_delta',
      'text_complete',
      'turn_completed',
    ])
  })

  test('think: reasoning before the answer, and no part of it', async () => {
    const { id, events, result } = await play('think let me see\nsay yes')
    const kinds = events.map((event) => event.type)
    expect([...new Set(kinds)]).toEqual([
      'turn_started',
      'reasoning_delta',
      'reasoning_complete',
      'text_delta',
      'text_complete',
      'turn_completed',
    ])
    const thought = events.filter((event) => event.type === 'reasoning_delta').map((event) => event.delta)
    expect(thought.join('')).toBe('let me see')
    expect(events.filter((event) => event.type === 'reasoning_complete')).toEqual([
      { type: 'reasoning_complete', content: 'let me see' },
    ])
    expect(result.text).toBe('yes')
    expect((await readSession(api, id)).state.last_assistant_text).toBe('yes')
  })

  test('tool: a whole tool round, then the next model call', async () => {
    const { events, result } = await play('say Let me look.\ntool add {"a":1,"b":2}\nsay It is 3.')
    const id = events.find((event) => event.type === 'tool_call_requested')?.id
    // Where the first turn_completed stands among the events of its call is left open; that it is there is not.
    const toolTurn = events.findIndex((event) => event.type === 'turn_completed' && event.stop_reason === 'tool_use')
    expect(toolTurn).toBeGreaterThan(events.findIndex((event) => event.type === 'tool_call_requested'))
    expect(toolTurn).toBeLessThan(events.findIndex((event) => event.turn_number === 1))
    expect(events.filter((_, index) => index !== toolTurn)).toEqual([
      started(0),
      delta('Let'),
      delta(' me'),
      delta(' look.'),
      complete('Let me look.'),
      { type: 'tool_call_requested', id, name: 'add', args: { a: 1, b: 2 } },
      { type: 'tool_execution_started', id, name: 'add' },
      {
        type: 'tool_execution_completed',
        id,
        name: 'add',
        result: '3',
        is_error: false,
        duration_ms: expect.any(Number),
      },
      { type: 'tool_result_received', id, name: 'add', is_error: false },
      started(1),
      delta('It'),
      delta(' is'),
      delta(' 3.'),
      complete('It is 3.'),
      completed(),
    ])
    expect(id).toMatch(/\S/)
    expect(result).toMatchObject({ text: 'It is 3.', turns: 2, tool_calls: 1, stop_reason: 'end_turn' })
  })

  test('tool rounds without a word between: one model call each, numbered from 0', async () => {
    const { id, events, result } = await play('tool clock {}\ntool add {"a":-1.5,"b":1}\nsay done')
    expect(events.filter((event) => event.type === 'turn_started').map((event) => event.turn_number)).toEqual([0, 1, 2])
    expect(events.filter((event) => event.type === 'turn_completed').map((event) => event.stop_reason)).toEqual([
      'tool_use',
      'tool_use',
      'end_turn',
    ])
    const results = events.filter((event) => event.type === 'tool_execution_completed')
    expect(results.map((event) => [event.name, event.is_error])).toEqual([
      ['clock', false],
      ['add', false],
    ])
    expect(results[1]?.result).toBe('-0.5')
    expect(result).toMatchObject({ text: 'done', turns: 3, tool_calls: 2 })
    const ids = results.map((event) => event.id)
    expect(new Set(ids).size).toBe(2)
    const messages = await readMessages(api, id)
    expect(messages.flatMap((message) => (message.results ?? []).map((entry) => entry.tool_use_id))).toEqual(ids)
  })

  test('a turn whose last word was a tool has an empty text', async () => {
    const { events, result } = await play('say looking\ntool add {"a":1,"b":1}')
    expect(result).toMatchObject({ text: '', tool_calls: 1, stop_reason: 'end_turn' })
    expect(events.filter((event) => event.type === 'text_complete')).toEqual([complete('looking')])
  })

  test('a tool that fails is an error result, and the turn goes on', async () => {
    const { id, events, result } = await play('tool fail {"message":"no paper"}\nsay oh well')
    const done = events.find((event) => event.type === 'tool_execution_completed')
    expect(done).toMatchObject({ name: 'fail', is_error: true, result: expect.stringContaining('no paper') })
    expect(events.find((event) => event.type === 'tool_result_received')).toMatchObject({
      name: 'fail',
      is_error: true,
    })
    expect(result).toMatchObject({ text: 'oh well', tool_calls: 1, stop_reason: 'end_turn' })
    const [answer] = (await readMessages(api, id)).flatMap((message) => message.results ?? [])
    expect(answer).toEqual({ tool_use_id: done?.id, content: done?.result, is_error: true })
    expect(JSON.parse(String(done?.result))).toMatchObject({
      error: expect.stringMatching(/^[a-z_]+$/),
      message: expect.stringContaining('no paper'),
    })
  })

  test('a tool that nobody has is an error result, and the turn goes on', async () => {
    const { events, result } = await play('tool teleport {"to":"Oslo"}\nsay walked')
    expect(events.filter((event) => /^tool_/.test(event.type)).map((event) => [event.type, event.name])).toEqual(
      expect.arrayContaining([
        ['tool_call_requested', 'teleport'],
        ['tool_execution_completed', 'teleport'],
        ['tool_result_received', 'teleport'],
      ]),
    )
    const done = events.find((event) => event.type === 'tool_execution_completed')
    expect(done?.is_error).toBe(true)
    expect(JSON.parse(String(done?.result))).toMatchObject({ error: 'tool_not_found', message: expect.any(String) })
    expect(result).toMatchObject({ text: 'walked', tool_calls: 1 })
  })

  test('the sleep tool says how long it took', async () => {
    const { events } = await play('tool sleep {"ms":15}\nsay awake')
    const done = events.find((event) => event.type === 'tool_execution_completed')
    expect(done).toMatchObject({ name: 'sleep', is_error: false })
    expect(Number.isInteger(done?.duration_ms)).toBe(true)
    expect(Number(done?.duration_ms)).toBeGreaterThanOrEqual(10)
  })

  test('usage: what the model call reports; turns add up in the session, cache counters apart', async () => {
    const { id, events, result } = await play('say a\nusage 100 23')
    expect(events.at(-1)).toEqual({ type: 'turn_completed', stop_reason: 'end_turn', usage: usage(100, 23) })
    expect(result.usage).toEqual(usage(100, 23))
    const second = await api.post<RunResult>(`/sessions/${id}/turns`, { prompt: 'say b\nusage 1 2' })
    expect(second.body.usage).toEqual(usage(1, 2))
    expect(second.body.session_usage).toEqual(usage(101, 25))
    expect((await readSession(api, id)).billing).toEqual({ total_tokens: 126, usage: usage(101, 25) })
  })

  test('usage 0 0 is no usage', async () => {
    expect((await play('usage 0 0\nsay x')).result.usage).toEqual(NO_USAGE)
  })

  test('fail: what was said, then run_failed with the message and AGENT_ERROR', async () => {
    const { events, last, frames } = await play('say almost\nfail the glue is dry')
    expect(events.slice(0, 2)).toEqual([started(0), delta('almost')])
    expect(last).toMatchObject({ type: 'run_failed', error: 'the glue is dry', code: 'AGENT_ERROR' })
    expect(frames.filter((frame) => frame.event === 'run_completed')).toEqual([])
  })

  test('throw: run_failed with INTERNAL_ERROR', async () => {
    const { last } = await play('throw')
    expect(last).toMatchObject({ type: 'run_failed', code: 'INTERNAL_ERROR', error: expect.stringMatching(/\S/) })
  })

  test.each(['hang', 'deaf'])('%s: until it is interrupted', async (directive) => {
    const id = await createIdle(api, { agent: 'scripted' })
    const stream = await server.stream(`/sessions/${id}/turns/stream`, {
      json: { prompt: `say on\n${directive}\nsay never` },
    })
    await stream.upTo('text_delta')
    await api.post(`/sessions/${id}/interrupt`)
    const frames = await stream.all()
    expect(frames.at(-1)?.json).toMatchObject({
      type: 'run_interrupted',
      session_id: id,
      result: { session_id: id, turn: 1, text: 'on', stop_reason: 'cancelled' },
    })
    expect(textOf(frames)).toBe('on')
  })

  test('the text of a turn is what was said since its last tool round', async () => {
    const { result } = await play('say first\ntool clock {}\nsay second\ntool clock {}\nsay third')
    expect(result).toMatchObject({ text: 'third', turns: 3, tool_calls: 2 })
  })

  test('an empty line, CR LF and indentation do not break a script', async () => {
    const { result } = await play('say a\r\ntool add {"a":1,"b":2}\r\nsay b\r\n')
    expect(result.tool_calls).toBe(1)
    expect(result.text.trim()).toBe('b')
  })

  test('a turn of many events loses none', async () => {
    const { frames, result } = await play('deltas 5000')
    expect(frames).toHaveLength(5005)
    expect(textOf(frames)).toBe(result.text)
    expect(result.text).toHaveLength(40_000)
  })
})

describe('the order of events in any turn', () => {
  test.each([
    'say a',
    'think b\nsay c',
    'tool add {"a":1,"b":2}',
    'say a\ntool fail {"message":"m"}\nthink x\ntool clock {}\nsay b',
    'say a\nfail x',
    'tool clock {}\nthrow',
    'fail at once',
    'wait 1',
  ])('holds for %j', async (script) => {
    const { events, last, frames } = await play(script)
    const kinds = frames.map((frame) => frame.event)
    expect(kinds[0]).toBe('run_started')
    expect(kinds.filter((kind) => /^run_(completed|failed|interrupted)$/.test(kind))).toEqual([last?.type])
    expect(frames.map((frame) => frame.json.seq)).toEqual(frames.map((_, index) => index + 1))
    const open: string[] = []
    let text = ''
    for (const event of events) {
      if (event.type === 'text_delta') text += event.delta
      if (event.type === 'text_complete') {
        expect(event.content).toBe(text)
        expect(text).not.toBe('')
        text = ''
      }
      if (event.type === 'tool_call_requested') open.push(String(event.id))
      if (event.type === 'tool_result_received') expect(open.splice(open.indexOf(String(event.id)), 1)).toHaveLength(1)
    }
    expect(open).toEqual([])
    if (last?.type === 'run_completed') {
      expect(kinds.filter((kind) => kind === 'turn_completed')).toHaveLength(
        kinds.filter((kind) => kind === 'turn_started').length,
      )
    }
  })
})

describe('what the server says about itself', () => {
  test('/agents lists the agents that it can build, with what they can do', async () => {
    const { status, body } = await api.get<{ agents: { name: string; tools?: { name: string }[] }[] }>('/agents')
    expect(status).toBe(200)
    const names = body.agents.map((agent) => agent.name)
    expect(names).toEqual(expect.arrayContaining(['echo', 'scripted', 'gated']))
    expect(new Set(names).size).toBe(names.length)
    const scripted = body.agents.find((agent) => agent.name === 'scripted')
    expect(JSON.stringify(scripted?.tools)).toMatch(/add.*clock.*fail.*sleep/)
  })

  test('every agent that is listed can be asked for, and no other', async () => {
    const { body } = await api.get<{ agents: { name: string }[] }>('/agents')
    for (const { name } of body.agents) {
      const id = await createIdle(api, { agent: name })
      expect((await readSession(api, id)).state.agent).toBe(name)
    }
    expectInvalid(await api.post('/sessions', { agent: 'ECHO', prompt: 'x' }))
    expectInvalid(await api.post('/sessions', { agent: '', prompt: 'x' }))
    expectInvalid(await api.post('/sessions', { agent: '__proto__', prompt: 'x' }))
  })

  test('/capabilities says what is enabled here', async () => {
    const { status, headers, body } = await api.get('/capabilities')
    expect(status).toBe(200)
    expect(headers['content-type']).toMatch(/^application\/json/)
    const { capabilities } = body as { capabilities: { name: string; enabled: boolean; reason?: string }[] }
    const named = Object.fromEntries(capabilities.map(({ name, enabled }) => [name, enabled]))
    expect(named).toMatchObject({ sessions: true, host_mode: true, comms: true, stream_tokens: false })
    for (const { enabled, reason } of capabilities) expect(reason === undefined).toBe(enabled)
  })

  test('/health and /ready answer 200', async () => {
    expect((await api.get('/health')).status).toBe(200)
    expect((await api.get('/ready')).status).toBe(200)
  })

  test('/ redirects to the playground', async () => {
    const answer = await api.get('/')
    expect(answer.status).toBe(302)
    expect(answer.headers.location).toMatch(/^\/\S+/)
    expect((await api.get(String(answer.headers.location))).status).toBe(200)
  })
})
