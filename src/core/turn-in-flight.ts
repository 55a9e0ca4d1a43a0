import type { AgentSession, Approval, SessionAgent } from './agent.ts'
import type { AgentReport } from './events.ts'
import { type HostRun, joined, planCycle } from './host-cycle.ts'
import type { Ending, Interaction } from './interaction.ts'
import type { Permit } from './semaphore.ts'
import type { RunResult } from './session-service.ts'
import type { SessionTask } from './session-task.ts'
import type { StopReason } from './transcript.ts'
import type { TurnRecord } from './turn-record.ts'
import { type RunEnd, type RunOptions, TurnRun } from './turn-run.ts'
import { addSpent } from './usage.ts'

/**
 * A turn from `run_started` to its terminal event: one run of the agent or, in host mode, one after another, for what
 * comes into the inbox. Between the runs of a host there is nothing but a place to be woken.
 */
export class TurnInFlight {
  readonly record: TurnRecord
  readonly permit: Permit
  readonly #session: SessionTask
  readonly #onEnd: (end: RunEnd) => void
  #agent: { agent: SessionAgent; handle: AgentSession } | undefined
  /** `undefined` while a host waits. */
  #run: TurnRun | undefined
  /** What the run at hand has to do with. */
  #taken: Interaction[] = []
  /** What the host took and has not come to yet. */
  #ahead: HostRun[] = []
  #dismissals: Interaction[] = []
  #isWoken = false
  #isOver = false
  /** What the last run came to. */
  #last: RunResult | undefined
  #openedTick = 0
  #runTick = 0

  constructor(session: SessionTask, record: TurnRecord, permit: Permit, onEnd: (end: RunEnd) => void) {
    this.#session = session
    this.record = record
    this.permit = permit
    this.#onEnd = onEnd
    this.#run = this.#newRun(record.isHost ? {} : { injections: this.#injections() })
  }

  /** The turn's first event. */
  open(): void {
    const { record } = this
    const { id, log } = this.#session
    record.status = 'running'
    record.startedAt = Date.now()
    this.#openedTick = this.#runTick = performance.now()
    this.#session.updatedAt = record.startedAt
    // Known before the event is there: a large one is committed, and read, while it is being appended.
    record.firstSeq = log.lastSeq + 1
    log.append({ type: 'run_started', session_id: id, prompt: record.prompt }, record.turn)
  }

  start(agent: SessionAgent, handle: AgentSession): void {
    this.#agent = { agent, handle }
    this.#run?.start(agent, handle)
  }

  /** Tells the agent to stop. Where none runs the turn ends by itself. */
  cancel(): void {
    const run = this.#run
    if (run === undefined) queueMicrotask(() => this.#end({ kind: 'abandoned' }))
    else run.controller.abort()
  }

  /** Stops listening to an agent that did not stop by itself. */
  abandon(): void {
    this.#run?.abandon()
  }

  /** The agent could not even be built. */
  fail(error: unknown): void {
    this.#run?.fail(error)
  }

  approve(callId: string, approval: Approval): boolean {
    return this.#run?.approvals.answer(callId, approval) ?? false
  }

  emit(report: AgentReport): void {
    if (this.#run === undefined) this.#session.log.append(report, this.record.turn)
    else this.#run.write(report)
  }

  /** Something came into the inbox, or nothing will any more. */
  wake(): void {
    if (!this.record.isHost || this.#run !== undefined || this.#isWoken) return
    this.#isWoken = true
    // Not at once: what comes together is dealt with together, and others get a turn of the event loop between two runs.
    setImmediate(() => {
      this.#isWoken = false
      if (!this.#isOver) this.#goOn()
    })
  }

  /** Commits what is left, and writes the terminal events: those of its interactions, then its own. */
  conclude(): void {
    const { record } = this
    const run = this.#run
    const isCompleted = record.status === 'completed'
    if (run !== undefined) this.#commit(run, isCompleted ? (run.outcome?.stop_reason ?? 'end_turn') : 'cancelled')
    if (record.error === undefined) {
      const { usage, modelCalls, toolCalls } = record.spent
      record.result = {
        ...(this.#last as RunResult),
        ...(isCompleted ? {} : { stop_reason: 'cancelled' }),
        turns: modelCalls,
        tool_calls: toolCalls,
        usage,
        session_usage: this.#session.usage,
      }
    }
    this.#endInteractions(isCompleted)
    record.messageEnd = this.#session.messages.length
    record.endedAt = Date.now()
    record.durationMs = Math.round(performance.now() - this.#openedTick)
    this.#session.updatedAt = record.endedAt
    record.lastSeq = this.#session.log.lastSeq + 1
    this.#session.log.append(record.terminalEvent(), record.turn)
  }

  #newRun(options: RunOptions): TurnRun {
    const { log, comms } = this.#session
    const all = comms === undefined ? options : { ...options, comms }
    const run: TurnRun = new TurnRun(this.record, log, (end) => this.#runEnded(run, end), all)
    return run
  }

  /** What the only run of a turn may take from the inbox. */
  #injections(): NonNullable<RunOptions['injections']> {
    const session = this.#session
    return {
      get isEmpty() {
        return session.inbox?.isEmpty ?? true
      },
      take: () => {
        const taken = session.inbox?.take() ?? []
        const text = joined(taken)
        this.#take(taken)
        return text
      },
    }
  }

  #take(interactions: readonly Interaction[]): void {
    for (const interaction of interactions) {
      this.#taken.push(interaction)
      interaction.start(this.#session.log, this.record.turn)
      this.#session.inbox?.changed(interaction)
    }
  }

  #end(end: RunEnd): void {
    if (this.#isOver) return
    this.#isOver = true
    this.#onEnd(end)
  }

  #runEnded(run: TurnRun, end: RunEnd): void {
    if (!this.record.isHost || end.kind !== 'returned' || run.controller.signal.aborted) {
      this.#end(end)
      return
    }
    const result = this.#commit(run, run.outcome?.stop_reason ?? 'end_turn')
    this.#run = undefined
    this.#endTaken({ result })
    this.wake()
  }

  /** A host's next step: the next run, or the end, or nothing until it is woken again. */
  #goOn(): void {
    const { inbox } = this.#session
    if (this.#ahead.length === 0 && this.#dismissals.length === 0 && inbox !== undefined) {
      const { runs, dismissals } = planCycle(inbox.take())
      this.#ahead = runs
      this.#dismissals = [...dismissals]
    }
    const next = this.#ahead.shift()
    if (next !== undefined) this.#host(next)
    else if (this.#dismissals.length > 0 || this.#session.isInboxClosing) this.#end({ kind: 'returned' })
  }

  #host({ responses, prompted }: HostRun): void {
    const { agent, handle } = this.#agent as { agent: SessionAgent; handle: AgentSession }
    if (responses.length > 0) this.#session.messages.push({ role: 'user', content: joined(responses) })
    const run = this.#newRun({ prompt: joined(prompted), callsBefore: this.record.spent.modelCalls })
    this.#run = run
    this.#runTick = performance.now()
    this.#take([...responses, ...prompted])
    run.start(agent, handle)
  }

  /** Takes over what a run said and spent, and says what it came to. */
  #commit(run: TurnRun, stopReason: StopReason): RunResult {
    run.close(stopReason)
    const session = this.#session
    session.commit({
      messages: [{ role: 'user', content: run.renderedPrompt }, ...run.messages],
      usage: run.usage,
      toolCalls: run.toolCalls,
      ranMs: Math.round(performance.now() - this.#runTick),
    })
    this.record.runs++
    this.record.spent = addSpent(this.record.spent, run)
    const { structured_output, schema_warnings, text } = run.outcome ?? {}
    this.#last = {
      session_id: session.id,
      turn: this.record.turn,
      text: (stopReason === 'cancelled' ? undefined : text) ?? run.text,
      stop_reason: stopReason,
      turns: run.modelCalls,
      tool_calls: run.toolCalls,
      usage: run.usage,
      session_usage: session.usage,
      ...(structured_output === undefined ? {} : { structured_output }),
      ...(schema_warnings === undefined ? {} : { schema_warnings: [...schema_warnings] }),
    }
    return this.#last
  }

  #endTaken(ending: Ending): void {
    const taken = this.#taken
    this.#taken = []
    this.#session.inbox?.end(taken, this.record.turn, ending)
  }

  /** A turn that did not complete takes with it what its host had not come to, and what waits for that. */
  #endInteractions(isCompleted: boolean): void {
    const { record } = this
    const { inbox } = this.#session
    if (inbox === undefined) return
    if (isCompleted) {
      this.#take(this.#dismissals)
      this.#endTaken({ result: record.result as RunResult })
      return
    }
    const { error } = record
    const cancelled = { error: 'The turn was interrupted', code: 'CANCELLED' }
    const ending = error === undefined ? cancelled : { error: error.message, code: error.code }
    this.#endTaken(ending)
    if (!record.isHost) return
    const ahead = this.#ahead.flatMap(({ responses, prompted }) => [...responses, ...prompted])
    inbox.end([...ahead, ...this.#dismissals, ...inbox.take()], record.turn, ending)
  }
}
