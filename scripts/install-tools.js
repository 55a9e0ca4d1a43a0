// Makes tools/node_modules what tools/package-lock.json says. Plain JavaScript: it runs before anything is built.
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const tools = new URL('../tools/', import.meta.url)
const stamp = new URL('node_modules/.installed', tools)

const wanted = createHash('sha256')
  .update(readFileSync(new URL('package.json', tools)))
  .update(readFileSync(new URL('package-lock.json', tools)))
  .digest('hex')

if (installed() !== wanted) {
  console.log('Installing the tools that tools/package-lock.json names')
  npm('ci', '--include=dev', '--no-audit', '--no-fund')
  // `npm ci` begins by removing node_modules, so an install that breaks off leaves no stamp.
  writeFileSync(stamp, wanted)
}

function installed() {
  try {
    return readFileSync(stamp, 'utf8')
  } catch {
    return undefined
  }
}

/** Under `npm run` that same npm, else the one on the path. */
function npm(...args) {
  const { npm_execpath: script = '' } = process.env
  const [command, first] = script.endsWith('npm-cli.js') ? [process.execPath, [script]] : ['npm', []]
  const { status, error } = spawnSync(command, [...first, ...args], {
    cwd: fileURLToPath(tools),
    stdio: 'inherit',
    shell: command === 'npm' && process.platform === 'win32',
  })
  if (error) throw error
  if (status !== 0) process.exit(status ?? 1)
}
