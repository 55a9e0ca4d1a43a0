import type { Spending } from '../../core/agent.ts'
import { BudgetExhaustedError } from '../../core/errors.ts'
import type { AgentReport } from '../../core/events.ts'
import type { BudgetLimits } from '../../core/transcript.ts'
import { MAX_TIMER_MS } from '../pause.ts'

/** A warning is given when this share of a budget is used. */
const WARN_AT = 0.8

type Kind = 'tokens' | 'time' | 'tool_calls'

interface Budget {
  readonly kind: Kind
  readonly of: 'session' | 'turn'
  readonly limit: number
  used(): number
  warned: boolean
}

const NAMES: Record<Kind, string> = { tokens: 'tokens', time: 'ms of run time', tool_calls: 'tool calls' }

/** What one turn may still spend: the session's budget less what earlier turns spent, and the server's limits a turn. */
export class TurnBudget {
  tokens = 0
  toolCalls = 0
  readonly #startedAt = performance.now()
  readonly #budgets: Budget[]

  /** `turnLimits` count this turn alone; 0 there is no limit. */
  constructor(sessionLimits: BudgetLimits, spent: Spending, turnLimits: BudgetLimits) {
    const turn = (limit: number | undefined) => (limit === 0 ? undefined : limit)
    const all: [Kind, 'session' | 'turn', number | undefined, () => number][] = [
      ['tokens', 'session', sessionLimits.max_tokens, () => spent.tokens + this.tokens],
      ['time', 'session', sessionLimits.max_duration_ms, () => spent.durationMs + this.#elapsed()],
      ['tool_calls', 'session', sessionLimits.max_tool_calls, () => spent.toolCalls + this.toolCalls],
      ['tokens', 'turn', turn(turnLimits.max_tokens), () => this.tokens],
      ['time', 'turn', turn(turnLimits.max_duration_ms), () => this.#elapsed()],
      ['tool_calls', 'turn', turn(turnLimits.max_tool_calls), () => this.toolCalls],
    ]
    this.#budgets = all.flatMap(([kind, of, limit, used]) =>
      limit === undefined ? [] : [{ kind, of, limit, used, warned: false }],
    )
  }

  /** Milliseconds until time is up, at most what a timer can wait; `undefined` without such a limit. */
  get remainingMs(): number | undefined {
    const times = this.#budgets.filter(({ kind }) => kind === 'time').map(({ limit, used }) => limit - used())
    return times.length === 0 ? undefined : Math.max(0, Math.min(MAX_TIMER_MS, ...times))
  }

  /** Warns of what is nearly used. Throws a `BudgetExhaustedError`, after its warning, for what is used up. */
  *check(): Generator<AgentReport, void, undefined> {
    for (const budget of this.#budgets) {
      const used = Math.round(budget.used())
      const exhausted = used >= budget.limit
      if (!exhausted && (budget.warned || used < budget.limit * WARN_AT)) continue
      budget.warned = true
      const percent = budget.limit === 0 ? 1 : used / budget.limit
      yield { type: 'budget_warning', budget_type: budget.kind, used, limit: budget.limit, percent }
      if (exhausted) throw exhaustedError(budget, used)
    }
  }

  #elapsed(): number {
    return performance.now() - this.#startedAt
  }
}

function exhaustedError({ kind, of, limit }: Budget, used: number): BudgetExhaustedError {
  return new BudgetExhaustedError(`The ${of} has used ${used} of its ${limit} ${NAMES[kind]}`)
}
