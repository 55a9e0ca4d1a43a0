import { availableParallelism } from 'node:os'
import { defineConfig } from 'vitest/config'
import { MissingPrograms } from './test/helpers/missing-programs.ts'
import { slowness } from './test/helpers/slowness.ts'

const isFull = process.env.PROMISES === 'full'
/** Processes that are killed or stand behind a proxy, a whole installation, dumps: each takes many seconds. */
const LONG = [
  'test/deploy/{failing-nodes,nodes,proxy}.test.ts',
  'test/durable/{crash,cut-off,kill,taken-over,transfer,cluster-chaos,cluster-nodes,cluster-rolling}.test.ts',
  'test/packaging.test.ts',
]
/** What depends on the version of Node: processes, sockets, streams, drivers, the package. */
const RUNTIME = [
  'test/{cli,embed,examples}.test.ts',
  'test/agents/{load-modules,tools/mcp-server}.test.ts',
  'test/clients/openapi-fetch.test.ts',
  'test/core/service-ending.test.ts',
  'test/durable/{cluster,crash,restart}.test.ts',
  'test/packaging.test.ts',
  'test/plugins/{problems,sse,sse-defects}.test.ts',
  'test/process/**/*.test.ts',
  'test/promises/{malformed,resume}.test.ts',
  'test/routes/{accept,closing,cors,errors,head,prefer,resume,sessions,streams,timeouts,turns}.test.ts',
  'test/stores/*.test.ts',
]
/** What a client sees does not depend on the store. */
const ROUTES = [
  'test/routes/{approvals,busy,closing,comms,host-mode,idempotency,interactions,interrupt,prefer,resume}.test.ts',
  'test/routes/{sessions,stopping,storm,streams,transcripts,turns,usage}.test.ts',
]
/** What a database does when it is frozen or cut off takes long to be seen. */
const FROZEN = isFull ? [] : ['test/stores/postgres.test.ts']

const project = (name: string, include: string[], exclude: string[], env: Record<string, string> = {}) => ({
  extends: true as const,
  test: { name, include, exclude, env },
})
const report = process.env.TEST_REPORT

export default defineConfig({
  test: {
    // `npm test` runs quick and sqlite, CI all of them; each test that is in `runtime` is in one of the others too.
    projects: [
      project('quick', ['test/**/*.test.ts'], [...LONG, ...FROZEN]),
      project('sqlite', ROUTES, [], { TEST_STORE: 'sqlite' }),
      project('long', LONG, []),
      project('runtime', RUNTIME, FROZEN),
    ],
    // Test files leave nothing behind, so they can share what a worker has loaded, and one PostgreSQL.
    isolate: false,
    // Many tests wait for a deadline or another process most of the time.
    maxWorkers: availableParallelism() + 1,
    testTimeout: 60_000 * slowness,
    hookTimeout: 60_000 * slowness,
    env: { TEST_SLOWNESS: String(slowness) },
    // A shared machine may be late for a deadline once; what is wrong is wrong again.
    retry: process.env.CI ? 2 : 0,
    // JSON beside the readable report, so that CI can count what ran.
    reporters: [
      'default',
      new MissingPrograms(),
      ...(report === undefined ? [] : [['json', { outputFile: report }] as ['json', { outputFile: string }]]),
    ],
    coverage: {
      provider: 'v8',
      include: ['src/core/**'],
      reporter: ['text-summary'],
      thresholds: { lines: 95, branches: 95 },
    },
  },
})
