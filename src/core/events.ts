import { type Static, type TProperties, type TSchema, Type } from '@sinclair/typebox'
import { count } from './count.ts'
import type { RunResult } from './session-service.ts'
import { StringEnum } from './string-enum.ts'
import { time } from './time.ts'
import { type Block, StopReason, type UserMessage } from './transcript.ts'
import type { Usage } from './usage.ts'

/**
 * The vocabulary of a session's event stream. Adding a type is one member here; the OpenAPI document, the table in
 * `docs/protocol.md` and the checks of what agents yield follow from it.
 *
 * Every event of the log has `type`, `seq` and `turn`. `seq` starts at 1 in a session and rises by exactly 1; `turn` is
 * the turn it belongs to, or 0 for what an agent reported while no turn was running.
 */

const seq = count('Position in the session, from 1, without gaps', { minimum: 1 })
const turn = count('The turn, from 1; 0 outside of any turn')
const id = Type.String({ description: 'Identifies the tool call within its turn' })
const name = Type.String({ description: 'Name of the tool' })
const hookId = Type.String({ description: "The hook's id in the configuration" })
const HookPatch = Type.Record(Type.String(), Type.Unknown(), { description: 'The change, told apart by patch_type' })

export const HOOK_POINTS = [
  'run_started',
  'run_completed',
  'run_failed',
  'pre_llm_request',
  'post_llm_response',
  'pre_tool_execution',
  'post_tool_execution',
  'turn_boundary',
] as const
export type HookPoint = (typeof HOOK_POINTS)[number]
export const HookPoint = StringEnum(HOOK_POINTS, 'Where in a turn the hook stands', 'HookPoint')

const text = (description: string) => Type.String({ description })
const flag = (description: string) => Type.Boolean({ description })
const sessionId = Type.String({ format: 'uuid', description: 'The session' })
const interactionId = Type.String({ format: 'uuid', description: 'The interaction' })
const kind = <T extends string>(type: T) => Type.Literal(type, { description: 'Tells events apart' })
const usage = Type.Unsafe<Usage>(Type.Ref('Usage'))
const runResult = Type.Unsafe<RunResult>(Type.Ref('RunResult'))

/** Wire names are snake_case, component names PascalCase: `text_delta` is described by `TextDelta`. */
function componentName(type: string): string {
  return type.replace(/(?:^|_)([a-z])/g, (_, letter: string) => letter.toUpperCase())
}

function logged<T extends string, P extends TProperties>(type: T, description: string, fields: P) {
  return Type.Object({ type: kind(type), seq, turn, ...fields }, { $id: componentName(type), title: type, description })
}

function notice<T extends string, P extends TProperties>(type: T, description: string, fields: P) {
  return Type.Object({ type: kind(type), ...fields }, { $id: componentName(type), title: type, description })
}

/** Written by the engine alone; a turn has exactly one beginning and one end, which is its last event. */
export const LifecycleEvents = {
  run_started: logged('run_started', 'The turn was admitted; always its first event', {
    session_id: sessionId,
    prompt: Type.String({ description: "The caller's prompt, unchanged" }),
  }),
  run_completed: logged('run_completed', 'The turn succeeded; its last event', {
    session_id: sessionId,
    result: runResult,
    usage,
  }),
  run_failed: logged('run_failed', 'The turn failed; its last event', {
    session_id: sessionId,
    error: text('What went wrong'),
    code: Type.String({ description: 'One of the problem codes' }),
  }),
  run_interrupted: logged('run_interrupted', 'The turn was interrupted; its last event', {
    session_id: sessionId,
    result: runResult,
  }),
  turn_started: logged('turn_started', 'A model call begins', {
    turn_number: count('Model calls of this turn are counted from 0'),
  }),
  tool_approval_requested: logged('tool_approval_requested', 'A tool call waits until somebody allows it', {
    id,
    name,
    args: Type.Unknown({ description: 'What the tool would be called with' }),
    expires_at: time('Without an answer by then it is refused'),
  }),
  tool_approval_resolved: logged('tool_approval_resolved', 'The tool call was allowed, or refused', {
    id,
    name,
    approved: flag('Whether the tool may run'),
    reason: Type.Optional(text('Why, where somebody said so')),
  }),
  interaction_started: logged('interaction_started', 'An interaction came out of the inbox', {
    interaction_id: interactionId,
    source: Type.String({ description: 'Who it came from' }),
  }),
  interaction_complete: logged('interaction_complete', 'The run that handled the interaction succeeded', {
    interaction_id: interactionId,
    result: runResult,
  }),
  interaction_failed: logged('interaction_failed', 'The run that handled the interaction did not succeed', {
    interaction_id: interactionId,
    error: text('What went wrong'),
    code: Type.String({ description: 'One of the problem codes, or CANCELLED where the run was interrupted' }),
  }),
} as const

/** What an agent may yield. The engine stamps `seq` and `turn` on it. */
export const AgentOutputs = {
  text_delta: logged('text_delta', 'A piece of the answer; the deltas of a model call add up to its text', {
    delta: text('What comes next'),
  }),
  text_complete: logged('text_complete', 'The whole text of a model call; absent when it is empty', {
    content: text('All of it'),
  }),
  reasoning_delta: logged('reasoning_delta', "A piece of the model's reasoning", { delta: text('What comes next') }),
  reasoning_complete: logged('reasoning_complete', 'The whole reasoning of a model call', {
    content: text('All of it'),
  }),
  tool_call_requested: logged('tool_call_requested', 'The model asks for a tool', {
    id,
    name,
    args: Type.Unknown({ description: 'JSON; the raw text where the model wrote none' }),
  }),
  tool_execution_started: logged('tool_execution_started', 'The tool runs', { id, name }),
  tool_execution_completed: logged('tool_execution_completed', 'The tool answered', {
    id,
    name,
    result: text('What it answered'),
    is_error: flag('It failed'),
    duration_ms: count('How long it took'),
  }),
  tool_execution_timed_out: logged('tool_execution_timed_out', 'The tool did not answer in time', {
    id,
    name,
    timeout_ms: count('How long it had'),
  }),
  tool_result_received: logged('tool_result_received', 'The result went back to the model', {
    id,
    name,
    is_error: flag('The tool failed'),
  }),
  turn_completed: logged('turn_completed', 'A model call, with the tools it asked for, is over', {
    stop_reason: StopReason,
    usage,
  }),
  retrying: logged('retrying', 'A model call failed in passing and is tried again; its text so far is void', {
    attempt: count('Which attempt comes next, from 1', { minimum: 1 }),
    max_attempts: count('How many there are', { minimum: 1 }),
    error: text('Why the last one failed'),
    delay_ms: count('How long the next one waits'),
  }),
  hook_started: logged('hook_started', 'A hook runs', { hook_id: hookId, point: HookPoint }),
  hook_completed: logged('hook_completed', 'A hook answered', {
    hook_id: hookId,
    point: HookPoint,
    duration_ms: count('How long it took'),
  }),
  hook_failed: logged('hook_failed', 'A hook failed, and the turn goes on without it', {
    hook_id: hookId,
    point: HookPoint,
    error: text('What went wrong'),
  }),
  hook_denied: logged('hook_denied', 'A hook forbade what was about to happen', {
    hook_id: hookId,
    point: HookPoint,
    reason_code: text('Why, for programs'),
    message: text('Why, for people'),
    payload: Type.Optional(Type.Unknown({ description: 'What the hook says beside that' })),
  }),
  hook_rewrite_applied: logged('hook_rewrite_applied', 'What a hook changed was taken over', {
    hook_id: hookId,
    point: HookPoint,
    patch: HookPatch,
  }),
  hook_patch_published: logged('hook_patch_published', 'A background hook proposes a change, which is not applied', {
    hook_id: hookId,
    point: HookPoint,
    envelope: Type.Object(
      {
        revision: count('How many of its proposals there are by now', { minimum: 1 }),
        hook_id: hookId,
        point: HookPoint,
        patch: HookPatch,
        published_at: text('When; RFC 3339'),
      },
      { title: 'HookPatchEnvelope', description: 'The change and where it comes from' },
    ),
  }),
  skills_resolved: logged('skills_resolved', 'Skills were put before the prompt', {
    skills: Type.Array(Type.String(), { description: 'Their names' }),
    injection_bytes: count('How much they added to the prompt'),
  }),
  skill_resolution_failed: logged('skill_resolution_failed', 'A skill reference could not be resolved', {
    reference: text('What was asked for'),
    error: text('Why it could not be found'),
  }),
  budget_warning: logged('budget_warning', 'A budget is nearly or wholly used', {
    budget_type: StringEnum(['tokens', 'time', 'tool_calls'], 'Which budget'),
    used: Type.Number({ minimum: 0, description: 'Spent so far; time in milliseconds' }),
    limit: Type.Number({ minimum: 0, description: 'What may be spent' }),
    percent: Type.Number({ minimum: 0, description: 'The one in relation to the other' }),
  }),
  compaction_started: logged('compaction_started', 'Older history is being summarised', {
    input_tokens: count('What the last model call was given'),
    estimated_history_tokens: count('How large the history is'),
    message_count: count('How many messages it has'),
  }),
  compaction_completed: logged('compaction_completed', 'Older history was replaced by a summary', {
    summary_tokens: count('How large the summary is'),
    messages_before: count('Messages that models were shown before'),
    messages_after: count('Messages that models are shown now'),
  }),
  compaction_failed: logged('compaction_failed', 'History stays as it was', { error: text('What went wrong') }),
} as const

/** What a stream says about itself. These are not in the log: no `seq`, no `id` on the wire. */
export const StreamNotices = {
  session_loaded: notice('session_loaded', 'The first frame of a session stream', {
    session_id: sessionId,
    message_count: count('Committed messages'),
    turn: count('Number of the last turn, 0 before the first'),
    is_active: flag('A turn is admitted or running'),
  }),
  stream_truncated: notice('stream_truncated', 'Events that were asked for are no longer kept', {
    reason: text('Why: retention'),
    missed_from: count('seq of the first event that is gone', { minimum: 1 }),
    missed_to: count('seq of the last event that is gone', { minimum: 1 }),
  }),
  heartbeat: notice('heartbeat', 'Sent instead of a comment with ?heartbeat=event', {}),
  done: notice('done', 'The session is over; nothing will follow', { session_id: sessionId }),
} as const

const variants: TSchema[] = [
  ...Object.values(LifecycleEvents),
  ...Object.values(AgentOutputs),
  ...Object.values(StreamNotices),
]

/** Every schema of a single event, each a named component. */
export const eventSchemas: readonly TSchema[] = variants

/** One event as it stands in a frame's `data`. Consumers must ignore types that they do not know. */
export const AgentEvent = Type.Unsafe<AgentEvent>({
  $id: 'AgentEvent',
  description: 'One event of a stream, told apart by `type`; types that are not known must be ignored',
  oneOf: variants.map((variant) => ({ $ref: variant.$id })),
})

type EventOf<T extends Record<string, TSchema>> = { [K in keyof T]: Static<T[K]> }[keyof T]
type Unstamped<E> = E extends unknown ? Omit<E, 'seq' | 'turn'> : never

/** An event of the log, as any reader sees it. */
export type LoggedEvent = EventOf<typeof LifecycleEvents> | EventOf<typeof AgentOutputs>
export type StreamNotice = EventOf<typeof StreamNotices>
export type AgentEvent = LoggedEvent | StreamNotice

/** What an agent says: an event without its stamp. */
export type AgentReport = Unstamped<EventOf<typeof AgentOutputs>>

/** What an agent's run yields. `turn_started` only marks the beginning of a model call; the engine numbers it. */
export type AgentOutput = AgentReport | { type: 'turn_started' } | TranscriptNote

/**
 * What an agent says about the transcript alone; readers of the stream do not see it. Most agents need none of these:
 * the engine derives the transcript from the events.
 *
 * - `assistant_blocks`: what is kept of the open model call, where the events do not say it all: blocks in the
 *   provider's order, with data that must return to the provider unchanged.
 * - `prompt_rendered`: the text that the model got in place of the caller's prompt.
 * - `message_added`: a user message that did not come from the caller: a summary, a question of the agent's own.
 */
export type TranscriptNote =
  | { type: 'assistant_blocks'; blocks: Block[] }
  | { type: 'prompt_rendered'; content: string }
  | { type: 'message_added'; message: UserMessage }

/** An event before the log gave it its place. */
export type NewEvent = Unstamped<LoggedEvent>

const TERMINAL: ReadonlySet<string> = new Set(['run_completed', 'run_failed', 'run_interrupted'])

/** True for the event after which a turn says nothing more. */
export function isTerminal(event: { type: string }): boolean {
  return TERMINAL.has(event.type)
}
