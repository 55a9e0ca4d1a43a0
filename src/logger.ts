import { isatty } from 'node:tty'
import { type DestinationStream, type Logger, pino, stdTimeFunctions } from 'pino'
import type { Config } from './config.ts'

/** Never written, whatever an object that is logged may carry. */
const SECRETS = ['authorization', 'cookie', 'apiKey', 'api_key', '*.authorization', '*.cookie', '*.apiKey', '*.api_key']

/** JSON lines, or readable ones where standard output is a terminal. */
export async function createLogger(
  config: Pick<Config, 'LOG_LEVEL' | 'LOG_FORMAT'>,
  output: DestinationStream = process.stdout,
): Promise<Logger> {
  const options = {
    level: config.LOG_LEVEL,
    base: null,
    timestamp: stdTimeFunctions.isoTime,
    redact: { paths: SECRETS, censor: '[redacted]' },
    formatters: { level: (label: string) => ({ level: label }) },
  }
  const isPretty = config.LOG_FORMAT === 'pretty' || (config.LOG_FORMAT === 'auto' && isatty(1))
  if (!isPretty) return pino(options, output)
  const { prettyFactory } = await import('pino-pretty')
  const prettify = prettyFactory({
    colorize: isatty(1),
    translateTime: 'HH:MM:ss.l',
    ignore: 'request_id,pid,hostname',
    singleLine: true,
  })
  return pino(options, { write: (line) => output.write(prettify(line)) })
}
