import { Ajv, type ValidateFunction } from 'ajv'
import { InvalidParamsError } from '../../core/errors.ts'
import { parseJson } from '../../core/json.ts'
import type { JsonObject } from '../tools/tool.ts'

export interface SchemaWarning {
  provider: string
  path: string
  message: string
}

/** What may stand beside `schema` when the request wraps it. */
const WRAPPER_KEYS = new Set(['schema', 'name', 'strict', 'compat', 'format'])
/** Keywords that are held against an answer; others say something to the model alone. */
const KNOWN_KEYWORDS = new Set(
  (
    '$schema $id $ref $defs $comment $anchor definitions title description default examples deprecated readOnly writeOnly ' +
    'type enum const allOf anyOf oneOf not if then else properties required additionalProperties patternProperties ' +
    'propertyNames minProperties maxProperties dependentRequired dependentSchemas items prefixItems additionalItems ' +
    'contains minItems maxItems uniqueItems minLength maxLength pattern format minimum maximum exclusiveMinimum ' +
    'exclusiveMaximum multipleOf'
  ).split(' '),
)
const MAPS_OF_SCHEMAS = ['properties', 'patternProperties', '$defs', 'definitions', 'dependentSchemas']
const LISTS_OF_SCHEMAS = ['allOf', 'anyOf', 'oneOf', 'prefixItems']
const SCHEMAS = ['items', 'additionalProperties', 'propertyNames', 'contains', 'not', 'if', 'then', 'else']

/** The schema that a session's answers are brought into. */
export class OutputSchema {
  readonly schema: JsonObject
  readonly name: string
  /** What of the schema is not enforced. */
  readonly warnings: readonly SchemaWarning[]
  readonly #check: ValidateFunction

  private constructor(schema: JsonObject, name: string, warnings: SchemaWarning[], check: ValidateFunction) {
    this.schema = schema
    this.name = name
    this.warnings = warnings
    this.#check = check
  }

  /** Takes a request's `output_schema`, wrapped or bare. Throws an `InvalidParamsError` for what is no such schema. */
  static from(given: JsonObject): OutputSchema {
    const wrapped = isWrapper(given)
    const root = wrapped ? given.schema : given
    const at = wrapped ? '/output_schema/schema' : '/output_schema'
    if (!isObject(root) || root.type !== 'object') throw new InvalidParamsError(at, 'must have "type": "object"')
    if (wrapped) assertWrapper(given)
    const schema = filledIn(root) as JsonObject
    const unknown = unknownKeywords(schema, '')
    if (wrapped && given.compat === 'strict' && unknown[0] !== undefined) {
      throw new InvalidParamsError(`${at}${unknown[0]}`, 'is a keyword that cannot be enforced')
    }
    const warnings = unknown.map((path) => ({ provider: 'all', path, message: 'this keyword is not enforced' }))
    return new OutputSchema(
      schema,
      wrapped && given.name ? String(given.name) : 'output',
      warnings,
      compile(schema, at),
    )
  }

  /** The value in a model's answer, or what is wrong with it in words that help the model. */
  read(text: string): { value: unknown } | { fault: string } {
    let value: unknown
    try {
      value = parseJson(withoutFence(text))
    } catch (error) {
      return { fault: `it is not JSON (${(error as Error).message})` }
    }
    if (this.#check(value)) return { value }
    const faults = (this.#check.errors ?? []).slice(0, 5)
    return { fault: faults.map(({ instancePath, message }) => `${instancePath || 'the value'} ${message}`).join('; ') }
  }
}

function compile(schema: JsonObject, at: string): ValidateFunction {
  try {
    return new Ajv({ strict: false, allErrors: true, logger: false, validateFormats: false }).compile(schema)
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
function filledIn(schema: unknown): unknown {
  if (!isObject(schema)) return schema
  const filled: JsonObject = { ...schema }
  if (filled.type === 'object') {
    filled.properties ??= {}
    filled.required ??= []
  }
  for (const key of MAPS_OF_SCHEMAS) {
    const map = filled[key]
    if (isObject(map)) filled[key] = Object.fromEntries(Object.entries(map).map(([name, one]) => [name, filledIn(one)]))
  }
  for (const key of LISTS_OF_SCHEMAS) if (Array.isArray(filled[key])) filled[key] = filled[key].map(filledIn)
  for (const key of SCHEMAS) if (isObject(filled[key])) filled[key] = filledIn(filled[key])
  return filled
}

function unknownKeywords(schema: unknown, path: string): string[] {
  if (!isObject(schema)) return []
  const found = Object.keys(schema)
    .filter((key) => !KNOWN_KEYWORDS.has(key))
    .map((key) => `${path}/${key}`)
  for (const key of MAPS_OF_SCHEMAS) {
    const map = schema[key]
    if (isObject(map)) {
      for (const [name, one] of Object.entries(map)) found.push(...unknownKeywords(one, `${path}/${key}/${name}`))
    }
  }
  for (const key of LISTS_OF_SCHEMAS) {
    const list = schema[key]
    if (Array.isArray(list)) found.push(...list.flatMap((one, i) => unknownKeywords(one, `${path}/${key}/${i}`)))
  }
  for (const key of SCHEMAS) found.push(...unknownKeywords(schema[key], `${path}/${key}`))
  return found
}

/** Models like to put JSON into a code block. */
function withoutFence(text: string): string {
  return /^\s*```(?:json)?\s*\n([\s\S]*?)\n?\s*```\s*$/.exec(text)?.[1] ?? text
}

function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
