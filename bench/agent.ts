import type { SessionAgentBuilder, TurnContext, TurnInput, TurnOutcome } from '../src/core/agent.ts'
import type { AgentOutput } from '../src/core/events.ts'

/** Runs of the agent that have begun and not ended: tells what a client that went away left behind. */
export const running = { count: 0 }

/**
 * The one agent that every server of the benchmark pulls. Its prompt says what it does:
 *
 * - `burst N`: N small deltas without waiting for anything,
 * - `tick N K`: N deltas, K (default 1) in each turn of the event loop,
 * - `paced N MS`: N deltas, one every MS milliseconds, each carrying the time at which it was made.
 */
export async function* run(
  { prompt }: TurnInput,
  { signal }: Pick<TurnContext, 'signal'>,
): AsyncGenerator<AgentOutput, TurnOutcome, undefined> {
  const [kind, ...numbers] = prompt.split(' ')
  const [count = 0, second = 1] = numbers.map(Number)
  let text = ''
  running.count++
  try {
    if (kind === 'burst') {
      for (let index = 1; index <= count; index++) {
        const delta = wordAt(index)
        text += delta
        yield { type: 'text_delta', delta }
      }
      return { text }
    }
    if (kind === 'tick') {
      for (let index = 1; index <= count && !signal.aborted; index++) {
        if (index % second === 0) await new Promise((resolve) => setImmediate(resolve))
        const delta = wordAt(index)
        text += delta
        yield { type: 'text_delta', delta }
      }
      return { text }
    }
    if (kind === 'paced') {
      const sleep = sleeper(signal)
      const start = performance.now()
      for (let index = 1; index <= count; index++) {
        await sleep(start + index * second - performance.now())
        if (signal.aborted) return { text }
        const delta = `@${microseconds()} `
        text += delta
        yield { type: 'text_delta', delta }
      }
      return { text }
    }
    throw new TypeError(`The bench agent does not know "${prompt}"`)
  } finally {
    running.count--
  }
}

export default {
  name: 'bench',
  description: 'Deltas as fast, or as slow, as its prompt says',
  buildAgent: () => ({ run }),
} satisfies SessionAgentBuilder

/** The delta at a place, from 1, of a `burst` or a `tick`: a reader can tell what the whole text must be. */
export function wordAt(index: number): string {
  return `word ${index} `
}

/** A clock that all processes of a machine share, unlike `performance.timeOrigin`, which wall time may have moved. */
export function microseconds(): number {
  const [seconds, nanoseconds] = process.hrtime()
  return seconds * 1e6 + Math.floor(nanoseconds / 1e3)
}

/** Timers that end early when `signal` aborts, with one listener for all of them. */
function sleeper(signal: AbortSignal): (ms: number) => Promise<void> {
  let wake = () => {}
  signal.addEventListener('abort', () => wake(), { once: true })
  return (ms) =>
    new Promise((resolve) => {
      const timer = setTimeout(resolve, ms)
      wake = () => {
        clearTimeout(timer)
        resolve()
      }
    })
}
