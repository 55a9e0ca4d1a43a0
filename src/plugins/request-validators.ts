import { createRequire } from 'node:module'
import type AjvCompiler from '@fastify/ajv-compiler'
import type { ValidateFunction } from 'ajv'
import type { FastifyServerOptions } from 'fastify'
import { toJsonBody } from './json-answers.ts'

type BuildValidator = AjvCompiler.BuildCompilerFromPool
type Compile = ReturnType<BuildValidator>

const require = createRequire(import.meta.url)

/**
 * The framework's own validators, each compiled by the first request that it judges: to compile all of them at the start
 * was a third of the time until a server answered, and of what it kept in memory.
 */
const buildValidator: BuildValidator = (schemas, options) => {
  let compile: Compile | undefined
  return (schema) => {
    let compiled: ValidateFunction | undefined
    const validate = (value: unknown) => {
      compile ??= (require('@fastify/ajv-compiler') as typeof AjvCompiler)()(schemas, options)
      compiled ??= compile(schema) as ValidateFunction
      const isValid = compiled(value)
      validate.errors = compiled.errors
      return isValid
    }
    validate.errors = null as ValidateFunction['errors']
    return validate as ValidateFunction
  }
}

/** Answers are not compiled at all: see `jsonAnswers`. */
export const schemaController = {
  compilersFactory: { buildValidator, buildSerializer: () => () => toJsonBody },
} satisfies FastifyServerOptions['schemaController']
