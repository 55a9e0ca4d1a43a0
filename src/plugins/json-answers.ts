import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'

/** JSON with a line feed behind it, so that the answers of three commands in a terminal are three lines. */
export function toJsonBody(value: unknown): string {
  return `${JSON.stringify(value)}\n`
}

/**
 * Answers are written by `JSON.stringify`. The framework's own serializer would be compiled from every response schema
 * at start, and drop members that a schema does not name; here the types and the tests keep the two together.
 */
export const jsonAnswers = fp(
  async (app: FastifyInstance) => {
    app.addHook('onRoute', (route) => {
      route.serializerCompiler = () => toJsonBody
    })
  },
  { name: 'json-answers' },
)
