import { v7 as uuidv7 } from 'uuid'
import type { SessionAgent } from './agent.ts'
import type { AgentCatalog } from './agent-catalog.ts'
import type { Changes } from './changes.ts'
import {
  CapacityReachedError,
  InternalError,
  InvalidParamsError,
  SessionError,
  SessionExistsError,
  ShuttingDownError,
} from './errors.ts'
import type { EventLog } from './event-log.ts'
import { Semaphore } from './semaphore.ts'
import type { EphemeralSessionServiceOptions } from './service-options.ts'
import { disposeOf, type SessionHost, type SessionInit } from './session-host.ts'
import type { SessionRegistry } from './session-registry.ts'
import { assertName, toMetadata } from './session-requests.ts'
import type { CreateSessionRequest } from './session-service.ts'
import { SessionTask } from './session-task.ts'
import { type Message, withSystemPrompt } from './transcript.ts'
import { NO_USAGE, type Usage } from './usage.ts'

/** What a session may bring along when it is made. */
export interface SessionOrigin {
  id?: string
  messages?: Message[]
  usage?: Usage
  createdAt?: number
  updatedAt?: number
  /** The last `seq` that was given under its id; by default 0. */
  lastSeq?: number
}

interface Surroundings {
  options: EphemeralSessionServiceOptions
  agents: AgentCatalog
  registry: SessionRegistry
  changes: Changes
  host: SessionHost
}

/** Makes sessions, as many as may be resident. */
export class SessionFactory {
  /** Set once no more may be made. */
  closing = false
  readonly residents: Semaphore
  readonly #around: Surroundings

  constructor(around: Surroundings) {
    this.#around = around
    this.residents = new Semaphore(around.options.maxSessions)
  }

  refuseWhileClosing(): void {
    if (this.closing) throw new ShuttingDownError()
  }

  /**
   * Builds the agent, then makes the session visible; `begin` runs right before that. On any failure the permit is free
   * again and nothing is left.
   */
  async make(
    request: CreateSessionRequest,
    origin: SessionOrigin = {},
    begin?: (session: SessionTask) => void,
  ): Promise<SessionTask> {
    const { options, agents, registry, changes, host } = this.#around
    this.refuseWhileClosing()
    const builder = agents.builderFor(request)
    this.#refuseTakenName(request)
    const permit = this.residents.tryAcquire()
    if (permit === undefined) throw new CapacityReachedError('sessions', this.residents.taken, this.residents.max)
    const { id = uuidv7(), usage = NO_USAGE, createdAt = Date.now(), updatedAt = createdAt } = origin
    const messages = withSystemPrompt(origin.messages ?? [], request.system_prompt)
    const metadata = toMetadata(builder, request)
    const log = options.store.openLog(id, origin.lastSeq)
    const session = new SessionTask({ id, createdAt, updatedAt, metadata, messages, usage }, log, host, permit)
    let agent: SessionAgent | undefined
    try {
      agent = await builder.buildAgent(request, session.openHandle())
      this.refuseWhileClosing()
      if (registry.get(id) !== undefined) throw new SessionExistsError(id)
      this.#refuseTakenName(request)
      session.attach(agent)
      begin?.(session)
    } catch (error) {
      if (agent !== undefined) await disposeOf(host, id, agent)
      permit.release()
      options.journal?.forget(id)
      changes.announce()
      throw this.toSessionError(error, id)
    }
    registry.add(session)
    options.journal?.created(session)
    changes.announce()
    return session
  }

  /** A session that a store has kept. Its agent is built when it first has something to do. */
  restore(init: SessionInit, log: EventLog): SessionTask {
    const { registry, host } = this.#around
    const permit = this.residents.tryAcquire()
    if (permit === undefined) throw new CapacityReachedError('sessions', this.residents.taken, this.residents.max)
    const session = new SessionTask(init, log, host, permit)
    registry.add(session)
    return session
  }

  /** What is unexpected goes to the observer whole, and to the caller in general terms. */
  toSessionError(error: unknown, sessionId: string): SessionError {
    if (error instanceof SessionError) return error
    this.#around.host.observer.fault?.(error, { session_id: sessionId })
    return new InternalError(error)
  }

  #refuseTakenName({ comms_name }: CreateSessionRequest): void {
    if (comms_name === undefined) return
    assertName(comms_name, '/comms_name')
    if (this.#around.registry.getNamed(comms_name) !== undefined) {
      throw new InvalidParamsError('/comms_name', 'is taken by another session')
    }
  }
}
