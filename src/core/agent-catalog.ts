import type { SessionAgent, SessionAgentBuilder } from './agent.ts'
import { CapabilityUnavailableError, InvalidParamsError } from './errors.ts'
import { assertAccepted, assertBuilder } from './session-requests.ts'
import type { CreateSessionRequest } from './session-service.ts'
import type { SessionTask } from './session-task.ts'

/** The agents that requests may name. */
export class AgentCatalog {
  readonly #builders: ReadonlyMap<string, SessionAgentBuilder>
  readonly #standard: string

  /** Throws a `TypeError` for a builder that could never be used. */
  constructor(builders: readonly SessionAgentBuilder[], standard: string) {
    for (const { name, buildAgent } of builders) assertBuilder(name, buildAgent)
    this.#builders = new Map(builders.map((builder) => [builder.name, builder]))
    this.#standard = standard
  }

  /** The agent that a request asks for; refuses what that agent would have to ignore. */
  builderFor(request: CreateSessionRequest): SessionAgentBuilder {
    const builder = this.#builders.get(request.agent ?? this.#standard)
    if (builder === undefined) {
      throw new InvalidParamsError('/agent', `must be one of ${[...this.#builders.keys()].join(', ')}`)
    }
    assertAccepted(builder, request)
    return builder
  }

  /** Refuses what the agent of a session would have to ignore in a turn. */
  assertAccepted(session: SessionTask, request: { skill_references?: readonly string[] }): void {
    const { agent } = session.metadata
    const builder = this.#builders.get(agent)
    if (builder !== undefined) assertAccepted(builder, request)
    // Sessions may outlive the agents that a server was started with.
    else throw new CapabilityUnavailableError(`The agent ${agent}`, 'this server was started without it')
  }

  /** An agent for a session whose last one was abandoned, from what the session remembers of its request. */
  rebuild(session: SessionTask): SessionAgent | Promise<SessionAgent> {
    const first = session.messages[0]
    const system = first?.role === 'system' ? { system_prompt: first.content } : {}
    const request: CreateSessionRequest = { ...session.metadata, ...system }
    return this.builderFor(request).buildAgent(request, session.openHandle())
  }
}
