// A program that closes as the server does, with a `close` that does what an argument says.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, openSync, read } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const kinds = {
  ends: async () => {},
  fails: () => Promise.reject(new Error('failed to close')),
  waits: () => new Promise(() => {}),
  spins: async () => {
    for (;;);
  },
  // A thread in a system call that does not return: `process.exit` waits for it.
  blocks: async () => {
    const pipe = join(mkdtempSync(join(tmpdir(), 'suricate-closing-')), 'pipe')
    execFileSync('mkfifo', [pipe])
    read(openSync(pipe, 'r+'), Buffer.alloc(1), 0, 1, null, () => {})
  },
  throws: () => {
    setImmediate(() => {
      throw new Error('again')
    })
    return new Promise(() => {})
  },
}

const [module, kind, withinMs, repeatMs] = process.argv.slice(2)
const { closeAtSignal } = await import(module)
const say = () => {}
const logger = { info: say, error: say, fatal: say }
closeAtSignal({ logger, withinMs: Number(withinMs), repeatMs: Number(repeatMs) }, kinds[kind])
process.on('message', () => {
  throw new Error('nobody catches this')
})
process.send('ready')
