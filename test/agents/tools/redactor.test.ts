import { expect, test } from 'vitest'
import { redactor } from '../../../src/agents/tools/redactor.ts'

test.each<[string, string[], string, string]>([
  ['each time it stands there', ['sesame-1'], 'sesame-1, sesame-1!', '…, …!'],
  ['the longer of two that overlap', ['sesame-1', 'Bearer sesame-1'], 'got "Bearer sesame-1"', 'got "…"'],
  ['as part of JSON', ['say "open"'], JSON.stringify({ got: 'say "open"' }), '{"got":"…"}'],
  [
    'as part of a URL',
    ['a b/c?d=e'],
    `https://x.example/?k=${encodeURIComponent('a b/c?d=e')}`,
    'https://x.example/?k=…',
  ],
  ['line by line', ['-----BEGIN\nMIIBVwIBADAN\n-----END'], 'read MIIBVwIBADAN', 'read …'],
  ['and nothing where there is none', [], 'all of it', 'all of it'],
])('a secret is taken out %s', (_, secrets, text, expected) => {
  expect(redactor(secrets)(text)).toBe(expected)
})
