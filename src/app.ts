import type { Server } from 'node:http'
import Fastify, { type FastifyBaseLogger, type FastifyHttpOptions, type FastifyInstance, LogController } from 'fastify'
import type { HookHandler } from './agents/hooks/hook.ts'
import { builtInAgents } from './agents/index.ts'
import { loadModules, type TeamModules } from './agents/load-modules.ts'
import type { SkillCatalog } from './agents/skills/skill.ts'
import { type Config, ConfigError } from './config.ts'
import type { SessionAgentBuilder } from './core/agent.ts'
import { auth } from './plugins/auth.ts'
import { connections, refuseConnection, refuseExpectation } from './plugins/connections.ts'
import { drain } from './plugins/drain.ts'
import { jsonAnswers } from './plugins/json-answers.ts'
import { metrics, turnMetrics } from './plugins/metrics.ts'
import { modelAgent } from './plugins/model-agent.ts'
import { openapi } from './plugins/openapi.ts'
import { problems } from './plugins/problems.ts'
import { requestInput } from './plugins/request-input.ts'
import { requestIdOf, requestLog } from './plugins/request-log.ts'
import { schemaController } from './plugins/request-validators.ts'
import { sessions } from './plugins/sessions.ts'
import { sse } from './plugins/sse.ts'
import { turnLog } from './plugins/turn-log.ts'
import { toRoutable } from './plugins/unroutable.ts'
import { webhookAuth } from './plugins/webhook-auth.ts'
import { registerRoutes } from './routes/index.ts'
import { unavailable } from './routes/unavailable.ts'
import { VERSION } from './version.ts'

/** Beside `src` and `dist` alike. */
const PLAYGROUND = new URL('../playground/', import.meta.url)
/** Of the request line and the headers together. */
const MAX_HEADER_BYTES = 16_384

export interface AppParts {
  /** Agents beside the built-in ones. */
  agents?: readonly SessionAgentBuilder[]
  /** Name of the agent for requests that name none. */
  defaultAgent?: string
  /** Functions that a hooks configuration may name. */
  hooks?: Readonly<Record<string, HookHandler>>
  logger?: FastifyBaseLogger
}

/**
 * The server: plugins, then routes, in an order that has reasons. Nothing listens yet; `app.close()` drains.
 */
export async function buildApp(config: Config, parts: AppParts = {}): Promise<FastifyInstance> {
  const logs = parts.logger !== undefined && config.LOG_LEVEL !== 'silent'
  const app: FastifyInstance = Fastify(serverOptions(config, parts.logger))
  app.server.on('checkExpectation', refuseExpectation)

  // Errors first: whatever fails from here on is a problem document.
  await app.register(problems)
  await app.register(connections)
  await app.register(jsonAnswers)
  // The id and the log line, before anything can be refused.
  await app.register(requestLog, { enabled: logs })
  // Before authentication: a preflight carries no key.
  if (config.CORS_ORIGINS.length > 0) await app.register(import('@fastify/cors'), corsOptions(config.CORS_ORIGINS))
  // Before the body is read, and what is ambiguous before what is not allowed.
  await app.register(requestInput)
  await app.register(webhookAuth, { secrets: config.WEBHOOK_SECRETS })
  await app.register(auth, config)

  const { registry, observe } = turnMetrics()
  const observer = turnLog(app.log, observe)
  const skills = config.SKILLS_DIR === '' ? undefined : await skillsIn(config.SKILLS_DIR)
  const team = await teamModules(config.AGENT)
  const model = await modelAgent(config, {
    version: VERSION,
    log: app.log,
    hooks: { ...team.hooks, ...parts.hooks },
    ...(skills === undefined ? {} : { skills }),
  })
  const agents = [...(model === undefined ? [] : [model.builder]), ...team.agents, ...(parts.agents ?? [])]
  const standard = defaultAgent(config, agents, parts.defaultAgent)
  await app.register(sessions, {
    agents,
    ...(standard === undefined ? {} : { defaultAgent: standard }),
    ...(skills === undefined ? {} : { skills }),
    storeUrl: config.STORE_URL,
    maxSessions: config.MAX_SESSIONS,
    maxActiveTurns: config.MAX_ACTIVE_TURNS,
    maxClusterTurns: config.MAX_CLUSTER_TURNS,
    maxQueuedTurns: config.MAX_QUEUED_TURNS,
    retainEvents: config.RETAIN_EVENTS,
    retainBytes: config.RETAIN_BYTES,
    drainMs: config.DRAIN_MS,
    archiveDrainMs: config.ARCHIVE_DRAIN_MS,
    idleEvictMs: config.IDLE_EVICT_MS,
    observer,
  })
  // After their last turn.
  app.addHook('onClose', () => model?.close())
  // After sessions: on close turns end first, then streams, then connections.
  await app.register(sse, {
    logs,
    heartbeatMs: config.STREAM_HEARTBEAT_MS,
    stallMs: config.STREAM_STALL_MS,
    maxStreams: config.MAX_STREAMS,
  })
  await app.register(drain)
  await app.register(metrics, { registry, observe })
  // Before the routes: it collects them.
  await app.register(openapi, { version: VERSION })
  await registerRoutes(app, { version: VERSION, uploadLimit: config.UPLOAD_LIMIT, playground: PLAYGROUND })
  return app
}

/** Loaded where there are skills: it brings a parser of YAML. */
async function skillsIn(folder: string): Promise<SkillCatalog> {
  return (await import('./agents/skills/open-skills.ts')).openSkills(folder)
}

async function teamModules(files: readonly string[]): Promise<TeamModules> {
  try {
    return await loadModules(files)
  } catch (error) {
    throw new ConfigError(`AGENT ${(error as Error).message}`, { cause: (error as Error).cause })
  }
}

function defaultAgent(config: Config, agents: readonly SessionAgentBuilder[], given: string | undefined) {
  const name = given ?? (config.DEFAULT_AGENT || (config.MODEL === '' ? undefined : 'llm'))
  const known = [...builtInAgents, ...agents].map((builder) => builder.name)
  if (name === undefined || known.includes(name)) return name
  if (name === 'llm') throw new ConfigError(`DEFAULT_AGENT is llm, and ${unavailable.llm}`)
  throw new ConfigError(`DEFAULT_AGENT must be one of ${known.join(', ')}, got "${name}"`)
}

function serverOptions(config: Config, logger: FastifyBaseLogger | undefined): FastifyHttpOptions<Server> {
  return {
    ...(logger === undefined ? { logger: false } : { loggerInstance: logger }),
    genReqId: requestIdOf,
    requestIdHeader: false,
    logController: new LogController({ disableRequestLogging: true, requestIdLogLabel: 'request_id' }),
    bodyLimit: config.BODY_LIMIT,
    requestTimeout: config.REQUEST_TIMEOUT_MS,
    keepAliveTimeout: config.KEEP_ALIVE_TIMEOUT_MS,
    forceCloseConnections: 'idle',
    // Our own routes answer while draining, with problem details.
    return503OnClosing: false,
    // Checked by us, behind the hooks that every answer needs.
    routerOptions: { maxParamLength: MAX_HEADER_BYTES },
    rewriteUrl: toRoutable,
    ajv: { customOptions: { removeAdditional: false, coerceTypes: false, allErrors: false, strict: false } },
    schemaController,
    clientErrorHandler: refuseConnection,
    http: {
      // Node looks for late requests only this often; its own 30 s would let them sit.
      connectionsCheckingInterval: Math.min(1_000, config.HEADERS_TIMEOUT_MS),
      headersTimeout: Math.min(config.HEADERS_TIMEOUT_MS, config.REQUEST_TIMEOUT_MS),
      requestTimeout: config.REQUEST_TIMEOUT_MS,
      maxHeaderSize: MAX_HEADER_BYTES,
      // Checked by us, so that its absence too is a problem document.
      requireHostHeader: false,
    },
  }
}

function corsOptions(origins: string[]) {
  return {
    origin: origins,
    methods: ['GET', 'HEAD', 'POST', 'DELETE'],
    allowedHeaders: ['Content-Type', 'Last-Event-ID', 'Idempotency-Key', 'Prefer', 'Authorization', 'X-Request-Id'],
    exposedHeaders: ['Location', 'Content-Location', 'Retry-After', 'Preference-Applied', 'X-Request-Id'],
    maxAge: 600,
  }
}
