import { existsSync, statSync } from 'node:fs'
import { dirname, resolve } from 'node:path'

/** The file that a URL names. Throws a `TypeError` that says what would be right for one that names none. */
export function fileOf(url: string): string {
  const path = url.slice(url.indexOf(':') + 1)
  if (path === '') throw new TypeError('STORE_URL=sqlite: names no file: write sqlite:./suricate.db')
  if (/:memory:|mode=memory/.test(path)) {
    throw new TypeError(
      `STORE_URL=${url} would be gone with the process: write memory: for that, or sqlite:./suricate.db`,
    )
  }
  const right = rightFormOf(path)
  if (right !== path) throw new TypeError(`STORE_URL=${url} is no path of a file: write sqlite:${right}`)
  return path
}

/** Throws for what cannot be opened as a file, or made if `create` says so. */
export function assertFile(path: string, create: boolean): void {
  const found = statSync(path, { throwIfNoEntry: false })
  if (found?.isDirectory() || path.endsWith('/')) {
    throw new TypeError(`${path} is a directory: name a file in it, as ${path.replace(/\/*$/, '')}/suricate.db`)
  }
  if (found === undefined && !create) throw new TypeError(`There is no file ${path}`)
  const folder = dirname(resolve(path))
  if (!existsSync(folder)) throw new TypeError(`There is no folder ${folder} for ${path}: create it first`)
}

/** Other tools' forms of the same. */
function rightFormOf(path: string): string {
  const plain = path.replace(/^file:/, '').replace(/\?.*$/s, '')
  if (plain.startsWith('///')) return plain.replace(/^\/+/, '/')
  if (/^[a-z][a-z\d+.-]+:/i.test(plain)) return './suricate.db'
  return plain.startsWith('//') ? `./${plain.slice(2)}` : plain
}
