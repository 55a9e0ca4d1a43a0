import type { SessionAgentBuilder, TurnContext, TurnInput, TurnOutcome } from '../../src/core/agent.ts'
import { within } from './http.ts'

type Command = { say: string; taken: () => void } | { outcome: TurnOutcome | undefined } | { error: unknown }

/** One turn of a gated agent, seen from the test that decides what it does. */
export class GatedRun {
  readonly prompt: string
  readonly turn: number
  readonly sessionId: string
  readonly signal: AbortSignal
  /** What came in before it, as its agent is told. */
  readonly injected: string | undefined
  readonly context: TurnContext
  #commands: Command[] = []
  #wake: (() => void) | undefined

  constructor({ prompt, injected }: TurnInput, context: TurnContext) {
    this.prompt = prompt
    this.injected = injected
    this.context = context
    this.turn = context.turn
    this.sessionId = context.session.id
    this.signal = context.signal
    this.signal.addEventListener('abort', () => this.#wake?.(), { once: true })
  }

  /** Lets the agent say `text` as one delta; resolves when the engine has taken it and asks for more. */
  say(text: string): Promise<void> {
    return within('the engine to take a delta', new Promise<void>((taken) => this.#push({ say: text, taken })))
  }

  /** Lets the turn end well. */
  finish(outcome?: TurnOutcome): void {
    this.#push({ outcome })
  }

  /** Lets the agent throw. */
  fail(error: unknown): void {
    this.#push({ error })
  }

  #push(command: Command): void {
    this.#commands.push(command)
    this.#wake?.()
  }

  /** The agent's side: the next command, or undefined when the turn is interrupted and the agent is not deaf. */
  async next(deaf: boolean): Promise<Command | undefined> {
    while (this.#commands.length === 0) {
      if (this.signal.aborted && !deaf) return undefined
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
    return this.#commands.shift()
  }
}

export interface Gate {
  /** To be handed to the server. */
  readonly agent: SessionAgentBuilder
  /** The run that was given this prompt, as soon as it is under way. Every prompt is found once. */
  run(prompt: string): Promise<GatedRun>
  /** Prompts of all runs that were ever begun, in order. */
  readonly begun: readonly string[]
  /** How many agents were disposed. */
  readonly disposed: number
  /** Ends whatever still waits, so that a server can close. */
  open(): void
}

/** An agent that does nothing until the test says so. `deaf`: it does not hear its signal either. */
export function gatedAgent(name = 'gated', { deaf = false } = {}): Gate {
  const arrived: GatedRun[] = []
  const waiting = new Map<string, (run: GatedRun) => void>()
  const all: GatedRun[] = []
  const begun: string[] = []
  let disposed = 0
  let opened = false

  return {
    agent: {
      name,
      description: 'Waits for the test at every step',
      buildAgent: () => ({
        async *run(input, context) {
          const { prompt } = input
          const run = new GatedRun(input, context)
          if (opened) return undefined
          all.push(run)
          begun.push(prompt)
          const wanted = waiting.get(prompt)
          waiting.delete(prompt)
          if (wanted === undefined) arrived.push(run)
          wanted?.(run)
          for (;;) {
            const command = await run.next(deaf)
            if (command === undefined) return undefined
            if ('outcome' in command) return command.outcome
            if ('error' in command) throw command.error
            yield { type: 'text_delta', delta: command.say }
            command.taken()
          }
        },
        dispose() {
          disposed++
        },
      }),
    },
    run(prompt) {
      const at = arrived.findIndex((run) => run.prompt === prompt)
      const [here] = at === -1 ? [] : arrived.splice(at, 1)
      if (here !== undefined) return Promise.resolve(here)
      return within(`the run of ${JSON.stringify(prompt)}`, new Promise((resolve) => waiting.set(prompt, resolve)))
    },
    begun,
    get disposed() {
      return disposed
    },
    open() {
      opened = true
      for (const run of all) run.finish()
    },
  }
}
