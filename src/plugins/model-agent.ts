import type { FastifyBaseLogger } from 'fastify'
import type { HookHandler } from '../agents/hooks/hook.ts'
import type { ServerHooks } from '../agents/hooks/hook-registry.ts'
import type { SkillCatalog } from '../agents/skills/skill.ts'
import type { ToolSource } from '../agents/tools/tool.ts'
import { type Config, ConfigError } from '../config.ts'
import type { SessionAgentBuilder } from '../core/agent.ts'

export interface ModelAgentParts {
  version: string
  log: FastifyBaseLogger
  skills?: SkillCatalog
  /** What hooks of the configuration may call, by name. */
  hooks: Readonly<Record<string, HookHandler>>
}

export interface ModelAgent {
  builder: SessionAgentBuilder
  /** Lets go of the tools, and of hooks in the background. */
  close(): Promise<void>
}

/**
 * The agent `llm`, where this server is set up for any model. Rejects with a `ConfigError` for a file that is wrong. What
 * a server without models never runs is imported here, when it is needed: it is most of what would be loaded at start.
 */
export async function modelAgent(
  config: Config,
  { version, log, skills, hooks }: ModelAgentParts,
): Promise<ModelAgent | undefined> {
  const keys = [config.MODEL, config.ANTHROPIC_API_KEY, config.OPENAI_API_KEY, config.GOOGLE_GENERATIVE_AI_API_KEY]
  if ([...keys, config.OPENAI_COMPATIBLE_BASE_URL].every((value) => value === '')) {
    for (const name of ['MCP_CONFIG', 'HOOKS_CONFIG'] as const) {
      if (config[name] !== '') log.warn(`${name} is for the agent llm, and no model is set up: set MODEL and a key`)
    }
    return undefined
  }
  const toolSources = await toolSourcesOf(config, version, log)
  const registry = await hooksOf(config, hooks, log)
  const { llm } = await import('../agents/llm/index.ts')
  const { ContextSizes } = await import('../agents/llm/context-sizes.ts')
  const { createModelProviders } = await import('../agents/llm/providers.ts')
  const builder = llm({
    providers: createModelProviders({
      standard: config.MODEL,
      anthropic: { apiKey: config.ANTHROPIC_API_KEY, baseURL: config.ANTHROPIC_BASE_URL },
      openai: { apiKey: config.OPENAI_API_KEY, baseURL: config.OPENAI_BASE_URL },
      google: { apiKey: config.GOOGLE_GENERATIVE_AI_API_KEY, baseURL: config.GOOGLE_GENERATIVE_AI_BASE_URL },
      compatible: { apiKey: config.OPENAI_COMPATIBLE_API_KEY, baseURL: config.OPENAI_COMPATIBLE_BASE_URL },
      silenceMs: config.MODEL_SILENCE_MS,
      promptCache: config.ANTHROPIC_PROMPT_CACHE === 'on',
      sendReasoning: config.OPENAI_COMPATIBLE_SEND_REASONING === 'on',
    }),
    toolSources,
    ...(skills === undefined ? {} : { skills }),
    ...(registry === undefined ? {} : { hooks: registry }),
    turnLimits: {
      max_tokens: config.MAX_TURN_TOKENS,
      max_duration_ms: config.MAX_TURN_MS,
      max_tool_calls: config.MAX_TURN_TOOL_CALLS,
    },
    maxModelCalls: config.MAX_MODEL_CALLS,
    compactAtTokens: config.COMPACT_AT_TOKENS,
    maxToolResultTokens: config.MAX_TOOL_RESULT_TOKENS,
    contextSizes: new ContextSizes(config.CONTEXT_TOKENS),
    approvalTimeoutMs: config.APPROVAL_TIMEOUT_MS,
  })
  return {
    builder,
    close: async () => {
      registry?.close()
      await Promise.all(toolSources.map((source) => source.close()))
    },
  }
}

async function toolSourcesOf(config: Config, version: string, log: FastifyBaseLogger): Promise<ToolSource[]> {
  if (config.MCP_CONFIG === '') return []
  const { readMcpConfig } = await import('../agents/tools/mcp-config.ts')
  const { openMcpServer } = await import('../agents/tools/mcp-server.ts')
  const options = {
    toolTimeoutMs: config.TOOL_TIMEOUT_MS,
    version,
    log: { warn: (message: string) => log.warn(message), debug: (message: string) => log.debug(message) },
  }
  const servers = configured('MCP_CONFIG', () => readMcpConfig(config.MCP_CONFIG, config.environment, options.log.warn))
  return servers.map((server) => openMcpServer(server, options))
}

async function hooksOf(
  config: Config,
  handlers: Readonly<Record<string, HookHandler>>,
  log: FastifyBaseLogger,
): Promise<ServerHooks | undefined> {
  if (config.HOOKS_CONFIG === '') return undefined
  const { createHooks } = await import('../agents/hooks/hook-registry.ts')
  const { readHooksFile } = await import('../agents/hooks/hooks-file.ts')
  const { environment } = config
  const hooks = configured('HOOKS_CONFIG', () => readHooksFile(config.HOOKS_CONFIG, { environment, handlers }))
  return createHooks(hooks, (message, hookId, err) => log.warn({ hook_id: hookId, err }, `hook ${message}`))
}

function configured<T>(setting: string, read: () => T): T {
  try {
    return read()
  } catch (error) {
    throw new ConfigError(`${setting}: ${(error as Error).message}`)
  }
}
