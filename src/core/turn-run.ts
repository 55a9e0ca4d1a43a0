import { setImmediate as nextTurnOfLoop } from 'node:timers/promises'
import type { AgentRun, AgentSession, Comms, SessionAgent, TurnContext, TurnInput, TurnOutcome } from './agent.ts'
import { assertAgentOutput, assertTurnOutcome } from './agent-output.ts'
import { Approvals } from './approvals.ts'
import type { EventLog } from './event-log.ts'
import type { AgentOutput } from './events.ts'
import type { Message, StopReason } from './transcript.ts'
import type { TurnRecord } from './turn-record.ts'
import { ModelCall } from './turn-transcript.ts'
import { addUsage, NO_USAGE, type TokenCounts, toUsage, type Usage } from './usage.ts'

/** After so many outputs without a pause everyone else gets a turn of the event loop. */
const OUTPUTS_PER_TICK = 512

/** What a run came to. Whether it counts as interrupted is not for the run to say. */
export type RunEnd = { kind: 'returned' } | { kind: 'threw'; error: unknown } | { kind: 'abandoned' }

/** What waits in the inbox, for a run that may take it. */
export interface Injections {
  readonly isEmpty: boolean
  /** All of it as one text. */
  take(): string
}

export interface RunOptions {
  /** Default: the turn's prompt, with the skills that were asked for. */
  prompt?: string
  /** Model calls of earlier runs in the same turn. */
  callsBefore?: number
  injections?: Injections
  comms?: Comms
}

/**
 * One run of an agent: pulls what it yields into the log and keeps the sum of it.
 *
 * It brackets model calls, so that an agent which only yields `text_delta` still produces the whole sequence. It pulls by
 * hand, not by `for await`, so that `abandon` can end it while the agent sits in a promise of its own.
 */
export class TurnRun {
  readonly controller = new AbortController()
  readonly messages: Message[] = []
  /** The prompt as the transcript keeps it. */
  renderedPrompt: string
  readonly approvals = new Approvals((event) => this.#log.append(event, this.#record.turn))
  usage: Usage = NO_USAGE
  modelCalls = 0
  toolCalls = 0
  outcome: TurnOutcome | undefined
  readonly #record: TurnRecord
  readonly #log: EventLog
  readonly #onEnd: (end: RunEnd) => void
  readonly #options: RunOptions
  #call: ModelCall | undefined
  /** What finished calls have said since the last tool round. */
  #said = ''
  #sincePause = 0
  #over = false

  constructor(record: TurnRecord, log: EventLog, onEnd: (end: RunEnd) => void, options: RunOptions = {}) {
    this.#record = record
    this.renderedPrompt = options.prompt ?? record.prompt
    this.#log = log
    this.#onEnd = onEnd
    this.#options = options
  }

  /** Text said since the last tool round. */
  get text(): string {
    return this.#call === undefined ? this.#said : this.#said + this.#call.text
  }

  start(agent: SessionAgent, session: AgentSession): void {
    const { signal } = this.controller
    const { comms } = this.#options
    const context: TurnContext = {
      signal,
      session,
      turn: this.#record.turn,
      takeInjected: () => this.#takeInjected(),
      approve: (call) => this.approvals.request(call, signal),
      ...(comms === undefined ? {} : { comms: whileHeard(comms, signal) }),
    }
    try {
      void this.#pull(agent.run(this.#input(), context))
    } catch (error) {
      this.#end({ kind: 'threw', error })
    }
  }

  #input(): TurnInput {
    const { prompt } = this.#options
    if (prompt !== undefined) return { prompt }
    const { skillReferences } = this.#record
    const injected = this.#takeInjected()
    return {
      prompt: this.#record.prompt,
      ...(skillReferences === undefined ? {} : { skillReferences }),
      ...(injected === undefined ? {} : { injected }),
    }
  }

  /** What waits, as a message behind all there is. A round of tools is not broken: providers refuse such a history. */
  #takeInjected(): string | undefined {
    const { injections } = this.#options
    if (injections === undefined || injections.isEmpty || this.#over || this.controller.signal.aborted) return undefined
    const call = this.#call
    if (call !== undefined && call.toolCalls > 0 && !call.isRoundOver) return undefined
    if (call !== undefined) this.#endCall()
    const content = injections.take()
    this.messages.push({ role: 'user', content })
    return content
  }

  /** Stops listening to an agent that did not stop by itself. What it still does is not heard. */
  abandon(): void {
    this.#end({ kind: 'abandoned' })
  }

  /** The agent could not even be built. */
  fail(error: unknown): void {
    this.#end({ kind: 'threw', error })
  }

  /** Completes the bracket of an open model call; called once the run is over. */
  close(stopReason: StopReason): void {
    const outcome = this.outcome
    if (stopReason === 'cancelled') {
      this.#keepOpenCall(stopReason)
      if (outcome?.usage !== undefined) this.usage = toUsage(outcome.usage)
      return
    }
    if (this.#call?.isRoundOver) this.#completeCall('tool_use')
    if (outcome?.text !== undefined && outcome.text !== '' && this.text === '') {
      this.write({ type: 'text_delta', delta: outcome.text })
    }
    if (this.#call === undefined && this.modelCalls === 0) this.#openCall()
    if (this.#call !== undefined) this.#completeCall(stopReason)
    if (outcome?.usage !== undefined) this.usage = toUsage(outcome.usage)
  }

  /** Keeps what an interrupted or failed call had said, and answers the tools that it left open. */
  #keepOpenCall(stopReason: StopReason): void {
    if (this.#call === undefined) return
    this.messages.push(...this.#call.messages(stopReason))
    this.#said += this.#call.text
    this.#call = undefined
  }

  /** Pulls until the agent is done. An abandoned agent leaves this waiting, and nothing holds on to it. */
  async #pull(outputs: AgentRun): Promise<void> {
    try {
      for (;;) {
        const next = await outputs.next()
        if (this.#over) {
          // Given up on, and back after all: closing its generator lets it clean up.
          await closeQuietly(outputs)
          return
        }
        if (next.done) {
          const outcome: unknown = next.value
          if (outcome == null) break
          assertTurnOutcome(outcome)
          this.outcome = outcome
          break
        }
        if (this.controller.signal.aborted) {
          // The agent went on in spite of its signal; closing its generator stops it for good.
          await closeQuietly(outputs)
          break
        }
        if (!isPlainOutput(next.value)) assertAgentOutput(next.value)
        this.write(next.value)
        if (++this.#sincePause === OUTPUTS_PER_TICK) {
          this.#sincePause = 0
          await nextTurnOfLoop()
        }
      }
      this.#end({ kind: 'returned' })
    } catch (error) {
      await closeQuietly(outputs)
      this.#end({ kind: 'threw', error })
    }
  }

  #end(end: RunEnd): void {
    if (this.#over) return
    this.#over = true
    this.approvals.close()
    this.#onEnd(end)
  }

  /** Appends what the agent says, and the brackets that it left out. */
  write(output: AgentOutput): void {
    if (output.type === 'text_delta') {
      if (this.#call === undefined || this.#call.toolCalls > 0) this.#callForSpeech()
      this.#log.append(output, this.#record.turn)
      const call = this.#call as ModelCall
      call.text += output.delta
      return
    }
    switch (output.type) {
      case 'turn_started':
        this.#endCall()
        this.#openCall()
        return
      case 'turn_completed':
        this.#completeCall(output.stop_reason, output.usage)
        return
      case 'text_complete':
      case 'reasoning_delta':
      case 'reasoning_complete':
        this.#callForSpeech()
        break
      case 'tool_call_requested':
        this.#callForSpeech()
        this.#tellTexts()
        break
      case 'retrying':
        // What the attempt that failed had said is void.
        if (this.#call !== undefined) this.#call.text = this.#call.reasoning = ''
        break
      case 'assistant_blocks':
        this.#callForSpeech()
        if (this.#call !== undefined) this.#call.blocks = output.blocks
        return
      case 'prompt_rendered':
        this.renderedPrompt = output.content
        return
      case 'message_added':
        this.#endCall()
        this.messages.push(output.message)
        return
    }
    // First into the log: what cannot be written down must not get into the transcript.
    this.#log.append(output, this.#record.turn)
    this.#call?.note(output)
    if (output.type === 'tool_call_requested') this.toolCalls++
  }

  /** The open call, or a new one where none is open or the open one has had its tools answered. */
  #callForSpeech(): void {
    if (this.#call?.isRoundOver) this.#completeCall('tool_use')
    if (this.#call === undefined) this.#openCall()
  }

  #openCall(): void {
    this.#call = new ModelCall()
    const turn_number = (this.#options.callsBefore ?? 0) + this.modelCalls++
    this.#log.append({ type: 'turn_started', turn_number }, this.#record.turn)
  }

  /** Completes the open call, if there is one: something else begins. */
  #endCall(): void {
    if (this.#call !== undefined) this.#completeCall(this.#call.toolCalls > 0 ? 'tool_use' : 'end_turn')
  }

  #completeCall(stopReason: StopReason, usage?: Usage): void {
    if (this.#call === undefined) this.#openCall()
    const call = this.#call as ModelCall
    this.#tellTexts()
    const spent = usage === undefined ? this.#remainingUsage() : toUsage(usage)
    this.usage = addUsage(this.usage, spent)
    this.#log.append({ type: 'turn_completed', stop_reason: stopReason, usage: spent }, this.#record.turn)
    this.messages.push(...call.messages(stopReason))
    this.#said = call.toolCalls > 0 ? '' : this.#said + call.text
    this.#call = undefined
  }

  /** What the outcome reports beyond the calls that said their usage themselves. */
  #remainingUsage(): Usage {
    const reported = this.outcome?.usage
    if (reported === undefined) return NO_USAGE
    const rest: TokenCounts = {
      input_tokens: Math.max(0, reported.input_tokens - this.usage.input_tokens),
      output_tokens: Math.max(0, reported.output_tokens - this.usage.output_tokens),
    }
    for (const counter of ['cache_creation_tokens', 'cache_read_tokens'] as const) {
      const all = reported[counter]
      if (all !== undefined) rest[counter] = Math.max(0, all - (this.usage[counter] ?? 0))
    }
    if (reported.estimated) rest.estimated = true
    return toUsage(rest)
  }

  /** Deltas are followed by the whole, if the agent did not say it itself. */
  #tellTexts(): void {
    const call = this.#call as ModelCall
    if (call.reasoning !== '' && !call.reasoningTold) {
      call.reasoningTold = true
      this.#log.append({ type: 'reasoning_complete', content: call.reasoning }, this.#record.turn)
    }
    if (call.text !== '' && !call.textTold) {
      call.textTold = true
      this.#log.append({ type: 'text_complete', content: call.text }, this.#record.turn)
    }
  }
}

/** Other sessions hear no more of an agent that was told to stop than its readers do. */
function whileHeard(comms: Comms, signal: AbortSignal): Comms {
  return {
    peers: () => comms.peers(),
    send: async (command) => {
      signal.throwIfAborted()
      return comms.send(command)
    },
  }
}

/** What needs no schema to be checked: nearly everything that is yielded. */
function isPlainOutput(output: AgentOutput): boolean {
  return output?.type === 'text_delta' ? typeof output.delta === 'string' : output?.type === 'turn_started'
}

/** Ends a generator, or what an agent returned in its place, and waits until it has cleaned up: one run at a time. */
async function closeQuietly(outputs: Partial<AgentRun> | undefined): Promise<void> {
  try {
    await outputs?.return?.(undefined)
  } catch {
    // It is no longer listened to.
  }
}
