import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, describe, expect, test } from 'vitest'
import { type RunResult, readMessages } from '../../helpers/contract.ts'
import { models, providerNames, startModelServer } from '../../helpers/model-server.ts'
import { types } from '../../helpers/sse.ts'
import { useServer } from '../../helpers/suite.ts'
import { startHttpServer } from '../tools/mcp-test-server.ts'

const { mock, settings } = await startModelServer()
const http = await startHttpServer()
const folder = mkdtempSync(join(tmpdir(), 'suricate-mcp-'))
const config = join(folder, 'mcp.json')
const program = fileURLToPath(new URL('../tools/mcp-test-server.ts', import.meta.url))
writeFileSync(
  config,
  JSON.stringify({
    mcpServers: {
      near: { command: process.execPath, args: ['--import', 'tsx', program, 'stdio'] },
      far: { url: http.url, timeout_ms: 200 },
      gone: { url: 'http://127.0.0.1:1/mcp' },
    },
  }),
)
const server = useServer({ ...settings, MCP_CONFIG: config })
const { api } = server
afterAll(async () => {
  await mock.stop()
  await http.close()
  rmSync(folder, { recursive: true })
})

const call = (name: string, args: object, id: string) => ({ name, arguments: JSON.stringify(args), id })

describe.each(providerNames)('%s', (provider) => {
  const model = models[provider]

  test('calls the tools of MCP servers, several at a time and round after round', async () => {
    const prompt = `${provider}: add it all up`
    mock.on(
      { userMessage: prompt, sequenceIndex: 0 },
      { toolCalls: [call('near__slow', { ms: 100 }, 'c1'), call('far__add', { a: 1, b: 2 }, 'c2')] },
    )
    mock.on(
      { userMessage: prompt, sequenceIndex: 1 },
      { content: 'And more.', toolCalls: [call('near__add', { a: 3, b: 4 }, 'c3')] },
    )
    mock.on({ userMessage: prompt, sequenceIndex: 2 }, { content: 'It is seven.' })
    const stream = await server.stream('/sessions/stream', { json: { agent: 'llm', model, prompt } })
    const frames = await stream.all()
    expect(types(frames).filter((type) => !type.startsWith('text'))).toEqual([
      'run_started',
      'turn_started',
      ...['tool_call_requested', 'tool_call_requested', 'tool_execution_started', 'tool_execution_started'],
      ...['tool_execution_completed', 'tool_result_received', 'tool_execution_completed', 'tool_result_received'],
      'turn_completed',
      'turn_started',
      ...['tool_call_requested', 'tool_execution_started', 'tool_execution_completed', 'tool_result_received'],
      'turn_completed',
      'turn_started',
      'turn_completed',
      'run_completed',
    ])
    const completed = frames.filter(({ event }) => event === 'tool_execution_completed').map(({ json }) => json)
    expect(completed.map(({ name, result }) => [name, result])).toEqual([
      ['far__add', '3'],
      ['near__slow', 'after 100 ms'],
      ['near__add', '7'],
    ])
    expect(frames.at(-1)?.json.result).toMatchObject({ text: 'It is seven.', turns: 3, tool_calls: 3 })
    const messages = await readMessages(api, String(frames[0]?.json.session_id))
    const results = messages.flatMap((message) => (message.role === 'tool_results' ? [message] : []))
    expect(results).toMatchObject([
      { results: [{ content: 'after 100 ms' }, { content: '3' }] },
      { results: [{ content: '7' }] },
    ])
    const sent = JSON.stringify(mock.getLastRequest()?.body)
    for (const text of ['after 100 ms', 'And more.', 'near__add']) expect(sent).toContain(text)
  })

  test('hears of tools that fail, take too long or are nobody’s, and goes on', async () => {
    const prompt = `${provider}: try everything`
    const calls = [
      call('near__fail', {}, 'c1'),
      call('far__slow', { ms: 60_000 }, 'c2'),
      call('gone__add', { a: 1, b: 2 }, 'c3'),
      call('near__add', { a: 'x' }, 'c4'),
    ]
    mock.on({ userMessage: prompt, sequenceIndex: 0 }, { toolCalls: calls })
    mock.on({ userMessage: prompt, sequenceIndex: 1 }, { content: 'None of it worked.' })
    const { body } = await api.post<RunResult>('/sessions', { agent: 'llm', model, prompt })
    expect(body).toMatchObject({ text: 'None of it worked.', tool_calls: 4 })
    const message = (await readMessages(api, body.session_id)).find(({ role }) => role === 'tool_results')
    const { results } = message as unknown as { results: { content: string; is_error: boolean }[] }
    expect(results.map(({ is_error }) => is_error)).toEqual([true, true, true, true])
    expect(results.map(({ content }) => content)).toEqual([
      'out of luck',
      expect.stringContaining('"timeout"'),
      expect.stringContaining('"tool_not_found"'),
      expect.stringContaining('"invalid_arguments"'),
    ])
  })
})
