import { isDeepStrictEqual } from 'node:util'
import { count } from '../core/count.ts'

/** As much of a document as is touched here. */
export interface OpenApiDocument {
  openapi: string
  paths: Record<string, Record<string, Operation>>
  components: {
    schemas: Record<string, Schema>
    responses: Record<string, Response>
    headers: Record<string, Header>
  }
  [member: string]: unknown
}
interface Operation {
  operationId: string
  parameters?: { required?: boolean; schema?: { default?: unknown } }[]
  requestBody?: { required?: boolean }
  responses: Record<string, Response>
}
interface Response {
  description: string
  headers?: Record<string, Header>
  content?: Record<string, MediaType>
}
interface MediaType {
  schema?: unknown
  itemSchema?: unknown
}
interface Header {
  description?: string
  schema: Schema
}
interface Schema {
  title?: string
  description?: string
  [keyword: string]: unknown
}
type Variant = Record<string, { const?: unknown } | undefined>

/** What a schema's title must look like to be the name of a component. */
const COMPONENT = /^[A-Z][A-Za-z]*$/

/**
 * Makes the document of what the generator made of the routes: puts right what that gets wrong, and gives each schema,
 * response and header that has a name its one place among the components.
 */
export function finished(generated: unknown, optionalBodies: ReadonlySet<string>): OpenApiDocument {
  const document = withConstants(generated) as OpenApiDocument
  const operations = Object.values(document.paths).flatMap((path) => Object.values(path))
  for (const operation of operations) correct(operation, optionalBodies)
  nameHeaders(
    document,
    operations.flatMap(({ responses }) => Object.values(responses)),
  )
  nameResponses(document, operations)
  nameSchemas(document)
  discriminate(document.components.schemas)
  return document
}

/** The generator turns every `const` into an `enum` of one, as 3.0 needed; here they are turned back. */
function withConstants(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withConstants)
  if (typeof value !== 'object' || value === null) return value
  const copy = Object.fromEntries(Object.entries(value).map(([key, item]) => [key, withConstants(item)]))
  const { enum: values, ...rest } = copy
  return Array.isArray(values) && values.length === 1 ? { ...rest, const: values[0] } : copy
}

/** What may be left out: whatever has a default, and some bodies. */
function correct(operation: Operation, optionalBodies: ReadonlySet<string>): void {
  for (const parameter of operation.parameters ?? []) {
    if (parameter.schema?.default !== undefined) delete parameter.required
  }
  if (operation.requestBody !== undefined && optionalBodies.has(operation.operationId)) {
    operation.requestBody.required = false
  }
}

/** Gives each header with a title its place, and says of every answer that it carries the id of the request. */
function nameHeaders({ components }: OpenApiDocument, responses: readonly Response[]): void {
  const headers: Record<string, Header> = {
    RequestId: {
      description: 'The id of the request, as given or made',
      schema: { type: 'string' },
    },
  }
  for (const response of responses) {
    const named = Object.entries(response.headers ?? {}).map(([name, { description = '', schema }]) => {
      const { title = name, ...rest } = schema
      headers[title] = { description, schema: rest }
      return [name, { $ref: `#/components/headers/${title}` }]
    })
    response.headers = Object.fromEntries([...named, ['X-Request-Id', { $ref: '#/components/headers/RequestId' }]])
  }
  components.headers = headers
}

/** Gives each problem a response its place, named after the codes that it can have. */
function nameResponses({ components }: OpenApiDocument, operations: readonly Operation[]): void {
  const responses: Record<string, Response> = {}
  for (const operation of operations) {
    for (const [status, response] of Object.entries(operation.responses)) {
      if (Number(status) < 400) continue
      const name = response.description.split(', ').map(toPascalCase).join('Or')
      responses[name] = response
      operation.responses[status] = { $ref: `#/components/responses/${name}` } as unknown as Response
    }
  }
  components.responses = responses
}

function toPascalCase(code: string): string {
  return code.toLowerCase().replace(/(?:^|_)([a-z])/g, (_, letter: string) => letter.toUpperCase())
}

/** Moves every schema whose title is the name of a component to its place, wherever it stands. */
function nameSchemas(document: OpenApiDocument): void {
  const { schemas } = document.components
  const moved = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(moved)
    if (typeof value !== 'object' || value === null) return value
    const copy: Schema = Object.fromEntries(Object.entries(value).map(([key, item]) => [key, moved(item)]))
    const { title, description } = copy
    if (typeof title !== 'string' || !COMPONENT.test(title)) return copy
    const { description: common, ...known } = schemas[title] ?? copy
    if (!isDeepStrictEqual({ description, ...known }, { description, ...copy }))
      throw new Error(`Two schemas are called ${title}, and they differ`)
    schemas[title] ??= copy
    const $ref = `#/components/schemas/${title}`
    return common === description ? { $ref } : { $ref, description }
  }
  for (const [name, schema] of Object.entries(schemas)) schemas[name] = moved(schema) as Schema
  document.paths = moved(document.paths) as OpenApiDocument['paths']
}

/**
 * Says of each union of components what tells them apart: a member that is another constant in each. It is derived here,
 * because the keyword is not JSON Schema's, and the validator of an application that embeds us would refuse it.
 */
function discriminate(schemas: Record<string, Schema>): void {
  for (const union of Object.values(schemas)) {
    const refs = ((union.oneOf ?? union.anyOf ?? []) as { $ref?: string }[]).map(({ $ref = '' }) => $ref)
    const variants = refs.map((ref) => schemas[ref.slice(ref.lastIndexOf('/') + 1)]?.properties as Variant | undefined)
    const propertyName = Object.keys(variants[0] ?? {}).find((name) => {
      const constants = variants.map((properties) => properties?.[name]?.const)
      return constants.every((value) => typeof value === 'string') && new Set(constants).size === constants.length
    })
    if (propertyName === undefined) continue
    const mapping = Object.fromEntries(refs.map((ref, i) => [variants[i]?.[propertyName]?.const as string, ref]))
    union.discriminator = { propertyName, mapping }
  }
}

/** For people: what the twin that streams answers, also where `Accept` asks for it. Generators take that for the answer. */
export function forReaders(document: OpenApiDocument): OpenApiDocument {
  const copy = structuredClone(document)
  const operations = Object.values(copy.paths).flatMap((path) => Object.values(path))
  for (const { operationId, responses } of operations) {
    const twin = operations.find((other) => other.operationId === `${operationId}Stream`)
    const stream = twin?.responses[200]
    if (stream === undefined) continue
    const { description, content, ...answer } = responses[200] ?? { ...stream, description: '', content: {} }
    responses[200] = {
      ...answer,
      description: [description, 'With `Accept: text/event-stream`: Server-Sent Events'].filter(Boolean).join('. '),
      content: { ...content, ...stream.content },
    }
  }
  return copy
}

/** 3.2 can say what 3.1 cannot: that a stream is a sequence of such items. */
export function toVersion32(document: OpenApiDocument): OpenApiDocument {
  const copy = structuredClone(document)
  copy.openapi = '3.2.0'
  for (const path of Object.values(copy.paths)) {
    for (const operation of Object.values(path)) {
      const media = operation.responses[200]?.content?.['text/event-stream']
      if (media !== undefined) media.itemSchema = eventItem(media.schema)
    }
  }
  return copy
}

function eventItem(contentSchema: unknown): object {
  return {
    type: 'object',
    required: ['data'],
    properties: {
      id: { type: 'string', description: "The event's seq" },
      event: { type: 'string', description: "The event's type" },
      data: {
        type: 'string',
        contentMediaType: 'application/json',
        contentSchema,
        description: 'The event, as JSON',
      },
      retry: count('Milliseconds after which to connect again'),
    },
  }
}
