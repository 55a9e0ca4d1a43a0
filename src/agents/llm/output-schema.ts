import { InvalidParamsError } from '../../core/errors.ts'
import { isObject } from '../tools/json.ts'
import { compileSchema, mapSchema, type SchemaCheck, withoutNullable, withoutRootRef } from '../tools/json-schema.ts'
import type { JsonObject } from '../tools/tool.ts'
import { objectsIn, valueIn } from './json-in-text.ts'
import type { OutputFormat } from './model.ts'
import { fitsStrictMode } from './strict-mode.ts'

export interface SchemaWarning {
  provider: string
  path: string
  message: string
}

/** What may stand beside `schema` when the request wraps it. */
const WRAPPER_KEYS = new Set(['schema', 'name', 'strict', 'compat', 'format'])

/** The schema that a session's answers are brought into. */
export class OutputSchema {
  /** What providers are told. */
  readonly format: OutputFormat
  /** What of the request is not enforced. */
  readonly warnings: readonly SchemaWarning[]
  readonly #check: SchemaCheck

  private constructor(format: OutputFormat, warnings: readonly SchemaWarning[], check: SchemaCheck) {
    this.format = format
    this.warnings = warnings
    this.#check = check
  }

  get schema(): JsonObject {
    return this.format.schema
  }

  /** Takes a request's `output_schema`, wrapped or bare. Throws an `InvalidParamsError` for what is no such schema. */
  static from(given: JsonObject): OutputSchema {
    const wrapped = isWrapper(given)
    const at = wrapped ? '/output_schema/schema' : '/output_schema'
    const root = rootOf(wrapped ? given.schema : given)
    if (root === undefined) throw new InvalidParamsError(at, 'must have "type": "object"')
    if (wrapped) assertWrapper(given)
    const check = compile(root, at)
    const { compat, strict, name } = wrapped ? given : {}
    const warnings = check.ignored.map((one) => ({ provider: 'all', ...one }))
    if (compat === 'strict' && warnings[0] !== undefined) {
      throw new InvalidParamsError(`${at}${warnings[0].path}`, 'is a keyword that cannot be enforced')
    }
    const { $schema, ...schema } = mapSchema(root, filledIn)
    // Where the provider cannot be strict, our own check is.
    const isStrict = strict !== false && fitsStrictMode(schema)
    const format = { schema, name: name ? String(name) : 'output', strict: isStrict }
    return new OutputSchema(format, warnings, check)
  }

  /** The value in a model's answer, or what is wrong with it in words that help the model. */
  read(text: string): { value: unknown } | { fault: string } {
    const whole = valueIn(text)
    const candidates = 'value' in whole ? [whole.value] : objectsIn(text)
    let fault = 'value' in whole ? '' : `it is not JSON (${whole.fault})`
    // The newest first: what comes before it is often an example.
    for (const [i, value] of [...candidates].reverse().entries()) {
      const wrong = this.#check.faultOf(value, 'the value')
      if (wrong === undefined) return { value }
      if (i === 0) fault = wrong
    }
    return { fault }
  }
}

/** The schema, where it is of type object, with what its root refers to in the root's place. */
function rootOf(given: unknown): JsonObject | undefined {
  if (!isObject(given)) return undefined
  // An answer is never null.
  const { nullable, ...plain } = withoutRootRef(given)
  const { type } = plain
  if (type !== 'object' && !(Array.isArray(type) && type.includes('object'))) return undefined
  return withoutNullable({ ...plain, type: 'object' })
}

function compile(schema: JsonObject, at: string): SchemaCheck {
  try {
    return compileSchema(schema)
  } catch (error) {
    throw new InvalidParamsError(at, `is not a JSON Schema: ${(error as Error).message}`)
  }
}

function isWrapper(given: JsonObject): boolean {
  if (given.schema === undefined) return false
  return given.format === 'meerkat_v1' || Object.keys(given).every((key) => WRAPPER_KEYS.has(key))
}

function assertWrapper(wrapper: JsonObject): void {
  const { name = '', strict = false, compat = 'lossy', format = 'meerkat_v1' } = wrapper
  const wrong = (member: string, message: string) => new InvalidParamsError(`/output_schema/${member}`, message)
  if (typeof name !== 'string' || !/^[\w-]{0,64}$/.test(name)) throw wrong('name', 'must be letters, digits, - and _')
  if (typeof strict !== 'boolean') throw wrong('strict', 'must be true or false')
  if (compat !== 'lossy' && compat !== 'strict') throw wrong('compat', 'must be one of lossy, strict')
  if (format !== 'meerkat_v1') throw wrong('format', 'must be meerkat_v1')
}

/** Providers want `properties` and `required` on every object. */
function filledIn(schema: JsonObject): JsonObject {
  return schema.type === 'object'
    ? { ...schema, properties: schema.properties ?? {}, required: schema.required ?? [] }
    : schema
}
