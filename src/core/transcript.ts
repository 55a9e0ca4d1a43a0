import { type Static, type TProperties, Type } from '@sinclair/typebox'
import { count } from './count.ts'
import { StringEnum } from './string-enum.ts'
import { time } from './time.ts'
import type { Usage } from './usage.ts'
import { Uuid } from './uuid.ts'

/** Why a model call, and with it a turn, came to its end. `tool_use` ends a model call only, never a turn. */
export const STOP_REASONS = [
  'end_turn',
  'tool_use',
  'max_tokens',
  'stop_sequence',
  'content_filter',
  'cancelled',
] as const
export type StopReason = (typeof STOP_REASONS)[number]
export const StopReason = StringEnum(
  STOP_REASONS,
  'Why it ended; tool_use ends a model call only, never a turn',
  'StopReason',
)

const closed = { additionalProperties: false }
const text = (description: string) => Type.String({ description })
/** Provider data that must travel back to the provider untouched (signatures, encrypted reasoning). */
const Meta = Type.Optional(
  Type.Record(Type.String(), Type.Unknown(), { description: 'Data that must return to the provider as it is' }),
)
const role = <T extends string>(value: T) => Type.Literal(value, { description: 'Whose message it is' })

function block<T extends string, P extends TProperties>(type: T, title: string, description: string, data: P) {
  return Type.Object(
    {
      block_type: Type.Literal(type, { description: 'Which kind of block it is' }),
      data: Type.Object({ ...data, meta: Meta }, { ...closed, description: 'What the block holds' }),
    },
    { title, description, ...closed },
  )
}

const blocks = [
  block('text', 'TextBlock', 'Text of the answer', { text: text('What was said') }),
  block('reasoning', 'ReasoningBlock', "The model's reasoning", {
    text: text('What was thought, or a summary of it'),
  }),
  block('tool_use', 'ToolUseBlock', 'The model asked for a tool', {
    id: text('Identifies the call; its result names it'),
    name: text('Name of the tool'),
    args: Type.Unknown({ description: 'JSON; the raw text where the model wrote none' }),
  }),
] as const

export const Block = Type.Union([...blocks], {
  $id: 'Block',
  description: 'A part of an assistant message',
})
export type Block = Static<typeof Block>

export const ToolResult = Type.Object(
  {
    tool_use_id: text('The call that this answers'),
    content: text('What the tool answered; JSON as text when it is structured'),
    is_error: Type.Boolean({ description: 'The tool failed, or never ran' }),
  },
  { $id: 'ToolResult', description: 'What a tool answered', ...closed },
)
export type ToolResult = Static<typeof ToolResult>

const messages = [
  Type.Object(
    { role: role('system'), content: text('The instructions') },
    { title: 'SystemMessage', description: 'Instructions; at most one, and first', ...closed },
  ),
  Type.Object(
    {
      role: role('user'),
      content: text('What was said to the agent'),
      summarises: Type.Optional(
        count('This is a summary: models are shown it in place of so many messages from the start'),
      ),
    },
    { title: 'UserMessage', description: 'A prompt, or what else was said to the agent', ...closed },
  ),
  Type.Object(
    {
      role: role('block_assistant'),
      blocks: Type.Array(Type.Ref('Block'), { description: "Its parts, in the model's order" }),
      stop_reason: StopReason,
    },
    { title: 'AssistantMessage', description: 'What one model call came to', ...closed },
  ),
  Type.Object(
    {
      role: role('tool_results'),
      results: Type.Array(Type.Ref('ToolResult'), { description: 'In the order in which the model asked' }),
    },
    { title: 'ToolResultsMessage', description: 'What the tools of the message before answered', ...closed },
  ),
] as const

export const Message = Type.Union([...messages], {
  $id: 'Message',
  description: 'One entry of a transcript, tagged by `role`',
})
export interface UserMessage {
  role: 'user'
  content: string
  /** This is a summary: models are shown it in place of so many messages from the start, the system prompt excepted. */
  summarises?: number
}
export type Message =
  | { role: 'system'; content: string }
  | UserMessage
  | { role: 'block_assistant'; blocks: Block[]; stop_reason: StopReason }
  | { role: 'tool_results'; results: ToolResult[] }

/** As much as a provider may read into 32 bits. */
export const MaxTokens = count('Output tokens of one model call', { minimum: 1, maximum: 2_147_483_647 })

/** What `structured_output_retries` is where nobody says; asking for it asks for nothing. */
export const STRUCTURED_OUTPUT_RETRIES = 2
export const StructuredOutputRetries = count(
  `How often an answer that does not fit is asked for again; ${STRUCTURED_OUTPUT_RETRIES} is the default`,
  { maximum: 10 },
)

/** How much a session may spend in all its turns; 0 is spent at once, absent is no limit. */
export const BudgetLimits = Type.Object(
  {
    max_tokens: Type.Optional(count('Input and output tokens')),
    max_duration_ms: Type.Optional(count('Time that turns run, not time between')),
    max_tool_calls: Type.Optional(count('Calls of tools')),
  },
  { title: 'BudgetLimits', ...closed, description: 'How much the session may spend in all its turns' },
)
export type BudgetLimits = Static<typeof BudgetLimits>

export const HooksOverride = Type.Object(
  { disable: Type.Array(Type.String(), { description: 'Ids of hooks that the server allows to be disabled' }) },
  { title: 'HooksOverride', ...closed, description: 'Hooks that this session goes without' },
)
export type HooksOverride = Static<typeof HooksOverride>

export const PeerMeta = Type.Object(
  {
    description: Type.Optional(text('What it is for')),
    labels: Type.Optional(Type.Record(Type.String(), Type.String(), { description: 'Free key-value pairs' })),
  },
  { title: 'PeerMeta', ...closed, description: 'What peers are told about this session' },
)
export type PeerMeta = Static<typeof PeerMeta>

/** No `=`: the filter `label=key=value` could not tell where the key ends. */
export const labelKeys = { type: 'string', minLength: 1, maxLength: 128, pattern: '^[^=]*$' } as const

export const Labels = Type.Record(Type.String(), Type.String(), {
  title: 'Labels',
  propertyNames: labelKeys,
  description: "Free key-value pairs of the session's owner",
})

/** What a session was created with, as far as a later server needs it to go on. */
export const SessionMetadata = Type.Object(
  {
    agent: Type.Optional(text('Name of its agent')),
    model: Type.Optional(text('provider/name')),
    provider: Type.Optional(text("The model's provider")),
    max_tokens: Type.Optional(MaxTokens),
    provider_params: Type.Optional(Type.Record(Type.String(), Type.Unknown(), { description: 'Handed to the agent' })),
    output_schema: Type.Optional(
      Type.Record(Type.String(), Type.Unknown(), { description: 'JSON Schema that the answer has to fit' }),
    ),
    structured_output_retries: Type.Optional(StructuredOutputRetries),
    budget_limits: Type.Optional(BudgetLimits),
    preload_skills: Type.Optional(
      Type.Array(Type.String(), { description: 'Skills that are part of the system prompt' }),
    ),
    hooks_override: Type.Optional(HooksOverride),
    comms_name: Type.Optional(text('Its name among its peers')),
    peer_meta: Type.Optional(PeerMeta),
    labels: Type.Optional(Labels),
  },
  { $id: 'SessionMetadata', description: 'What a session was created with', ...closed },
)
export type SessionMetadata = Static<typeof SessionMetadata>

/** A whole session as it travels between servers: exported as last committed, imported as it is. */
export const ExportedSession = Type.Object(
  {
    version: Type.Literal(1, { minimum: 1, maximum: 1, description: 'Version of this format' }),
    id: Uuid('UUID v7'),
    messages: Type.Array(Type.Ref('Message'), { description: 'The transcript, oldest first' }),
    created_at: time('When the session was made'),
    updated_at: time('When it last changed'),
    metadata: Type.Object(
      { session_metadata: Type.Optional(Type.Ref('SessionMetadata')) },
      { ...closed, description: 'What it was created with' },
    ),
    usage: Type.Ref('Usage'),
  },
  { $id: 'Session', description: 'A whole session as it travels between servers', ...closed },
)
export interface ExportedSession {
  version: 1
  id: string
  messages: Message[]
  created_at: string
  updated_at: string
  metadata: { session_metadata?: SessionMetadata }
  usage: Usage
}

/** The text of an assistant message: its text blocks joined. Empty when it has none. */
export function assistantText(message: Message): string {
  if (message.role !== 'block_assistant') return ''
  let text = ''
  for (const block of message.blocks) if (block.block_type === 'text') text += block.data.text
  return text
}

/** Text of the newest assistant message that has any. */
export function lastAssistantText(messages: readonly Message[]): string | undefined {
  for (let i = messages.length - 1; i >= 0; i--) {
    const text = assistantText(messages[i] as Message)
    if (text !== '') return text
  }
  return undefined
}

/** Puts a system prompt at index 0, replacing the one that is there. */
export function withSystemPrompt(messages: readonly Message[], prompt: string | undefined): Message[] {
  if (prompt === undefined) return [...messages]
  const rest = messages[0]?.role === 'system' ? messages.slice(1) : messages
  return [{ role: 'system', content: prompt }, ...rest]
}

/**
 * Says what is wrong with a transcript from outside, or nothing.
 *
 * One system message at most, and first; every tool use answered by the next message, in the model's order, since a
 * provider refuses a history in which a call has no result.
 */
export function transcriptFault(messages: readonly Message[]): { index: number; message: string } | undefined {
  let open: string[] = []
  for (const [index, message] of messages.entries()) {
    if (message.role === 'system' && index > 0) return { index, message: 'a system message must come first' }
    if (message.role === 'user' && (message.summarises ?? 0) > index) {
      return { index, message: 'a summary must stand for messages that come before it' }
    }
    if (open.length > 0 && message.role !== 'tool_results') {
      return { index, message: `tool use ${open[0]} has no result` }
    }
    if (message.role === 'tool_results') {
      const answered = message.results.map((result) => result.tool_use_id)
      if (open.length !== answered.length || open.some((id, i) => answered[i] !== id)) {
        return { index, message: 'tool results must answer the tool uses of the message before, in their order' }
      }
      open = []
    }
    if (message.role === 'block_assistant') {
      open = message.blocks.flatMap((block) => (block.block_type === 'tool_use' ? [block.data.id] : []))
    }
  }
  return open.length === 0 ? undefined : { index: messages.length - 1, message: `tool use ${open[0]} has no result` }
}
