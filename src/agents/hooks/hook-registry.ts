import { InvalidParamsError } from '../../core/errors.ts'
import type { AgentOutput, HookPoint } from '../../core/events.ts'
import type { HookHandler, HookInvocation, HookOutcome, HookPatch, HookRegistry, HookResponse, Hooks } from './hook.ts'
import { callHook } from './hook-call.ts'
import { HookFault } from './hook-fault.ts'

/** A hook as the configuration has it, with what it calls. */
export interface Hook {
  readonly id: string
  readonly point: HookPoint
  readonly mode: 'foreground' | 'background'
  readonly capability: 'observe' | 'guardrail' | 'rewrite'
  /** Lower ones go first; of equal ones the first that was named. */
  readonly priority: number
  readonly failurePolicy: 'fail_open' | 'fail_closed'
  readonly timeoutMs: number
  /** Whether a request may do without it. */
  readonly allowDisable: boolean
  readonly handler: HookHandler
}

/** So many background hooks run at a time; what comes beyond is skipped. */
const MAX_BACKGROUND = 32

/** The patch that each point honours. */
const PATCHES: Partial<Record<HookPoint, HookPatch['patch_type']>> = {
  pre_llm_request: 'llm_request',
  post_llm_response: 'assistant_text',
  pre_tool_execution: 'tool_args',
  post_tool_execution: 'tool_result',
  run_completed: 'run_result',
}

/** Tells the operator what a hook did that is nobody else's business. */
export type HookReport = (message: string, hookId: string, error?: unknown) => void

/** Background hooks of all sessions. */
interface Background {
  running: number
  /** Aborts when the server closes. */
  readonly signal: AbortSignal
}

export interface ServerHooks extends HookRegistry {
  /** Stops what still runs in the background: it must not keep the process. */
  close(): void
}

/** The hooks of a server. */
export function createHooks(hooks: readonly Hook[], report: HookReport): ServerHooks {
  const closing = new AbortController()
  const background: Background = { running: 0, signal: closing.signal }
  const inOrder = hooks.toSorted((a, b) => a.priority - b.priority)
  return {
    forSession(disable) {
      for (const [i, id] of disable.entries()) {
        const hook = hooks.find((one) => one.id === id)
        const path = `/hooks_override/disable/${i}`
        if (hook === undefined) throw new InvalidParamsError(path, 'names a hook that is not here')
        if (!hook.allowDisable) throw new InvalidParamsError(path, 'names a hook that may not be disabled')
      }
      const own = inOrder.filter(({ id }) => !disable.includes(id))
      return new SessionHooks(own, background, report)
    },
    close: () => closing.abort(new Error('The server is closing')),
  }
}

class SessionHooks implements Hooks {
  readonly #byPoint = new Map<HookPoint, Hook[]>()
  readonly #background: Background
  readonly #report: HookReport
  /** What background hooks propose, until the next point. */
  #proposals: AgentOutput[] = []
  #revision = 0

  constructor(hooks: readonly Hook[], background: Background, report: HookReport) {
    for (const hook of hooks) {
      const known = this.#byPoint.get(hook.point)
      if (known === undefined) this.#byPoint.set(hook.point, [hook])
      else known.push(hook)
    }
    this.#background = background
    this.#report = report
  }

  has(point: HookPoint): boolean {
    return this.#byPoint.has(point) || this.#proposals.length > 0
  }

  async *run(invocation: HookInvocation, signal: AbortSignal): AsyncGenerator<AgentOutput, HookOutcome, undefined> {
    yield* this.#proposals.splice(0)
    const { point } = invocation
    const hooks = this.#byPoint.get(point) ?? []
    const patches: { hook_id: string; patch: HookPatch }[] = []
    for (const hook of hooks) {
      if (hook.mode === 'background') continue
      const answer = yield* this.#ask(hook, invocation, signal)
      if ('denied' in answer) return { denied: answer.denied, patches: [] }
      for (const patch of answer.patches) patches.push({ hook_id: hook.id, patch })
    }
    for (const hook of hooks) if (hook.mode === 'background') yield* this.#start(hook, invocation)
    return { patches }
  }

  /** One foreground hook, from its start to what it comes to. */
  async *#ask(
    hook: Hook,
    invocation: HookInvocation,
    signal: AbortSignal,
  ): AsyncGenerator<AgentOutput, { denied: NonNullable<HookOutcome['denied']> } | { patches: HookPatch[] }, undefined> {
    const at = { hook_id: hook.id, point: hook.point }
    yield { type: 'hook_started', ...at }
    const startedAt = performance.now()
    let response: HookResponse
    try {
      response = await callHook(hook.handler, invocation, hook.timeoutMs, signal)
    } catch (error) {
      signal.throwIfAborted()
      const { message, reason } = this.#faultOf(hook, error)
      if (hook.failurePolicy === 'fail_open') {
        yield { type: 'hook_failed', ...at, error: message }
        return { patches: [] }
      }
      yield { type: 'hook_denied', ...at, reason_code: reason, message }
      return { denied: { hook_id: hook.id, reason_code: reason, message } }
    }
    yield { type: 'hook_completed', ...at, duration_ms: Math.round(performance.now() - startedAt) }
    const { decision, patches = [] } = response
    if (hook.capability !== 'observe' && decision?.decision === 'deny') {
      const { reason_code, message, payload } = decision
      const why = { reason_code, message, ...(payload === undefined ? {} : { payload }) }
      yield { type: 'hook_denied', ...at, ...why }
      return { denied: { hook_id: hook.id, ...why } }
    }
    return { patches: hook.capability === 'rewrite' ? honoured(hook.point, patches) : [] }
  }

  /** A background hook holds nothing up, neither the turn nor the end of the process. */
  *#start(hook: Hook, invocation: HookInvocation): Generator<AgentOutput, void, undefined> {
    const background = this.#background
    if (background.running >= MAX_BACKGROUND) {
      this.#report(`was skipped: ${MAX_BACKGROUND} background hooks are running`, hook.id)
      return
    }
    yield { type: 'hook_started', hook_id: hook.id, point: hook.point }
    background.running++
    callHook(hook.handler, invocation, hook.timeoutMs, background.signal)
      .then(({ patches = [] }) => this.#propose(hook, patches))
      .catch((error: unknown) => {
        if (background.signal.aborted) return
        this.#report(`failed: ${this.#faultOf(hook, error).message}`, hook.id)
      })
      .finally(() => background.running--)
  }

  #propose({ id: hook_id, point, capability }: Hook, patches: readonly HookPatch[]): void {
    if (capability !== 'rewrite') return
    for (const patch of honoured(point, patches)) {
      const published_at = new Date().toISOString()
      const envelope = { revision: ++this.#revision, hook_id, point, patch, published_at }
      this.#proposals.push({ type: 'hook_patch_published', hook_id, point, envelope })
    }
  }

  /** What a hook threw is for the operator, unless it was written for everybody. */
  #faultOf(hook: Hook, error: unknown): HookFault {
    if (error instanceof HookFault) return error
    this.#report('threw', hook.id, error)
    return new HookFault('failed unexpectedly')
  }
}

function honoured(point: HookPoint, patches: readonly HookPatch[]): HookPatch[] {
  return patches.filter(({ patch_type }) => patch_type === PATCHES[point])
}
