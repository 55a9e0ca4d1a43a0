import { InvalidParamsError, SessionExistsError } from './errors.ts'
import type { SessionFactory } from './session-factory.ts'
import type { SessionRegistry } from './session-registry.ts'
import type { SessionTask } from './session-task.ts'
import { msOf } from './time.ts'
import { type ExportedSession, transcriptFault } from './transcript.ts'
import type { TurnRecord } from './turn-record.ts'
import { isExact } from './usage.ts'

/**
 * Makes a session of an exported one, whose events begin after `lastSeq`: a cursor from before must not go on in another
 * history. Rejects for a transcript that no agent could go on with.
 */
export async function importInto(
  registry: SessionRegistry,
  factory: SessionFactory,
  exported: ExportedSession,
  lastSeq = registry.lastSeqOf(exported.id.toLowerCase()),
): Promise<SessionTask> {
  const id = exported.id.toLowerCase()
  const fault = transcriptFault(exported.messages)
  if (fault !== undefined) throw new InvalidParamsError(`/messages/${fault.index}`, fault.message)
  if (registry.get(id) !== undefined) throw new SessionExistsError(id)
  const { messages, usage, created_at, updated_at, metadata } = exported
  if (!isExact(usage)) {
    throw new InvalidParamsError('/usage', `must not add up to more than ${Number.MAX_SAFE_INTEGER} tokens`)
  }
  const createdAt = msOf('/created_at', created_at)
  const updatedAt = msOf('/updated_at', updated_at)
  try {
    return await factory.make(metadata.session_metadata ?? {}, { id, messages, usage, createdAt, updatedAt, lastSeq })
  } catch (error) {
    throw error instanceof InvalidParamsError ? error.below('/metadata/session_metadata') : error
  }
}

/** Makes a session of another's history, up to and including the turn of `record`, or all of it. */
export async function forkOf(
  factory: SessionFactory,
  source: SessionTask,
  record: TurnRecord | undefined,
): Promise<SessionTask> {
  if (record !== undefined && !record.isOver) throw source.busyError()
  const messages = record === undefined ? source.messages : source.messages.slice(0, record.messageEnd)
  // A name is one session's alone.
  const { comms_name, ...metadata } = source.metadata
  return factory.make(metadata, { messages: [...messages] })
}
