import { defineConfig } from 'vitest/config'

const isFull = process.env.PROMISES === 'full'
/** What takes long and does not depend on the version of Node: dumps, processes that are killed or stand before a proxy. */
const LONG = ['test/durable/transfer.test.ts', 'test/durable/cluster-{chaos,nodes,rolling}.test.ts', 'test/deploy/**']
const isBrief = process.env.PROMISES === 'brief'
const report = process.env.TEST_REPORT

export default defineConfig({
  test: {
    projects: [
      {
        extends: true,
        // What a database does when it is frozen or cut off takes long to be seen.
        test: {
          name: 'all',
          include: ['test/**/*.test.ts'],
          exclude: isFull ? [] : ['test/stores/postgres.test.ts', ...(isBrief ? LONG : [])],
        },
      },
      // What a client sees does not depend on the store.
      {
        extends: true,
        test: {
          name: 'sqlite',
          env: { TEST_STORE: 'sqlite' },
          include: [
            'test/routes/{approvals,busy,closing,comms,host-mode,idempotency,interactions,interrupt,prefer,resume}.test.ts',
            'test/routes/{sessions,storm,streams,transcripts,turns,usage}.test.ts',
          ],
        },
      },
    ],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    // A shared machine may be late for a deadline once; what is wrong is wrong again.
    retry: process.env.CI ? 2 : 0,
    // JSON beside the readable report, so that CI can count what ran.
    reporters: report === undefined ? ['default'] : ['default', ['json', { outputFile: report }]],
    coverage: {
      provider: 'v8',
      include: ['src/core/**'],
      reporter: ['text-summary'],
      thresholds: { lines: 95, branches: 95 },
    },
  },
})
