import { expect, test } from 'vitest'
import { openStore, storeKinds } from '../../src/stores/index.ts'
import { storeConformance } from '../conformance/store.ts'

for (const [name, { ephemeral }] of Object.entries(storeKinds)) {
  if (ephemeral !== undefined) storeConformance(name, ephemeral)
}

const retention = { events: 10, bytes: 1_000 }

const ephemeral = Object.keys(storeKinds).filter((scheme) => storeKinds[scheme]?.ephemeral !== undefined)

test.each(ephemeral)('a URL chooses the %s store by its scheme', (scheme) => {
  const log = openStore(`${scheme}:`, retention).openLog('0199d3c0-0000-7000-8000-000000000000')
  expect(log.lastSeq).toBe(0)
})

test.each(['', 'redis://localhost', 'toString:', '__proto__:'])(
  'the URL "%s" is refused, naming the schemes there are',
  (url) => {
    expect(() => openStore(url, retention)).toThrow(
      new TypeError(`STORE_URL must begin with one of ${Object.keys(storeKinds).join(', ')}:, got "${url}"`),
    )
  },
)
