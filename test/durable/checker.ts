import type { StreamEvent } from '../helpers/sse.ts'

/** What one client saw of one session, and what it asked for. */
export interface Witness {
  readonly session: string
  /** The frame of every event that it was shown, by `seq`. */
  readonly seen: Map<number, string>
  /** Turns that it was told of, by the key that it asked with. */
  readonly acknowledged: Map<string, number>
  /** Keys that it asked with. */
  readonly keys: string[]
  /** What it saw that no client may see. */
  readonly faults: string[]
}

const TERMINAL = ['run_completed', 'run_failed', 'run_interrupted']

/** Takes one frame in. A client is shown each event once, and a seq never means two things. */
export function witnessed({ seen, faults }: Witness, seq: number, block: string): void {
  const known = seen.get(seq)
  if (known !== undefined && known !== block) faults.push(`event ${seq} was shown as two`)
  seen.set(seq, block)
}

/** A turn that a client has seen the end of is over, whichever node is asked. */
export function readBack({ faults }: Witness, turn: number, status: string): void {
  if (status === 'queued' || status === 'running') faults.push(`turn ${turn} was over and is ${status} again`)
}

/** In what the logs of one session differ, as its nodes have them: the first place, for every two that differ. */
export function differences(session: string, logs: readonly (readonly { block: string }[])[]): string[] {
  const [first = [], ...others] = logs
  return others.flatMap((log, i) => {
    const at = Array.from({ length: Math.max(first.length, log.length) }, (_, k) => k).find(
      (k) => first[k]?.block !== log[k]?.block,
    )
    return at === undefined ? [] : [`${session}: node ${i + 1} has another event at ${at + 1} than node 0`]
  })
}

/**
 * Holds what a client saw against the log as it is in the end: every event that was shown is there and is the same,
 * every acknowledged turn is there, no key ran twice, turns do not overlap, and each has one end.
 */
export function violations(
  { session, seen, acknowledged, keys, faults }: Witness,
  log: readonly { block: string; json: StreamEvent }[],
): string[] {
  const found = [...faults]
  const bySeq = new Map(log.map(({ json, block }) => [json.seq as number, block]))
  for (const [i, { json }] of log.entries()) if (json.seq !== i + 1) found.push(`seq ${json.seq} stands at ${i + 1}`)
  for (const [seq, block] of seen) {
    if (bySeq.get(seq) !== block) found.push(`event ${seq} was shown and is ${bySeq.has(seq) ? 'another' : 'gone'}`)
  }
  let running = 0
  const started = new Set<number>()
  for (const { json } of log) {
    const turn = json.turn as number
    if (json.type === 'run_started') {
      if (running !== 0) found.push(`turn ${turn} began while ${running} ran`)
      if (started.has(turn)) found.push(`turn ${turn} began twice`)
      running = turn
      started.add(turn)
    } else if (turn !== running) found.push(`event ${json.seq} of turn ${turn} came while ${running} ran`)
    if (TERMINAL.includes(json.type)) running = 0
  }
  if (running !== 0) found.push(`turn ${running} has no end`)
  for (const [key, turn] of acknowledged) if (!started.has(turn)) found.push(`turn ${turn} of ${key} is gone`)
  if (new Set(acknowledged.values()).size !== acknowledged.size) found.push('two keys have one turn')
  if (started.size !== keys.length) found.push(`${keys.length} keys started ${started.size} turns`)
  return found.map((fault) => `${session}: ${fault}`)
}
