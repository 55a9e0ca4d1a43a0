import { readFileSync } from 'node:fs'
import { type Static, type TSchema, Type } from '@sinclair/typebox'
import { Value } from '@sinclair/typebox/value'
import { HOOK_POINTS, HookPoint } from '../../core/events.ts'
import { StringEnum } from '../../core/string-enum.ts'
import { type Environment, fillIn } from '../fill-in.ts'
import { isHideable } from '../tools/redactor.ts'
import type { HookHandler } from './hook.ts'
import type { Hook } from './hook-registry.ts'
import { httpHook } from './http-hook.ts'

const closed = { additionalProperties: false }
const STANDARD = { mode: 'foreground', capability: 'observe', priority: 100, timeout_ms: 5_000 } as const

const Entry = Type.Object(
  {
    id: Type.String({ minLength: 1, maxLength: 128 }),
    enabled: Type.Optional(Type.Boolean()),
    point: HookPoint,
    mode: Type.Optional(StringEnum(['foreground', 'background'], 'Whether the turn waits', 'HookMode')),
    capability: Type.Optional(StringEnum(['observe', 'guardrail', 'rewrite'], 'What it may do', 'HookCapability')),
    priority: Type.Optional(Type.Integer({ minimum: -1_000_000, maximum: 1_000_000 })),
    failure_policy: Type.Optional(StringEnum(['fail_open', 'fail_closed'], 'What a failure means', 'FailurePolicy')),
    timeout_ms: Type.Optional(Type.Integer({ minimum: 1, maximum: 600_000 })),
    allow_disable: Type.Optional(Type.Boolean()),
    runtime: Type.Object({ type: StringEnum(['in_process', 'http'], 'What is called', 'HookRuntime') }),
  },
  closed,
)
const InProcess = Type.Object({ type: Type.Literal('in_process'), name: Type.String({ minLength: 1 }) }, closed)
const Http = Type.Object(
  {
    type: Type.Literal('http'),
    url: Type.String(),
    headers: Type.Optional(Type.Record(Type.String(), Type.String())),
  },
  closed,
)
const File = Type.Object({ hooks: Type.Array(Entry) }, closed)

const PRE_POINTS: readonly HookPoint[] = ['run_started', 'pre_llm_request', 'pre_tool_execution', 'turn_boundary']

export interface HookSources {
  readonly environment: Environment
  /** Functions of the team's own modules, by name. */
  readonly handlers: Readonly<Record<string, HookHandler>>
}

/**
 * The hooks of a file `{"hooks": [{id, point, runtime, …}]}` that are enabled. `${NAME}` in header values is taken from
 * the environment. Throws an Error whose message names the file and the member, never a value.
 */
export function readHooksFile(file: string, sources: HookSources): Hook[] {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    throw new Error(`The hooks configuration ${file} cannot be read: ${(error as NodeJS.ErrnoException).code}`)
  }
  return parseHooks(text, file, sources)
}

/** The same for a text that was read from `file`. */
export function parseHooks(text: string, file: string, sources: HookSources): Hook[] {
  const wrong = (member: string, fault: string) =>
    new Error(`The hooks configuration ${file} is wrong: ${member} ${fault}`)
  let root: unknown
  try {
    root = JSON.parse(text)
  } catch {
    throw new Error(`The hooks configuration ${file} is not JSON`)
  }
  assertShape(File, root, '', wrong)
  const ids = new Set<string>()
  return root.hooks.flatMap((entry, i) => {
    const at = `/hooks/${i}`
    if (ids.has(entry.id)) throw wrong(`${at}/id`, 'is that of another hook')
    ids.add(entry.id)
    const hook = toHook(entry, at, sources, wrong)
    return entry.enabled === false ? [] : [hook]
  })
}

type Wrong = (member: string, fault: string) => Error

function toHook(entry: Static<typeof Entry>, at: string, sources: HookSources, wrong: Wrong): Hook {
  const { id, point, allow_disable: allowDisable = false } = entry
  const { mode, capability, priority, timeout_ms: timeoutMs, failure_policy } = { ...STANDARD, ...entry }
  const failurePolicy =
    failure_policy ?? (capability === 'observe' || mode === 'background' ? 'fail_open' : 'fail_closed')
  if (mode === 'background') {
    if (failurePolicy === 'fail_closed')
      throw wrong(at, 'cannot fail closed in the background: the turn is gone by then')
    if (PRE_POINTS.includes(point) && capability !== 'observe') {
      throw wrong(at, `cannot ${capability} at ${point} from the background; it can observe`)
    }
  }
  const handler = handlerOf(entry.runtime, `${at}/runtime`, sources, wrong)
  return { id, point, mode, capability, priority, failurePolicy, timeoutMs, allowDisable, handler }
}

function handlerOf(runtime: { type: string }, at: string, sources: HookSources, wrong: Wrong): HookHandler {
  if (runtime.type === 'in_process') {
    assertShape(InProcess, runtime, at, wrong)
    const handler = Object.hasOwn(sources.handlers, runtime.name) ? sources.handlers[runtime.name] : undefined
    if (handler === undefined) throw wrong(`${at}/name`, 'is exported in hooks by no module that --agent names')
    return handler
  }
  assertShape(Http, runtime, at, wrong)
  const url = URL.canParse(runtime.url) ? new URL(runtime.url) : undefined
  if (url === undefined || !/^https?:$/.test(url.protocol)) throw wrong(`${at}/url`, 'must be an http(s) URL')
  if (url.username !== '' || url.password !== '') {
    throw wrong(`${at}/url`, 'must not have a user or password; use headers')
  }
  const secrets = [...url.searchParams.values()]
  const headers = Object.entries(runtime.headers ?? {}).map(([name, text]) => {
    const path = `${at}/headers/${name}`
    const value = fillIn(
      text,
      sources.environment,
      (variable) => wrong(path, `needs the environment variable ${variable}`),
      (_, found) => secrets.push(found),
    )
    // Of `Bearer xyz` the second half is the secret.
    secrets.push(value, ...value.split(' ').slice(1))
    try {
      new Headers({ [name]: value })
    } catch {
      throw wrong(path, 'is not a header')
    }
    return [name, value] as const
  })
  return httpHook({ url: url.href, headers: Object.fromEntries(headers), secrets: secrets.filter(isHideable) })
}

function assertShape<T extends TSchema>(
  schema: T,
  value: unknown,
  at: string,
  wrong: Wrong,
): asserts value is Static<T> {
  const fault = Value.Errors(schema, value).First()
  if (fault === undefined) return
  const path = `${at}${fault.path}` || '/'
  const isPoint = fault.path.endsWith('/point')
  throw wrong(path, isPoint ? `must be one of ${HOOK_POINTS.join(', ')}` : wordsOf(fault.schema, fault.message))
}

function wordsOf({ enum: values }: TSchema, message: string): string {
  return values === undefined ? `is not as it should be: ${message}` : `must be one of ${values.join(', ')}`
}
