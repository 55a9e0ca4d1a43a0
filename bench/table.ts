import type { Limit, Metrics, Place, Row, Scenario } from './scenarios.ts'

/** What each contestant measured, round by round. */
export type Results = Map<string, Metrics[]>

export interface Judged {
  scenario: string
  row: Row
  base: number | undefined
  subject: number
  ratio: number | undefined
  verdict: 'met' | 'floor' | 'missed' | 'none'
}

/** Medians of a row's numbers, the ratio being the median of what each round gave for itself. */
export function judge(scenario: Scenario, results: Results): Judged[] {
  return scenario.rows.map((row) => {
    const subjects = numbers(results, row.subject)
    const bases = row.base === undefined ? undefined : numbers(results, row.base)
    const subject = median(subjects)
    const base = bases === undefined ? undefined : median(bases)
    const ratio =
      bases === undefined ? undefined : median(subjects.map((value, round) => value / (bases[round] ?? Number.NaN)))
    const keeps = (limits: Limit[]) => limits.every((limit) => isKept(limit, limit.of === 'ratio' ? ratio : subject))
    let verdict: Judged['verdict'] = 'missed'
    if (row.floor.length + row.goal.length === 0) verdict = 'none'
    else if (keeps(row.goal)) verdict = 'met'
    else if (row.floor.length > 0 && keeps(row.floor)) verdict = 'floor'
    return { scenario: scenario.name, row, base, subject, ratio, verdict }
  })
}

/** A row below its floor fails the run. */
export function isBelowFloor({ row, verdict }: Judged): boolean {
  return verdict === 'missed' && row.floor.length > 0
}

const VERDICTS = { met: 'yes', floor: 'floor only', missed: '**no**', none: '' }

/** Two Markdown tables: what has a goal, and what else was measured. */
export function markdown(judged: Judged[]): string {
  const withGoal = judged.filter(({ verdict }) => verdict !== 'none')
  const others = judged.filter(({ verdict }) => verdict === 'none')
  const lines = [
    '| scenario | what | base | suricate | ratio | floor | goal | met |',
    '|---|---|---|---|---|---|---|---|',
    ...withGoal.map((entry) => {
      const { floor, goal, unit } = entry.row
      const cells = [...common(entry), limits(floor, unit), limits(goal, unit), VERDICTS[entry.verdict]]
      return `| ${cells.join(' | ')} |`
    }),
  ]
  if (others.length === 0) return lines.join('\n')
  lines.push(
    '',
    'Also measured:',
    '',
    '| scenario | what | base | suricate | ratio |',
    '|---|---|---|---|---|',
    ...others.map((entry) => `| ${common(entry).join(' | ')} |`),
  )
  return lines.join('\n')
}

export function median(values: number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  if (sorted.length % 2 === 1) return sorted[middle] ?? Number.NaN
  return ((sorted[middle - 1] ?? Number.NaN) + (sorted[middle] ?? Number.NaN)) / 2
}

function numbers(results: Results, { contestant, metric }: Place): number[] {
  return (results.get(contestant) ?? []).map((metrics) => metrics[metric] ?? Number.NaN)
}

function isKept({ sign, bound }: Limit, value = Number.NaN): boolean {
  return sign === '>=' ? value >= bound : value <= bound
}

function common({ scenario, row, base, subject, ratio }: Judged): string[] {
  return [
    scenario,
    row.label,
    base === undefined ? '' : withUnit(base, row.unit),
    withUnit(subject, row.unit),
    ratio === undefined ? '' : `${ratio.toFixed(2)}x`,
  ]
}

function limits(all: Limit[], unit: string): string {
  return all
    .map(
      ({ of, sign, bound }) => `${sign === '>=' ? '≥' : '≤'} ${of === 'ratio' ? `${bound}x` : withUnit(bound, unit)}`,
    )
    .join(', ')
}

function withUnit(value: number, unit: string): string {
  const number = Math.abs(value) >= 100 ? Math.round(value).toLocaleString('en') : String(Number(value.toPrecision(2)))
  return unit === '' ? number : `${number} ${unit}`
}
