import type { AgentSession, Approval, Comms, SessionAgent, Spending } from './agent.ts'
import { AgentHandle } from './agent-handle.ts'
import { assertAgentReport } from './agent-output.ts'
import { type ActiveTurn, InboxClosedError, SessionBusyError, SessionNotRunningError } from './errors.ts'
import type { EventLog } from './event-log.ts'
import type { AgentReport } from './events.ts'
import { Inbox } from './inbox.ts'
import type { Incoming, Interaction } from './interaction.ts'
import type { Permit } from './semaphore.ts'
import { disposeOf, type RunCommit, type SessionHost, type SessionInit, turnError } from './session-host.ts'
import type { InterruptTarget, StartTurnRequest } from './session-service.ts'
import { activeTurnOf } from './session-views.ts'
import type { Message, SessionMetadata } from './transcript.ts'
import { type Admission, type AdmissionEvent, admissionStep, IDLE, type Verdict } from './turn-admission.ts'
import { TurnInFlight } from './turn-in-flight.ts'
import { TurnQueue } from './turn-queue.ts'
import { TurnRecord, type TurnRequest } from './turn-record.ts'
import type { RunEnd } from './turn-run.ts'
import { endUnrun } from './unrun-turn.ts'
import { addUsage, type Usage } from './usage.ts'

/** An interrupted agent has this long to return by itself before it is no longer listened to. */
const INTERRUPT_GRACE_MS = 250

/**
 * One session: its record, its log and its run loop. One turn at a time; everything but building an agent is
 * synchronous, so nothing can come between a check and what follows from it.
 */
export class SessionTask {
  readonly id: string
  /** Rises with every session that is registered: the order of `list`. */
  ordinal = -1
  readonly createdAt: number
  readonly metadata: SessionMetadata & { agent: string }
  readonly log: EventLog
  messages: Message[]
  usage: Usage
  updatedAt: number
  turns: TurnRecord[] = []
  /** The place among the resident sessions; given back when the agent is disposed. */
  readonly permit: Permit
  /** Idempotency keys to forget when the session is archived. */
  keys: string[] | undefined
  /** There once something has come into it. */
  inbox: Inbox | undefined
  /** Came back from a store as taken by a turn that is lost. */
  lostInteractions: Interaction[] = []
  readonly queue: TurnQueue
  readonly #host: SessionHost
  #admission: Admission = IDLE
  #agent: SessionAgent | undefined
  #handle: AgentHandle | undefined
  #active: TurnInFlight | undefined
  #isDraining = false
  #isLost = false
  #ranMs = 0
  #toolCalls = 0
  #timer: NodeJS.Timeout | undefined
  #archiveTimer: NodeJS.Timeout | undefined

  constructor(init: SessionInit, log: EventLog, host: SessionHost, permit: Permit) {
    this.id = init.id
    this.createdAt = init.createdAt
    this.updatedAt = init.updatedAt ?? init.createdAt
    this.metadata = init.metadata
    this.messages = init.messages
    this.usage = init.usage
    this.turns = init.turns ?? []
    this.#ranMs = init.ranMs ?? 0
    this.#toolCalls = init.toolCalls ?? 0
    this.log = log
    this.#host = host
    this.permit = permit
    this.queue = new TurnQueue(host.maxQueuedTurns, (record) => {
      endUnrun(record, this)
      this.#announceEnd(record, undefined)
    })
  }

  get labels(): Readonly<Record<string, string>> {
    return this.metadata.labels ?? {}
  }

  /** What its turns spent so far. */
  get spent(): Spending {
    return { tokens: this.usage.total_tokens, durationMs: this.#ranMs, toolCalls: this.#toolCalls }
  }

  get isActive(): boolean {
    const { phase } = this.#admission
    return phase !== 'idle' && phase !== 'shutting_down'
  }

  /** Takes no more turns, whether or not one is running still. */
  get isArchived(): boolean {
    return this.isOver || this.#admission.shutdownPending
  }

  get isOver(): boolean {
    return this.#admission.phase === 'shutting_down'
  }

  /** What the agent that is built next sees of the session. An agent that was abandoned is not heard through its own. */
  openHandle(): AgentSession {
    this.#handle = new AgentHandle(this)
    return this.#handle
  }

  attach(agent: SessionAgent): void {
    this.#agent = agent
  }

  /** What the agent can do with other sessions; nothing where this one has no name among them. */
  get comms(): Comms | undefined {
    return this.metadata.comms_name === undefined ? undefined : this.#host.commsOf(this)
  }

  /** No more will come into the inbox: a host that waits for it has no reason to. */
  get isInboxClosing(): boolean {
    return this.#isDraining || this.isOver || this.#admission.shutdownPending
  }

  openInbox(): Inbox {
    return new Inbox(this.id, this.log, (interaction) => this.#host.changed(this, interaction))
  }

  /** Throws an `InboxClosedError` or an `InboxFullError`. */
  inject(incoming: Incoming, isSubscribed: boolean): Interaction {
    if (this.isOver) throw new InboxClosedError(this.id)
    this.inbox ??= this.openInbox()
    const interaction = this.inbox.put(incoming, isSubscribed)
    this.#host.changed(this, interaction)
    this.#active?.wake()
    return interaction
  }

  // Turns

  /** Claims the session for a turn. `busy` and `not_found` change nothing. */
  claim(): Verdict {
    return this.#step('claim')
  }

  abortClaim(): void {
    this.#step('abort_claim')
    if (this.isOver) this.#retire()
  }

  /** Starts the turn that `claim` admitted. From here it lives whether or not anyone listens. */
  start(request: TurnRequest, permit: Permit): TurnRecord {
    const record = this.#newRecord(request)
    try {
      this.#run(record, permit)
    } catch (error) {
      this.#active = undefined
      this.turns.pop()
      throw error
    }
    return record
  }

  /** Puts a turn in line; `interrupt` puts it first and ends the one in flight. */
  enqueue(request: StartTurnRequest): TurnRecord {
    this.queue.assertRoom(this.id, this.activeTurn())
    const record = this.#newRecord(request)
    const isNext = request.on_busy === 'interrupt'
    this.queue.add(record, isNext)
    if (isNext) this.cancel()
    return record
  }

  busyError(): SessionBusyError {
    return new SessionBusyError(this.id, this.activeTurn())
  }

  /** The turn in flight. Only while there is one. */
  activeTurn(): ActiveTurn {
    return activeTurnOf(this.#active?.record ?? (this.turns[this.turns.length - 1] as TurnRecord), this.log.lastSeq)
  }

  /** Ends turns, in line or in flight, at once for the caller; an agent gets a moment to stop by itself. */
  interrupt(turn?: InterruptTarget): { turn: number } {
    const active = this.#active
    if (turn === 'all') {
      const first = this.queue.cancelAll()
      if (first === undefined) return this.interrupt()
      this.cancel()
      return { turn: (active?.record ?? first).turn }
    }
    if (turn !== undefined && this.queue.cancel(turn)) return { turn }
    if (active === undefined || (turn !== undefined && active.record.turn !== turn)) {
      throw new SessionNotRunningError(this.id, active === undefined ? undefined : turn)
    }
    const again = this.#admission.interrupted
    if (this.#step('interrupt') !== 'ok') throw new SessionNotRunningError(this.id)
    if (!again) {
      active.cancel()
      this.#timer = setTimeout(() => this.#abandonAgent(active), INTERRUPT_GRACE_MS)
    }
    return { turn: active.record.turn }
  }

  /** Answers a tool call that waits for it. False when none does. */
  approve(turn: number, callId: string, approval: Approval): boolean {
    return this.#active?.record.turn === turn && this.#active.approve(callId, approval)
  }

  emit(output: AgentReport): void {
    if (this.isOver) return
    assertAgentReport(output)
    if (this.#active === undefined) this.log.append(output, 0)
    else this.#active.emit(output)
  }

  // Ending

  /** Takes no more turns. A running one finishes, at the latest after the archive's deadline. */
  shutdown(cancel: boolean): void {
    this.#step('shutdown')
    this.#host.changed(this)
    this.queue.cancelAll()
    if (this.isOver) {
      this.#retire()
      return
    }
    if (cancel) this.cancel()
    else this.#archiveTimer = setTimeout(() => this.cancel(), this.#host.archiveDrainMs).unref()
    this.#active?.wake()
  }

  /** Lets go of the agent, which is not heard any more: a session that is idle goes on from a store. */
  async release(): Promise<void> {
    this.#silence()
    const agent = this.#takeAgent()
    if (agent !== undefined) await disposeOf(this.#host, this.id, agent)
  }

  /** Another server goes on with it: the agent stops, and nothing that is said here counts any more. */
  lose(): void {
    this.#isLost = true
    this.#silence()
    this.queue.hold()
    clearTimeout(this.#archiveTimer)
    this.cancel()
  }

  /** Starts the first of the turns that wait in line, where they were when the process ended that kept them. */
  resume(permit: Permit): void {
    this.#next(permit)
  }

  /** Lets a turn that waits for the inbox finish what is there and then end. */
  drain(): void {
    this.#isDraining = true
    this.#active?.wake()
  }

  /** Interrupts the turn in flight, if there is one. */
  cancel(): void {
    const { phase } = this.#admission
    if (phase === 'admitted' || phase === 'running') this.interrupt()
  }

  /** The record of a turn in flight, if there is one. */
  get activeRecord(): TurnRecord | undefined {
    return this.#active?.record
  }

  /** Takes over what a run of the agent came to. */
  commit({ messages, usage, toolCalls, ranMs }: RunCommit): void {
    if (this.messages.length === 0) this.messages = messages
    else this.messages.push(...messages)
    this.usage = addUsage(this.usage, usage)
    this.#toolCalls += toolCalls
    this.#ranMs += ranMs
    this.#host.changed(this)
  }

  // The run loop

  #newRecord(request: TurnRequest): TurnRecord {
    const record = new TurnRecord(this.id, this.turns.length + 1, request, Date.now())
    // A first element that is pushed makes room for sixteen more, in every session.
    if (this.turns.length === 0) this.turns = [record]
    else this.turns.push(record)
    this.#host.changed(this)
    return record
  }

  #step(event: AdmissionEvent): Verdict {
    const { verdict, next } = admissionStep(this.#admission, event)
    this.#admission = next
    return verdict
  }

  #run(record: TurnRecord, permit: Permit): void {
    const turn: TurnInFlight = new TurnInFlight(this, record, permit, (end) => this.#settle(turn, end))
    this.#active = turn
    turn.open()
    // In a microtask: an interrupt that follows in the same step must find a turn that has not begun.
    queueMicrotask(() => this.#begin(turn))
  }

  #begin(turn: TurnInFlight): void {
    const agent = this.#agent
    if (agent !== undefined) {
      this.#beginWith(turn, agent)
      return
    }
    Promise.resolve()
      .then(() => this.#host.buildAgent(this))
      .then(
        (built) => {
          // The turn may have been interrupted, and its successor begun, while the agent was being built.
          if (this.#active !== turn) {
            void disposeOf(this.#host, this.id, built)
            return
          }
          this.#agent = built
          this.#beginWith(turn, built)
        },
        (error: unknown) => turn.fail(error),
      )
  }

  #beginWith(turn: TurnInFlight, agent: SessionAgent): void {
    if (this.#step('begin') === 'ok') turn.start(agent, this.#handle as AgentHandle)
    else turn.abandon()
  }

  /** An agent that ignores its signal cannot hold the session: it is left to itself, and the next turn gets a new one. */
  #abandonAgent(turn: TurnInFlight): void {
    void this.release()
    turn.abandon()
  }

  #settle(turn: TurnInFlight, end: RunEnd): void {
    const { record, permit } = turn
    const interrupted = this.#step('settle') === 'cancelled'
    clearTimeout(this.#timer)
    if (this.#isLost) {
      this.#active = undefined
      this.#step('finalize')
      permit.release()
      this.#host.turnsEnded(this)
      return
    }
    if (interrupted) record.status = 'interrupted'
    else record.status = end.kind === 'threw' ? 'failed' : 'completed'
    if (record.status === 'failed' && end.kind === 'threw') record.error = turnError(this.#host, record, end.error)
    turn.conclude()
    this.#active = undefined
    this.#step('finalize')
    this.#next(permit)
    this.#announceEnd(record, record.durationMs)
  }

  /** The next turn in line takes over the permit. */
  #next(permit: Permit): void {
    const queued = this.queue.next()
    if (queued !== undefined && this.#step('claim') === 'ok') {
      this.#run(queued, permit)
      return
    }
    permit.release()
    this.#host.turnsEnded(this)
    if (this.isOver) this.#retire()
  }

  /** Nobody is told of an end that could still be lost. */
  #announceEnd(record: TurnRecord, durationMs: number | undefined): void {
    this.#host.changed(this)
    this.#host.settled(this, () => {
      record.announceEnd()
      this.#host.turnEnded(this, record, durationMs)
    })
  }

  /** The agent says nothing more, through its own session. */
  #silence(): void {
    if (this.#handle !== undefined) this.#handle.isHeard = false
  }

  #takeAgent(): SessionAgent | undefined {
    const agent = this.#agent
    this.#agent = undefined
    return agent
  }

  #retire(): void {
    clearTimeout(this.#archiveTimer)
    this.inbox?.close()
    this.log.seal()
    const agent = this.#takeAgent()
    if (agent === undefined) this.#host.retired(this)
    else void disposeOf(this.#host, this.id, agent).then(() => this.#host.retired(this))
  }
}
