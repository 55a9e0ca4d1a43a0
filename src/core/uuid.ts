import { Type } from '@sinclair/typebox'

/** An id as text. The format alone would also let in `urn:uuid:…`. */
export const Uuid = (description?: string) =>
  Type.String({
    format: 'uuid',
    pattern: '^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$',
    ...(description === undefined ? {} : { description }),
  })
