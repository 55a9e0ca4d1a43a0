import { parseArguments } from '../arguments.ts'
import { isObject } from './json.ts'
import { compileSchema, type SchemaCheck } from './json-schema.ts'
import type { JsonObject, Tool } from './tool.ts'

/** By the schema, so that a tool is compiled once for as long as it is there. */
const checks = new WeakMap<JsonObject, SchemaCheck | null>()

/** What a tool is called with, or what is wrong with it in words that help the model. */
export function readArguments(tool: Tool, args: unknown): { args: JsonObject } | { fault: string } {
  const value = typeof args === 'string' ? parseArguments(args) : args
  if (!isObject(value)) return { fault: 'the arguments must be a JSON object' }
  const fault = checkOf(tool.inputSchema)?.faultOf(value, 'the arguments')
  return fault === undefined ? { args: value } : { fault }
}

/** Tools come from strangers: a schema that cannot be compiled checks nothing. */
function checkOf(schema: JsonObject): SchemaCheck | null {
  const known = checks.get(schema)
  if (known !== undefined) return known
  let check: SchemaCheck | null = null
  try {
    check = compileSchema(schema)
  } catch {}
  checks.set(schema, check)
  return check
}
