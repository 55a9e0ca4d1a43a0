import type { Memory } from './control.ts'
import type { FanResult, RequestKind, SlopeResult, TurnsResult } from './load.ts'
import type { Contestant, Server, Stage } from './stage.ts'

/** How much is done: `--quick` does less of everything. */
export interface Scale {
  warmUpMs: number
  measureMs: number
  /** Shorter, for what has no goal of its own. */
  sideMs: number
  pacedMs: number
  fanTurns: number
  /** Sessions, or open streams: few and many. */
  few: number
  many: number
  fewStreams: number
  manyStreams: number
  requests: number
  turnsInSession: number
  eventsInTurn: number
}

export const FULL: Scale = {
  warmUpMs: 2_000,
  measureMs: 3_000,
  sideMs: 1_500,
  pacedMs: 5_000,
  fanTurns: 5,
  few: 1_000,
  many: 10_000,
  fewStreams: 1_000,
  manyStreams: 5_000,
  requests: 400,
  turnsInSession: 1_000,
  eventsInTurn: 10_000,
}

export const QUICK: Scale = {
  warmUpMs: 1_500,
  measureMs: 800,
  sideMs: 400,
  pacedMs: 1_500,
  fanTurns: 2,
  few: 200,
  many: 2_000,
  fewStreams: 200,
  manyStreams: 1_000,
  requests: 100,
  turnsInSession: 200,
  eventsInTurn: 5_000,
}

export type Metrics = Record<string, number>

/** One bound: of the value itself, or of its ratio to the base. */
export interface Limit {
  of: 'value' | 'ratio'
  sign: '>=' | '<='
  bound: number
}

/** Where a number stands in the results of a round. */
export interface Place {
  contestant: string
  metric: string
}

export interface Row {
  label: string
  unit: string
  subject: Place
  base?: Place
  /** Missing a floor fails the run. */
  floor: Limit[]
  goal: Limit[]
}

export interface Scenario {
  name: string
  contestants: Contestant[]
  measure(stage: Stage, server: Server, contestant: Contestant): Promise<Metrics>
  rows: Row[]
}

const RAW: Contestant = { name: 'raw', kind: 'raw' }
const SURICATE: Contestant = { name: 'suricate', kind: 'suricate' }
/** Its log is full before anything is measured: what it appends takes the place of what it drops. */
const FULL_LOG: Contestant = { name: 'suricate-full', kind: 'suricate', env: { RETAIN_EVENTS: '500' } }
const WITH_LOG: Contestant = { name: 'suricate-log', kind: 'suricate', env: { LOG_LEVEL: 'info', LOG_FORMAT: 'json' } }
const WITH_AUTH: Contestant = {
  name: 'suricate-auth',
  kind: 'suricate',
  env: { API_KEYS: '[{"key":"bench-key","name":"bench"}]' },
  token: 'bench-key',
}

const WITH_SQLITE: Contestant = { name: 'suricate-sqlite', kind: 'suricate', env: { STORE_URL: 'sqlite:' } }
const WITH_POSTGRES: Contestant = { name: 'suricate-postgres', kind: 'suricate', env: { STORE_URL: 'postgres:' } }
const FOLLOWER: Contestant = { ...WITH_POSTGRES, name: 'suricate-follower', hasWriter: true }

const FAN_READERS = 200
const WATCHERS = 1_000
const LEAVERS = 50
/** Streams of one delta every 20 ms begin so far apart that their deltas are spread over all of the 20 ms. */
const PACED_STAGGER_MS = 5.2

const ratioAtLeast = (bound: number): Limit => ({ of: 'ratio', sign: '>=', bound })
const ratioAtMost = (bound: number): Limit => ({ of: 'ratio', sign: '<=', bound })
const atLeast = (bound: number): Limit => ({ of: 'value', sign: '>=', bound })
const atMost = (bound: number): Limit => ({ of: 'value', sign: '<=', bound })

/** Suricate beside the base. */
function compared(label: string, unit: string, metric: string, floor: Limit[] = [], goal: Limit[] = []): Row {
  const base = { contestant: RAW.name, metric }
  return { label, unit, subject: { contestant: SURICATE.name, metric }, base, floor, goal }
}

/** Suricate alone. */
function alone(label: string, unit: string, metric: string, floor: Limit[] = [], goal: Limit[] = []): Row {
  return { label, unit, subject: { contestant: SURICATE.name, metric }, floor, goal }
}

/** Suricate beside itself, in a smaller or an earlier place. */
function grown(label: string, unit: string, from: string, to: string, floor: number, goal: number): Row {
  const base = { contestant: SURICATE.name, metric: from }
  const subject = { contestant: SURICATE.name, metric: to }
  return { label, unit, subject, base, floor: [ratioAtMost(floor)], goal: [ratioAtMost(goal)] }
}

/** Everything that is measured, with the goals of the design. */
export function scenarios(scale: Scale): Scenario[] {
  return [
    turns('L1', 'burst 20', 1, scale.measureMs, scale, [
      compared('first event p50', 'ms', 'firstP50', [ratioAtMost(2)], [ratioAtMost(1.5), atMost(0.25)]),
      compared('first event p99', 'ms', 'firstP99', [ratioAtMost(5)], [ratioAtMost(2.5), atMost(1)]),
      alone('turn end after first event p50', 'ms', 'tailP50', [atMost(2)], [atMost(0.2)]),
      ...throughput(),
    ]),
    turns('T20', 'burst 20', 32, scale.measureMs, scale, [
      ...throughput([ratioAtLeast(0.35)], [ratioAtLeast(0.45)]),
      ...firstEvent(),
    ]),
    turns('T100', 'burst 100', 32, scale.measureMs, scale, [
      ...throughput([ratioAtLeast(0.45)], [ratioAtLeast(0.55)]),
      ...firstEvent(),
    ]),
    ...[20, 100].map((deltas) => fullLog(`T${deltas}full`, `burst ${deltas}`, scale)),
    ...[20, 100].flatMap((deltas) =>
      [1, 16, 128].map((clients) =>
        turns(`T${deltas}x${clients}`, `burst ${deltas}`, clients, scale.sideMs, scale, [
          ...throughput(),
          ...firstEvent(),
        ]),
      ),
    ),
    turns('TICK', 'tick 100', 32, scale.measureMs, scale, [
      compared('CPU an event', 'µs', 'cpuPerEvent', [ratioAtMost(1.35)], [ratioAtMost(1.2)]),
      compared('turns a second', '', 'turnsPerSecond'),
    ]),
    paced(scale),
    fan('FAN200', FAN_READERS, `tick ${scale.eventsInTurn / 50}`, scale, [
      compared('CPU a delivery', 'µs', 'cpuPerDelivery', [ratioAtMost(1.3)], [ratioAtMost(1.1)]),
    ]),
    fan('FAN200x10', FAN_READERS, `tick ${scale.eventsInTurn / 10} 10`, scale, [
      compared('CPU a delivery, 10 events a tick', 'µs', 'cpuPerDelivery', [], [atMost(2)]),
    ]),
    fan('FAN1000', WATCHERS, `paced ${scale.pacedMs / 50} 50`, { ...scale, fanTurns: 1 }, [
      compared('delay p99, 20 events a second', 'ms', 'delayP99', [atMost(60)], [atMost(40)]),
      compared('delay p50, 20 events a second', 'ms', 'delayP50'),
      compared('share of a core', '', 'share', [atMost(0.4)], [atMost(0.3)]),
    ]),
    starting(),
    kept(scale),
    openStreams(scale.fewStreams, scale, [
      compared('left of a stream after 1 s, heap', 'KiB', 'left', [atMost(3)], [atMost(1.5)]),
      compared('open stream, heap', 'KiB', 'heap'),
      compared('open stream, RSS', 'KiB', 'rss'),
    ]),
    openStreams(scale.manyStreams, scale, [
      compared('open stream, heap', 'KiB', 'heap', [atMost(10)], [atMost(7)]),
      compared('open stream, RSS', 'KiB', 'rss', [atMost(20)], [atMost(15)]),
      compared('share of a core, all idle', '', 'share', [], [atMost(0.0149)]),
      compared('left of a stream after 1 s, heap', 'KiB', 'left', [atMost(3)], [atMost(0.7)]),
    ]),
    leaving(),
    growingServer(scale),
    growingSession(scale),
    growingTurn(scale),
    stored('SQLITE', WITH_SQLITE, 0.5, scale),
    stored('POSTGRES', WITH_POSTGRES, 0.3, scale),
    storedPaced(scale),
    manyStored('SQLITE100K', WITH_SQLITE, scale),
    manyStored('POSTGRES100K', WITH_POSTGRES, scale),
    following(scale),
    feature('LOG', WITH_LOG, 'CPU a turn of 20, a log line for each request', scale),
    feature('AUTH', WITH_AUTH, 'CPU a turn of 20, with API keys', scale),
  ]
}

function throughput(floor: Limit[] = [], goal: Limit[] = []): Row[] {
  return [compared('turns a second', '', 'turnsPerSecond', floor, goal), compared('CPU an event', 'µs', 'cpuPerEvent')]
}

function firstEvent(): Row[] {
  return [compared('first event p50', 'ms', 'firstP50'), compared('first event p99', 'ms', 'firstP99')]
}

/** Clients that run turn after turn. */
function turns(name: string, prompt: string, clients: number, ms: number, scale: Scale, rows: Row[]): Scenario {
  return {
    name,
    contestants: [RAW, SURICATE],
    measure: (stage, server) => measureTurns(stage, server, prompt, clients, ms, scale),
    rows,
  }
}

/** The same where the log has its full length, and so takes no fresh memory from the system. */
function fullLog(name: string, prompt: string, scale: Scale): Scenario {
  const subject = { contestant: FULL_LOG.name, metric: 'turnsPerSecond' }
  const base = { contestant: RAW.name, metric: 'turnsPerSecond' }
  return {
    name,
    contestants: [RAW, FULL_LOG],
    measure: (stage, server) => measureTurns(stage, server, prompt, 32, scale.measureMs, scale),
    rows: [{ label: 'turns a second, 500 events kept a session', unit: '', subject, base, floor: [], goal: [] }],
  }
}

async function measureTurns(
  stage: Stage,
  server: Server,
  prompt: string,
  clients: number,
  ms: number,
  scale: Scale,
): Promise<Metrics> {
  await stage.load.ask('clients', { count: clients })
  const run = (forMs: number) => stage.load.ask<TurnsResult>('turns', { prompt, ms: forMs, maxTurns: 100_000 })
  await run(scale.warmUpMs)
  const { cpuUs, value } = await server.cpuDuring(() => run(ms))
  return {
    turnsPerSecond: (value.turns * 1_000) / value.elapsedMs,
    cpuPerEvent: cpuUs / value.events,
    cpuPerTurn: cpuUs / value.turns,
    firstP50: value.firstP50,
    firstP99: value.firstP99,
    tailP50: value.tailP50,
    loadShare: value.loadShare,
  }
}

/** Streams that come at a model's pace. */
function paced(scale: Scale): Scenario {
  const streams = 100
  const everyMs = 20
  return {
    name: 'P100',
    contestants: [RAW, SURICATE],
    measure: async (stage, server) => {
      await stage.load.ask('clients', { count: streams })
      const run = (ms: number) => {
        const prompt = `paced ${ms / everyMs} ${everyMs}`
        return stage.load.ask<TurnsResult>('turns', { prompt, ms, maxTurns: streams, staggerMs: PACED_STAGGER_MS })
      }
      // A hundred turns are not enough to have the path of a request compiled.
      await stage.load.ask('turns', { prompt: 'burst 20', ms: scale.warmUpMs, maxTurns: 100_000 })
      await run(1_000)
      const { cpuUs, value } = await server.cpuDuring(() => run(scale.pacedMs))
      return {
        cpuPerEvent: cpuUs / value.events,
        firstP50: value.firstP50,
        delayP50: value.delayP50,
        delayP99: value.delayP99,
        loadShare: value.loadShare,
      }
    },
    rows: [
      compared('CPU an event', 'µs', 'cpuPerEvent', [ratioAtMost(1.5)], [ratioAtMost(1.3)]),
      compared('delay p50', 'ms', 'delayP50', [atMost(0.2)], [atMost(0.1)]),
      compared('delay p99', 'ms', 'delayP99', [atMost(2)], [ratioAtMost(3), atMost(0.6)]),
      compared('first event p50', 'ms', 'firstP50'),
    ],
  }
}

/** One turn, many readers. */
function fan(name: string, readers: number, prompt: string, scale: Scale, rows: Row[]): Scenario {
  return {
    name,
    contestants: [RAW, SURICATE],
    measure: async (stage, server) => {
      await stage.load.ask('clients', { count: 1 })
      await stage.load.ask('readers', { count: readers })
      const run = (turns: number, what = prompt) => stage.load.ask<FanResult>('fan', { prompt: what, turns })
      await run(1, 'tick 100')
      const { cpuUs, value } = await server.cpuDuring(() => run(scale.fanTurns))
      return {
        cpuPerDelivery: cpuUs / value.deliveries,
        share: cpuUs / 1_000 / value.elapsedMs,
        delayP50: value.delayP50,
        delayP99: value.delayP99,
        loadShare: value.loadShare,
      }
    },
    rows,
  }
}

/** How long a process takes to be of use, and what it takes before it is. */
function starting(): Scenario {
  return {
    name: 'START',
    contestants: [RAW, SURICATE],
    measure: async (stage, _, contestant) => ({ ...(await stage.start(contestant)) }),
    rows: [
      compared('until /health answers', 'ms', 'healthMs', [ratioAtMost(8)], [ratioAtMost(5)]),
      compared('RSS, idle', 'MiB', 'rss', [atMost(90)], [atMost(70)]),
      compared('--version, over node -e 0', 'ms', 'sayMs', [ratioAtMost(4)], [ratioAtMost(3)]),
    ],
  }
}

/** What sessions leave in memory. */
function kept(scale: Scale): Scenario {
  const prompt = 'burst 20'
  return {
    name: 'MEMORY',
    contestants: [SURICATE],
    measure: async (stage, server) => {
      const payload = (await stage.load.ask<number>('payload', { prompt })) / 1024
      // The heap's own buildings grow with the first requests; they are no part of a session.
      await stage.load.ask('fill', { count: 500 })
      await stage.load.ask('fill', { count: 1_000, prompt })
      const idle = await fillAndWeigh(stage, server, 1_000, scale)
      const turn = await fillAndWeigh(stage, server, 1_000 + scale.many, scale, prompt)
      return {
        payload,
        idleFewRss: idle.few.rss,
        idleFewHeap: idle.few.heapUsed,
        idleManyRss: idle.many.rss,
        idleManyHeap: idle.many.heapUsed,
        turnFewRss: turn.few.rss,
        turnFewHeap: turn.few.heapUsed,
        turnManyRss: turn.many.rss,
        turnManyHeap: turn.many.heapUsed,
        turnManyOver: turn.many.heapUsed + turn.many.external - payload,
      }
    },
    rows: [
      alone(`idle session, RSS, ${scale.many}`, 'KiB', 'idleManyRss', [atMost(4)], [atMost(2)]),
      alone(`idle session, heap, ${scale.many}`, 'KiB', 'idleManyHeap', [], [atMost(1)]),
      alone(`after a turn of 20, RSS, ${scale.many}`, 'KiB', 'turnManyRss', [atMost(12)], [atMost(7)]),
      alone(`after a turn of 20, beyond its frames, ${scale.many}`, 'KiB', 'turnManyOver', [], [atMost(1.5)]),
      alone('frames of a turn of 20', 'KiB', 'payload'),
      alone(`after a turn of 20, heap, ${scale.many}`, 'KiB', 'turnManyHeap'),
      alone(`idle session, RSS, ${scale.few}`, 'KiB', 'idleFewRss'),
      alone(`idle session, heap, ${scale.few}`, 'KiB', 'idleFewHeap'),
      alone(`after a turn of 20, RSS, ${scale.few}`, 'KiB', 'turnFewRss'),
      alone(`after a turn of 20, heap, ${scale.few}`, 'KiB', 'turnFewHeap'),
    ],
  }
}

/** KiB a session, over few and over many of them. */
async function fillAndWeigh(stage: Stage, server: Server, sessions: number, scale: Scale, prompt?: string) {
  const before = await server.memory()
  await stage.load.ask('fill', { count: sessions + scale.few, prompt })
  const few = await server.memory()
  await stage.load.ask('fill', { count: sessions + scale.many, prompt })
  const many = await server.memory()
  return { few: perPiece(before, few, scale.few), many: perPiece(before, many, scale.many) }
}

/** What memory grew by, in KiB, for each of so many things. */
function perPiece(before: Memory, after: Memory, count: number): Memory {
  const grown = (from: number, to: number) => (to - from) / 1024 / count
  return {
    heapUsed: grown(before.heapUsed, after.heapUsed),
    rss: grown(before.rss, after.rss),
    external: grown(before.external, after.external),
  }
}

/** What an open stream costs that says nothing, and what it leaves behind. */
function openStreams(count: number, scale: Scale, rows: Row[]): Scenario {
  return {
    name: `STREAMS${count}`,
    contestants: [RAW, SURICATE],
    measure: async (stage, server, contestant) => {
      if (contestant.kind === 'suricate') await stage.load.ask('fill', { count })
      await stage.load.ask('openStreams', { count: 100 })
      await stage.load.ask('hangUp')
      await pause(1_000)
      const before = await server.memory()
      await stage.load.ask('openStreams', { count })
      const open = await server.memory()
      const { cpuUs, value: ms } = await server.cpuDuring(() => pause(scale.pacedMs))
      await stage.load.ask('hangUp')
      await pause(1_000)
      const after = await server.memory()
      const each = perPiece(before, open, count)
      return {
        heap: each.heapUsed,
        rss: each.rss,
        share: cpuUs / 1_000 / ms,
        left: Math.max(0, perPiece(before, after, count).heapUsed),
      }
    },
    rows,
  }
}

/** Whether turns stop, or go on, as asked when their client is gone. */
function leaving(): Scenario {
  return {
    name: 'LEAVE',
    contestants: [SURICATE],
    measure: async (stage, server) => {
      await stage.load.ask('leave', { count: LEAVERS, query: '?on_disconnect=interrupt' })
      await pause(1_000)
      const interrupted = await server.agents()
      await stage.load.ask('leave', { count: LEAVERS, query: '' })
      await pause(1_000)
      const detached = await server.agents()
      return { interrupted, detached: detached - interrupted }
    },
    rows: [
      alone(`of ${LEAVERS}, running 1 s after leaving with interrupt`, '', 'interrupted', [atMost(0)], [atMost(0)]),
      alone(`of ${LEAVERS}, running 1 s after leaving`, '', 'detached', [atLeast(LEAVERS)], [atLeast(LEAVERS)]),
    ],
  }
}

const KINDS: RequestKind[] = ['read', 'list', 'start', 'create']

/** What requests cost in a server that has many sessions. */
function growingServer(scale: Scale): Scenario {
  const steps = [100, scale.few, scale.many]
  return {
    name: 'SESSIONS',
    contestants: [SURICATE],
    measure: async (stage) => {
      const metrics: Metrics = {}
      const ask = (kind: RequestKind, count: number) =>
        stage.load.ask<{ p50: number }>('requests', { kind, count, ms: 5_000 })
      await stage.load.ask('fill', { count: 50 })
      for (const kind of KINDS) await ask(kind, kind === 'create' ? 50 : scale.requests * 3)
      for (const step of steps) {
        await stage.load.ask('fill', { count: step })
        for (const kind of KINDS) {
          const { p50 } = await ask(kind, kind === 'create' ? 100 : scale.requests)
          metrics[`${kind}${step}`] = p50
        }
      }
      return metrics
    },
    rows: [
      ...KINDS.flatMap((kind) =>
        steps
          .slice(1)
          .map((step) =>
            grown(`${kind} p50, ${step} sessions over 100`, 'ms', `${kind}100`, `${kind}${step}`, 1.5, 1.2),
          ),
      ),
      {
        label: `list of 20 over read, ${scale.many} sessions`,
        unit: 'ms',
        subject: { contestant: SURICATE.name, metric: `list${scale.many}` },
        base: { contestant: SURICATE.name, metric: `read${scale.many}` },
        floor: [],
        goal: [ratioAtMost(2)],
      },
    ],
  }
}

/** What a turn costs in a session that has had many. */
function growingSession(scale: Scale): Scenario {
  return {
    name: 'TURNS',
    contestants: [SURICATE],
    measure: async (stage) => {
      const run = (maxTurns: number) =>
        stage.load.ask<TurnsResult>('turns', { prompt: 'burst 1', ms: 60_000, maxTurns })
      await stage.load.ask('clients', { count: 1 })
      await run(scale.turnsInSession)
      await stage.load.ask('fill', { count: 100 })
      const first = await stage.load.ask<{ p50: number }>('requests', { kind: 'start', count: 100, ms: 60_000 })
      const late = await run(100)
      return { first: first.p50, late: late.firstP50 }
    },
    rows: [grown(`start p50, turn ${scale.turnsInSession} over turn 1`, 'ms', 'first', 'late', 1.5, 1.1)],
  }
}

/** What an event costs in a turn that has had many. */
function growingTurn(scale: Scale): Scenario {
  const prompt = `tick ${scale.eventsInTurn}`
  return {
    name: 'EVENTS',
    contestants: [SURICATE],
    measure: async (stage) => {
      await stage.load.ask('clients', { count: 1 })
      await stage.load.ask('slope', { prompt, turns: 3 })
      const { earlyUs, lateUs } = await stage.load.ask<SlopeResult>('slope', { prompt, turns: 7 })
      return { earlyUs, lateUs }
    },
    rows: [grown(`an event, ${scale.eventsInTurn}th over 100th`, 'µs', 'earlyUs', 'lateUs', 1.5, 1.1)],
  }
}

/** What something costs that may be off. */
function feature(name: string, contestant: Contestant, label: string, scale: Scale): Scenario {
  return {
    name,
    contestants: [SURICATE, contestant],
    measure: (stage, server) => measureTurns(stage, server, 'burst 20', 32, scale.sideMs, scale),
    rows: [
      {
        label,
        unit: 'µs',
        subject: { contestant: contestant.name, metric: 'cpuPerTurn' },
        base: { contestant: SURICATE.name, metric: 'cpuPerTurn' },
        floor: [],
        goal: [ratioAtMost(1.15)],
      },
    ],
  }
}

/** A durable store beside memory: turns of 100 in a burst. */
function stored(name: string, contestant: Contestant, goal: number, scale: Scale): Scenario {
  const row = (label: string, unit: string, metric: string, limits: Limit[]): Row => ({
    label,
    unit,
    subject: { contestant: contestant.name, metric },
    base: { contestant: SURICATE.name, metric },
    floor: [],
    goal: limits,
  })
  return {
    name,
    contestants: [SURICATE, contestant],
    measure: (stage, server) => measureTurns(stage, server, 'burst 100', 32, scale.sideMs, scale),
    rows: [
      row('turns a second, of 100', '', 'turnsPerSecond', [ratioAtLeast(goal)]),
      row('CPU an event', 'µs', 'cpuPerEvent', []),
      row('first event p50', 'ms', 'firstP50', []),
    ],
  }
}

/** Streams at a fast model's pace, over a store that commits before anybody is told. */
function storedPaced(scale: Scale): Scenario {
  const streams = 200
  const everyMs = 10
  const { name } = WITH_POSTGRES
  const row = (label: string, metric: string, goal: Limit[]): Row => ({
    label,
    unit: metric === 'share' ? '' : 'ms',
    subject: { contestant: name, metric },
    floor: [],
    goal,
  })
  return {
    name: 'POSTGRES200',
    contestants: [WITH_POSTGRES],
    measure: async (stage, server) => {
      await stage.load.ask('clients', { count: streams })
      const run = (ms: number) => {
        const prompt = `paced ${ms / everyMs} ${everyMs}`
        return stage.load.ask<TurnsResult>('turns', { prompt, ms, maxTurns: streams, staggerMs: 1 })
      }
      await run(1_000)
      const { cpuUs, value } = await server.cpuDuring(() => run(scale.pacedMs))
      const { delayP50, delayP99, elapsedMs, loadShare } = value
      return { delayP50, delayP99, share: cpuUs / 1_000 / elapsedMs, loadShare }
    },
    rows: [
      row(`delay p50, ${streams} turns of ${1_000 / everyMs} events a second`, 'delayP50', [atMost(30)]),
      row(`delay p99, ${streams} turns of ${1_000 / everyMs} events a second`, 'delayP99', [atMost(120)]),
      row('share of a core', 'share', []),
    ],
  }
}

/** What requests cost beside what is stored. */
function manyStored(name: string, contestant: Contestant, scale: Scale): Scenario {
  const kinds: RequestKind[] = ['read', 'list', 'start']
  const count = 100_000
  return {
    name,
    contestants: [contestant],
    measure: async (stage, server) => {
      const metrics: Metrics = {}
      await stage.load.ask('fill', { count: 100 })
      const ask = async (label: string) => {
        for (const kind of kinds) {
          const job = { kind, count: scale.requests, ms: 5_000 }
          const { p50 } = await stage.load.ask<{ p50: number }>('requests', job)
          metrics[`${kind}${label}`] = p50
        }
      }
      await ask('')
      await ask('Few')
      await stage.databases.fill(server.storeUrl as string, count)
      await ask('Many')
      return metrics
    },
    rows: kinds.map((kind) => ({
      label: `${kind} p50, ${count} sessions stored over 100`,
      unit: 'ms',
      subject: { contestant: contestant.name, metric: `${kind}Many` },
      base: { contestant: contestant.name, metric: `${kind}Few` },
      floor: [],
      goal: [ratioAtMost(1.2)],
    })),
  }
}

/** Readers at a server that runs nothing, of a turn that another one runs. */
function following(scale: Scale): Scenario {
  const prompt = `paced ${scale.pacedMs / 50} 50`
  const row = (label: string, unit: string, metric: string): Row => ({
    label,
    unit,
    subject: { contestant: FOLLOWER.name, metric },
    base: { contestant: WITH_POSTGRES.name, metric },
    floor: [],
    goal: [],
  })
  return {
    ...fan('FOLLOW1000', WATCHERS, prompt, { ...scale, fanTurns: 1 }, [
      row('delay p50, 20 events a second, 1,000 readers elsewhere', 'ms', 'delayP50'),
      row('delay p99, 20 events a second, 1,000 readers elsewhere', 'ms', 'delayP99'),
      row('share of a core', '', 'share'),
    ]),
    contestants: [WITH_POSTGRES, FOLLOWER],
  }
}

async function pause(ms: number): Promise<number> {
  const start = performance.now()
  await new Promise((resolve) => setTimeout(resolve, ms))
  return performance.now() - start
}
