import { isObject } from '../tools/json.ts'
import { schemasIn } from '../tools/json-schema.ts'
import type { JsonObject } from '../tools/tool.ts'

/** https://platform.openai.com/docs/guides/structured-outputs#supported-schemas */
const KEYWORDS = new Set(
  (
    'type properties required additionalProperties items anyOf enum const $ref $defs definitions title description ' +
    'pattern format multipleOf minimum maximum exclusiveMinimum exclusiveMaximum minItems maxItems'
  ).split(' '),
)
const FORMATS = ['date-time', 'time', 'date', 'duration', 'email', 'hostname', 'ipv4', 'ipv6', 'uuid']

/** Whether a schema is one that providers take with `strict: true`: a request with another is refused. */
export function fitsStrictMode(root: JsonObject): boolean {
  if (root.anyOf !== undefined) return false
  for (const { schema } of schemasIn(root)) {
    if (Object.keys(schema).some((key) => !KEYWORDS.has(key))) return false
    if (!['type', 'anyOf', 'enum', 'const', '$ref'].some((key) => key in schema)) return false
    if (typeof schema.format === 'string' && !FORMATS.includes(schema.format)) return false
    if (Array.isArray(schema.items) || schema.items === true) return false
    if (isOpen(schema)) return false
  }
  return true
}

function isOpen({ type, properties = {}, required = [], additionalProperties }: JsonObject): boolean {
  const isAnObject = type === 'object' || (Array.isArray(type) && type.includes('object'))
  if (!isAnObject) return false
  const names = Object.keys(isObject(properties) ? properties : {})
  return additionalProperties !== false || !Array.isArray(required) || !names.every((name) => required.includes(name))
}
