import type { TLiteral } from '@sinclair/typebox'

/** What tells the variants of a union apart, for those who read the document: a member with a constant in each. */
export function discriminatedBy<K extends string>(
  propertyName: K,
  variants: readonly { title?: string; properties: Record<K, TLiteral<string>> }[],
): { propertyName: K; mapping: Record<string, string> } {
  const named = variants.map(({ properties, title }) => [
    properties[propertyName].const,
    `#/components/schemas/${title}`,
  ])
  return { propertyName, mapping: Object.fromEntries(named) }
}
