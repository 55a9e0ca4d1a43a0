/**
 * Who may run a turn, as a table: a phase and an event give a verdict and the next phase. No clock, no I/O, no agent.
 *
 * `admitted` is the time between the claim and the agent's first step; an interrupt that arrives there keeps the agent
 * from starting. `completing` is the time between a turn's end and the moment its record is published.
 */
export type Phase = 'idle' | 'admitted' | 'running' | 'completing' | 'shutting_down'

export interface Admission {
  readonly phase: Phase
  /** The turn in flight was interrupted. Belongs to that turn alone: the next claim starts without it. */
  readonly interrupted: boolean
  /** The session was archived while a turn was in flight; it ends with that turn. */
  readonly shutdownPending: boolean
}

export type AdmissionEvent = 'claim' | 'abort_claim' | 'begin' | 'settle' | 'finalize' | 'interrupt' | 'shutdown'

/**
 * `ok` goes on; `busy`, `not_running` and `not_found` refuse the caller and change nothing; `cancelled` goes on, and
 * the turn must end as interrupted whatever the agent made of it.
 */
export type Verdict = 'ok' | 'busy' | 'not_running' | 'not_found' | 'cancelled'

export interface Step {
  readonly verdict: Verdict
  readonly next: Admission
}

const state = (phase: Phase, interrupted = false, shutdownPending = false): Admission => ({
  phase,
  interrupted,
  shutdownPending,
})

export const IDLE: Admission = state('idle')

export function admissionStep(now: Admission, event: AdmissionEvent): Step {
  const ok = (next: Admission): Step => ({ verdict: 'ok', next })
  const refuse = (verdict: Verdict): Step => ({ verdict, next: now })
  const inFlight = now.phase === 'admitted' || now.phase === 'running'

  switch (event) {
    case 'claim':
      if (now.phase === 'shutting_down' || now.shutdownPending) return refuse('not_found')
      return now.phase === 'idle' ? ok(state('admitted')) : refuse('busy')
    case 'abort_claim':
      if (now.phase !== 'admitted') return refuse('not_running')
      return ok(now.shutdownPending ? state('shutting_down') : IDLE)
    case 'begin':
      if (now.phase !== 'admitted') return refuse('not_running')
      return { verdict: now.interrupted ? 'cancelled' : 'ok', next: { ...now, phase: 'running' } }
    case 'settle':
      if (!inFlight) return refuse('not_running')
      return { verdict: now.interrupted ? 'cancelled' : 'ok', next: { ...now, phase: 'completing' } }
    case 'finalize':
      if (now.phase !== 'completing') return refuse('not_running')
      return ok(now.shutdownPending ? state('shutting_down') : IDLE)
    case 'interrupt':
      if (now.phase === 'shutting_down') return refuse('not_found')
      return inFlight ? ok({ ...now, interrupted: true }) : refuse('not_running')
    case 'shutdown':
      if (now.phase === 'shutting_down' || now.shutdownPending) return refuse('not_found')
      return ok(now.phase === 'idle' ? state('shutting_down') : { ...now, shutdownPending: true })
  }
}
