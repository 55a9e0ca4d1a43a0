import { statSync } from 'node:fs'
import path from 'node:path'
import { pathToFileURL } from 'node:url'
import type { SessionAgentBuilder } from '../core/agent.ts'
import type { HookHandler } from './hooks/hook.ts'

/** What a team's own modules bring. */
export interface TeamModules {
  readonly agents: readonly SessionAgentBuilder[]
  /** By the names that a hooks configuration calls them. */
  readonly hooks: Readonly<Record<string, HookHandler>>
}

const TYPESCRIPT = /\.[cm]?tsx?$/

/**
 * Loads modules, TypeScript or JavaScript, by their paths. The default export of each is a `SessionAgentBuilder`; it may
 * export `hooks`, an object of handlers, beside that or instead. Throws an Error whose message names the module and says
 * what is wrong; what the module itself threw is its cause.
 */
export async function loadModules(files: readonly string[]): Promise<TeamModules> {
  const agents: SessionAgentBuilder[] = []
  const hooks: Record<string, HookHandler> = {}
  for (const file of files) {
    const { default: builder, hooks: handlers } = await load(file)
    if (builder === undefined && handlers === undefined) {
      throw new Error(`${file} has neither a default export, which would be an agent, nor hooks`)
    }
    if (builder !== undefined) agents.push(asBuilder(file, builder, agents))
    for (const [name, handler] of Object.entries(handlers ?? {})) {
      if (typeof handler !== 'function') throw new Error(`${file} exports hooks.${name}, which is no function`)
      hooks[name] = handler as HookHandler
    }
  }
  return { agents, hooks }
}

async function load(file: string): Promise<{ default?: unknown; hooks?: Record<string, unknown> }> {
  const whole = path.resolve(file)
  const found = statSync(whole, { throwIfNoEntry: false })
  if (found === undefined) throw new Error(`${file} is not there`)
  if (found.isDirectory()) throw new Error(`${file} is a directory: name the module in it`)
  try {
    if (!TYPESCRIPT.test(file)) return await import(pathToFileURL(whole).href)
    const { createJiti } = await import('jiti')
    return await createJiti(import.meta.url).import(whole)
  } catch (cause) {
    throw new Error(`${file} cannot be loaded: ${cause instanceof Error ? cause.message : String(cause)}`, { cause })
  }
}

function asBuilder(file: string, value: unknown, known: readonly SessionAgentBuilder[]): SessionAgentBuilder {
  const { name, buildAgent } = (value ?? {}) as Partial<SessionAgentBuilder>
  if (typeof buildAgent !== 'function' || typeof name !== 'string') {
    throw new Error(`The default export of ${file} is no agent: it needs {name, buildAgent(request, session)}`)
  }
  if (!/^[\w-]{1,128}$/.test(name)) {
    throw new Error(`The agent of ${file} is called ${JSON.stringify(name)}: use letters, digits, - and _`)
  }
  if (known.some((other) => other.name === name)) throw new Error(`${file} brings a second agent called ${name}`)
  return value as SessionAgentBuilder
}
