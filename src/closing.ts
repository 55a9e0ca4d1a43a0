import { spawn } from 'node:child_process'
import { closeSync, openSync } from 'node:fs'
import { isatty } from 'node:tty'
import type { Logger } from 'pino'

/** No others: a process that catches SIGSEGV or SIGABRT survives its own crash, and never ends. */
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'] as const
/** Before the deadline, so that the process can still end by itself. */
const KILL_MARGIN_MS = 500

interface Closing {
  logger: Logger
  /** After the signal the process is gone at the latest after this time, whatever hangs. */
  withinMs: number
  /** A signal that is repeated within this time is the first one. */
  repeatMs: number
}

/**
 * Calls `close` at the first signal, or at an error that nobody caught, and then ends the process: with 0 after a signal, with
 * 1 where there was an error or `close` took too long. A second signal ends it at once, with 1.
 */
export function closeAtSignal({ logger, withinMs, repeatMs }: Closing, close: () => Promise<void>): void {
  let began: number | undefined

  async function begin(wasError: boolean): Promise<void> {
    began = performance.now()
    killAfter(withinMs)
    setTimeout(() => {
      logger.error('closing took too long: exiting')
      process.exit(1)
    }, withinMs - KILL_MARGIN_MS)
    try {
      await close()
    } catch (err) {
      logger.error({ err }, 'closing failed')
      process.exit(1)
    }
    process.exit(wasError ? 1 : 0)
  }

  for (const signal of SIGNALS) {
    process.on(signal, () => {
      if (began === undefined) {
        logger.info({ signal }, 'closing: no new work; running turns may finish')
        return void begin(false)
      }
      if (performance.now() - began < repeatMs) return
      logger.error({ signal }, 'second signal: exiting')
      process.exit(1)
    })
  }
  process.on('uncaughtException', (err) => {
    logger.fatal({ err }, began === undefined ? 'closing after an unexpected error' : 'second error: exiting')
    if (began === undefined) void begin(true)
    else process.exit(1)
  })
  leaveTerminals()
}

/**
 * Kills this process after `ms`. Another process does it: a busy loop holds up every timer of one's own, and a thread in a
 * system call that hangs holds up `process.exit`. It ends when this one has.
 */
function killAfter(ms: number): void {
  const program = `process.stdin.on('end', () => process.exit()).resume()
    setTimeout(() => process.kill(${process.pid}, 'SIGKILL'), ${ms})`
  spawn(process.execPath, ['-e', program], { stdio: ['pipe', 'ignore', 'ignore'], detached: true, env: {} })
    .on('error', () => {})
    .unref()
}

/** Node resets its terminals when it exits, and crashes where one has been closed: it gets another file in its place. */
function leaveTerminals(): void {
  const terminals = [0, 1, 2].filter((fd) => isatty(fd))
  process.on('exit', () => {
    for (const fd of terminals.filter((fd) => !isatty(fd))) {
      closeSync(fd)
      openSync('/dev/null', 'r+')
    }
  })
}
