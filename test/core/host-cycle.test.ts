import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { joined, planCycle } from '../../src/core/host-cycle.ts'
import { Interaction } from '../../src/core/interaction.ts'

const message = (body: string) => Interaction.of({ kind: 'message', source: 'p', body }, false)
const event = (body: string, isFollowed = false) => Interaction.of({ kind: 'event', source: 's', body }, isFollowed)
const request = (intent: string, isFollowed = false) =>
  Interaction.of({ kind: 'request', source: 'p', intent, params: null }, isFollowed)
const response = (result: string) =>
  Interaction.of({ kind: 'response', source: 'p', inReplyTo: 'x', status: 'completed', result }, false)

describe('what a host does with all that waited', () => {
  test('is nothing where nothing did', () => {
    expect(planCycle([])).toEqual({ runs: [], dismissals: [] })
  })

  test('is first what stands alone, as it came, then the rest as one, with responses before the first [R85]', () => {
    const [m1, r1, a1, e1, followed, a2, m2] = [
      message('m1'),
      request('r1'),
      response('a1'),
      event('e1'),
      event('e2', true),
      response('a2'),
      message('m2'),
    ] as const
    expect(planCycle([m1, r1, a1, e1, followed, a2, m2])).toEqual({
      runs: [
        { responses: [a1, a2], prompted: [r1] },
        { responses: [], prompted: [followed] },
        { responses: [], prompted: [m1, e1, m2] },
      ],
      dismissals: [],
    })
  })

  test('puts responses before a batch where that is all', () => {
    const [a, m] = [response('a'), message('m')]
    expect(planCycle([m, a]).runs).toEqual([{ responses: [a], prompted: [m] }])
  })

  test('is a run for responses where nothing else came, whether or not it is dismissed [R85]', () => {
    const [a1, a2, dismissal] = [response('a1'), response('a2'), message('dismiss')]
    const runs = [{ responses: [], prompted: [a1, a2] }]
    expect(planCycle([a1, a2])).toEqual({ runs, dismissals: [] })
    expect(planCycle([a1, dismissal, a2])).toEqual({ runs, dismissals: [dismissal] })
  })

  test('leaves out dismissals, however many there are [R86]', () => {
    const [d1, m, d2] = [message('dismiss'), message('m'), message('DISMISS')]
    expect(planCycle([d1, m, d2])).toEqual({ runs: [{ responses: [], prompted: [m] }], dismissals: [d1, d2] })
    expect(planCycle([d1, d2])).toEqual({ runs: [], dismissals: [d1, d2] })
  })

  test('leaves nothing out and does nothing twice, whatever came [R84]', () => {
    const any = fc.oneof(
      fc.constant(() => message('m')),
      fc.constant(() => message('dismiss')),
      fc.constant(() => response('a')),
      fc.boolean().map((isFollowed) => () => event('e', isFollowed)),
      fc.boolean().map((isFollowed) => () => request('r', isFollowed)),
    )
    fc.assert(
      fc.property(fc.array(any, { maxLength: 12 }), (makers) => {
        const taken = makers.map((make) => make())
        const { runs, dismissals } = planCycle(taken)
        for (const { prompted } of runs) expect(prompted.length).toBeGreaterThan(0)
        const planned = [...runs.flatMap(({ responses, prompted }) => [...responses, ...prompted]), ...dismissals]
        expect(planned).toHaveLength(taken.length)
        expect(new Set(planned)).toEqual(new Set(taken))
      }),
    )
  })
})

test('several are one text, with a blank line between them [R80]', () => {
  expect(joined([event('a'), message('b'), event('c')])).toBe(
    '[EVENT via s] a\n\n[COMMS MESSAGE from p]\nb\n\n[EVENT via s] c',
  )
})
