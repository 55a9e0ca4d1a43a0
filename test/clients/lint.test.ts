import { expect, test } from 'vitest'
import { runTool } from './generated.ts'

interface Report {
  totals: { errors: number; warnings: number; ignored: number }
  problems: { ruleId: string; message: string; location: { pointer?: string }[] }[]
}

test.each(['openapi.json', 'openapi-3.2.json'])(
  '%s has neither an error nor a warning',
  async (file) => {
    const { stdout, stderr } = await runTool(
      'node_modules/@redocly/cli/bin/cli.js',
      ['lint', '--config', 'redocly.yaml', '--format', 'json', `../openapi/${file}`],
      { REDOCLY_TELEMETRY: 'off', REDOCLY_SUPPRESS_UPDATE_NOTICE: 'true' },
    )
    expect(stdout, stderr).toMatch(/^\{/)
    const { totals, problems } = JSON.parse(stdout) as Report
    expect(problems.map(({ ruleId, message, location }) => `${ruleId}: ${message} (${location[0]?.pointer})`)).toEqual(
      [],
    )
    expect(totals).toEqual({ errors: 0, warnings: 0, ignored: 0 })
  },
  120_000,
)
