import type { SessionRow, SessionWrite, SweepLimits } from '../../src/core/durable-store.ts'

/** A sweep that finds nothing to do, of which only what a test is about has to be said. */
export const SWEEP_NOTHING: SweepLimits = { archived: 0, keys: 0, spent: 0, usage: 0 }

/** A session in a store, of which only what a test is about has to be said. */
export function sessionRow(given: Partial<SessionRow> & { id: string }): SessionRow {
  return {
    isActive: false,
    isArchived: false,
    createdAt: 1_700_000_000_000,
    updatedAt: 1_700_000_000_001,
    metadata: { agent: 'echo' },
    usage: { input_tokens: 1, output_tokens: 2, total_tokens: 3 },
    ranMs: 12,
    toolCalls: 1,
    messageCount: 0,
    turnCount: 0,
    lastSeq: 0,
    lastText: undefined,
    ...given,
  }
}

/** The same as it is written for the first time. */
export function sessionWrite(
  row: Partial<SessionRow> & { id: string },
  given: Partial<SessionWrite> = {},
): SessionWrite {
  return {
    isNew: true,
    epoch: 1,
    retain: { events: 100_000, bytes: 64 * 1024 * 1024 },
    row: sessionRow(row),
    hasOnlyGrown: false,
    turns: [],
    spent: [],
    messages: { from: 0, added: [] },
    chunks: [],
    interactions: [],
    keys: [],
    ...given,
  }
}
