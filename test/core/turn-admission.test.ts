import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  type Admission,
  type AdmissionEvent,
  admissionStep,
  IDLE,
  type Phase,
  type Verdict,
} from '../../src/core/turn-admission.ts'

const EVENTS: readonly AdmissionEvent[] = [
  'claim',
  'abort_claim',
  'begin',
  'settle',
  'finalize',
  'interrupt',
  'shutdown',
]

interface Cell {
  /** Phase, then `i` for a pending interrupt, then `s` for a pending shutdown. */
  from: string
  event: AdmissionEvent
  verdict: Verdict
  to: string
}

/** The admission table, cell by cell: each line is a state, then a verdict and the next state for each event. */
const TABLE = `
                  claim              abort_claim                begin                settle                   finalize                  interrupt                  shutdown
idle              ok:admitted        not_running:idle           not_running:idle     not_running:idle         not_running:idle          not_running:idle           ok:shutting_down
admitted          busy:admitted      ok:idle                    ok:running           ok:completing            not_running:admitted      ok:admitted+i              ok:admitted+s
admitted+i        busy:admitted+i    ok:idle                    cancelled:running+i  cancelled:completing+i   not_running:admitted+i    ok:admitted+i              ok:admitted+i+s
admitted+s        not_found:admitted+s ok:shutting_down         ok:running+s         ok:completing+s          not_running:admitted+s    ok:admitted+i+s            not_found:admitted+s
admitted+i+s      not_found:admitted+i+s ok:shutting_down       cancelled:running+i+s cancelled:completing+i+s not_running:admitted+i+s ok:admitted+i+s            not_found:admitted+i+s
running           busy:running       not_running:running        not_running:running  ok:completing            not_running:running       ok:running+i               ok:running+s
running+i         busy:running+i     not_running:running+i      not_running:running+i cancelled:completing+i  not_running:running+i     ok:running+i               ok:running+i+s
running+s         not_found:running+s not_running:running+s     not_running:running+s ok:completing+s         not_running:running+s     ok:running+i+s             not_found:running+s
running+i+s       not_found:running+i+s not_running:running+i+s not_running:running+i+s cancelled:completing+i+s not_running:running+i+s ok:running+i+s           not_found:running+i+s
completing        busy:completing    not_running:completing     not_running:completing not_running:completing ok:idle                   not_running:completing     ok:completing+s
completing+i      busy:completing+i  not_running:completing+i   not_running:completing+i not_running:completing+i ok:idle               not_running:completing+i   ok:completing+i+s
completing+s      not_found:completing+s not_running:completing+s not_running:completing+s not_running:completing+s ok:shutting_down    not_running:completing+s   not_found:completing+s
completing+i+s    not_found:completing+i+s not_running:completing+i+s not_running:completing+i+s not_running:completing+i+s ok:shutting_down not_running:completing+i+s not_found:completing+i+s
shutting_down     not_found:shutting_down not_running:shutting_down not_running:shutting_down not_running:shutting_down not_running:shutting_down not_found:shutting_down not_found:shutting_down
`

function cells(): Cell[] {
  const [head = '', ...lines] = TABLE.trim().split('\n')
  const events = head.trim().split(/\s+/) as AdmissionEvent[]
  return lines.flatMap((line) => {
    const [from = '', ...outcomes] = line.trim().split(/\s+/)
    return outcomes.map((outcome, at) => {
      const [verdict, to = ''] = outcome.split(':') as [Verdict, string]
      return { from, event: events[at] as AdmissionEvent, verdict, to }
    })
  })
}

function stateOf(name: string): Admission {
  const [phase, ...flags] = name.split('+')
  return { phase: phase as Phase, interrupted: flags.includes('i'), shutdownPending: flags.includes('s') }
}

function nameOf({ phase, interrupted, shutdownPending }: Admission): string {
  return phase + (interrupted ? '+i' : '') + (shutdownPending ? '+s' : '')
}

describe('the admission table', () => {
  test.each(cells())('gives $verdict for $event in $from, and goes on in $to', ({ from, event, verdict, to }) => {
    const step = admissionStep(stateOf(from), event)
    expect({ verdict: step.verdict, to: nameOf(step.next) }).toEqual({ verdict, to })
  })

  test('names every event in every state that can be reached, and no other state', () => {
    const reached = new Set<string>()
    const open = [IDLE]
    for (let state = open.pop(); state !== undefined; state = open.pop()) {
      if (reached.has(nameOf(state))) continue
      reached.add(nameOf(state))
      for (const event of EVENTS) open.push(admissionStep(state, event).next)
    }
    expect([...reached].sort()).toEqual([...new Set(cells().map((cell) => cell.from))].sort())
    expect(cells()).toHaveLength(reached.size * EVENTS.length)
  })
})

describe('any sequence of admission events', () => {
  const sequences = fc.array(fc.constantFrom(...EVENTS), { maxLength: 80 })

  test('keeps at most one claim in flight, and each claim ends before the next begins [R10]', () => {
    fc.assert(
      fc.property(sequences, (sequence) => {
        let now = IDLE
        let inFlight = 0
        for (const event of sequence) {
          const { verdict, next } = admissionStep(now, event)
          if (event === 'claim' && verdict === 'ok') inFlight++
          if ((event === 'abort_claim' || event === 'finalize') && verdict === 'ok') inFlight--
          now = next
          const busy = now.phase === 'admitted' || now.phase === 'running' || now.phase === 'completing'
          expect(inFlight).toBe(busy ? 1 : 0)
        }
      }),
    )
  })

  test('never lets an interrupt survive into the next claim [R29]', () => {
    fc.assert(
      fc.property(sequences, (sequence) => {
        let now = IDLE
        for (const event of sequence) {
          const { verdict, next } = admissionStep(now, event)
          now = next
          if (event === 'claim' && verdict === 'ok') expect(now.interrupted).toBe(false)
          if (now.phase === 'idle' || now.phase === 'shutting_down') expect(now.interrupted).toBe(false)
        }
      }),
    )
  })

  test('makes a turn cancelled exactly when it was interrupted before it settled [R27]', () => {
    fc.assert(
      fc.property(sequences, (sequence) => {
        let now = IDLE
        let interrupted = false
        for (const event of sequence) {
          const { verdict, next } = admissionStep(now, event)
          if (event === 'claim' && verdict === 'ok') interrupted = false
          if (event === 'interrupt' && verdict === 'ok') interrupted = true
          if ((event === 'begin' || event === 'settle') && verdict !== 'not_running') {
            expect(verdict).toBe(interrupted ? 'cancelled' : 'ok')
          }
          now = next
        }
      }),
    )
  })

  test('never leaves the shutdown again, and admits nothing once it was asked for [R31]', () => {
    fc.assert(
      fc.property(sequences, (sequence) => {
        let now = IDLE
        let asked = false
        for (const event of sequence) {
          const before = now
          const { verdict, next } = admissionStep(now, event)
          now = next
          if (event === 'claim' && asked) expect(verdict).toBe('not_found')
          if (before.phase === 'shutting_down') expect(now).toEqual(before)
          if (event === 'shutdown') {
            expect(verdict).toBe(asked ? 'not_found' : 'ok')
            asked = true
          }
          if (asked && now.phase === 'idle') throw new Error('idle after a shutdown')
        }
      }),
    )
  })

  test('changes nothing when it refuses', () => {
    fc.assert(
      fc.property(sequences, (sequence) => {
        let now = IDLE
        for (const event of sequence) {
          const { verdict, next } = admissionStep(now, event)
          if (verdict === 'busy' || verdict === 'not_running' || verdict === 'not_found') expect(next).toBe(now)
          now = next
        }
      }),
    )
  })
})
