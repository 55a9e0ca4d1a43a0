import { readFileSync } from 'node:fs'

/** One directive of nginx, with what is in its braces. */
export interface Directive {
  name: string
  args: string[]
  block: Directive[]
}

const TOKEN = /\s+|#[^\n]*|"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|([;{}])|([^\s;{}"']+)/gy

/** The file that docker-compose.yml mounts. */
export const NGINX_CONF = readFileSync(new URL('../../deploy/nginx.conf', import.meta.url), 'utf8')

/** Reads a configuration of nginx. */
export function parseNginx(source: string): Directive[] {
  const top: Directive[] = []
  const open = [top]
  let words: string[] = []
  let length = 0
  for (const [token, double, single, mark, word] of source.matchAll(TOKEN)) {
    length += token.length
    const text = double ?? single ?? word
    if (text !== undefined) words.push(text)
    if (mark === '}') open.pop()
    if (mark !== ';' && mark !== '{') continue
    const [name = '', ...args] = words
    const directive: Directive = { name, args, block: [] }
    words = []
    open.at(-1)?.push(directive)
    if (mark === '{') open.push(directive.block)
  }
  if (length !== source.length || open.length !== 1 || words.length > 0) {
    throw new Error(`This cannot be read as a configuration of nginx: ${source.slice(length, length + 100)}`)
  }
  return top
}

/** The directives that a path of names leads to; `server/location` are all locations of all servers. */
export function directives(tree: readonly Directive[], path: string): Directive[] {
  const [name, ...rest] = path.split('/')
  const found = tree.filter((directive) => directive.name === name)
  return rest.length === 0 ? found : found.flatMap(({ block }) => directives(block, rest.join('/')))
}

/** The arguments of the one directive that a path leads to. */
export function only(tree: readonly Directive[], path: string): string[] {
  const found = directives(tree, path)
  if (found.length !== 1) throw new Error(`There are ${found.length} ${path} in the configuration of nginx, not one`)
  return found[0]?.args ?? []
}

/** `5s`, `1h` or `250ms` in milliseconds. */
export function milliseconds(time = ''): number {
  const [, count, unit = ''] = /^(\d+)(ms|s|m|h)$/.exec(time) ?? []
  const factor = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 }[unit]
  if (factor === undefined) throw new Error(`${time} is no time`)
  return Number(count) * factor
}

/** `2m`, `256k` or `10` in bytes. */
export function byteCount(size = ''): number {
  const [, count, unit = ''] = /^(\d+)([km]?)$/.exec(size) ?? []
  if (count === undefined) throw new Error(`${size} is no size`)
  return Number(count) * ({ k: 1_024, m: 1_048_576 }[unit] ?? 1)
}
