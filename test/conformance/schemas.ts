import { FormatRegistry, type TSchema } from '@sinclair/typebox'
import { Value } from '@sinclair/typebox/value'
import { AgentOutputs, LifecycleEvents, StreamNotices } from '../../src/core/events.ts'
import { RunResult, SessionInfo, SessionSummary, SessionUsage, SessionView } from '../../src/core/session-service.ts'
import { Block, ExportedSession, Message, SessionMetadata, ToolResult } from '../../src/core/transcript.ts'
import { Usage } from '../../src/core/usage.ts'

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/
/** RFC 3339 in UTC with milliseconds, as the contract has it. */
const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/

// TypeBox knows no formats by itself; here they have to hold.
FormatRegistry.Set('uuid', (value) => UUID.test(value))
FormatRegistry.Set('date-time', (value) => TIME.test(value))

const events: Readonly<Record<string, TSchema>> = { ...LifecycleEvents, ...AgentOutputs, ...StreamNotices }
const parts: TSchema[] = [
  Block,
  ExportedSession,
  Message,
  RunResult,
  SessionInfo,
  SessionMetadata,
  SessionSummary,
  SessionUsage,
  SessionView,
  ToolResult,
  Usage,
]

/** What is wrong with a value by its published schema: nothing, if all is well. */
export function schemaFaults(schema: TSchema, value: unknown): string[] {
  return [...Value.Errors(schema, parts, value)].map(({ path, message }) => `${path || '/'}: ${message}`)
}

/** The same for an event, by its type. */
export function eventFaults(event: { type: string }): string[] {
  const schema = events[event.type]
  if (schema === undefined) return [`/type: there is no event ${event.type}`]
  return schemaFaults(schema, event).map((fault) => `${event.type} ${fault}`)
}
