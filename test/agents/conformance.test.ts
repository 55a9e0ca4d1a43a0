import { setTimeout } from 'node:timers/promises'
import { afterAll, expect, test } from 'vitest'
import { noHooks } from '../../src/agents/hooks/no-hooks.ts'
import { builtInAgents, DEFAULT_AGENT } from '../../src/agents/index.ts'
import { llm } from '../../src/agents/llm/index.ts'
import { createModelProviders } from '../../src/agents/llm/providers.ts'
import { AgentError } from '../../src/core/errors.ts'
import type { SessionAgentBuilder } from '../../src/index.ts'
import { type AgentCases, agentConformance } from '../conformance/agent.ts'
import { beginnings, endings, models, STREAM, startWireServer, type Told } from '../helpers/model-server.ts'

/** What each built-in agent can be asked for; a new agent is a line here. */
const cases: Record<string, AgentCases> = {
  echo: {
    prompts: ['hello', ' two  words ', 'line\nbreaks\r\nand\ttabs', '😀 \ud800 \u2028 \0', 'x'.repeat(20_000)],
    endless: { prompt: 'one two three', request: { provider_params: { delay_ms: 60_000 } }, deltas: 0 },
  },
  scripted: {
    prompts: [
      'hello there',
      'say a\nsay b',
      'think hm\nsay answer',
      'tool add {"a":1,"b":2}\nsay done',
      'say first\ntool fail {"message":"no"}\ntool nothing\nsay last',
      'usage 7 9\nsay x\ntool clock {}\nusage 1 2\nsay y',
      'deltas 600 3',
      '\n \n',
    ],
    endless: { prompt: 'say begun and\nhang', deltas: 2 },
    failing: { prompt: 'say half\nfail out of luck', message: 'out of luck' },
  },
}

test('every built-in agent has its cases, and the default is one of them', () => {
  expect(builtInAgents.map(({ name }) => name).sort()).toEqual(Object.keys(cases).sort())
  expect(Object.keys(cases)).toContain(DEFAULT_AGENT)
})

for (const builder of builtInAgents) agentConformance(builder, cases[builder.name] ?? { prompts: ['hello'] })

/** A model that says what it is told, in pieces, over the wire. */
const wire = await startWireServer(({ body }, response) => {
  const { messages } = body as unknown as Told
  const prompt = String(messages.at(-1)?.content)
  if (prompt === 'fail') return response.writeHead(400, { 'content-type': 'text/plain' }).end('no')
  response.writeHead(200, STREAM)
  const words = prompt.split(/(?<=\s)/)
  for (const word of words) response.write(beginnings.compatible(word))
  if (prompt === 'hold on') return response
  return response.end(endings.compatible)
})
afterAll(() => wire.close())
const nowhere = { apiKey: '', baseURL: '' }

agentConformance(
  llm({
    providers: createModelProviders({
      standard: models.compatible,
      anthropic: nowhere,
      openai: nowhere,
      google: nowhere,
      compatible: { apiKey: '', baseURL: wire.settings.OPENAI_COMPATIBLE_BASE_URL ?? '' },
      silenceMs: 60_000,
    }),
    toolSources: [],
    hooks: noHooks,
    turnLimits: {},
    maxModelCalls: 10,
    compactAtTokens: 0,
    approvalTimeoutMs: 60_000,
  }),
  {
    prompts: ['hello', 'to whom it may concern', 'line\nbreaks\tand 😀'],
    endless: { prompt: 'hold on', deltas: 2 },
    failing: { prompt: 'fail', message: 'compatible answered 400: no', code: 'PROVIDER_ERROR' },
  },
)

/** An agent as a team may write it: it says what it has to say, and stops when it is told to. */
const shout: SessionAgentBuilder = {
  name: 'shout',
  buildAgent: () => ({
    async *run({ prompt }, { signal }) {
      if (prompt === 'fail') throw new AgentError('hoarse')
      for (const word of prompt.split(' ')) yield { type: 'text_delta', delta: `${word.toUpperCase()}!` }
      if (prompt === 'hold on') await setTimeout(60_000, undefined, { signal })
      return undefined
    },
  }),
}

agentConformance(shout, {
  prompts: ['hello', 'to whom it may concern'],
  endless: { prompt: 'hold on', deltas: 2 },
  failing: { prompt: 'fail', message: 'hoarse' },
})
