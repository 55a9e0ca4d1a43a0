import { Kind, type TUnsafe, Type, TypeRegistry } from '@sinclair/typebox'

TypeRegistry.Set<{ enum: readonly string[] }>('StringEnum', (schema, value) => schema.enum.includes(value as string))

/**
 * One of a few strings, as `enum`: a union of literals would become an `anyOf`, which generators make a mess of. With a
 * `title` it is a component of that name in the OpenAPI document.
 */
export function StringEnum<const T extends readonly string[]>(
  values: T,
  description?: string,
  title?: string,
): TUnsafe<T[number]> {
  return Type.Unsafe<T[number]>({
    [Kind]: 'StringEnum',
    type: 'string',
    enum: [...values],
    ...(title === undefined ? {} : { title }),
    ...(description === undefined ? {} : { description }),
  })
}
