/**
 * Makes dist: the compiler makes the types, and what runs is put together into few files, from which a server starts in
 * two thirds of the time. Plain JavaScript: it runs before anything is built.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { basename } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

/** Packages that are hundreds of small modules. They go into the files; the others are loaded from where they are installed. */
const INLINED = ['@sinclair/typebox', 'uuid']

/** What is run and imported, and what benchmarks and tests begin with. */
const ENTRIES = ['cli', 'index', 'app', 'closing', 'config', 'logger']

const root = new URL('..', import.meta.url)
const dist = new URL('dist/', root)
const read = (path) => readFileSync(new URL(path, root), 'utf8')

const compiler = fileURLToPath(new URL('node_modules/typescript/bin/tsc', root))
const { status } = spawnSync(process.execPath, [compiler, '-p', 'tsconfig.build.json'], { cwd: root, stdio: 'inherit' })
if (status !== 0) process.exit(status ?? 1)

const { outputFiles } = await build({
  absWorkingDir: fileURLToPath(root),
  entryPoints: ENTRIES.map((name) => `src/${name}.ts`),
  outdir: 'dist',
  bundle: true,
  splitting: true,
  write: false,
  format: 'esm',
  platform: 'node',
  target: 'node20.19',
  sourcemap: true,
  external: Object.keys(JSON.parse(read('package.json')).dependencies).filter((name) => !INLINED.includes(name)),
})
const files = new Map(outputFiles.map(({ path, text }) => [basename(path), text]))
files.set('licenses.txt', INLINED.map((name) => `${name}\n\n${license(name)}`).join('\n'))

mkdirSync(dist, { recursive: true })
for (const name of readdirSync(dist)) {
  if (/\.(js|js\.map)$/.test(name) && !files.has(name)) rmSync(new URL(name, dist))
}
for (const [name, text] of files) {
  const file = new URL(name, dist)
  // A server that starts meanwhile does not find half a file.
  if (!existsSync(file) || readFileSync(file, 'utf8') !== text) writeFileSync(file, text)
}
// When this was, since a file that is as it should be is left alone.
writeFileSync(new URL('.built', dist), '')

function license(name) {
  const folder = `node_modules/${name}/`
  return read(folder + readdirSync(new URL(folder, root)).find((file) => /^licen[cs]e/i.test(file)))
}
