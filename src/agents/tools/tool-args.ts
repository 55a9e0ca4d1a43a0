import { Ajv, type ErrorObject, type Options, type ValidateFunction } from 'ajv'
import { Ajv2020 } from 'ajv/dist/2020.js'
import { parseArguments } from '../arguments.ts'
import { isObject } from './json.ts'
import type { JsonObject, Tool } from './tool.ts'

const OPTIONS: Options = { strict: false, allErrors: true, logger: false, validateFormats: false }
const MAX_FAULTS = 5

/** By the schema, so that a tool is compiled once for as long as it is there. */
const checks = new WeakMap<JsonObject, ValidateFunction | null>()

/** What a tool is called with, or what is wrong with it in words that help the model. */
export function readArguments(tool: Tool, args: unknown): { args: JsonObject } | { fault: string } {
  const value = typeof args === 'string' ? parseArguments(args) : args
  if (!isObject(value)) return { fault: 'the arguments must be a JSON object' }
  const check = checkOf(tool.inputSchema)
  if (check === null || check(value)) return { args: value }
  const faults = (check.errors ?? []).slice(0, MAX_FAULTS)
  return { fault: faults.map((fault) => `${fault.instancePath || 'the arguments'} ${wordsOf(fault)}`).join('; ') }
}

function checkOf(schema: JsonObject): ValidateFunction | null {
  const known = checks.get(schema)
  if (known !== undefined) return known
  const check = compile(schema)
  checks.set(schema, check)
  return check
}

/** Tools come from strangers: a schema that cannot be compiled checks nothing. */
function compile(schema: JsonObject): ValidateFunction | null {
  const { $schema, ...plain } = schema
  const dialects = /draft-0[67]/.test(String($schema)) ? [Ajv] : [Ajv2020, Ajv]
  for (const Dialect of dialects) {
    try {
      const check = new Dialect(OPTIONS).compile(plain)
      // One that answers with a promise would say yes to everything, and nobody would hear it fail.
      return '$async' in check ? null : check
    } catch {
      // Perhaps it is of the older dialect.
    }
  }
  return null
}

function wordsOf({ keyword, message, params }: ErrorObject): string {
  if (keyword === 'additionalProperties') return `must not have the member ${params.additionalProperty}`
  if (keyword === 'enum') return `must be one of ${JSON.stringify(params.allowedValues)}`
  if (keyword === 'const') return `must be ${JSON.stringify(params.allowedValue)}`
  return message ?? 'does not fit'
}
