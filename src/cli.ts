#!/usr/bin/env node
import { writeFile } from 'node:fs/promises'
import { parseArgs } from 'node:util'
import type { Config, SettingName } from './config.ts'
import type { DurableStore } from './core/durable-store.ts'
import { VERSION } from './version.ts'

// Everything else is imported by the command that needs it: `--version` waits for none of it.

const USAGE = `Suricate ${VERSION}: a session server for LLM agents

Usage:
  suricate serve [--port 8080] [--host 127.0.0.1] …   serve until a signal
  suricate serve --agent ./my-agent.ts                with an agent of your own
  suricate export --all > dump.ndjson                 print every session of the store, while no server uses it
  suricate import < dump.ndjson                       take them into another store
  suricate backup FILE                                copy the SQLite store to a new file, also while a server uses it
  suricate openapi [--write]                          print the OpenAPI document, or update openapi/
  suricate --version
  suricate --help
`

/** A mistake on the command line; the message says what would be right. */
class UsageError extends Error {}

async function main(args: readonly string[]): Promise<void> {
  const [command, ...rest] = args
  if (command === '--version' || command === '-v') return print(VERSION)
  if (command === undefined || command === '--help' || command === '-h' || command === 'help')
    return print(await help())
  if (command === 'serve') return serveCommand(rest)
  if (command === 'export') return exportCommand(rest)
  if (command === 'import') return importCommand(rest)
  if (command === 'backup') return backupCommand(rest)
  if (command === 'openapi') return openapiCommand(rest)
  throw new UsageError(`There is no command "${command}"; suricate --help lists them`)
}

async function serveCommand(args: readonly string[]): Promise<void> {
  const { flags, wantsHelp } = await parseFlags(args)
  if (wantsHelp) return print(await help())
  const { loadConfig } = await import('./config.ts')
  const { serve } = await import('./main.ts')
  await serve(loadConfig({ env: process.env, flags }))
}

async function exportCommand(args: readonly string[]): Promise<void> {
  const { all, help: wantsHelp, 'store-url': url } = parseTransfer(args, { all: { type: 'boolean' } })
  if (wantsHelp) return print(await help())
  if (!all) throw new UsageError('export needs --all: it is every session that is exported')
  const { counted } = await import('./transfer/export-format.ts')
  const { exportSessions } = await import('./transfer/export-sessions.ts')
  await withStore(url, { create: false }, async (store) => {
    note(`exported ${counted(await exportSessions(store, process.stdout))}`)
  })
}

async function importCommand(args: readonly string[]): Promise<void> {
  const { help: wantsHelp, 'store-url': url } = parseTransfer(args)
  if (wantsHelp) return print(await help())
  const { counted } = await import('./transfer/export-format.ts')
  const { importSessions } = await import('./transfer/import-sessions.ts')
  await withStore(url, { create: true }, async (store) => {
    const { imported, skipped } = await importSessions(store, process.stdin, note)
    note(`imported ${counted(imported)}${skipped === 0 ? '' : `, skipped ${skipped}`}`)
  })
}

async function backupCommand(args: readonly string[]): Promise<void> {
  const { help: wantsHelp, 'store-url': flag, names } = parseTransfer(args, {}, 1)
  if (wantsHelp) return print(await help())
  const [target] = names
  if (target === undefined) throw new UsageError('backup needs the name of a new file: suricate backup FILE')
  const url = await storeUrl(flag)
  const { backUpStore } = await import('./stores/index.ts')
  await backUpStore(url, target).catch((error: Error) => {
    throw new UsageError(`${target} was not written: ${error.message}`)
  })
  note(`copied the store to ${target}`)
}

function parseTransfer(args: readonly string[], more: { all?: { type: 'boolean' } } = {}, maxNames = 0) {
  const options = { 'store-url': { type: 'string' }, help: { type: 'boolean', short: 'h' }, ...more } as const
  try {
    const { values, positionals: names } = parseArgs({ args: [...args], options, allowPositionals: maxNames > 0 })
    if (names.length > maxNames) throw new Error(`Unexpected argument '${names[maxNames]}'`)
    return { ...(values as { all?: boolean; help?: boolean; 'store-url'?: string }), names }
  } catch (error) {
    throw new UsageError(`${(error as Error).message}; suricate --help lists the commands`)
  }
}

/** The store alone is asked for: the other settings are a server's. */
async function storeUrl(flag: string | undefined): Promise<string> {
  const { loadConfig } = await import('./config.ts')
  const flags = flag === undefined ? {} : { STORE_URL: flag }
  return loadConfig({ env: { STORE_URL: process.env.STORE_URL }, flags }).STORE_URL
}

async function withStore(
  flag: string | undefined,
  options: { create: boolean },
  act: (store: DurableStore) => Promise<void>,
): Promise<void> {
  const url = await storeUrl(flag)
  const { openDurableStore } = await import('./stores/index.ts')
  const store = await openDurableStore(url, options).catch((error: Error) => {
    throw new UsageError(error.message)
  })
  if (store === undefined) {
    throw new UsageError(
      `${url} ends with its process: set STORE_URL to a store that does not, as sqlite:./suricate.db`,
    )
  }
  try {
    await act(store)
  } finally {
    await store.close()
  }
}

async function openapiCommand(args: readonly string[]): Promise<void> {
  const { loadConfig } = await import('./config.ts')
  const { buildApp } = await import('./app.ts')
  const config: Config = loadConfig({ env: {} })
  const app = await buildApp(config)
  await app.ready()
  const documents = [await app.openapi(), await app.openapi('3.2')]
  const [document, next] = documents.map((version) => `${JSON.stringify(version, null, 2)}\n`)
  await app.close()
  if (!args.includes('--write')) return print(String(document).trimEnd())
  const folder = new URL('../openapi/', import.meta.url)
  await writeFile(new URL('openapi.json', folder), String(document))
  await writeFile(new URL('openapi-3.2.json', folder), String(next))
}

async function parseFlags(args: readonly string[]): Promise<{
  flags: Partial<Record<SettingName, string | boolean>>
  wantsHelp: boolean
}> {
  const { flagName, settings } = await import('./config.ts')
  const names = Object.keys(settings.properties) as SettingName[]
  const isSwitch = (name: SettingName) => settings.properties[name].type === 'boolean'
  const options = Object.fromEntries(
    names.map((name) => [
      flagName(name),
      { type: isSwitch(name) ? ('boolean' as const) : ('string' as const), multiple: name === 'AGENT' },
    ]),
  )
  try {
    const { values } = parseArgs({ args: [...args], options: { ...options, help: { type: 'boolean', short: 'h' } } })
    const flags: Partial<Record<SettingName, string | boolean>> = {}
    for (const name of names) {
      const value = (values as Record<string, string | boolean | string[] | undefined>)[flagName(name)]
      if (value !== undefined) flags[name] = Array.isArray(value) ? value.join(',') : value
    }
    return { flags, wantsHelp: values.help === true }
  } catch (error) {
    throw new UsageError(`${(error as Error).message}; suricate serve --help lists the flags`)
  }
}

async function help(): Promise<string> {
  const { flagName, settings } = await import('./config.ts')
  const width = Math.max(...Object.keys(settings.properties).map((name) => name.length))
  const rows = Object.entries(settings.properties).map(([name, { description, default: standard }]) => {
    const flag = `--${flagName(name)}`
    return `  ${flag.padEnd(width + 4)}${name.padEnd(width + 2)}${description}${standard === '' ? '' : ` (${standard})`}`
  })
  return `${USAGE}\nEvery setting is a flag or an environment variable; flags win.\n\n${rows.join('\n')}\n`
}

/** What is not the output. */
function note(text: string): void {
  process.stderr.write(`${text}\n`)
}

function print(text: string): void {
  process.stdout.write(`${text}\n`)
}

/** For an address that cannot be listened on, by the error's code. */
const ADDRESS_ADVICE: Readonly<Record<string, string | undefined>> = {
  EADDRINUSE: 'take another port with --port, or a free one with --port 0',
  EACCES: 'take a port from 1024 up with --port',
  EADDRNOTAVAIL: 'take an address of this machine with --host',
  ENOTFOUND: 'take an address of this machine with --host',
}

main(process.argv.slice(2)).catch(async (error: unknown) => {
  const { ConfigError } = await import('./config.ts')
  const { TransferError } = await import('./transfer/export-format.ts')
  const isKnown = error instanceof UsageError || error instanceof ConfigError || error instanceof TransferError
  const advice = ADDRESS_ADVICE[(error as NodeJS.ErrnoException).code ?? '']
  const sentence = `suricate: ${(error as Error).message}`
  const text = isKnown ? sentence : advice === undefined ? (error as Error).stack : `${sentence}; ${advice}`
  // Where in a module of the team's own it went wrong.
  const cause = isKnown && error.cause instanceof Error ? `${error.cause.stack}\n` : ''
  process.stderr.write(`${text}\n${cause}`)
  process.exit(1)
})
