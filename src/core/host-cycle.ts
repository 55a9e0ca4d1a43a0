import type { Interaction } from './interaction.ts'

/** One run of a host turn. */
export interface HostRun {
  /** Peers' responses: they are put into the history before the run, and end with it. */
  readonly responses: readonly Interaction[]
  /** What the agent is prompted with. */
  readonly prompted: readonly Interaction[]
}

export interface HostCycle {
  readonly runs: HostRun[]
  /** Requests to end host mode: the model never sees them. */
  readonly dismissals: readonly Interaction[]
}

/**
 * What becomes of all that waited: first what is followed, and requests, one by one as they came; then the rest as one
 * batch. Responses are history for the first of these, and a run of their own where nothing else came.
 */
export function planCycle(taken: readonly Interaction[]): HostCycle {
  const dismissals = taken.filter(({ isDismissal }) => isDismissal)
  const rest = taken.filter(({ isDismissal }) => !isDismissal)
  const responses = rest.filter(({ kind }) => kind === 'response')
  const others = rest.filter(({ kind }) => kind !== 'response')
  const isAlone = ({ kind, isSubscribed }: Interaction) => isSubscribed || kind === 'request'
  const batch = others.filter((interaction) => !isAlone(interaction))
  const groups = others.filter(isAlone).map((interaction) => [interaction])
  if (batch.length > 0) groups.push(batch)
  if (groups.length === 0 && responses.length > 0) {
    return { runs: [{ responses: [], prompted: responses }], dismissals }
  }
  const runs = groups.map((prompted, index) => ({ responses: index === 0 ? responses : [], prompted }))
  return { runs, dismissals }
}

/** Several as one text for the agent. */
export function joined(interactions: readonly Interaction[]): string {
  return interactions.map(({ text }) => text).join('\n\n')
}
