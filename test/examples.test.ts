import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { chromium } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import type { RunResult } from './helpers/contract.ts'
import { client, send } from './helpers/http.ts'
import { startModelServer } from './helpers/model-server.ts'
import { has, pathOf } from './helpers/programs.ts'
import { startServer, type TestServer } from './helpers/server.ts'
import { patience } from './helpers/slowness.ts'
import { serve as serveCli } from './process/child.ts'

/** Starting a TypeScript program takes seconds where the cores are shared. */
const START_MS = patience(60_000)

const example = (name: string) => fileURLToPath(new URL(`../examples/${name}`, import.meta.url))

describe('the examples for a running server', () => {
  let server: TestServer
  beforeAll(async () => {
    server = await startServer({ API_KEYS: '[{"key":"for-the-examples"}]' })
  })
  afterAll(() => server.close())

  const run = (command: string, args: string[]) =>
    new Promise<{ code: unknown; output: string }>((resolve) => {
      const env = { ...process.env, SURICATE_URL: server.url, SURICATE_KEY: 'for-the-examples' }
      execFile(command, args, { env }, (error, stdout, stderr) =>
        resolve({ code: error === null ? 0 : error.code, output: stdout + stderr }),
      )
    })

  test.runIf(has('curl'))('curl.sh runs every recipe and finds all as expected', { timeout: START_MS }, async () => {
    const { code, output } = await run('bash', [example('curl.sh')])
    expect(output.trimEnd().split('\n').at(-1)).toBe('# All as expected')
    expect(code).toBe(0)
  })

  test('fetch-resume.ts is cut, resumes, and ends with the whole answer', { timeout: START_MS }, async () => {
    const { code, output } = await run(process.execPath, ['--import', 'tsx', example('fetch-resume.ts')])
    expect(output).toContain('cut after event 6; connecting again\n7 text_delta')
    expect(output).toContain('2 connections, 15 events, nothing lost, nothing twice')
    expect(code).toBe(0)
  })
})

describe('the examples that serve', () => {
  test('custom-agent.ts answers with its own agent, word by word', { timeout: START_MS }, async () => {
    const url = await serve('custom-agent.ts')
    const answer = await send(`${url}/sessions/stream`, 'POST', { json: { prompt: 'hello over there' } })
    const deltas = [...answer.text.matchAll(/"delta":"([^"]*)"/g)].map(([, delta]) => delta)
    expect(deltas).toEqual(['HELLO ', 'OVER ', 'THERE'])
    expect(answer.text).toContain('"text":"HELLO OVER THERE"')
  })

  test('embed.ts keeps its own routes and has the session API under its prefix', { timeout: START_MS }, async () => {
    const url = await serve('embed.ts')
    expect((await send(url, 'GET')).text).toContain('An application of its own')
    const created = await send(`${url}/agents-api/sessions`, 'POST', { json: { prompt: 'hello' } })
    expect([created.status, created.body]).toMatchObject([201, { text: 'hello' }])
    const location = String(created.headers.location)
    expect(await send(url + location, 'GET')).toMatchObject({ status: 200 })
    expect(await send(`${url}/sessions`, 'GET')).toMatchObject({ status: 404, body: { statusCode: 404 } })
  })
})

describe('the examples that are loaded by their path', () => {
  const start = async (name: string, env: Record<string, string> = {}) => {
    const { child, url, exited } = await serveCli({ AGENT: example(name), ...env })
    onTestFinished(async () => {
      child.kill()
      await exited
    })
    return client(() => url)
  }

  test('my-agent.ts is ten lines and answers', { timeout: START_MS }, async () => {
    const api = await start('my-agent.ts', { DEFAULT_AGENT: 'shout' })
    expect((await api.post('/sessions', { prompt: 'hello there' })).body).toMatchObject({ text: 'HELLO THERE' })
  })

  test('tool-loop-agent.ts calls its tool and remembers what was said', { timeout: START_MS }, async () => {
    const { mock, settings } = await startModelServer()
    onTestFinished(() => mock.stop())
    mock.on({ userMessage: 'weather in Oslo', hasToolResult: false }, weatherCall)
    mock.on({ userMessage: 'weather in Oslo', hasToolResult: true }, { content: 'It is 4 °C.' })
    mock.onMessage('And what did I ask?', { content: 'For the weather.' })
    const api = await start('tool-loop-agent.ts', settings)
    const { body } = await api.post<RunResult>('/sessions', { agent: 'tool-loop', prompt: 'weather in Oslo' })
    expect(body).toMatchObject({ text: 'It is 4 °C.', turns: 2, tool_calls: 1, stop_reason: 'end_turn' })
    const again = await api.post(`/sessions/${body.session_id}/turns`, { prompt: 'And what did I ask?' })
    expect(again.body).toMatchObject({ text: 'For the weather.' })
    expect(JSON.stringify(mock.getLastRequest()?.body)).toContain('It is 4 °C.')
  })

  test('langgraph-agent.ts streams from its graph and shows its nodes', { timeout: START_MS }, async () => {
    const api = await start('langgraph-agent.ts')
    const answer = await api.post('/sessions/stream', { agent: 'graph', prompt: 'why is the sky blue' })
    expect(answer.text).toContain('"type":"tool_execution_completed"')
    expect(answer.text).toContain('"text":"Your question has 5 words, and the longest is blue."')
  })
})

const weatherCall = { toolCalls: [{ name: 'weather', arguments: '{"city":"Oslo"}', id: 'call_1' }] }

test('requests.http: every request is answered with the status that stands above it', async () => {
  const server = await startServer()
  onTestFinished(() => server.close())
  const requests = parseHttpFile(readFileSync(example('requests.http'), 'utf8'))
  const answers = new Map<string, unknown>()
  const fill = (text: string) =>
    text.replace(/\{\{(.+?)\}\}/g, (_, name: string) => {
      if (name === 'base') return server.url
      const [, request = '', member = ''] = /^(\w+)\.response\.body\.\$\.(\w+)$/.exec(name) ?? []
      return String((answers.get(request) as Record<string, unknown>)[member])
    })
  const seen: string[] = []
  for (const { title, name, method, url, headers, body } of requests) {
    const bytes = body === '' ? {} : { bytes: body }
    const answer = await send(fill(url), method, { headers, ...bytes })
    if (name !== undefined) answers.set(name, answer.body)
    seen.push(`${title} ${answer.status}`)
  }
  expect(seen).toEqual(requests.map(({ title, status }) => `${title} ${status}`))
  expect(seen.length).toBeGreaterThan(20)
})

describe.runIf(has('chromium'))('browser-event-source.html', () => {
  test('shows a turn to its end, closing by itself or stopped by the 204', { timeout: START_MS }, async () => {
    const pages = await servePage('browser-event-source.html')
    const server = await startServer({ CORS_ORIGINS: pages })
    onTestFinished(() => server.close())
    const browser = await chromium.launch({ executablePath: pathOf('chromium') ?? '', args: ['--no-sandbox'] })
    onTestFinished(() => browser.close())
    const page = await browser.newPage()
    const followed: number[] = []
    page.on('response', (response) => {
      if (response.url().endsWith('/events')) followed.push(response.status())
    })
    await page.goto(`${pages}/?server=${server.url}`)

    await page.getByRole('button', { name: 'Run' }).click()
    await page.getByText('closed after run_completed').waitFor()
    expect(await page.locator('#answer').textContent()).toBe('Hello from a browser')
    expect(await page.locator('#log').textContent()).toMatch(/^1 run_started\n2 turn_started\n3 text_delta\n/)
    expect(followed).toEqual([200])

    await page.getByRole('checkbox').uncheck()
    await page.getByRole('button', { name: 'Run' }).click()
    await page.getByText('ended by 204').waitFor()
    expect(await page.locator('#answer').textContent()).toBe('Hello from a browser')
    expect(followed).toEqual([200, 200, 204])
  })
})

/** Runs an example that listens, on a free port, until the end of the test; resolves with its URL. */
function serve(name: string): Promise<string> {
  const child: ChildProcess = spawn(process.execPath, ['--import', 'tsx', example(name)], {
    env: { ...process.env, PORT: '0' },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()))
  onTestFinished(async () => {
    child.kill()
    await exited
  })
  return new Promise((resolve, reject) => {
    if (child.stdout === null) throw new Error('The example has no output')
    createInterface(child.stdout).on('line', (line) => {
      const [url] = /http:\/\/[\d.:]+/.exec(line) ?? []
      if (url !== undefined) resolve(url)
    })
    void exited.then(() => reject(new Error(`${name} ended without listening`)))
  })
}

/** Serves one page at the root of an origin of its own; resolves with that origin. */
async function servePage(name: string): Promise<string> {
  const server = createServer((_, response) => {
    response.setHeader('content-type', 'text/html').end(readFileSync(example(name)))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

interface HttpRequest {
  title: string
  name: string | undefined
  status: number
  method: string
  url: string
  headers: Record<string, string>
  body: string
}

/** Reads the format of VS Code's REST client, as far as the example uses it. */
function parseHttpFile(text: string): HttpRequest[] {
  return text
    .split(/^### /m)
    .slice(1)
    .map((part) => {
      const [head = '', ...body] = part.split('\n\n')
      const [title = '', ...lines] = head.trim().split('\n')
      const comments = lines.filter((line) => line.startsWith('#')).join('\n')
      const [start = '', ...headers] = lines.filter((line) => !line.startsWith('#'))
      const [method = '', url = ''] = start.split(' ')
      return {
        title,
        name: /^# @name (\w+)$/m.exec(comments)?.[1],
        status: Number(/^# answers (\d+)$/m.exec(comments)?.[1]),
        method,
        url,
        headers: Object.fromEntries(headers.map((line) => line.split(': ') as [string, string])),
        body: body.join('\n\n').trim(),
      }
    })
}
