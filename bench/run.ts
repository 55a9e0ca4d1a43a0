/** The benchmark: `npm run bench`, or `npx tsx bench/run.ts --help` for what can be chosen. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { availableParallelism, loadavg } from 'node:os'
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { PLANTS, type Plant } from './load/plant.ts'
import { FULL, type Metrics, QUICK, type Scenario, scenarios } from './scenarios.ts'
import { type Contestant, canPin, Stage, StageError } from './stage.ts'
import { isBelowFloor, type Judged, judge, markdown, type Results } from './table.ts'

const HELP = `Measures Suricate beside a bare node:http server that pulls the same agent.

  --quick            one round, less of everything; floors are not enforced
  --rounds N         rounds, default 3
  --only A,B         these scenarios only; --list names them
  --write            put the table into bench/README.md
  --dist FOLDER      the build to measure, default dist/
  --base FOLDER      another build, in place of the raw server: what a change brought
  --plant FAULT      ${PLANTS.join(', ')}: spoil what the load generator reads, to see that it notices
  --cpu-prof FOLDER  write CPU profiles of the servers there
  --list             name the scenarios

Exit code 1: a stream was not what it must be, or something broke. 2: a number is below its floor.`

const BEGIN = '<!-- measured: written by `npm run bench -- --write` -->'
const END = '<!-- /measured -->'
const readme = fileURLToPath(new URL('README.md', import.meta.url))

const { values: options } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    rounds: { type: 'string' },
    only: { type: 'string' },
    write: { type: 'boolean', default: false },
    dist: { type: 'string', default: fileURLToPath(new URL('../dist', import.meta.url)) },
    base: { type: 'string' },
    plant: { type: 'string' },
    'cpu-prof': { type: 'string' },
    list: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
})

async function main(): Promise<number> {
  if (options.help) {
    console.log(HELP)
    return 0
  }
  const plant = plantOf(options.plant)
  const quick = options.quick || plant !== undefined
  const all = scenarios(quick ? QUICK : FULL)
  if (options.list) {
    console.log(all.map(({ name }) => name).join('\n'))
    return 0
  }
  const chosen = choose(all, options.only ?? (plant === undefined ? undefined : 'T20'))
  const rounds = Number(options.rounds ?? (quick ? 1 : 3))
  if (!Number.isInteger(rounds) || rounds < 1)
    throw new StageError(`--rounds must be a whole number from 1, got ${rounds}`)
  const base = options.base === undefined ? undefined : resolve(options.base)
  if (options.write && (quick || base !== undefined || chosen.length < all.length)) {
    throw new StageError('--write needs a full run, without --quick, --only, --base or --plant')
  }
  if (!canPin) progress('taskset is not there: the processes are not pinned to cores, expect more noise')
  const [busy = 0] = loadavg()
  if (busy > 0.7) progress(`the load average is ${busy.toFixed(1)}: something else is running, expect more noise`)
  const profiles = options['cpu-prof'] === undefined ? undefined : resolve(options['cpu-prof'])
  if (profiles !== undefined) mkdirSync(profiles, { recursive: true })
  const stage = await Stage.open({ dist: resolve(options.dist), base, plant, profiles })
  try {
    const judged = await runAll(stage, chosen, rounds)
    const report = `${heading(rounds, quick, busy)}\n\n${markdown(judged)}`
    console.log(report)
    if (options.write) writeReport(report)
    const low = judged.filter(isBelowFloor)
    for (const { scenario, row } of low) progress(`below its floor: ${scenario}, ${row.label}`)
    return low.length > 0 && !quick && base === undefined ? 2 : 0
  } finally {
    await stage.close()
  }
}

/** Rounds are interleaved, contestant by contestant, so that a slow minute of the machine meets all of them. */
async function runAll(stage: Stage, chosen: Scenario[], rounds: number): Promise<Judged[]> {
  const judged: Judged[] = []
  for (const scenario of chosen) {
    const results: Results = new Map(scenario.contestants.map(({ name }) => [name, []]))
    for (let round = 1; round <= rounds; round++) {
      for (const contestant of scenario.contestants) {
        const metrics = await measure(stage, scenario, contestant)
        results.get(contestant.name)?.push(metrics)
        progress(`${scenario.name} round ${round} ${contestant.name}: ${describe(metrics)}`)
        if ((metrics.loadShare ?? 0) > 0.95)
          progress('  the load generator had no time to spare: the server may be faster')
      }
    }
    judged.push(...judge(scenario, results))
  }
  return judged
}

async function measure(stage: Stage, scenario: Scenario, contestant: Contestant): Promise<Metrics> {
  const server = await stage.serve(contestant)
  try {
    const metrics = await scenario.measure(stage, server, contestant)
    await stage.load.ask('hangUp')
    await server.stop()
    return metrics
  } catch (error) {
    await server.kill()
    const problem = error instanceof Error ? error.message : String(error)
    throw new StageError(`${scenario.name}, ${contestant.name}: ${problem}`, { cause: error })
  }
}

function choose(all: Scenario[], names: string | undefined): Scenario[] {
  if (names === undefined) return all
  return names.split(',').map((name) => {
    const found = all.find((scenario) => scenario.name === name)
    if (found === undefined)
      throw new StageError(`No scenario "${name}"; there are ${all.map((one) => one.name).join(', ')}`)
    return found
  })
}

function plantOf(name: string | undefined): Plant | undefined {
  if (name === undefined) return undefined
  const plant = PLANTS.find((known) => known === name)
  if (plant === undefined) throw new StageError(`--plant must be one of ${PLANTS.join(', ')}, got "${name}"`)
  return plant
}

function heading(rounds: number, quick: boolean, busy: number): string {
  const date = new Date().toISOString().slice(0, 10)
  const pinned = canPin ? 'server and load generator pinned to a core each' : 'not pinned'
  const kind = quick ? 'a quick run, not to be quoted' : `medians of ${rounds} interleaved rounds`
  const machine = `${availableParallelism()} cores, load average ${busy.toFixed(1)} before, ${pinned}`
  return `${date}, Node ${process.version}, commit ${commit()}, ${machine}, ${kind}.`
}

function commit(): string {
  try {
    return execFileSync('git', ['rev-parse', '--short', 'HEAD'], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim()
  } catch {
    return 'none'
  }
}

function writeReport(report: string): void {
  const text = readFileSync(readme, 'utf8')
  const [before, rest] = text.split(BEGIN)
  const after = rest?.split(END)[1]
  if (before === undefined || after === undefined) throw new StageError(`${readme} has lost its markers`)
  writeFileSync(readme, `${before}${BEGIN}\n\n${report}\n\n${END}${after}`)
}

function describe(metrics: Metrics): string {
  return Object.entries(metrics)
    .filter(([, value]) => !Number.isNaN(value))
    .map(([name, value]) => `${name} ${Number(value.toPrecision(4))}`)
    .join(', ')
}

function progress(line: string): void {
  process.stderr.write(`${line}\n`)
}

process.exitCode = await main().catch((error) => {
  progress(error instanceof StageError ? error.message : String(error?.stack ?? error))
  return 1
})
