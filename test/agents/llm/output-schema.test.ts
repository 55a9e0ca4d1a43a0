import { describe, expect, test } from 'vitest'
import { OutputSchema } from '../../../src/agents/llm/output-schema.ts'
import { InvalidParamsError } from '../../../src/core/errors.ts'

const person = { type: 'object', properties: { name: { type: 'string' } }, required: ['name'] }

describe('an output schema', () => {
  test.each([
    ['bare', person],
    ['wrapped', { schema: person }],
    ['wrapped with everything', { schema: person, name: 'p', strict: true, compat: 'strict', format: 'meerkat_v1' }],
  ])('is taken %s', (_, given) => {
    const schema = OutputSchema.from(given)
    expect(schema.read('{"name":"Ada"}')).toEqual({ value: { name: 'Ada' } })
    expect(schema.warnings).toEqual([])
  })

  test('with a property of its own named schema is still a bare one', () => {
    const bare = { type: 'object', properties: { schema: { type: 'string' } }, schema: 'x' }
    expect(OutputSchema.from(bare).read('{"schema":"s"}')).toEqual({ value: { schema: 's' } })
  })

  test.each([
    [{ type: 'string' }, '/output_schema must have "type": "object"'],
    [{}, '/output_schema must have "type": "object"'],
    [{ schema: [] }, '/output_schema/schema must have "type": "object"'],
    [{ schema: person, name: 'a b' }, '/output_schema/name must be letters, digits, - and _'],
    [{ schema: person, strict: 'yes' }, '/output_schema/strict must be true or false'],
    [{ schema: person, compat: 'maybe' }, '/output_schema/compat must be one of lossy, strict'],
    [
      { schema: { ...person, fancy: 1 }, compat: 'strict' },
      '/output_schema/schema/fancy is a keyword that cannot be enforced',
    ],
    [{ type: 'object', properties: { a: { type: 'no such type' } } }, '/output_schema is not a JSON Schema: '],
    [{ type: 'object', $ref: 'https://elsewhere.example/schema' }, '/output_schema is not a JSON Schema: '],
  ])('that is none is refused, and the path says where: %j', (given, message) => {
    expect(() => OutputSchema.from(given)).toThrow(InvalidParamsError)
    expect(() => OutputSchema.from(given)).toThrow(message)
  })

  test('gets the members that providers want on every object, at every depth', () => {
    const deep = { type: 'object', properties: { a: { type: 'array', items: { anyOf: [{ type: 'object' }] } } } }
    expect(OutputSchema.from(deep).schema).toEqual({
      type: 'object',
      properties: { a: { type: 'array', items: { anyOf: [{ type: 'object', properties: {}, required: [] }] } } },
      required: [],
    })
    expect(deep).not.toHaveProperty('required')
  })

  test('warns of what it does not enforce', () => {
    const schema = OutputSchema.from({ type: 'object', properties: { a: { type: 'string', fancy: true } } })
    expect(schema.warnings).toEqual([
      { provider: 'all', path: '/properties/a/fancy', message: 'this keyword is not enforced' },
    ])
  })

  test.each([
    ['{"name":"Ada"}', { name: 'Ada' }],
    ['```json\n{"name":"Ada"}\n```', { name: 'Ada' }],
    ['```\n{"name":"Ada"}\n```\n', { name: 'Ada' }],
  ])('reads %j', (text, value) => {
    expect(OutputSchema.from(person).read(text)).toEqual({ value })
  })

  test.each([
    ['Ada', 'it is not JSON'],
    ['', 'it is not JSON'],
    ['{"name":1}', '/name must be string'],
    ['{}', "the value must have required property 'name'"],
    ['[]', 'the value must be object'],
  ])('says what is wrong with %j', (text, fault) => {
    expect(OutputSchema.from(person).read(text)).toEqual({ fault: expect.stringContaining(fault) })
  })
})
