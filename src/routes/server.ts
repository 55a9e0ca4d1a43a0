import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { type Static, Type } from '@sinclair/typebox'
import { count } from '../core/count.ts'
import { ShuttingDownError, StoreUnavailableError } from '../core/errors.ts'
import { DEFAULT_ACCEPTS } from '../core/session-service.ts'
import { StringEnum } from '../core/string-enum.ts'
import { json } from './schemas.ts'
import { type Unavailable, unavailable, whyNot } from './unavailable.ts'

const text = (description: string) => Type.String({ description })

const McpServer = Type.Object(
  {
    name: text('What the configuration calls it'),
    state: StringEnum(
      ['connected', 'connecting', 'failed'],
      'Whether its tools are there. A server that failed is tried again when its tools are needed, and when this is read',
    ),
    reason: Type.Optional(text('Why it failed')),
    tool_count: count('Number of its tools'),
  },
  { title: 'McpServer', description: 'A server that an agent has tools of' },
)

const Agent = Type.Object(
  {
    name: text('What requests call it'),
    description: text('What it does'),
    is_default: Type.Boolean({ description: 'Used by requests that name no agent' }),
    default_model: Type.Optional(text('The model that it uses unless a request names another')),
    accepts: Type.Array(text('A member of createSession'), { description: 'The optional members that it takes' }),
    tools: Type.Array(
      Type.Object(
        { name: text('What the model calls it'), description: text('What it does') },
        { title: 'AgentTool', description: 'A tool that an agent has' },
      ),
      { description: 'What it can call' },
    ),
    mcp_servers: Type.Optional(Type.Array(McpServer, { description: 'The MCP servers that its tools come from' })),
  },
  { title: 'Agent', description: 'An agent that this server can build' },
)

const Agents = Type.Object(
  { agents: Type.Array(Agent, { description: 'All there are' }) },
  { title: 'Agents', description: 'The agents that this server can build' },
)

const Capability = Type.Object(
  {
    name: text('What it is called'),
    enabled: Type.Boolean({ description: 'It is here' }),
    reason: Type.Optional(text('Why it is not enabled')),
  },
  { title: 'Capability', description: 'Something that the contract has' },
)

const Capabilities = Type.Object(
  {
    version: text('Version of the server'),
    capabilities: Type.Array(Capability, { description: 'All that the contract has' }),
    limits: Type.Object(
      {
        max_sessions: count('Sessions that may exist at a time'),
        max_active_turns: count('Turns that may run at a time'),
      },
      { title: 'Limits', description: 'How much there may be' },
    ),
  },
  { title: 'Capabilities', description: 'What is enabled here and why the rest is not' },
)

const Health = Type.Object(
  { status: Type.Literal('ok', { description: 'It answers' }) },
  { title: 'Health', description: 'The process answers' },
)

const Readiness = Type.Object(
  { status: Type.Literal('ready', { description: 'It is' }) },
  { title: 'Readiness', description: 'New work is taken' },
)

const available = [
  'sessions',
  'streams',
  'interrupt',
  'history',
  'idempotency',
  'queueing',
  'import_export',
  'fork',
  'host_mode',
  'comms',
]

export interface ServerRoutesOptions {
  version: string
}

/** What this server is and how it is. */
export const serverRoutes: FastifyPluginAsyncTypebox<ServerRoutesOptions> = async (app, { version }) => {
  app.get(
    '/agents',
    {
      schema: {
        operationId: 'listAgents',
        tags: ['server'],
        summary: 'List the agents that this server can build',
        description: '`agent` of createSession is the name of one of them.',
        response: { 200: json(Agents, 'The agents') },
      },
    },
    async () => {
      const { builders, standard } = app.agents
      return {
        agents: builders.map(
          ({ name, description = '', defaultModel, accepts = DEFAULT_ACCEPTS, tools = [], mcpServers = [] }) => {
            const agent: Static<typeof Agent> = {
              name,
              description,
              is_default: name === standard,
              accepts: [...accepts],
              tools: tools.map(({ name, description }) => ({ name, description })),
            }
            if (defaultModel !== undefined) agent.default_model = defaultModel
            if (mcpServers.length > 0) agent.mcp_servers = [...mcpServers]
            return agent
          },
        ),
      }
    },
  )

  app.get(
    '/capabilities',
    {
      schema: {
        operationId: 'readCapabilities',
        tags: ['server'],
        summary: 'Tell what is enabled here and why the rest is not',
        description: 'What is not enabled is answered 501 CAPABILITY_UNAVAILABLE, never ignored.',
        response: {
          200: json(Capabilities, 'The capabilities'),
        },
      },
    },
    async () => {
      const { maxSessions, maxActiveTurns } = app.sessionCapacity()
      return {
        version,
        capabilities: [
          ...available.map((name) => ({ name, enabled: true })),
          ...(Object.keys(unavailable) as Unavailable[]).map((name) => {
            const reason = whyNot(name, app.agents.builders)
            return reason === undefined ? { name, enabled: true } : { name, enabled: false, reason }
          }),
        ],
        limits: { max_sessions: maxSessions, max_active_turns: maxActiveTurns },
      }
    },
  )

  app.get(
    '/health',
    {
      schema: {
        operationId: 'health',
        tags: ['server'],
        summary: 'Liveness: the process answers',
        description: 'Needs no key. It says nothing of whether work is taken; that is `ready`.',
        response: { 200: json(Health, 'It does') },
      },
      config: { public: true },
    },
    async () => ({ status: 'ok' as const }),
  )

  app.get(
    '/ready',
    {
      schema: {
        operationId: 'ready',
        tags: ['server'],
        summary: 'Readiness: new work is taken',
        description: 'Needs no key. 503 while the server shuts down or its store cannot be reached.',
        response: { 200: json(Readiness, 'It is') },
      },
      config: { public: true, problems: ['SHUTTING_DOWN', 'STORE_UNAVAILABLE'] },
    },
    async () => {
      if (app.sessions.closing) throw new ShuttingDownError()
      if (!app.sessions.available) throw new StoreUnavailableError()
      return { status: 'ready' as const }
    },
  )

  app.get('/metrics', { schema: { hide: true } }, async (_, reply) =>
    reply.type(app.metrics.contentType).send(await app.metrics.metrics()),
  )
}
