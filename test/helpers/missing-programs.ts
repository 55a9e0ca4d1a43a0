import type { Reporter, TestModule } from 'vitest/node'
import { missing } from './programs.ts'

/** Ends the report with a line for each program that tests needed and did not find. */
export class MissingPrograms implements Reporter {
  onTestRunEnd(modules: readonly TestModule[]): void {
    const hasSkipped = modules.some((module) => !module.children.allTests('skipped').next().done)
    if (hasSkipped) for (const line of missing()) console.log(line)
  }
}
