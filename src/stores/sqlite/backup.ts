import { chmodSync, closeSync, existsSync, fsyncSync, linkSync, openSync, rmSync, statSync } from 'node:fs'
import { assertOurs, opened } from './database-file.ts'
import { assertFile } from './location.ts'

/**
 * Copies the database at `path` to the new file `target` while a server may be using it: as it is at one moment, whole or not at
 * all.
 */
export function backUp(path: string, target: string): void {
  assertFile(path, false)
  assertFile(target, true)
  if (existsSync(target)) throw new TypeError(`${target} is there already: name another file`)
  // Whoever finds the name finds all of it.
  const partial = `${target}-partial`
  const db = opened(path)
  try {
    assertOurs(db, path, false)
    rmSync(partial, { force: true })
    db.exec('pragma busy_timeout = 10000')
    db.prepare('vacuum into ?').run(partial)
    chmodSync(partial, statSync(path).mode)
    const file = openSync(partial, 'r+')
    fsyncSync(file)
    closeSync(file)
    linkSync(partial, target)
  } finally {
    db.close()
    rmSync(partial, { force: true })
  }
}
