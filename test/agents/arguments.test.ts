import { expect, test } from 'vitest'
import { parseArguments } from '../../src/agents/arguments.ts'

test.each<[string, unknown]>([
  ['{"n":1e308}', { n: 1e308 }],
  [' ', {}],
  ['not JSON', 'not JSON'],
  ['{"n":1e309}', '{"n":1e309}'],
  [`{"deep":[1${'0'.repeat(250)}e99]}`, `{"deep":[1${'0'.repeat(250)}e99]}`],
])('arguments that a model wrote as %j are read, or stay text: no number becomes null on its way', (text, args) => {
  expect(parseArguments(text)).toEqual(args)
})
