import { CapabilityUnavailableError } from '../core/errors.ts'

/** What the contract has and this server may not: named once, for the refusal and for `GET /capabilities`. */
export const unavailable = {
  llm: "this server has no model: start it with MODEL=provider/name and the provider's ANTHROPIC_API_KEY, OPENAI_API_KEY, GOOGLE_GENERATIVE_AI_API_KEY or OPENAI_COMPATIBLE_BASE_URL, or use an agent that GET /agents lists",
  structured_output: 'no agent of this server takes output_schema',
  skills: 'no agent of this server takes skill_references; one with a model does once SKILLS_DIR is set',
  budgets: 'no agent of this server takes budget_limits',
  hooks: 'no agent of this server takes hooks_override',
  stream_tokens: 'streams take the same bearer key as every other request',
} as const
export type Unavailable = keyof typeof unavailable

/** The member that an agent has to take for a capability to be there. */
const members: Partial<Record<Unavailable, string>> = {
  structured_output: 'output_schema',
  skills: 'skill_references',
  budgets: 'budget_limits',
  hooks: 'hooks_override',
}

interface Builder {
  readonly name: string
  readonly accepts?: readonly string[]
}

/** Why something is not here; nothing, if it is. */
export function whyNot(capability: Unavailable, builders: readonly Builder[]): string | undefined {
  const member = members[capability]
  const isHere = ({ name, accepts = [] }: Builder) =>
    member === undefined ? name === capability : accepts.includes(member)
  return builders.some(isHere) ? undefined : unavailable[capability]
}

/** An agent that the contract knows and this server lacks is not here, where any other name is a mistake. */
export function refuseMissingModel(agent: string | undefined, builders: readonly Builder[]): void {
  if (agent !== 'llm' || builders.some(({ name }) => name === 'llm')) return
  throw new CapabilityUnavailableError('The agent llm', unavailable.llm, '/agent')
}
