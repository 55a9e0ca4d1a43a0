/** Adds up Vitest's JSON reports, names what failed, and closes with the one line that a machine reads: `N passed, N failed, N skipped`. */
import { readFileSync } from 'node:fs'
import { basename, relative } from 'node:path'

const sum = { passed: 0, failed: 0, skipped: 0 }
const fail = (report, name, message) => {
  sum.failed++
  console.log(
    `failed (${basename(report, '.json')}): ${name}\n  ${message?.trim().split('\n').slice(0, 6).join('\n  ')}`,
  )
}

for (const path of process.argv.slice(2)) {
  try {
    const report = JSON.parse(readFileSync(path, 'utf8'))
    sum.passed += report.numPassedTests
    sum.skipped += report.numPendingTests + report.numTodoTests
    for (const { name, status, message, assertionResults } of report.testResults) {
      const file = relative('.', name)
      const failed = assertionResults.filter((test) => test.status === 'failed')
      for (const test of failed) fail(path, `${file} > ${test.fullName}`, test.failureMessages[0])
      // A file that cannot even be loaded has no tests, and has failed all the same.
      if (status === 'failed' && failed.length === 0) fail(path, file, message)
    }
  } catch (error) {
    fail(path, 'no report', error.message)
  }
}
console.log(`${sum.passed} passed, ${sum.failed} failed, ${sum.skipped} skipped`)
process.exitCode = sum.failed > 0 || sum.passed === 0 ? 1 : 0
