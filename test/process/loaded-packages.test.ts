import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { text } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { send } from '../helpers/http.ts'
import { patience } from '../helpers/slowness.ts'

const program = fileURLToPath(new URL('loaded-packages.mjs', import.meta.url))
const START_MS = patience(30_000)

/** What few servers need, or none at its start. */
const HEAVY = [
  '@ai-sdk/anthropic',
  '@ai-sdk/google',
  '@ai-sdk/openai',
  '@ai-sdk/openai-compatible',
  '@ai-sdk/provider-utils',
  '@fastify/ajv-compiler',
  '@fastify/cors',
  '@fastify/static',
  '@fastify/swagger',
  '@fastify/swagger-ui',
  '@modelcontextprotocol/sdk',
  'ajv',
  'jiti',
  'libsql',
  'light-my-request',
  'pino-pretty',
  'postgres',
  'yaml',
  'zod',
]

test('--version loads no package', { timeout: START_MS }, async () => {
  expect(await packagesOf(['--version'])).toEqual([])
})

test('a start with the defaults loads nothing that the defaults never use', { timeout: START_MS }, async () => {
  const packages = await packagesOf(['serve', '--port', '0', '--log-format', 'json'])
  expect(packages).toContain('fastify')
  expect(packages.filter((name) => HEAVY.includes(name))).toEqual([])
})

/** Ends a server once it has answered. */
async function packagesOf(args: string[]): Promise<string[]> {
  const { PATH } = process.env
  const child = spawn(process.execPath, [program, ...args], { env: { PATH }, stdio: ['ignore', 'pipe', 'pipe'] })
  createInterface(child.stdout).on('line', async (line) => {
    const [, url] = /listens on (http:[^,]+),/.exec(line) ?? []
    if (url === undefined) return
    expect((await send(`${url}/health`, 'GET')).status).toBe(200)
    child.kill('SIGTERM')
  })
  const lines = (await text(child.stderr)).trim().split('\n')
  return JSON.parse(lines.at(-1) ?? '') as string[]
}
