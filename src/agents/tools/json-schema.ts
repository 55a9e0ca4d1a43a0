import type { ErrorObject, Options, ValidateFunction } from 'ajv'
import { Ajv2019 } from 'ajv/dist/2019.js'
import { Ajv2020 } from 'ajv/dist/2020.js'
import addFormats from 'ajv-formats'
import { isObject } from './json.ts'
import type { JsonObject } from './tool.ts'

type Dialect = 'draft-07' | '2019-09' | '2020-12'

const OPTIONS: Options = { strict: false, allErrors: true, logger: false, addUsedSchema: false }
const MAX_FAULTS = 5
const MAX_REFS = 100

/** Keywords that say something to a reader alone, in every dialect. */
const ANNOTATIONS = new Set(
  '$schema $id $defs $comment $anchor definitions title description default examples deprecated readOnly writeOnly'.split(
    ' ',
  ),
)
const MAPS_OF_SCHEMAS = ['properties', 'patternProperties', '$defs', 'definitions', 'dependentSchemas', 'dependencies']
const LISTS_OF_SCHEMAS = ['allOf', 'anyOf', 'oneOf', 'prefixItems', 'items']
const SCHEMAS = [
  ...['items', 'additionalItems', 'unevaluatedItems', 'contains', 'not', 'if', 'then', 'else', 'propertyNames'],
  ...['additionalProperties', 'unevaluatedProperties', 'contentSchema'],
]

type Instance = Ajv2019 | Ajv2020

const instances = new Map<Dialect, Instance>()

/** A JSON Schema that values can be held against. */
export interface SchemaCheck {
  /** What is wrong with a value, in words that help a model; `whole` is what the value itself is called. */
  faultOf(value: unknown, whole: string): string | undefined
  /** What the schema has that is not enforced. */
  readonly ignored: readonly { path: string; message: string }[]
}

/**
 * Compiles a schema of draft-06, draft-07, 2019-09 or 2020-12, as its `$schema` says; without one, of draft-07 and what
 * later dialects added. `nullable` of OpenAPI is understood, and formats are enforced. Throws an Error that says why for
 * what is no such schema.
 */
export function compileSchema(given: JsonObject): SchemaCheck {
  const { $schema, ...plain } = withoutNullable(given)
  // One that answers with a promise would say yes to everything, and nobody would hear it fail.
  if ('$async' in plain) throw new Error('$async is not supported')
  const dialect = dialectOf($schema, plain)
  const ajv = instanceFor(dialect ?? 'draft-07', plain)
  const check = compiled(ajv, plain)
  const ignored = ignoredIn(plain, ajv)
  if (dialect === undefined) {
    ignored.unshift({ path: '/$schema', message: 'this dialect is not known; the schema is read as draft-07' })
  }
  return {
    ignored,
    faultOf: (value, whole) => {
      if (check(value)) return undefined
      const faults = (check.errors ?? []).slice(0, MAX_FAULTS)
      return faults.map((fault) => `${fault.instancePath || whole} ${wordsOf(fault)}`).join('; ')
    },
  }
}

/** A schema with `change` applied to itself and every schema inside, from the outside in. */
export function mapSchema(schema: JsonObject, change: (one: JsonObject) => JsonObject): JsonObject {
  const mapped: JsonObject = { ...change(schema) }
  const map = (one: unknown) => (isObject(one) ? mapSchema(one, change) : one)
  for (const key of MAPS_OF_SCHEMAS) {
    const schemas = mapped[key]
    if (isObject(schemas))
      mapped[key] = Object.fromEntries(Object.entries(schemas).map(([name, one]) => [name, map(one)]))
  }
  for (const key of LISTS_OF_SCHEMAS) if (Array.isArray(mapped[key])) mapped[key] = mapped[key].map(map)
  for (const key of SCHEMAS) if (isObject(mapped[key])) mapped[key] = map(mapped[key])
  return mapped
}

/** Every schema inside of a schema, itself first, with its path. */
export function* schemasIn(schema: unknown, path = ''): Generator<{ schema: JsonObject; path: string }> {
  if (!isObject(schema)) return
  yield { schema, path }
  for (const key of MAPS_OF_SCHEMAS) {
    const map = schema[key]
    if (!isObject(map)) continue
    for (const [name, one] of Object.entries(map)) yield* schemasIn(one, `${path}/${key}/${escaped(name)}`)
  }
  for (const key of LISTS_OF_SCHEMAS) {
    const list = schema[key]
    if (!Array.isArray(list)) continue
    for (const [i, one] of list.entries()) yield* schemasIn(one, `${path}/${key}/${i}`)
  }
  for (const key of SCHEMAS) yield* schemasIn(schema[key], `${path}/${key}`)
}

/** `nullable: true` in the words of JSON Schema, which providers understand as well. */
export function withoutNullable(schema: JsonObject): JsonObject {
  return mapSchema(schema, (one) => {
    if (typeof one.nullable !== 'boolean') return one
    const { nullable, ...rest } = one
    if (!nullable) return rest
    const { type } = rest
    const types = typeof type === 'string' ? [type] : Array.isArray(type) ? type : undefined
    if (types === undefined || 'const' in rest) return { anyOf: [rest, { type: 'null' }] }
    const values = rest.enum
    return {
      ...rest,
      type: types.includes('null') ? type : [...types, 'null'],
      ...(Array.isArray(values) && !values.includes(null) ? { enum: [...values, null] } : {}),
    }
  })
}

/** The schema with what its root refers to in the root's place, since providers want the root to be of type object. */
export function withoutRootRef(schema: JsonObject): JsonObject {
  let root = schema
  for (let refs = 0; typeof root.$ref === 'string' && refs < MAX_REFS; refs++) {
    const { $ref, ...rest } = root
    const target = pointedAt(schema, $ref as string)
    if (!isObject(target)) return root
    root = { ...target, ...rest }
  }
  return root
}

function pointedAt(schema: JsonObject, ref: string): unknown {
  if (!ref.startsWith('#/')) return undefined
  let at: unknown = schema
  for (const step of ref.slice(2).split('/')) {
    const name = decoded(step).replaceAll('~1', '/').replaceAll('~0', '~')
    at = typeof at === 'object' && at !== null && Object.hasOwn(at, name) ? (at as JsonObject)[name] : undefined
  }
  return at
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

function escaped(name: string): string {
  return name.replaceAll('~', '~0').replaceAll('/', '~1')
}

/** `undefined` for one that nobody here speaks. */
function dialectOf($schema: unknown, schema: JsonObject): Dialect | undefined {
  if ($schema === undefined) {
    // The one keyword that the others would let pass.
    return [...schemasIn(schema)].some(({ schema: one }) => 'prefixItems' in one) ? '2020-12' : 'draft-07'
  }
  const name = /^https?:\/\/json-schema\.org\/(?:draft\/)?(draft-0[67]|2019-09|2020-12)\/schema#?$/.exec(
    String($schema),
  )?.[1]
  return name === 'draft-06' ? 'draft-07' : (name as Dialect | undefined)
}

/** One for each dialect, and another for a schema with ids, which an instance would remember for all schemas after it. */
function instanceFor(dialect: Dialect, schema: JsonObject): Instance {
  if ([...schemasIn(schema)].some(({ schema: one }) => '$id' in one)) return newInstance(dialect)
  const known = instances.get(dialect) ?? newInstance(dialect)
  instances.set(dialect, known)
  return known
}

function newInstance(dialect: Dialect): Instance {
  // Ajv's 2019-09 is its draft-07 and what came after it.
  const ajv = dialect === '2020-12' ? new Ajv2020(OPTIONS) : new Ajv2019(OPTIONS)
  addFormats.default(ajv)
  return ajv
}

function compiled(ajv: Instance, schema: JsonObject): ValidateFunction {
  try {
    return ajv.compile(schema)
  } finally {
    // Else it would be remembered for ever.
    ajv.removeSchema(schema)
  }
}

function ignoredIn(schema: JsonObject, ajv: Instance): { path: string; message: string }[] {
  const ignored: { path: string; message: string }[] = []
  for (const { schema: one, path } of schemasIn(schema)) {
    for (const key of Object.keys(one)) {
      if (!ANNOTATIONS.has(key) && !Object.hasOwn(ajv.RULES.all, key)) {
        ignored.push({ path: `${path}/${escaped(key)}`, message: 'this keyword is not enforced' })
      }
    }
    const { format } = one
    if (typeof format === 'string' && !Object.hasOwn(ajv.formats, format)) {
      ignored.push({ path: `${path}/format`, message: `the format ${format} is not enforced` })
    }
  }
  return ignored
}

function wordsOf({ keyword, message, params }: ErrorObject): string {
  if (keyword === 'additionalProperties') return `must not have the member ${params.additionalProperty}`
  if (keyword === 'enum') return `must be one of ${JSON.stringify(params.allowedValues)}`
  if (keyword === 'const') return `must be ${JSON.stringify(params.allowedValue)}`
  return message ?? 'does not fit'
}
