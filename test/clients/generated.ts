import { execFile } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'

const TOOLS = fileURLToPath(new URL('../../tools/', import.meta.url))

export interface Ran {
  status: number | string
  stdout: string
  stderr: string
}

/** Runs a script of `tools/` in its folder, to its end. */
export function runTool(script: string, args: readonly string[], env: Record<string, string> = {}): Promise<Ran> {
  const path = join(TOOLS, script)
  if (!existsSync(path))
    throw new Error(`There is no tools/${script}; node scripts/install-tools.js installs the tools`)
  const options = { cwd: TOOLS, env: { ...process.env, ...env }, maxBuffer: 64 << 20 }
  return new Promise((resolve) => {
    execFile(process.execPath, [path, ...args], options, (error, stdout, stderr) => {
      resolve({ status: error === null ? 0 : (error.code ?? 'killed'), stdout, stderr })
    })
  })
}

/** Brings the clients by these names up to date with the document; quick when they are. */
export async function generate(...names: ('sdk' | 'types')[]): Promise<void> {
  const { status, stderr } = await runTool('generate.js', names)
  if (status !== 0) throw new Error(stderr)
}

/** A module of `tools/`. It is untyped here, for it need not exist yet; `tools/fixtures` is what its types are tested with. */
export function importTool(path: string) {
  return import(pathToFileURL(join(TOOLS, path)).href)
}

/** What TypeScript 5 says of the fixtures in a folder, as `file:line TSnumber`, sorted, and what it is expected to say. */
export async function typeCheck(folder: string): Promise<{ found: string[]; expected: string[]; output: string }> {
  const { stdout, stderr } = await runTool('node_modules/typescript/bin/tsc', ['-p', `fixtures/${folder}`])
  const found = [...stdout.matchAll(/^(?:.*\/)?([\w.-]+)\((\d+),\d+\): error (TS\d+)/gm)].map(
    ([, file, line, code]) => `${file}:${line} ${code}`,
  )
  return { found: found.sort(), expected: expectedErrors(folder), output: stdout + stderr }
}

/** A line of a fixture that must not compile says so at its end: `// TS2322`. */
function expectedErrors(folder: string): string[] {
  const path = join(TOOLS, 'fixtures', folder)
  const expected: string[] = []
  for (const file of readdirSync(path).filter((name) => name.endsWith('.ts'))) {
    const lines = readFileSync(join(path, file), 'utf8').split('\n')
    for (const [at, line] of lines.entries()) {
      const code = /\/\/ (TS\d+)\b/.exec(line)?.[1]
      if (code !== undefined) expected.push(`${file}:${at + 1} ${code}`)
    }
  }
  return expected.sort()
}
