import { spawnSync } from 'node:child_process'

/** What the measured work takes on the idle machine on which the time-outs of the tests were chosen. */
const REFERENCE_MS = 90

/**
 * How many times slower than that this machine is, from 1 to 10. Vitest's main process measures it once, at the start,
 * and its workers read it from the environment.
 */
export const slowness = Number(process.env.TEST_SLOWNESS ?? measured())

/** A time-out of `ms` on the reference machine. */
export function patience(ms: number): number {
  return Math.ceil(ms * slowness)
}

/** The median of a few starts of Node, which want a bit of everything: files, memory, the processor. */
function measured(): number {
  const times = Array.from({ length: 5 }, () => {
    const begun = performance.now()
    spawnSync(process.execPath, ['-e', ''])
    return performance.now() - begun
  }).sort((a, b) => a - b)
  const median = times[Math.floor(times.length / 2)] ?? REFERENCE_MS
  return Math.min(10, Math.max(1, Number((median / REFERENCE_MS).toFixed(1))))
}
