import { type TSchema, Type } from '@sinclair/typebox'
import { type TypeCheck, TypeCompiler } from '@sinclair/typebox/compiler'
import type { TurnOutcome } from './agent.ts'
import { count } from './count.ts'
import { AgentError } from './errors.ts'
import { AgentOutputs, type AgentReport, type TranscriptNote } from './events.ts'
import { StringEnum } from './string-enum.ts'
import { Block } from './transcript.ts'
import { Usage } from './usage.ts'

const stamped = ['seq', 'turn']

/** What an agent may say about the transcript; see `TranscriptNote`. */
const notes: Record<TranscriptNote['type'], TSchema> = {
  assistant_blocks: Type.Object({ type: Type.String(), blocks: Type.Array(Block) }),
  prompt_rendered: Type.Object({ type: Type.String(), content: Type.String() }),
  message_added: Type.Object({
    type: Type.String(),
    message: Type.Object({
      role: Type.Literal('user'),
      content: Type.String(),
      summarises: Type.Optional(count('Messages that it stands for')),
    }),
  }),
}

/** One compiled check for each type an agent may yield; built on first use, since most agents yield few of them. */
const checks = new Map<string, TypeCheck<TSchema>>()

function checkOf(type: string): TypeCheck<TSchema> | undefined {
  const known = checks.get(type)
  if (known !== undefined) return known
  const schema = schemaOf(type)
  if (schema === undefined) return undefined
  const check = TypeCompiler.Compile(schema, [Usage])
  checks.set(type, check)
  return check
}

function schemaOf(type: string): TSchema | undefined {
  if (Object.hasOwn(notes, type)) return notes[type as TranscriptNote['type']]
  return Object.hasOwn(AgentOutputs, type) ? Type.Omit(AgentOutputs[type as AgentReport['type']], stamped) : undefined
}

/** The same for what is reported outside of a run, where no transcript is being written. */
export function assertAgentReport(value: unknown): asserts value is AgentReport {
  const type = (value as { type?: unknown } | null)?.type
  if (Object.hasOwn(notes, String(type)))
    throw new AgentError(`The agent reported "${type}", which only a run may yield`)
  assertAgentOutput(value)
}

/**
 * Throws an `AgentError` that says what is wrong with a value that an agent yielded. What passes can be serialized by
 * its schema; the lifecycle events are not among what passes, so no agent can end a turn twice.
 */
export function assertAgentOutput(value: unknown): asserts value is AgentReport | TranscriptNote {
  const type = (value as { type?: unknown } | null)?.type
  if (typeof type !== 'string') throw new AgentError('The agent yielded something that is no event')
  const check = checkOf(type)
  if (check === undefined) throw new AgentError(`The agent yielded "${type}", which agents may not yield`)
  if (check.Check(value)) return
  const fault = check.Errors(value).First()
  throw new AgentError(`The agent yielded a ${type} whose ${fault?.path || 'shape'} is wrong: ${fault?.message}`)
}

const tokens = count('Tokens of one kind')
const outcome = TypeCompiler.Compile(
  Type.Object({
    text: Type.Optional(Type.String()),
    stop_reason: Type.Optional(StringEnum(['end_turn', 'max_tokens', 'stop_sequence', 'content_filter'])),
    usage: Type.Optional(
      Type.Object({
        input_tokens: tokens,
        output_tokens: tokens,
        cache_creation_tokens: Type.Optional(tokens),
        cache_read_tokens: Type.Optional(tokens),
        estimated: Type.Optional(Type.Literal(true)),
      }),
    ),
    schema_warnings: Type.Optional(
      Type.Array(Type.Object({ provider: Type.String(), path: Type.String(), message: Type.String() })),
    ),
  }),
)

/** The same for what a run returns: it goes into the event that ends the turn, which must not fail. */
export function assertTurnOutcome(value: unknown): asserts value is TurnOutcome {
  if (!outcome.Check(value)) {
    const fault = outcome.Errors(value).First()
    throw new AgentError(`The agent returned an outcome whose ${fault?.path || 'shape'} is wrong: ${fault?.message}`)
  }
  const { structured_output } = value as TurnOutcome
  if (structured_output === undefined) return
  try {
    JSON.stringify(structured_output)
  } catch (error) {
    throw new AgentError('The agent returned a structured_output that JSON cannot say', {}, { cause: error })
  }
}
