import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { echo } from '../../src/agents/echo.ts'
import { countWords, splitWords } from '../../src/agents/words.ts'
import type { LoggedEvent } from '../../src/core/events.ts'
import { createIdle, errorOf, runTurn, settled, turnEvents, types, useService } from '../core/support.ts'

/** Any sequence of UTF-16 code units. */
const units = fc.array(fc.nat({ max: 0xffff }), { maxLength: 30 }).map((codes) => String.fromCharCode(...codes))

function deltas(events: readonly LoggedEvent[]): string[] {
  return events.flatMap((event) => (event.type === 'text_delta' ? [event.delta] : []))
}

async function echoed(prompt: string, max_tokens?: number) {
  const harness = useService({ agents: [echo] })
  const id = await createIdle(harness, max_tokens === undefined ? {} : { max_tokens })
  const view = await runTurn(harness, id, prompt)
  return { result: view.result, deltas: deltas(await turnEvents(harness, id, 1)) }
}

describe('echo', () => {
  test('says the prompt, a word at a time, each with the white space before it', async () => {
    const { result, deltas } = await echoed('one  two\nthree')
    expect(deltas).toEqual(['one', '  two', '\nthree'])
    expect(result).toMatchObject({
      text: 'one  two\nthree',
      stop_reason: 'end_turn',
      usage: { input_tokens: 3, output_tokens: 3, total_tokens: 6 },
    })
  })

  test('leaves nothing out: what trails the last word goes with it', async () => {
    const { result, deltas } = await echoed('  one two \n')
    expect(deltas).toEqual(['  one', ' two \n'])
    expect(result?.text).toBe('  one two \n')
  })

  test('stops after as many words as it may say, and says that this is why', async () => {
    const { result, deltas } = await echoed('one two three', 2)
    expect(deltas).toEqual(['one', ' two'])
    expect(result).toMatchObject({
      text: 'one two',
      stop_reason: 'max_tokens',
      usage: { input_tokens: 3, output_tokens: 2, total_tokens: 5 },
    })
    expect((await echoed('one two', 2)).result?.stop_reason).toBe('end_turn')
  })

  test('waits before each word when it is told to, and no longer than until it is interrupted', async () => {
    const harness = useService({ agents: [echo] })
    const slow = await createIdle(harness, { provider_params: { delay_ms: 1 } })
    expect((await runTurn(harness, slow, 'one two')).result?.text).toBe('one two')
    const endless = await createIdle(harness, { provider_params: { delay_ms: 60_000 } })
    await harness.service.startTurn(endless, { prompt: 'one two' })
    await settled()
    expect(types(await turnEvents(harness, endless, 1))).toEqual(['run_started', 'turn_started'])
    harness.service.interrupt(endless)
    expect(await harness.service.turnEnded(endless, 1)).toMatchObject({
      status: 'interrupted',
      result: { text: '', usage: { input_tokens: 2, output_tokens: 0 } },
    })
  })

  test.each([-1, 1.5, 60_001, '5', true, Number.NaN])('refuses to wait for %j', async (delay_ms) => {
    const harness = useService({ agents: [echo] })
    expect(await errorOf(() => createIdle(harness, { provider_params: { delay_ms } }))).toMatchObject({
      code: 'INVALID_PARAMS',
      data: { errors: [{ path: '/provider_params/delay_ms', message: 'must be an integer from 0 to 60000' }] },
    })
    expect(harness.service.stats.residents).toBe(0)
  })

  test('waits a minute at the most, and not at all by default', async () => {
    const harness = useService({ agents: [echo] })
    await createIdle(harness, { provider_params: { delay_ms: 60_000 } })
    await createIdle(harness, { provider_params: {} })
  })

  test('refuses what it would have to ignore', async () => {
    const harness = useService({ agents: [echo] })
    for (const request of [{ model: 'm' }, { provider: 'p' }]) {
      expect(await errorOf(() => createIdle(harness, request))).toMatchObject({ code: 'CAPABILITY_UNAVAILABLE' })
    }
  })
})

describe('words', () => {
  test('add up to the text that they were taken from, whatever it is', () => {
    const text = fc.oneof(
      units,
      fc
        .array(fc.constantFrom('a', ' ', '\n', '\t', '\u00a0', '\u2028', '😀', 'bc'), { maxLength: 20 })
        .map((parts) => parts.join('')),
    )
    fc.assert(
      fc.property(text, (text) => {
        const words = splitWords(text)
        expect(words.join('')).toBe(text)
        expect(words.every((word) => word !== '')).toBe(true)
        if (/\S/.test(text)) expect(words).toHaveLength(countWords(text))
      }),
    )
  })

  test('are none in nothing, and one in white space that must not get lost', () => {
    expect([splitWords(''), countWords('')]).toEqual([[], 0])
    expect([splitWords(' \n '), countWords(' \n ')]).toEqual([[' \n '], 0])
  })
})
