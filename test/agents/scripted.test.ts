import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type Directive, parseScript } from '../../src/agents/scripted/directives.ts'
import { scripted } from '../../src/agents/scripted/index.ts'
import type { LoggedEvent } from '../../src/core/events.ts'
import { createIdle, runTurn, settled, textOf, turnEvents, types, useService } from '../core/support.ts'

/** Any sequence of UTF-16 code units. */
const units = fc.array(fc.nat({ max: 0xffff }), { maxLength: 30 }).map((codes) => String.fromCharCode(...codes))

async function played(prompt: string, max_tokens?: number) {
  const harness = useService({ agents: [scripted] })
  const id = await createIdle(harness, max_tokens === undefined ? {} : { max_tokens })
  const view = await runTurn(harness, id, prompt)
  return { harness, id, view, events: await turnEvents(harness, id, 1) }
}

function deltas(events: readonly LoggedEvent[]): string[] {
  return events.flatMap((event) => (event.type === 'text_delta' ? [event.delta] : []))
}

/** What a tool answered: its result and whether that is an error. */
async function answerOf(line: string) {
  const { events, view } = await played(line)
  expect(view.status).toBe('completed')
  return events.flatMap((event) =>
    event.type === 'tool_execution_completed' ? [{ result: event.result, is_error: event.is_error }] : [],
  )[0]
}

describe('reading a script', () => {
  test.each<[string, Directive]>([
    ['say hello  there', { do: 'say', text: 'hello  there' }],
    ['deltas 3', { do: 'deltas', count: 3, bytes: 8 }],
    ['deltas 3 100', { do: 'deltas', count: 3, bytes: 100 }],
    ['wait 250', { do: 'wait', ms: 250 }],
    ['think hm', { do: 'think', text: 'hm' }],
    ['tool add {"a":1}', { do: 'tool', name: 'add', args: '{"a":1}' }],
    ['tool clock', { do: 'tool', name: 'clock', args: '{}' }],
    ['usage 7 9', { do: 'usage', input: 7, output: 9 }],
    ['fail', { do: 'fail', message: 'The script failed' }],
    ['fail out of luck', { do: 'fail', message: 'out of luck' }],
    ['throw', { do: 'throw' }],
    ['hang', { do: 'hang' }],
    ['deaf', { do: 'deaf' }],
    ['  hang  ', { do: 'hang' }],
  ])('understands %j', (line, directive) => {
    expect(parseScript(line)).toEqual([directive])
  })

  test.each([
    'hello',
    'sayhello',
    'Say hello',
    'deltas',
    'deltas many',
    'deltas -1',
    'deltas 1000001',
    'deltas 1 0',
    'deltas 1 65537',
    'wait',
    'wait 1.5',
    'wait 600001',
    'usage 1',
    'throw it',
    'hang on',
    'tool',
  ])('says %j as it is, since it is no directive', (line) => {
    expect(parseScript(line)).toEqual([{ do: 'say', text: line }])
  })

  test('takes any line end, and no notice of empty lines', () => {
    expect(parseScript('a\nb\r\nc\rd\n\n  \n')).toEqual(
      ['a', 'b', 'c', 'd'].map((text): Directive => ({ do: 'say', text })),
    )
  })

  test('never fails, and never makes a load test of a line', () => {
    fc.assert(
      fc.property(units, fc.constantFrom('', 'deltas ', 'wait ', 'tool ', 'usage '), (text, head) => {
        for (const directive of parseScript(head + text)) {
          if (directive.do === 'deltas') expect(directive.count * directive.bytes).toBeLessThanOrEqual(1e6 * 65_536)
          if (directive.do === 'wait') expect(directive.ms).toBeLessThanOrEqual(600_000)
        }
      }),
    )
  })
})

describe('a script', () => {
  test('says what it says, a word at a time [R54 R55]', async () => {
    const { view, events } = await played('say one two\nthree')
    expect(deltas(events)).toEqual(['one', ' two', 'three'])
    expect(view.result).toMatchObject({ text: 'one twothree', turns: 1, usage: { input_tokens: 4, output_tokens: 3 } })
    expect(types(events)).toEqual([
      'run_started',
      'turn_started',
      'text_delta',
      'text_delta',
      'text_delta',
      'text_complete',
      'turn_completed',
      'run_completed',
    ])
  })

  test('gives as many deltas as it is asked for, of the size that it is asked for', async () => {
    expect(deltas((await played('deltas 3')).events)).toEqual(['xxxxxxxx', 'xxxxxxxx', 'xxxxxxxx'])
    expect(deltas((await played('deltas 2 1')).events)).toEqual(['x', 'x'])
    expect(deltas((await played('deltas 0')).events)).toEqual([])
  })

  test('thinks apart from what it says', async () => {
    const { view, events } = await played('think it over\nsay done')
    const thought = events.flatMap((event) => (event.type === 'reasoning_delta' ? [event.delta] : []))
    expect(thought).toEqual(['it', ' over'])
    expect(events.find(({ type }) => type === 'reasoning_complete')).toMatchObject({ content: 'it over' })
    expect(view.result?.text).toBe('done')
  })

  test('waits and goes on', async () => {
    const { view } = await played('say a\nwait 1\nsay b')
    expect(view.result?.text).toBe('ab')
  })

  test('plays a whole round for a tool, and its answer is what was said since the last one [R56 R57 R59]', async () => {
    const { view, events } = await played('say look\ntool add {"a":1,"b":2}\nsay three')
    expect(types(events)).toEqual([
      'run_started',
      'turn_started',
      'text_delta',
      'text_complete',
      'tool_call_requested',
      'tool_execution_started',
      'tool_execution_completed',
      'tool_result_received',
      'turn_completed',
      'turn_started',
      'text_delta',
      'text_complete',
      'turn_completed',
      'run_completed',
    ])
    const ids = events.flatMap((event) => ('id' in event ? [event.id] : []))
    expect(ids).toEqual(['call_1', 'call_1', 'call_1', 'call_1'])
    expect(events[4]).toMatchObject({ name: 'add', args: { a: 1, b: 2 } })
    expect(events[6]).toMatchObject({ result: '3', is_error: false })
    expect(view.result).toMatchObject({ text: 'three', turns: 2, tool_calls: 1 })
    expect(events.filter(({ type }) => type === 'turn_completed')).toMatchObject([
      { stop_reason: 'tool_use' },
      { stop_reason: 'end_turn' },
    ])
  })

  test('counts each call’s usage, or says what it is told that it was [R38]', async () => {
    const { view, events } = await played('say a b\ntool clock\nusage 7 9\nsay c\ntool clock\nsay d e f')
    const usages = events.flatMap((event) => (event.type === 'turn_completed' ? [event.usage] : []))
    const words = 16
    expect(usages).toEqual([
      { input_tokens: words, output_tokens: 2, total_tokens: words + 2 },
      { input_tokens: 7, output_tokens: 9, total_tokens: 16 },
      { input_tokens: words, output_tokens: 3, total_tokens: words + 3 },
    ])
    expect(view.result?.usage).toEqual({ input_tokens: 2 * words + 7, output_tokens: 14, total_tokens: 2 * words + 21 })
  })

  test('stops after as many deltas as it may give in a call', async () => {
    const { view, events } = await played('say one two three\nsay four', 2)
    expect(textOf(events)).toBe('one two')
    expect(view.result).toMatchObject({ stop_reason: 'max_tokens', text: 'one two' })
    expect((await played('deltas 5\nsay more', 3)).view.result).toMatchObject({ stop_reason: 'max_tokens' })
  })

  test('fails in its own words [R63]', async () => {
    const { view, events } = await played('say half\nfail out of luck\nsay never')
    expect(view).toMatchObject({ status: 'failed', error: { code: 'AGENT_ERROR', message: 'out of luck' } })
    expect(events.at(-1)).toMatchObject({ type: 'run_failed', error: 'out of luck', code: 'AGENT_ERROR' })
    expect(types(events)).not.toContain('run_completed')
  })

  test('throws something that is no Error', async () => {
    const { harness, view } = await played('throw')
    expect(view).toMatchObject({ status: 'failed', error: { code: 'INTERNAL_ERROR' } })
    expect(harness.faults).toEqual(['a string, which is no Error'])
  })

  test.each(['hang', 'wait 600000', 'tool sleep {"ms":600000}', 'deaf'])(
    'is ended by an interrupt in %j',
    async (line) => {
      const harness = useService({ agents: [scripted] })
      const id = await createIdle(harness)
      await harness.service.startTurn(id, { prompt: `say begun\n${line}\nsay never` })
      await settled()
      harness.service.interrupt(id)
      expect(await harness.service.turnEnded(id, 1)).toMatchObject({ status: 'interrupted', result: { text: 'begun' } })
      expect(harness.faults).toEqual([])
      expect(await runTurn(harness, id, 'say again')).toMatchObject({ result: { text: 'again' } })
    },
  )

  test('says which tools it has', () => {
    expect(scripted.tools?.map(({ name }) => name)).toEqual(['add', 'clock', 'fail', 'sleep'])
  })
})

describe('a tool of a script', () => {
  test('adds', async () => {
    expect(await answerOf('tool add {"a":1.5,"b":-3}')).toEqual({ result: '-1.5', is_error: false })
  })

  test('tells the time', async () => {
    const answer = await answerOf('tool clock {}')
    expect(answer).toMatchObject({ result: expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/), is_error: false })
  })

  test('sleeps', async () => {
    expect(await answerOf('tool sleep {"ms":1}')).toEqual({ result: 'slept 1 ms', is_error: false })
  })

  test.each([
    ['tool fail {"message":"as told"}', 'execution_failed', 'as told'],
    ['tool fail {"message":7}', 'execution_failed', 'The tool failed'],
    ['tool fail', 'execution_failed', 'The tool failed'],
    ['tool nothing {}', 'tool_not_found', 'There is no tool nothing'],
    ['tool toString {}', 'tool_not_found', 'There is no tool toString'],
    ['tool add {"a":1}', 'invalid_arguments', 'b must be a number'],
    ['tool add {"a":1,"b":"2"}', 'invalid_arguments', 'b must be a number'],
    ['tool add {"a":1e999,"b":2}', 'invalid_arguments', 'a must be a number'],
    ['tool add not json', 'invalid_arguments', 'The arguments must be a JSON object'],
    ['tool add [1,2]', 'invalid_arguments', 'The arguments must be a JSON object'],
    ['tool add null', 'invalid_arguments', 'The arguments must be a JSON object'],
    ['tool sleep {"ms":-1}', 'invalid_arguments', 'ms must be from 0 to 600000'],
    ['tool sleep {"ms":600001}', 'invalid_arguments', 'ms must be from 0 to 600000'],
  ])('answers %j with an error that a model can read, and the turn goes on [R58]', async (line, error, message) => {
    const { view, events } = await played(`${line}\nsay and on`)
    expect(view).toMatchObject({ status: 'completed', result: { text: 'and on' } })
    const completed = events.find(({ type }) => type === 'tool_execution_completed') as { result: string }
    expect(completed).toMatchObject({ is_error: true })
    expect(JSON.parse(completed.result)).toEqual({ error, message })
    expect(events.find(({ type }) => type === 'tool_result_received')).toMatchObject({ is_error: true })
  })

  test('is asked for with the text itself where a script wrote no JSON', async () => {
    const { events } = await played('tool add not json')
    expect(events.find(({ type }) => type === 'tool_call_requested')).toMatchObject({ args: 'not json' })
  })
})
