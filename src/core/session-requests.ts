import { AGENT_OPTIONS, type AgentOption, type SessionAgentBuilder } from './agent.ts'
import { COMMS_NAME_MAX } from './comms.ts'
import { CapabilityUnavailableError, InvalidCursorError, InvalidParamsError } from './errors.ts'
import { type CreateSessionRequest, DEFAULT_ACCEPTS } from './session-service.ts'
import { type SessionMetadata, STRUCTURED_OUTPUT_RETRIES } from './transcript.ts'

/** Throws a `TypeError` for an agent that could never be asked for, or never be built. */
export function assertBuilder(name: unknown, buildAgent: unknown): void {
  if (typeof name !== 'string' || !/^[\w-]{1,128}$/.test(name)) {
    throw new TypeError(`Expected an agent's \`name\` to be letters, digits, - and _, got ${String(name)}`)
  }
  if (typeof buildAgent !== 'function')
    throw new TypeError(`Expected the agent ${name} to have a \`buildAgent\` function`)
}

/** Refuses a cursor that nobody can have. */
export function assertCursor({ lastSeq }: { lastSeq: number }, after: number | undefined): void {
  if (after === undefined || after <= lastSeq) return
  throw new InvalidCursorError(lastSeq)
}

/** Refuses a name that would not stand in a line of text as one. */
export function assertName(name: string, path: string): void {
  if (name.trim() === '') throw new InvalidParamsError(path, 'must not be blank')
  if (name.length > COMMS_NAME_MAX) throw new InvalidParamsError(path, `must not be longer than ${COMMS_NAME_MAX}`)
  if (/\p{Cc}|\p{Zl}|\p{Zp}/u.test(name)) throw new InvalidParamsError(path, 'must not have control characters')
}

/** Refuses host mode where nobody could end it, or where no turn runs. */
export function assertHostable(request: CreateSessionRequest): void {
  if (request.host_mode !== true) return
  if (request.comms_name === undefined) throw new InvalidParamsError('/comms_name', 'is required with host_mode')
  if (request.initial_turn === 'deferred') {
    throw new InvalidParamsError(
      '/host_mode',
      'is for a turn, and a deferred one does not run; ask for it with the turn',
    )
  }
}

/** Refuses what an agent would have to ignore. */
export function assertAccepted(builder: SessionAgentBuilder, request: Partial<Record<AgentOption, unknown>>): void {
  const accepts: readonly AgentOption[] = builder.accepts ?? DEFAULT_ACCEPTS
  for (const option of AGENT_OPTIONS) {
    const value = request[option]
    const isEmpty = value === undefined || (Array.isArray(value) && value.length === 0)
    const asksForNothing = isEmpty || (option === 'structured_output_retries' && value === STRUCTURED_OUTPUT_RETRIES)
    if (!asksForNothing && !accepts.includes(option)) {
      throw new CapabilityUnavailableError(option, `the agent "${builder.name}" does not take it`, `/${option}`)
    }
  }
}

/** What of a request a session remembers, so that its agent can be built again. */
export function toMetadata(
  { name: agent, defaultModel: model }: SessionAgentBuilder,
  request: CreateSessionRequest,
): SessionMetadata & { agent: string } {
  const { prompt, initial_turn, system_prompt, skill_references, host_mode, ...lasting } = request
  const given = Object.fromEntries(Object.entries(lasting).filter(([, value]) => value !== undefined))
  return { ...(model === undefined ? {} : { model }), ...given, agent }
}
