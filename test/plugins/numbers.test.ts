import { expect, test } from 'vitest'
import { useServer } from '../helpers/suite.ts'

const server = useServer()

interface Schema {
  type?: string | string[]
  format?: string
  minimum?: number
  maximum?: number
  [keyword: string]: unknown
}
interface Document {
  paths: Record<string, Record<string, { parameters?: unknown; requestBody?: unknown }>>
}

/** Every schema of a number at or below `value`, and where it stands; references are followed once. */
function numbersIn(value: unknown, document: unknown, at = '', seen = new Set<string>()): [string, Schema][] {
  if (typeof value !== 'object' || value === null) return []
  const schema = value as Schema
  const { $ref } = schema
  if (typeof $ref === 'string') {
    if (seen.has($ref)) return []
    seen.add($ref)
    const target = $ref
      .slice(2)
      .split('/')
      .reduce<unknown>((node, key) => (node as Record<string, unknown>)[key], document)
    return numbersIn(target, document, $ref, seen)
  }
  const own: [string, Schema][] = [schema.type].flat().some((type) => type === 'integer' || type === 'number')
    ? [[at, schema]]
    : []
  return [...own, ...Object.entries(value).flatMap(([key, item]) => numbersIn(item, document, `${at}/${key}`, seen))]
}

test.each(['/openapi.json', '/openapi-3.2.json'])('every integer of %s has a format', async (path) => {
  const { body } = await server.api.get(path)
  const integers = numbersIn(body, body).filter(([, { type }]) => type === 'integer')
  expect(integers.length).toBeGreaterThan(50)
  expect(integers.filter(([, { format }]) => format !== 'int64' && format !== 'int32')).toEqual([])
})

test('every number in a request has a minimum and a maximum that JSON and every store carry exactly', async () => {
  const { body: document } = await server.api.get<Document>('/openapi.json')
  const requests = Object.values(document.paths).flatMap((methods) =>
    Object.values(methods).map(({ parameters, requestBody }) => ({ parameters, requestBody })),
  )
  const numbers = numbersIn(requests, document)
  expect(numbers.map(([at]) => at)).toContain('#/components/schemas/CreateSessionRequest/properties/max_tokens')
  const isBounded = ({ minimum = Number.NaN, maximum = Number.NaN }: Schema) =>
    minimum >= Number.MIN_SAFE_INTEGER && maximum <= Number.MAX_SAFE_INTEGER
  expect(numbers.filter(([, schema]) => !isBounded(schema))).toEqual([])
})
