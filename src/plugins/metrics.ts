import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import type { ServiceObserver, TurnStatus } from '../core/session-service.ts'

declare module 'fastify' {
  interface FastifyInstance {
    metrics: Registry
  }
}

export interface TurnMetrics {
  readonly registry: Registry
  readonly observe: NonNullable<ServiceObserver['turnEnded']>
}

/** Outcomes are there from the start, so that a rate can be taken of one that never happened yet. */
const OUTCOMES = ['completed', 'interrupted', 'failed'] as const satisfies readonly TurnStatus[]

/** Counts turns as they end. A registry of its own for each app, so that two in one process do not mix. */
export function turnMetrics(): TurnMetrics {
  const registry = new Registry()
  const turns = new Counter({
    name: 'suricate_turns_total',
    help: 'Turns that are over, by outcome',
    labelNames: ['outcome'],
    registers: [registry],
  })
  for (const outcome of OUTCOMES) turns.inc({ outcome }, 0)
  const duration = new Histogram({
    name: 'suricate_turn_duration_seconds',
    help: 'Time from the start of a turn to its end',
    buckets: [0.005, 0.05, 0.25, 1, 5, 15, 60, 300, 1_800],
    registers: [registry],
  })
  return {
    registry,
    observe: (turn, durationMs) => {
      turns.inc({ outcome: turn.status })
      if (durationMs !== undefined) duration.observe(durationMs / 1_000)
    },
  }
}

/** Everything else is read when it is asked for. */
export const metrics = fp(
  async (app: FastifyInstance, { registry }: TurnMetrics) => {
    collectDefaultMetrics({ register: registry })
    const gauge = (name: string, help: string, value: () => number) =>
      new Gauge({ name, help, registers: [registry], collect: gaugeCollector(value) })
    gauge('suricate_sessions', 'Sessions that are listed', () => app.sessions.stats.sessions)
    gauge('suricate_sessions_resident', 'Sessions that hold a permit', () => app.sessions.stats.residents)
    gauge('suricate_turns_running', 'Turns that are running', () => app.sessions.stats.turnsRunning)
    gauge('suricate_stream_readers', 'Event streams that are open', () => app.streams.open)
    const counter = (name: string, help: string, value: () => number) =>
      new Counter({ name, help, registers: [registry], collect: counterCollector(value) })
    counter('suricate_stream_events_total', 'Events sent on streams', () => app.streams.events)
    counter('suricate_stream_truncated_total', 'Times that a reader came too late', () => app.streams.truncated)
    app.decorate('metrics', registry)
  },
  { name: 'metrics', dependencies: ['sessions', 'sse'] },
)

function gaugeCollector(value: () => number) {
  return function (this: Gauge) {
    this.set(value())
  }
}

function counterCollector(value: () => number) {
  return function (this: Counter) {
    this.reset()
    this.inc(value())
  }
}
