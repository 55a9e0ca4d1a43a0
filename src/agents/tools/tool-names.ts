import { createHash } from 'node:crypto'

const MAX_LENGTH = 64
const HASH_LENGTH = 8

/**
 * What a model calls a server's tool: `server__tool`, valid and different for different tools. A name that had to be
 * changed for that ends in a hash of what it stands for, so it is the same wherever and whenever it is made.
 */
export function toolName(server: string, tool: string): string {
  const name = `${server}__${tool}`
  // Of two servers `a` and `a__b`, or `a` and `a_`, the names could meet.
  const isUnambiguous = !server.includes('__') && !server.endsWith('_')
  if (isUnambiguous && name.length <= MAX_LENGTH && /^[A-Za-z0-9_-]+$/.test(name)) return name
  const hash = createHash('sha256')
    .update(JSON.stringify([server, tool]))
    .digest('hex')
    .slice(0, HASH_LENGTH)
  const readable = name.replace(/[^A-Za-z0-9_-]/g, '_').slice(0, MAX_LENGTH - HASH_LENGTH - 1)
  return `${readable}_${hash}`
}
