import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterEach, expect, onTestFinished, test } from 'vitest'
import { client } from '../helpers/http.ts'
import { models, providerNames, STREAM, saying, startWireServer } from '../helpers/model-server.ts'
import { killLeftovers, serve } from './child.ts'

afterEach(killLeftovers)

/** Everything that a server is told and nobody may hear from it. */
const secrets = {
  MCP_TOKEN: 'mcp-token-that-nobody-sees',
  HOOK_TOKEN: 'hook-token-that-nobody-sees',
  WEBHOOK_SECRETS: 'webhook-secret-that-nobody-sees',
}
const KEY = 'api-key-that-nobody-sees'

test('no secret is in any log line, event, error or answer, whatever goes wrong', async () => {
  // A provider that repeats all that it was sent, in every way in which it can fail.
  const wire = await startWireServer((call, response, index) => {
    const echo = JSON.stringify({ error: { type: 'e', message: JSON.stringify(call.headers) }, headers: call.headers })
    const failures = [
      () => response.writeHead(401, { 'content-type': 'application/json' }).end(echo),
      () => response.writeHead(400, { 'content-type': 'text/html' }).end(echo),
      () => response.writeHead(200, STREAM).end(`data: ${echo}\n\n`),
      () => response.destroy(),
    ]
    if (call.path.endsWith('/chat/completions') && index % 2 === 1) {
      const calls = ['env', 'throw', 'die'].map((name) => ({ id: name, name: `mcp__${name}`, args: {} }))
      return response.writeHead(200, STREAM).end(saying({ calls }))
    }
    return failures[index % failures.length]?.()
  })
  const hook = http.createServer((request, response) => response.writeHead(500).end(JSON.stringify(request.headers)))
  await new Promise<void>((resolve) => hook.listen(0, '127.0.0.1', resolve))
  const folder = mkdtempSync(join(tmpdir(), 'suricate-secrets-'))
  onTestFinished(() => {
    wire.close()
    hook.closeAllConnections()
    hook.close()
    rmSync(folder, { recursive: true })
  })
  const file = (name: string, content: object) => {
    writeFileSync(join(folder, name), JSON.stringify(content))
    return join(folder, name)
  }
  const program = fileURLToPath(new URL('../agents/tools/mcp-test-server.ts', import.meta.url))
  const { child, url, lines, exited } = await serve({
    ...wire.settings,
    ...secrets,
    LOG_LEVEL: 'trace',
    API_KEYS: JSON.stringify([{ key: KEY }]),
    MCP_CONFIG: file('mcp.json', {
      mcpServers: {
        mcp: {
          command: process.execPath,
          args: ['--import', 'tsx', program, 'stdio'],
          env: { TEST_API_KEY: `\${MCP_TOKEN}` },
        },
        gone: { url: 'http://127.0.0.1:1/mcp', headers: { authorization: `Bearer \${MCP_TOKEN}` } },
      },
    }),
    HOOKS_CONFIG: file('hooks.json', {
      hooks: [
        {
          id: 'judge',
          point: 'run_started',
          runtime: {
            type: 'http',
            url: `http://127.0.0.1:${(hook.address() as AddressInfo).port}/`,
            headers: { authorization: `Bearer \${HOOK_TOKEN}` },
          },
        },
      ],
    }),
  })
  const api = client(() => url)
  const auth = { authorization: `Bearer ${KEY}` }
  const said: string[] = []
  for (const provider of [...providerNames, ...providerNames]) {
    const body = { agent: 'llm', model: models[provider], prompt: 'go', budget_limits: { max_tool_calls: 5 } }
    const answer = await api.post('/sessions/stream', body, auth)
    said.push(answer.text, (await api.post('/sessions', body, auth)).text)
  }
  for (const path of ['/capabilities', '/agents', '/sessions', '/metrics', '/usage', '/openapi.json']) {
    said.push((await api.get(path, auth)).text)
  }
  const { body } = await api.get<{ sessions: { session_id: string }[] }>('/sessions', auth)
  for (const { session_id } of body.sessions) {
    for (const part of ['export', 'messages', 'turns']) {
      said.push((await api.get(`/sessions/${session_id}/${part}`, auth)).text)
    }
  }
  child.kill('SIGTERM')
  await exited
  expect(said.join('\n')).toContain('run_failed')
  expect(said.join('\n')).toContain('hook_failed')
  const everything = [...said, ...lines].join('\n')
  const all = [
    KEY,
    ...Object.values(secrets),
    ...Object.entries(wire.settings).flatMap(([name, value]) => (name.endsWith('KEY') ? [value] : [])),
  ]
  expect(all).toHaveLength(8)
  for (const secret of all) expect(everything).not.toContain(secret)
})
