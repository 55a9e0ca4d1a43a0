import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, expect, test } from 'vitest'
import { loadModules } from '../../src/agents/load-modules.ts'
import { ConfigError } from '../../src/config.ts'
import type { Problem, RunResult } from '../helpers/contract.ts'
import { ownServer } from '../helpers/suite.ts'
import { killLeftovers, run } from '../process/child.ts'

const folder = mkdtempSync(join(tmpdir(), 'suricate-modules-'))
afterAll(() => rmSync(folder, { recursive: true }))
afterEach(killLeftovers)

let files = 0
function module(text: string, extension = 'mjs'): string {
  const file = join(folder, `module-${++files}.${extension}`)
  writeFileSync(file, text)
  return file
}

const agent = (name: string) =>
  `export default { name: ${JSON.stringify(name)}, buildAgent: () => ({ async *run() { return { text: ${JSON.stringify(name)} } } }) }`

test.each(['mjs', 'ts', 'mts'])('an agent in a .%s file serves', async (extension) => {
  const types = extension === 'mjs' ? '' : 'interface Unused { readonly a: string }\n'
  const file = module(types + agent('mine'), extension)
  const { api } = await ownServer({ AGENT: file })
  expect((await api.post<RunResult>('/sessions', { agent: 'mine', prompt: 'x' })).body.text).toBe('mine')
  expect((await api.post<RunResult>('/sessions', { prompt: 'x' })).body.text).toBe('x')
  const { body } = await api.get<{ agents: { name: string }[] }>('/agents')
  expect(body.agents.map(({ name }) => name)).toEqual(['echo', 'scripted', 'mine'])
})

test('several agents serve side by side, and one of them for requests that name none', async () => {
  const settings = { AGENT: `${module(agent('one'))},${module(agent('two'))}`, DEFAULT_AGENT: 'two' }
  const { api } = await ownServer(settings)
  expect((await api.post<RunResult>('/sessions', { prompt: 'x' })).body.text).toBe('two')
  expect((await api.post<RunResult>('/sessions', { agent: 'one', prompt: 'x' })).body.text).toBe('one')
})

test('hooks come from modules, with an agent or without', async () => {
  const { agents, hooks } = await loadModules([
    module(`export const hooks = { look() {} }`),
    module(`${agent('one')}\nexport const hooks = { judge() {} }`),
  ])
  expect(agents.map(({ name }) => name)).toEqual(['one'])
  expect(Object.keys(hooks)).toEqual(['look', 'judge'])
})

test.each([
  ['export const a = 1', 'has neither a default export, which would be an agent, nor hooks'],
  ['export default 7', 'is no agent: it needs {name, buildAgent(request, session)}'],
  ['export default { name: "x" }', 'is no agent: it needs {name, buildAgent(request, session)}'],
  [agent('no spaces'), 'is called "no spaces": use letters, digits, - and _'],
  ['export const hooks = { look: 1 }', 'exports hooks.look, which is no function'],
  ['throw new Error("out of luck")', 'cannot be loaded: out of luck'],
  ['export default {', 'cannot be loaded: '],
])('%j is refused in a sentence', async (text, sentence) => {
  const file = module(text)
  await expect(loadModules([file])).rejects.toThrow(sentence)
  await expect(loadModules([file])).rejects.toThrow(file)
})

test('two agents of one name are refused', async () => {
  await expect(loadModules([module(agent('same')), module(agent('same'))])).rejects.toThrow(
    'brings a second agent called same',
  )
})

test('the command takes --agent more than once, and says where a module is wrong', async () => {
  const file = module('\n\nthrow new Error("out of luck")')
  const { code, stderr } = await run(['serve', '--agent', module(agent('fine')), '--agent', file])
  expect(code).toBe(1)
  expect(stderr).toMatch(/^suricate: AGENT .* cannot be loaded: out of luck\n/)
  expect(stderr).toContain(`${file}:3`)
})

test('a module that is not there and a directory are named in one sentence, without a stack', async () => {
  const start = (file: string) => ownServer({ AGENT: file })
  await expect(start('./nope.ts')).rejects.toThrow(new ConfigError('AGENT ./nope.ts is not there'))
  await expect(start(folder)).rejects.toThrow(new ConfigError(`AGENT ${folder} is a directory: name the module in it`))
  for (const file of ['./nope.ts', folder])
    await expect(start(file)).rejects.not.toHaveProperty('cause', expect.any(Error))
})

test('the agent llm as the default needs a model, and the sentence says which settings', async () => {
  await expect(ownServer({ DEFAULT_AGENT: 'llm' })).rejects.toThrow(
    /^DEFAULT_AGENT is llm, and this server has no model: .*MODEL.*ANTHROPIC_API_KEY/,
  )
})

test('a request for the agent llm, where no model is set up, is told which settings there are', async () => {
  const { api } = await ownServer()
  const answer = await api.post<Problem>('/sessions', { agent: 'llm', prompt: 'x' })
  expect(answer).toMatchObject({ status: 501, body: { code: 'CAPABILITY_UNAVAILABLE', errors: [{ path: '/agent' }] } })
  for (const name of [
    'MODEL=',
    'ANTHROPIC_API_KEY',
    'OPENAI_API_KEY',
    'GOOGLE_GENERATIVE_AI_API_KEY',
    'OPENAI_COMPATIBLE_BASE_URL',
  ]) {
    expect(answer.body.detail).toContain(name)
  }
  const other = await api.post<Problem>('/sessions', { agent: 'nobody', prompt: 'x' })
  expect(other.body.detail).toBe('/agent must be one of echo, scripted')
})

test('a default agent that is not there stops the start', async () => {
  const { code, stderr } = await run(['serve', '--default-agent', 'nobody'])
  expect({ code, stderr }).toEqual({
    code: 1,
    stderr: 'suricate: DEFAULT_AGENT must be one of echo, scripted, got "nobody"\n',
  })
})
