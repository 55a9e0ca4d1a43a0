import type { AgentSession, SessionAgent, SessionAgentBuilder } from '../../core/agent.ts'
import { InvalidParamsError } from '../../core/errors.ts'
import type { CreateSessionRequest } from '../../core/session-service.ts'
import type { BudgetLimits } from '../../core/transcript.ts'
import { STRUCTURED_OUTPUT_RETRIES } from '../../core/transcript.ts'
import type { HookRegistry } from '../hooks/hook.ts'
import { noHooks } from '../hooks/no-hooks.ts'
import { noSkills } from '../skills/no-skills.ts'
import type { SkillCatalog } from '../skills/skill.ts'
import type { ToolSource } from '../tools/tool.ts'
import { ContextSizes } from './context-sizes.ts'
import type { ModelProviders } from './model.ts'
import { modelName } from './model-name.ts'
import { OutputSchema } from './output-schema.ts'
import { readProviderParams } from './provider-params.ts'
import { type RetryPolicy, STANDARD_RETRY } from './retry.ts'
import { LlmTurn, type TurnSetup } from './turn.ts'

/** What the agent is made of, and its limits. */
export interface LlmOptions {
  providers: ModelProviders
  toolSources: readonly ToolSource[]
  /** Without any, requests that refer to skills are refused. */
  skills?: SkillCatalog
  /** Without any, requests that would do without some are refused. */
  hooks?: HookRegistry
  /** Limits of each turn by itself; 0 is none. */
  turnLimits: BudgetLimits
  /** Model calls that a turn may make. */
  maxModelCalls: number
  /** History longer than this is summarised; 0 never. */
  compactAtTokens: number
  /** Of a tool's answer, so many tokens are shown to the model. Default: 25,000. */
  maxToolResultTokens?: number
  /** What models can be told; by default learned from what they refuse. */
  contextSizes?: ContextSizes
  /** A tool call that needs approval waits so long for it, in milliseconds. */
  approvalTimeoutMs: number
  /** Default: three more tries, after 0.5, 1 and 2 seconds. */
  retry?: RetryPolicy
}

const MAX_TOOL_RESULT_TOKENS = 25_000

/** A model with tools: MCP servers, skills, budgets, retries, structured output, compaction and hooks around it. */
export function llm(options: LlmOptions): SessionAgentBuilder {
  const { providers, skills, hooks, toolSources } = options
  const made = {
    ...options,
    contextSizes: options.contextSizes ?? new ContextSizes(),
    maxToolResultTokens: options.maxToolResultTokens ?? MAX_TOOL_RESULT_TOKENS,
  }
  return {
    name: 'llm',
    description: 'A model with tools. model is provider/name, such as anthropic/claude-sonnet-4-5.',
    ...(providers.standard === undefined ? {} : { defaultModel: providers.standard }),
    get tools() {
      return toolSources.flatMap((source) => source.status?.().tools ?? [])
    },
    get mcpServers() {
      return toolSources.flatMap((source) => {
        const status = source.status?.()
        if (status === undefined) return []
        const { tools, ...state } = status
        return [{ name: source.name, ...state, tool_count: tools.length }]
      })
    },
    accepts: [
      'system_prompt',
      'model',
      'provider',
      'max_tokens',
      'provider_params',
      'output_schema',
      'structured_output_retries',
      'budget_limits',
      ...(hooks === undefined ? [] : (['hooks_override'] as const)),
      ...(skills === undefined ? [] : (['skill_references', 'preload_skills'] as const)),
    ],
    buildAgent: (request, session) => build(made, request, session),
  }
}

async function build(
  options: LlmOptions & Required<Pick<LlmOptions, 'contextSizes' | 'maxToolResultTokens'>>,
  request: CreateSessionRequest,
  _session: AgentSession,
): Promise<SessionAgent> {
  const { providers, skills = noSkills, hooks = noHooks, retry = STANDARD_RETRY, ...rest } = options
  const name = request.model === undefined ? providers.standard : modelName(request.model, request.provider)
  if (name === undefined) {
    throw new InvalidParamsError('/model', 'is required: this server has no MODEL for requests that name none')
  }
  const model = providers.model(name)
  const params = request.provider_params ?? {}
  // Refused here, and read again where hooks may have changed them.
  readProviderParams(model.provider, params)
  const { temperature, ...providerParams } = params as { temperature?: number }
  const preloaded = (request.preload_skills ?? []).map((id, i) => skills.render(id, `/preload_skills/${i}`))
  const setup: TurnSetup = {
    ...rest,
    model,
    retry,
    skills,
    providerParams,
    ...(request.max_tokens === undefined ? {} : { maxTokens: request.max_tokens }),
    ...(temperature === undefined ? {} : { temperature }),
    output: outputOf(request),
    budgetLimits: request.budget_limits ?? {},
    preloaded: (await Promise.all(preloaded)).join('\n\n'),
    hooks: hooks.forSession(request.hooks_override?.disable ?? []),
  }
  return { run: (input, context) => new LlmTurn(setup, input, context).run() }
}

function outputOf({ output_schema, structured_output_retries }: CreateSessionRequest): TurnSetup['output'] {
  if (output_schema === undefined) return undefined
  return {
    schema: OutputSchema.from(output_schema),
    retries: structured_output_retries ?? STRUCTURED_OUTPUT_RETRIES,
  }
}
