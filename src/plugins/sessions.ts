import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { builtInAgents, DEFAULT_AGENT } from '../agents/index.ts'
import type { SkillCatalog } from '../agents/skills/skill.ts'
import { ConfigError } from '../config.ts'
import type { SessionAgentBuilder } from '../core/agent.ts'
import { EphemeralSessionService } from '../core/ephemeral-session-service.ts'
import { StoreRefusedError, StoreUnavailableError } from '../core/errors.ts'
import { PersistentSessionService } from '../core/persistent-session-service.ts'
import type { ServiceObserver, ServiceStats, SessionService } from '../core/session-service.ts'
import { openDurableStore, openStore } from '../stores/index.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** The session service: everything that a route does goes through it. */
    sessions: SessionService
    /** How many permits of each kind are taken, and how many there are. */
    sessionCapacity: () => ServiceStats
    /** The agents that a request may name, and the one for those that name none. */
    agents: { builders: readonly SessionAgentBuilder[]; standard: string }
    /** The skills that requests may refer to, where there are any. */
    skills: SkillCatalog | undefined
  }
}

export interface SessionsOptions {
  /** Agents beside the built-in ones. */
  agents?: readonly SessionAgentBuilder[]
  defaultAgent?: string
  skills?: SkillCatalog
  storeUrl?: string
  maxSessions?: number
  maxActiveTurns?: number
  /** Over all servers of a store; 0 is no limit. */
  maxClusterTurns?: number
  maxQueuedTurns?: number
  retainEvents?: number
  retainBytes?: number
  drainMs?: number
  archiveDrainMs?: number
  /** Only on a store that outlives the process. */
  idleEvictMs?: number
  observer?: ServiceObserver
}

/** Puts the session service, with its semaphores, at `app.sessions`, and drains it before the server closes. */
export const sessions = fp(
  async (app: FastifyInstance, options: SessionsOptions) => {
    // By name: an application may put an agent of its own in the place of a built-in one.
    const byName = new Map([...builtInAgents, ...(options.agents ?? [])].map((builder) => [builder.name, builder]))
    const builders = [...byName.values()]
    const standard = options.defaultAgent ?? DEFAULT_AGENT
    const retention = { events: options.retainEvents ?? 20_000, bytes: options.retainBytes ?? 8 * 1024 * 1024 }
    const url = options.storeUrl ?? 'memory:'
    const parts = {
      agents: builders,
      defaultAgent: standard,
      maxSessions: options.maxSessions ?? 10_000,
      maxActiveTurns: options.maxActiveTurns ?? 1_000,
      maxQueuedTurns: options.maxQueuedTurns ?? 16,
      archiveDrainMs: options.archiveDrainMs ?? 600_000,
      observer: options.observer ?? {},
    }
    const store = await openDurableStore(url).catch((error: Error) => {
      throw new ConfigError(error.message.startsWith('STORE_URL') ? error.message : `STORE_URL: ${error.message}`)
    })
    const service: SessionService =
      store === undefined
        ? new EphemeralSessionService({ ...parts, store: openStore(url, retention) })
        : await PersistentSessionService.open({
            ...parts,
            store,
            retention,
            idleEvictMs: options.idleEvictMs ?? 900_000,
            maxClusterTurns: options.maxClusterTurns || undefined,
          }).catch(async (error: Error) => {
            await store.close()
            if (!(error instanceof StoreUnavailableError || error instanceof StoreRefusedError)) throw error
            throw new ConfigError(`STORE_URL: ${(error.cause as Error).message}`, { cause: error.cause })
          })
    app.decorate('sessions', service)
    app.decorate('sessionCapacity', () => service.stats)
    app.decorate('agents', { builders, standard })
    app.decorate('skills', options.skills)
    // Every turn gets its terminal event while its readers are still connected.
    app.addHook('preClose', () => service.close({ drainMs: options.drainMs ?? 10_000 }))
  },
  { name: 'sessions' },
)
