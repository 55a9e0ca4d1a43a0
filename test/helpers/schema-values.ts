import fc from 'fast-check'

interface Schema {
  $ref?: string
  type?: string
  const?: unknown
  enum?: unknown[]
  oneOf?: Schema[]
  anyOf?: Schema[]
  properties?: Record<string, Schema>
  required?: string[]
  additionalProperties?: boolean | Schema
  patternProperties?: Record<string, Schema>
  items?: Schema
  maxItems?: number
  format?: string
  pattern?: string
  minLength?: number
  maxLength?: number
  minimum?: number
  maximum?: number
}

/** Times at the edges of what can be written, kept and read. */
const times = fc.oneof(
  fc
    .date({ noInvalidDate: true, min: new Date('0000-01-01T00:00:00Z'), max: new Date(253402300799999) })
    .map((date) => date.toISOString()),
  fc.constantFrom(
    '0000-01-01T00:00:00Z',
    '0000-01-01T00:00:00+00:01',
    '9999-12-31T23:59:59.9999999Z',
    '9999-12-31T23:59:59-01:00',
    '2026-01-01T00:00:00+01',
    '2026-01-01T00:00:00+0100',
    '2016-12-31T23:59:60Z',
    '2026-01-31t12:00:00.5+14:00',
  ),
)

const numbers = fc.constantFrom(0, -0, 0.1, 5e-324, 1e308, -1e308, 2 ** 53, -(2 ** 53) - 2, 1e21)
/** JSON of any kind, as deep as it comes. */
const anything = fc.oneof(fc.jsonValue({ maxDepth: 3 }), numbers, fc.dictionary(fc.string(), numbers, { maxKeys: 3 }))

/** Values that fit a schema of an OpenAPI document, and near misses of what a schema cannot say; the edges come often. */
export function valuesOf(schema: Schema, document: unknown): fc.Arbitrary<unknown> {
  const of = (inner: Schema) => valuesOf(inner, document)
  if (schema.$ref !== undefined) return of(resolved(schema.$ref, document))
  if (schema.const !== undefined) return fc.constant(schema.const)
  if (schema.enum !== undefined) return fc.constantFrom(...schema.enum)
  const variants = schema.oneOf ?? schema.anyOf
  if (variants !== undefined) return fc.oneof(...variants.map(of))
  switch (schema.type) {
    case 'object':
      return objects(schema, of)
    case 'array':
      return fc.array(of(schema.items ?? {}), { maxLength: Math.min(schema.maxItems ?? 3, 3) })
    case 'boolean':
      return fc.boolean()
    case 'integer':
      return integers(schema)
    case 'string':
      return texts(schema)
    default:
      return anything
  }
}

function resolved(ref: string, document: unknown): Schema {
  const keys = ref.slice(2).split('/')
  return keys.reduce<unknown>((node, key) => (node as Record<string, unknown>)[key], document) as Schema
}

function objects(schema: Schema, of: (inner: Schema) => fc.Arbitrary<unknown>): fc.Arbitrary<unknown> {
  const { properties = {}, required = [], additionalProperties, patternProperties = {} } = schema
  const known = fc.record(Object.fromEntries(Object.entries(properties).map(([name, inner]) => [name, of(inner)])), {
    requiredKeys: required,
  })
  const [free] = Object.values(patternProperties)
  const other = free ?? (typeof additionalProperties === 'object' ? additionalProperties : undefined)
  if (other === undefined) return known
  return fc.dictionary(texts({ minLength: 1, maxLength: 128 }), of(other), { maxKeys: 3 })
}

function integers({ minimum = Number.MIN_SAFE_INTEGER, maximum = Number.MAX_SAFE_INTEGER }: Schema) {
  return fc.oneof(
    fc.constantFrom(minimum, maximum),
    fc.maxSafeInteger().filter((n) => n >= minimum && n <= maximum),
  )
}

function texts({ format, pattern, minLength = 0, maxLength = 4_000 }: Schema): fc.Arbitrary<string> {
  if (format === 'uuid') return fc.uuid()
  if (format === 'date-time') return times
  if (pattern !== undefined && pattern !== '\\S') return fc.stringMatching(new RegExp(pattern))
  const text = fc.oneof(
    fc.string({ unit: 'binary', minLength, maxLength: Math.min(maxLength, 40) }),
    fc.constantFrom('\ud83e', '\u2028\u0085', '"\\', '😀', '__proto', 'x'.repeat(maxLength), 'ÿ'.repeat(maxLength)),
  )
  return text.filter(
    (one) => one.length >= minLength && !one.includes('\0') && (pattern === undefined || /\S/.test(one)),
  )
}
