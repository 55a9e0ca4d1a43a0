import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'

/** What tests need that does not come with Node or npm. */
const needed = {
  chromium: { env: 'CHROMIUM_PATH', package: 'chromium', serves: 'pages in a browser' },
  curl: { env: 'CURL_PATH', package: 'curl', serves: "the README's recipes and examples/curl.sh" },
  nginx: { env: 'NGINX_PATH', package: 'nginx', serves: 'nodes behind the proxy of deploy/nginx.conf' },
  script: { env: 'SCRIPT_PATH', package: 'bsdutils', serves: 'a server whose terminal is closed' },
}
export type Program = keyof typeof needed

/** The path of a program: what its variable says, else where it is found; `undefined` where it is not. */
export function pathOf(program: Program): string | undefined {
  const named = process.env[needed[program].env]
  const folders = `${process.env.PATH}${delimiter}/usr/sbin`.split(delimiter)
  return (named === undefined ? folders.map((folder) => join(folder, program)) : [named]).find(isExecutable)
}

/**
 * Whether tests that need a program can run, for `describe.runIf`. Where it is missing the reporter says so at the end;
 * with `SURICATE_REQUIRE_ALL=1`, as in CI, that is an error.
 */
export function has(program: Program): boolean {
  const found = pathOf(program) !== undefined
  if (!found && process.env.SURICATE_REQUIRE_ALL === '1') throw new Error(reason(program))
  return found
}

/** A line for each program that is missing: which tests did not run, and why. */
export function missing(): string[] {
  return (Object.keys(needed) as Program[])
    .filter((program) => pathOf(program) === undefined)
    .map((program) => `NOT RUN: ${needed[program].serves}. ${reason(program)}`)
}

function reason(program: Program): string {
  const { env, package: debian } = needed[program]
  const where = process.env[env] === undefined ? 'on the path' : `at ${process.env[env]}`
  return `There is no ${program} ${where}: apt-get install ${debian}, or set ${env}.`
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}
