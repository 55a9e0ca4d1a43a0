import { type Logger, pino, stdTimeFunctions } from 'pino'
import pretty from 'pino-pretty'
import type { Config } from './config.ts'

/** Never written, whatever an object that is logged may carry. */
const SECRETS = ['authorization', 'cookie', 'apiKey', 'api_key', '*.authorization', '*.cookie', '*.apiKey', '*.api_key']

/** JSON lines on standard output, or readable ones in a terminal. */
export function createLogger(config: Pick<Config, 'LOG_LEVEL' | 'LOG_FORMAT'>): Logger {
  const options = {
    level: config.LOG_LEVEL,
    base: null,
    timestamp: stdTimeFunctions.isoTime,
    redact: { paths: SECRETS, censor: '[redacted]' },
    formatters: { level: (label: string) => ({ level: label }) },
  }
  const isPretty = config.LOG_FORMAT === 'pretty' || (config.LOG_FORMAT === 'auto' && process.stdout.isTTY)
  if (!isPretty) return pino(options)
  return pino(options, pretty({ translateTime: 'HH:MM:ss.l', ignore: 'request_id,pid,hostname', singleLine: true }))
}
