import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, onTestFinished, test } from 'vitest'
import { ConfigError } from '../../../src/config.ts'
import { type RunResult, readMessages } from '../../helpers/contract.ts'
import { until, within } from '../../helpers/http.ts'
import { models, type Saying, startScriptedModel } from '../../helpers/model-server.ts'
import { startServer } from '../../helpers/server.ts'
import { patience } from '../../helpers/slowness.ts'
import { types } from '../../helpers/sse.ts'
import { ownServer } from '../../helpers/suite.ts'
import { startHttpServer } from '../tools/mcp-test-server.ts'

const program = fileURLToPath(new URL('../tools/mcp-test-server.ts', import.meta.url))
const near = { command: process.execPath, args: ['--import', 'tsx', program, 'stdio'] }
const create = { prompt: 'go' }

/** A file that is gone after the test. */
function file(text: string): string {
  const folder = mkdtempSync(join(tmpdir(), 'suricate-mcp-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const path = join(folder, 'mcp.json')
  writeFileSync(path, text)
  return path
}

/** A server whose model says one thing after another and has the tools of these MCP servers. */
async function scripted(mcpServers: object, script: Saying[], settings: Record<string, string | number> = {}) {
  const model = await startScriptedModel(...script)
  onTestFinished(() => model.close())
  const MCP_CONFIG = file(JSON.stringify({ mcpServers }))
  return { model, ...(await ownServer({ ...model.settings, MODEL: models.compatible, MCP_CONFIG, ...settings })) }
}

const calls = (name: string, args: object = {}): Saying => ({ calls: [{ id: 'c1', name, args }] })

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

test('a program that is a server runs for all sessions, and ends with the server', async () => {
  const { api, close } = await scripted({ near }, [
    calls('near__pid'),
    { text: 'Yes.' },
    calls('near__pid'),
    { text: 'Yes.' },
  ])
  const pids: number[] = []
  for (const _ of [1, 2]) {
    const { body } = await api.post<RunResult>('/sessions', create)
    const results = (await readMessages(api, body.session_id)).flatMap((message) => message.results ?? [])
    pids.push(Number(results[0]?.content))
  }
  expect(pids[0]).toBe(pids[1])
  expect(pids.map(isRunning)).toEqual([true, true])
  await close()
  await until('the program has ended', () => !isRunning(Number(pids[0])))
})

test('a server that dies in a call is an answer, and is there again for the next turn [R58]', async () => {
  const { api } = await scripted({ near }, [
    calls('near__die'),
    { text: 'Oh.' },
    calls('near__add', { a: 1, b: 2 }),
    { text: 'Three.' },
  ])
  const { body } = await api.post<RunResult>('/sessions', create)
  expect(body.text).toBe('Oh.')
  expect((await api.post<RunResult>(`/sessions/${body.session_id}/turns`, create)).body.text).toBe('Three.')
  const results = (await readMessages(api, body.session_id)).flatMap((message) => message.results ?? [])
  expect(results).toMatchObject([
    { is_error: true, content: expect.stringContaining('tool_unavailable') },
    { is_error: false, content: '3' },
  ])
})

test('an interrupt reaches the server that works on a call', async () => {
  const far = await startHttpServer()
  onTestFinished(() => far.close())
  const { api, stream } = await scripted({ far: { url: far.url } }, [calls('far__slow', { ms: 60_000 })])
  const opened = await stream('/sessions/stream', { json: create })
  await opened.upTo('tool_execution_started')
  await until('the server works on it', () => far.begun === 1)
  await api.post(`/sessions/${opened.frames[0]?.json.session_id}/interrupt`)
  expect((await opened.all()).at(-1)?.event).toBe('run_interrupted')
  await until('the server hears of it', () => far.aborted === 1)
})

test('approval that nobody gives within APPROVAL_TIMEOUT_MS is a refusal', async () => {
  const script = [calls('near__add', { a: 1, b: 2 }), { text: 'Then not.' }]
  const { stream, model } = await scripted({ near: { ...near, require_approval: ['add'] } }, script, {
    APPROVAL_TIMEOUT_MS: 20,
  })
  const frames = await (await stream('/sessions/stream', { json: create })).all()
  expect(types(frames).filter((type) => type.startsWith('tool'))).toEqual([
    'tool_call_requested',
    'tool_approval_requested',
    'tool_approval_resolved',
    'tool_execution_completed',
    'tool_result_received',
  ])
  expect(JSON.parse(String(model.told()[1]?.messages.at(-1)?.content))).toMatchObject({ error: 'access_denied' })
})

test('TOOL_TIMEOUT_MS is the time of calls whose server has none of its own', async () => {
  const far = await startHttpServer()
  onTestFinished(() => far.close())
  const script = [calls('far__slow', { ms: 60_000 }), { text: 'Too slow.' }]
  const { stream } = await scripted({ far: { url: far.url } }, script, { TOOL_TIMEOUT_MS: 200 })
  const frames = await (await stream('/sessions/stream', { json: create })).all()
  const late = frames.find(({ event }) => event === 'tool_execution_timed_out')
  expect(late?.json).toMatchObject({ id: 'c1', name: 'far__slow', timeout_ms: 200 })
  expect(frames.at(-1)?.json.result).toMatchObject({ text: 'Too slow.' })
  await until('the server hears of it', () => far.aborted === 1)
})

test('a server that never says hello does not keep this one from closing', async () => {
  const mute = { command: process.execPath, args: ['-e', 'process.stdin.resume()'] }
  const { stream, close } = await scripted({ mute }, [{ text: 'never' }])
  const opened = await stream('/sessions/stream', { json: create })
  await opened.upTo('run_started')
  await within('the server to close', close(), patience(8_000))
})

describe('MCP_CONFIG stops the start with a sentence', () => {
  const start = (MCP_CONFIG: string) =>
    startServer({ MODEL: 'compatible/x', OPENAI_COMPATIBLE_BASE_URL: 'http://127.0.0.1:1/v1', MCP_CONFIG })

  test.each([
    ['where there is no file', () => '/nowhere/mcp.json', 'cannot be read: ENOENT'],
    ['where it is no JSON', () => file('{'), 'is not JSON'],
    [
      'where a member is wrong',
      () => file('{"mcpServers": {"a": {"command": "x", "args": 1}}}'),
      'is wrong: mcpServers.a.args must be a list',
    ],
  ])('%s', async (_, config, fault) => {
    const refused = start(config())
    await expect(refused).rejects.toThrow(ConfigError)
    await expect(refused).rejects.toThrow(fault)
    await expect(refused).rejects.toThrow(/^MCP_CONFIG/)
  })
})
