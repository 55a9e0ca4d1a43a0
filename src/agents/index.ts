import type { SessionAgentBuilder } from '../core/agent.ts'
import { echo } from './echo.ts'
import { scripted } from './scripted/index.ts'

/** The agents that every server has. A new one is a line here. */
export const builtInAgents: readonly SessionAgentBuilder[] = [echo, scripted]

/** Used by requests that name no agent. */
export const DEFAULT_AGENT = echo.name
