import { type Static, Type } from '@sinclair/typebox'
import { TypeCompiler } from '@sinclair/typebox/compiler'
import type { InteractionRow, SessionRow, TurnRow } from '../core/durable-store.ts'
import { TIME_BOUNDS } from '../core/time.ts'
import type { Message } from '../core/transcript.ts'

export const FORMAT = 'suricate-export'
export const FORMAT_VERSION = 1

/** What goes wrong where sessions move and is nobody's bug. The message is a sentence. */
export class TransferError extends Error {}

const Whole = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER })
const Time = Type.Integer(TIME_BOUNDS)
const Chunks = Type.Array(Type.Object({ first: Whole, last: Whole, turn: Whole, frames: Type.String() }))

/** As much of each line as a store relies on; the checksum speaks for the rest. */
const ExportLine = Type.Union([
  Type.Object({
    session: Type.Unsafe<SessionRow>(
      Type.Object({
        id: Type.String({ minLength: 1 }),
        isActive: Type.Boolean(),
        isArchived: Type.Boolean(),
        createdAt: Time,
        updatedAt: Time,
        metadata: Type.Object({
          agent: Type.String(),
          comms_name: Type.Optional(Type.String()),
          labels: Type.Optional(Type.Record(Type.String(), Type.String())),
        }),
        usage: Type.Object({}),
        ranMs: Whole,
        toolCalls: Whole,
        messageCount: Whole,
        turnCount: Whole,
        lastSeq: Whole,
        lastText: Type.Optional(Type.String()),
      }),
    ),
  }),
  Type.Object({ turns: Type.Unsafe<TurnRow[]>(Type.Array(Type.Object({ turn: Whole, status: Type.String() }))) }),
  Type.Object({
    messages: Type.Object({
      from: Whole,
      added: Type.Unsafe<Message[]>(Type.Array(Type.Object({ role: Type.String() }))),
    }),
  }),
  Type.Object({ chunks: Chunks }),
  Type.Object({
    interactions: Type.Unsafe<InteractionRow[]>(
      Type.Array(Type.Object({ id: Type.String(), state: Type.Object({ id: Type.String() }) })),
    ),
  }),
  Type.Object({ sessions: Whole, sha256: Type.String() }),
])
export type ExportLine = Static<typeof ExportLine>

const lines = TypeCompiler.Compile(ExportLine)

export function isExportLine(value: unknown): value is ExportLine {
  return lines.Check(value)
}

export function counted(sessions: number): string {
  return `${sessions} session${sessions === 1 ? '' : 's'}`
}

/** What the store, or a stream, says is wrong with it. Anything else is a bug and is thrown as it is. */
export function faultOf(error: unknown): string {
  if (!(error instanceof Error && 'code' in error)) throw error
  return error.cause instanceof Error ? error.cause.message : error.message
}
