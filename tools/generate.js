// Generates clients from openapi/openapi.json as their users would, and compiles them with TypeScript 5:
//
//   generated/sdk    an SDK by @hey-api/openapi-ts, with its client for streams
//   generated/types  types by openapi-typescript, for openapi-fetch
//
// `node tools/generate.js [sdk] [types]`; without a name it makes both. What is up to date is left alone.
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const here = dirname(fileURLToPath(import.meta.url))
const document = join(here, '../openapi/openapi.json')
const generated = join(here, 'generated')
const compiler = join(here, 'node_modules/typescript/bin/tsc')

const makers = {
  async sdk(folder) {
    const { createClient } = await import('@hey-api/openapi-ts')
    await createClient({
      input: document,
      output: { path: join(folder, 'src'), importFileExtension: '.js' },
      plugins: ['@hey-api/typescript', '@hey-api/sdk', '@hey-api/client-fetch'],
      logs: { level: 'silent', file: false },
    })
    compile(folder, { files: ['src/index.ts'], options: { rootDir: 'src', outDir: 'dist', declaration: true } })
  },

  async types(folder) {
    const { default: openapiTS, astToString } = await import('openapi-typescript')
    const tree = await openapiTS(JSON.parse(readFileSync(document, 'utf8')))
    writeFileSync(join(folder, 'api.ts'), astToString(tree))
    compile(folder, { files: ['api.ts'], options: { noEmit: true } })
  },
}

const names = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(makers)
for (const name of names) {
  const maker = makers[name]
  if (maker === undefined) throw new Error(`No client is called ${name}; there are ${Object.keys(makers).join(', ')}`)
  if (isCurrent(name)) continue
  const started = Date.now()
  await generate(name, maker)
  console.log(`tools/generated/${name} made in ${Date.now() - started} ms`)
}

/** Makes it aside and puts it in its place whole, so that nobody ever sees half of it. */
async function generate(name, maker) {
  mkdirSync(generated, { recursive: true })
  const aside = mkdtempSync(join(generated, '.making-'))
  try {
    await maker(aside)
    writeFileSync(join(aside, '.stamp'), fingerprint())
    if (isCurrent(name)) return
    const place = join(generated, name)
    rmSync(place, { recursive: true, force: true })
    renameSync(aside, place)
  } finally {
    rmSync(aside, { recursive: true, force: true })
  }
}

function isCurrent(name) {
  try {
    return readFileSync(join(generated, name, '.stamp'), 'utf8') === fingerprint()
  } catch {
    return false
  }
}

/** Of everything that the outcome depends on. */
function fingerprint() {
  const hash = createHash('sha256')
  const sources = [
    document,
    fileURLToPath(import.meta.url),
    join(here, 'package-lock.json'),
    join(here, 'tsconfig.json'),
  ]
  for (const file of sources) hash.update(readFileSync(file))
  return hash.digest('hex')
}

/** Compiles as a strict project would that takes the generated code for its own. */
function compile(folder, { files, options }) {
  const config = { extends: '../../tsconfig.json', compilerOptions: options, files }
  writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify(config))
  const { status, stdout } = spawnSync(process.execPath, [compiler, '-p', folder], { encoding: 'utf8' })
  if (status !== 0) throw new Error(`The generated code does not compile:\n${stdout}`)
}
