import { type Static, Type } from '@sinclair/typebox'
import type { Approval } from './agent.ts'
import type { CommsCommand, CommsReceipt, Peer } from './comms.ts'
import { count } from './count.ts'
import type { SessionError } from './errors.ts'
import type { EventStream, SessionStreamOptions, TurnStreamOptions } from './event-stream.ts'
import type { AgentEvent } from './events.ts'
import { StringEnum } from './string-enum.ts'
import { time } from './time.ts'
import {
  type BudgetLimits,
  type ExportedSession,
  type HooksOverride,
  Labels,
  type Message,
  type PeerMeta,
  StopReason,
} from './transcript.ts'
import type { Usage, UsageQuery, UsageReport } from './usage.ts'

const closed = { additionalProperties: false }
const sessionId = Type.String({ format: 'uuid', description: 'UUID v7' })

export const RunResult = Type.Object(
  {
    session_id: sessionId,
    turn: count('Number of the turn; 0 when none was run'),
    text: Type.String({ description: 'The answer; the text so far when the turn was interrupted' }),
    stop_reason: StopReason,
    turns: count('Model calls in this turn'),
    tool_calls: count('Tool calls in this turn'),
    usage: Type.Ref('Usage'),
    session_usage: Type.Ref('Usage'),
    structured_output: Type.Optional(Type.Unknown({ description: 'The answer that fits `output_schema`' })),
    schema_warnings: Type.Optional(
      Type.Array(
        Type.Object(
          {
            provider: Type.String({ description: 'Whose restriction it is' }),
            path: Type.String({ description: 'JSON pointer into the schema' }),
            message: Type.String({ description: 'What became of that place' }),
          },
          { title: 'SchemaWarning', description: 'Something in a schema that a provider cannot take', ...closed },
        ),
        { description: 'Where `output_schema` was changed for the provider' },
      ),
    ),
  },
  { $id: 'RunResult', description: 'What a turn came to; `usage` is this turn, `session_usage` all turns', ...closed },
)
export interface RunResult {
  session_id: string
  turn: number
  text: string
  stop_reason: StopReason
  turns: number
  tool_calls: number
  usage: Usage
  session_usage: Usage
  structured_output?: unknown
  schema_warnings?: { provider: string; path: string; message: string }[]
}

export const SessionSummary = Type.Object(
  {
    session_id: sessionId,
    created_at: time('When the session was made'),
    updated_at: time('When it last changed'),
    message_count: count('Committed messages of every role'),
    total_tokens: count('Input and output tokens of all turns'),
    is_active: Type.Boolean({ description: 'A turn is admitted or running' }),
    labels: Labels,
  },
  { $id: 'SessionSummary', description: 'A session as a list has it', ...closed },
)
export type SessionSummary = Static<typeof SessionSummary>

export const SessionInfo = Type.Object(
  {
    session_id: sessionId,
    created_at: time('When the session was made'),
    updated_at: time('When it last changed'),
    message_count: count('Committed messages of every role'),
    is_active: Type.Boolean({ description: 'A turn is admitted or running' }),
    labels: Labels,
    agent: Type.String({ description: 'Name of its agent' }),
    model: Type.Optional(Type.String({ description: 'provider/name, where one was asked for' })),
    turn: count('Number of the last turn, 0 before the first'),
    last_assistant_text: Type.Optional(Type.String({ description: 'The newest text of the agent' })),
  },
  { $id: 'SessionInfo', description: 'The state of a session', ...closed },
)
export type SessionInfo = Static<typeof SessionInfo>

export const SessionUsage = Type.Object(
  { total_tokens: count('Input and output tokens of all turns'), usage: Type.Ref('Usage') },
  { $id: 'SessionUsage', description: 'What a session spent', ...closed },
)
export const SessionView = Type.Object(
  { state: Type.Ref('SessionInfo'), billing: Type.Ref('SessionUsage') },
  { $id: 'SessionView', description: 'A session: its state and what it spent', ...closed },
)
export interface SessionView {
  state: SessionInfo
  billing: { total_tokens: number; usage: Usage }
}

export const TURN_STATUSES = ['queued', 'running', 'completed', 'interrupted', 'failed'] as const
export type TurnStatus = (typeof TURN_STATUSES)[number]
export const TurnStatus = StringEnum(TURN_STATUSES, 'How far the turn is', 'TurnStatus')

/** One turn as a reader sees it. Times are milliseconds since the epoch. */
export interface TurnView {
  readonly sessionId: string
  readonly turn: number
  readonly status: TurnStatus
  readonly prompt: string
  readonly createdAt: number
  readonly startedAt: number | undefined
  readonly endedAt: number | undefined
  /** Set once the turn completed or was interrupted. */
  readonly result: RunResult | undefined
  /** Set once the turn failed. */
  readonly error: SessionError | undefined
}

/** The optional members that an agent takes which does not say so itself. */
export const DEFAULT_ACCEPTS = ['system_prompt', 'model', 'provider', 'max_tokens', 'provider_params'] as const

export interface CreateSessionRequest {
  prompt?: string
  agent?: string
  model?: string
  system_prompt?: string
  max_tokens?: number
  labels?: Record<string, string>
  initial_turn?: 'run' | 'deferred'
  provider?: string
  provider_params?: Record<string, unknown>
  output_schema?: Record<string, unknown>
  structured_output_retries?: number
  budget_limits?: BudgetLimits
  skill_references?: string[]
  preload_skills?: string[]
  hooks_override?: HooksOverride
  host_mode?: boolean
  comms_name?: string
  peer_meta?: PeerMeta
}

export interface StartTurnRequest {
  prompt: string
  /** What to do while another turn is in flight: refuse, wait in line, or end that turn and go next. */
  on_busy?: 'reject' | 'enqueue' | 'interrupt'
  skill_references?: string[]
  host_mode?: boolean
}

/** Which turns to end: one by its number, or all that run or wait. */
export type InterruptTarget = number | 'all'

/** Makes a repeated request attach to the turn that the first one started. */
export interface IdempotencyClaim {
  key: string
  /** Who sent it, where callers are told apart: the same key from somebody else is another one. */
  caller?: string
  /** Digest of the request; another one with the same key is a mistake of the caller's. */
  fingerprint: string
}

export interface StartOptions {
  idempotency?: IdempotencyClaim
  /**
   * Set when the caller only wants to go on reading a turn that its key already started: without such a turn the
   * request is refused and nothing runs.
   */
  attachOnly?: boolean
}

/** A turn that was started or attached to. The turn lives on whether or not anyone waits for it. */
export interface TurnHandle {
  readonly sessionId: string
  /** 0 for a session created without running anything. */
  readonly turn: number
  /** True when an earlier request with the same idempotency key had started it. */
  readonly attached: boolean
}

/** Something from outside for a session's inbox. */
export interface InjectRequest {
  /** Text, or any JSON, which the agent sees as text. */
  body: unknown
  /** Who it comes from, as the agent is told; `webhook` where nobody says. */
  source?: string
}

export interface InjectOptions extends StartOptions {
  /** Somebody follows it: in host mode it gets a run of its own. */
  subscribe?: boolean
}

export interface InteractionHandle {
  readonly sessionId: string
  readonly interactionId: string
  /** True when an earlier request with the same idempotency key had brought it. */
  readonly attached: boolean
}

export interface Page {
  limit: number
  offset: number
  /** Fewer than `limit` where they would be more than about so many bytes as JSON, but one at least. */
  maxBytes?: number
}

export interface SessionQuery extends Page {
  /** Pairs that must all match; the same key with two values matches nothing. */
  labels?: readonly (readonly [key: string, value: string])[]
  active?: boolean
}

/** Counts and durations for metrics and logs. Called synchronously: keep it short, and do not throw. */
export interface ServiceObserver {
  /** `durationMs` is missing where it was not measured: the turn never ran, or the process that ran it is gone. */
  turnEnded?(turn: TurnView, durationMs: number | undefined): void
  /** Something went wrong that no caller can be told about, or only in general terms. */
  fault?(error: unknown, where: { session_id: string; turn?: number }): void
  /** Another server has taken over a session whose turn ran here: this one had not been heard for too long. */
  sessionLost?(where: { session_id: string; turn: number }): void
  /** The store refuses to persist what happened in a session: its turn fails, or the session is not made. */
  writeRefused?(error: unknown, where: { session_id: string }): void
  /** The store cannot be used: said once for each time that it is away. */
  storeFault?(error: unknown): void
}

/** At once from a service that has all in memory, later from one that has not. */
export type Awaitable<T> = T | Promise<T>

/**
 * Sessions, one turn at a time. What a route sees; everything it throws is a `SessionError`.
 *
 * Reads answer from the record at once, during a turn too. An unknown id is a `SessionNotFoundError` everywhere.
 */
export interface SessionService {
  /** Builds the agent, registers the session, starts its first turn unless it is deferred. Holds one permit. */
  createSession(request: CreateSessionRequest, options?: StartOptions): Promise<TurnHandle>
  /** Admits a turn and returns once it has its number; `SessionBusyError` names the turn that is in the way. */
  startTurn(sessionId: string, request: StartTurnRequest, options?: StartOptions): Promise<TurnHandle>
  /** Resolves when the turn is over, with its final view. Rejects with `signal.reason` when that aborts first. */
  turnEnded(sessionId: string, turn: number, signal?: AbortSignal): Promise<TurnView>
  /**
   * Ends the turn in flight; a repeat while it is ending is fine. With a number that turn, which may also be in line; with
   * `all` the one in flight and all that are in line. Works on an archived session, too, until its last turn ended.
   */
  interrupt(sessionId: string, turn?: InterruptTarget): Awaitable<{ turn: number }>
  /** Answers a tool call of a running turn that waits for it; `ApprovalNotFoundError` when none does. */
  approve(sessionId: string, turn: number, callId: string, approval: Approval): Awaitable<void>
  /**
   * Puts something into the inbox, where it waits for a turn: the next one, or the one that runs. `InboxFullError` when
   * too much waits, `InboxClosedError` when the session was archived.
   */
  inject(sessionId: string, request: InjectRequest, options?: InjectOptions): Promise<InteractionHandle>
  /** A reader of one interaction; `undefined` when the cursor says that it has seen the end. */
  streamInteraction(
    sessionId: string,
    interactionId: string,
    options?: TurnStreamOptions,
  ): Awaitable<EventStream | undefined>
  /** Live sessions with a `comms_name`, but for this one, oldest first. */
  peers(sessionId: string): Awaitable<Peer[]>
  /** Puts something into a peer's inbox, or into the session's own. `PeerNotFoundError` when there is no such peer. */
  send(sessionId: string, command: CommsCommand): Awaitable<CommsReceipt>
  read(sessionId: string): Awaitable<SessionView>
  list(query: SessionQuery): Awaitable<{ sessions: SessionSummary[]; total: number }>
  /**
   * Hides the session at once, and ends the turns in line. A running turn finishes, or is interrupted first with `cancel`,
   * also in a session that was archived before.
   */
  archive(sessionId: string, mode?: 'drain' | 'cancel'): Awaitable<void>
  turns(sessionId: string, page: Page): Awaitable<{ turns: TurnView[]; total: number }>
  turn(sessionId: string, turn: number): Awaitable<TurnView>
  messages(sessionId: string, page: Page): Awaitable<{ messages: Message[]; total: number }>
  exportSession(sessionId: string): Awaitable<ExportedSession>
  /** A session with the given id and history; runs nothing. */
  importSession(session: ExportedSession): Promise<SessionView>
  /** A new session with the history up to and including `turn`, by default the last committed one. */
  fork(sessionId: string, turn?: number): Promise<SessionView>
  /** A reader of one turn; `undefined` when the cursor says that it has seen the end. */
  streamTurn(sessionId: string, turn: number, options?: TurnStreamOptions): Awaitable<EventStream | undefined>
  /** A reader across turns; `undefined` when the session is over and the cursor says that all of it was seen. */
  streamSession(sessionId: string, options?: SessionStreamOptions): Awaitable<EventStream | undefined>
  /** The same for code in this process: parsed events, until the turn or the session is over. */
  events(
    sessionId: string,
    options?: { turn?: number; after?: number; signal?: AbortSignal },
  ): AsyncGenerator<AgentEvent>
  /** Resolves once that session, or any, is registered; at once when it already is. */
  waitSessionRegistered(sessionId?: string, options?: { signal?: AbortSignal }): Promise<void>
  /** What turns cost that are over, whether or not their sessions are still there. */
  usage(query: UsageQuery): Awaitable<UsageReport>
  readonly closing: boolean
  /** False while the store cannot be reached: nothing new is taken. */
  readonly available: boolean
  readonly stats: ServiceStats
  /** Refuses new work, lets running turns finish until the deadline, interrupts the rest, disposes every agent. */
  close(options?: { drainMs?: number }): Promise<void>
}

export interface ServiceStats {
  /** Sessions that are listed. */
  sessions: number
  /** Permits taken: sessions whose agent is not disposed yet. */
  residents: number
  maxSessions: number
  turnsRunning: number
  maxActiveTurns: number
}
