/** A fault that is put into what the load generator reads, to show that it would see one. */
export const PLANTS = ['lose', 'double', 'swap'] as const
export type Plant = (typeof PLANTS)[number]

/** Frames that are left alone first, so that the fault is one in the midst of a run. */
const SPARED = 5_000
let spared = 0

/** The bytes with one frame lost, doubled or in the wrong place. */
export function plantFault(plant: Plant, bytes: Buffer): Buffer {
  const frames = bytes.toString('latin1').split(/(?<=\n\n)/)
  spared += frames.length
  if (spared < SPARED || frames.length < 4) return bytes
  spared = 0
  const [first = '', second = '', third = '', ...rest] = frames
  const faulty = {
    lose: [first, third],
    double: [first, second, second, third],
    swap: [first, third, second],
  }[plant]
  return Buffer.from([...faulty, ...rest].join(''), 'latin1')
}
