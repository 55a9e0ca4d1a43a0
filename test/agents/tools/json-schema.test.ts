import { describe, expect, test } from 'vitest'
import { z } from 'zod'
import { OutputSchema } from '../../../src/agents/llm/output-schema.ts'
import type { JsonObject } from '../../../src/agents/tools/tool.ts'
import { readArguments } from '../../../src/agents/tools/tool-args.ts'

const D7 = 'http://json-schema.org/draft-07/schema#'
const D19 = 'https://json-schema.org/draft/2019-09/schema'
const D20 = 'https://json-schema.org/draft/2020-12/schema'

const object = (properties: object, more: object = {}) => ({ type: 'object', properties, ...more })
const a = (schema: object, more: object = {}) => object({ a: schema }, more)
const dependent = object({ a: {}, b: {} }, { dependentRequired: { a: ['b'] } })
const person = { type: 'object', properties: { name: { type: 'string' } }, required: ['name'] }
const tuple = { type: 'array', prefixItems: [{ type: 'string' }], items: { type: 'number' } }
const fromZod = (shape: z.ZodRawShape) => z.toJSONSchema(z.object(shape)) as JsonObject

/** A schema, a value that fits and one that does not. */
const cases: [string, JsonObject, unknown, unknown][] = [
  ...[D7, D19, D20, D20.replace('https', 'http'), `${D20}#`].map(($schema): [string, JsonObject, unknown, unknown] => [
    $schema,
    { $schema, ...person },
    { name: 'Ada' },
    {},
  ]),
  ['draft-07 tuple', a({ type: 'array', items: [{ type: 'string' }] }, { $schema: D7 }), { a: ['x'] }, { a: [1] }],
  ['a tuple without $schema', a({ type: 'array', items: [{ type: 'string' }] }), { a: ['x'] }, { a: [1] }],
  ['2020-12 tuple', a(tuple, { $schema: D20 }), { a: ['x', 1] }, { a: ['x', 'y'] }],
  ['prefixItems without $schema', a(tuple), { a: ['x', 1] }, { a: [1] }],
  ['draft-07 dependencies', object({ a: {}, b: {} }, { dependencies: { a: ['b'] } }), { b: 1 }, { a: 1 }],
  ['dependentRequired', dependent, { a: 1, b: 2 }, { a: 1 }],
  ...[D7, D19, D20].map(($schema): [string, JsonObject, unknown, unknown] => [
    `dependentRequired of ${$schema}`,
    { $schema, ...dependent },
    { b: 2 },
    { a: 1 },
  ]),
  ['dependentSchemas', object({ a: {} }, { dependentSchemas: { a: { required: ['b'] } } }), { a: 1, b: 2 }, { a: 1 }],
  [
    'unevaluatedProperties',
    { $schema: D19, allOf: [a({})], type: 'object', unevaluatedProperties: false },
    { a: 1 },
    { b: 1 },
  ],
  ['minContains', a({ contains: { const: 1 }, minContains: 2 }), { a: [1, 1] }, { a: [1] }],
  ['definitions', a({ $ref: '#/definitions/x' }, { definitions: { x: { type: 'string' } } }), { a: '' }, { a: 1 }],
  ['nullable', a({ type: 'string', nullable: true }), { a: null }, { a: 1 }],
  ['nullable enum', a({ type: 'string', enum: ['x'], nullable: true }), { a: null }, { a: 'y' }],
  ['nullable without a type', a({ anyOf: [{ type: 'string' }], nullable: true }), { a: null }, { a: 1 }],
  ['nullable const', a({ type: 'string', const: 'x', nullable: true }), { a: null }, { a: 'y' }],
  [
    'nullable $ref',
    a({ $ref: '#/$defs/x', nullable: true }, { $defs: { x: { type: 'string' } } }),
    { a: null },
    { a: 1 },
  ],
  ['nullable: false', a({ type: 'string', nullable: false }), { a: '' }, { a: null }],
  ['a member called nullable', object({ nullable: { type: 'string' } }), { nullable: '' }, { nullable: 1 }],
  ['a root $ref', { $ref: '#/$defs/P', $defs: { P: person } }, { name: 'Ada' }, {}],
  ['a root $ref in draft-07', { $schema: D7, $ref: '#/definitions/P', definitions: { P: person } }, { name: '' }, {}],
  [
    'a root $ref by way of another',
    { $ref: '#/$defs/a~1b', $defs: { 'a/b': { $ref: '#/$defs/P' }, P: person } },
    { name: '' },
    {},
  ],
  [
    'a root $ref that comes back',
    { $ref: '#/$defs/P', $defs: { P: a({ $ref: '#/$defs/P' }) } },
    { a: { a: {} } },
    { a: { a: 1 } },
  ],
  [
    'an id',
    {
      $id: 'https://a.example/x',
      ...a({ $ref: 'https://a.example/x#/$defs/s' }, { $defs: { s: { type: 'string' } } }),
    },
    { a: '' },
    { a: 1 },
  ],
  ['the id of a dialect', { $id: D19, ...person }, { name: '' }, {}],
  ...(
    [
      ['date-time', '2026-01-02T03:04:05Z', 'yesterday'],
      ['date', '2026-01-02', '2026-13-02'],
      ['time', '03:04:05Z', '3 pm'],
      ['duration', 'P1D', 'a day'],
      ['email', 'a@b.example', 'a'],
      ['hostname', 'a.example', '-'],
      ['ipv4', '127.0.0.1', '1'],
      ['ipv6', '::1', '1'],
      ['uri', 'https://a.example/', 'a b'],
      ['uuid', '123e4567-e89b-42d3-a456-426614174000', '1'],
      ['regex', 'a+', '('],
    ] as const
  ).map(([format, good, bad]): [string, JsonObject, unknown, unknown] => [
    format,
    a({ type: 'string', format }),
    { a: good },
    { a: bad },
  ]),
  ['zod: a plain object', fromZod({ a: z.string(), b: z.int().optional() }), { a: '' }, { a: '', c: 1 }],
  ['zod: nullable', fromZod({ a: z.string().nullable() }), { a: null }, {}],
  ['zod: a tuple', fromZod({ a: z.tuple([z.string(), z.number()]) }), { a: ['', 1] }, { a: [1, ''] }],
  ['zod: a time', fromZod({ a: z.iso.datetime() }), { a: '2026-01-02T03:04:05Z' }, { a: 'now' }],
  ['zod: a record', fromZod({ a: z.record(z.string(), z.number()) }), { a: { x: 1 } }, { a: { x: '' } }],
  [
    'zod: alternatives',
    fromZod({
      a: z.discriminatedUnion('t', [z.object({ t: z.literal(1) }), z.object({ t: z.literal(2), b: z.string() })]),
    }),
    { a: { t: 2, b: '' } },
    { a: { t: 2 } },
  ],
]

describe.each(cases)('a schema with %s', (_, schema, good, bad) => {
  test('judges answers', () => {
    const output = OutputSchema.from(schema)
    expect(output.read(JSON.stringify(good))).toEqual({ value: good })
    expect(output.read(JSON.stringify(bad))).toEqual({ fault: expect.any(String) })
    expect(output.warnings).toEqual([])
    expect(output.schema).toMatchObject({ type: 'object' })
    expect(JSON.stringify(output.schema)).not.toMatch(/"nullable":(true|false)|"\$schema"/)
  })

  test('judges the arguments of tools', () => {
    const tool = { inputSchema: schema } as unknown as Parameters<typeof readArguments>[0]
    expect(readArguments(tool, good)).toEqual({ args: good })
    expect(readArguments(tool, bad)).toEqual({ fault: expect.any(String) })
  })
})

test('one schema leaves nothing behind for the next with its id', () => {
  const named = (type: string) => ({ $id: 'https://a.example/x', ...a({ $id: 'https://a.example/y', type }) })
  expect(OutputSchema.from(named('string')).read('{"a":1}')).toHaveProperty('fault')
  expect(OutputSchema.from(named('number')).read('{"a":1}')).toHaveProperty('value')
})

test.each<[string, JsonObject, string, string]>([
  [
    'a dialect that is not known',
    { $schema: 'https://a.example/dialect', ...person },
    '/$schema',
    'this dialect is not known; the schema is read as draft-07',
  ],
  [
    'a format that is not known',
    a({ type: 'string', format: 'idn-email' }),
    '/properties/a/format',
    'the format idn-email is not enforced',
  ],
  ['a format of zod', fromZod({ a: z.nanoid() }), '/properties/a/format', 'the format nanoid is not enforced'],
  [
    'a format that no object has',
    a({ format: 'constructor' }),
    '/properties/a/format',
    'the format constructor is not enforced',
  ],
  ['an encoding', a({ contentEncoding: 'base64' }), '/properties/a/contentEncoding', 'this keyword is not enforced'],
  ['a keyword that no object has', a({ constructor: 1 }), '/properties/a/constructor', 'this keyword is not enforced'],
  [
    'a keyword of an older dialect',
    a({ additionalItems: false }, { $schema: D20 }),
    '/properties/a/additionalItems',
    'this keyword is not enforced',
  ],
  ['a keyword in a list', a({ items: [{ fancy: 1 }] }), '/properties/a/items/0/fancy', 'this keyword is not enforced'],
  ['a path with a slash', object({ 'a/b': { fancy: 1 } }), '/properties/a~1b/fancy', 'this keyword is not enforced'],
])('what is not enforced is warned of: %s', (_, schema, path, message) => {
  expect(OutputSchema.from(schema).warnings).toEqual([{ provider: 'all', path, message }])
})

test.each<[string, JsonObject]>([
  ['answers with a promise', { $async: true, ...person }],
  ['refers to elsewhere', a({ $ref: 'https://elsewhere.example/schema' })],
  ['refers to nothing', a({ $ref: '#/$defs/none' })],
  ['has no such type', a({ type: 'text' })],
])('a schema that %s is refused for answers, and checks no arguments', (_, schema) => {
  expect(() => OutputSchema.from(schema)).toThrow('/output_schema is not a JSON Schema: ')
  const tool = { inputSchema: schema } as unknown as Parameters<typeof readArguments>[0]
  expect(readArguments(tool, { a: 1 })).toEqual({ args: { a: 1 } })
})
