import { afterAll } from 'vitest'
import { storeKinds } from '../../src/stores/index.ts'

/** Makes a store known by its scheme, for `STORE_URL`, to the tests of this file. */
export function useStoreKind(scheme: string, kind: (typeof storeKinds)[string]): void {
  storeKinds[scheme] = kind
  afterAll(() => {
    delete storeKinds[scheme]
  })
}
