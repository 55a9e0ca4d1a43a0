import { pause } from '../pause.ts'

export interface ToolAnswer {
  result: string
  isError: boolean
}

interface Tool {
  description: string
  run(args: Record<string, unknown>, signal: AbortSignal): string | Promise<string>
}

const MAX_SLEEP_MS = 600_000

/** The tools that a script can call; small enough to predict, real enough to see every event of a tool round. */
export const tools: Readonly<Record<string, Tool>> = {
  add: {
    description: 'Adds two numbers: {a, b}',
    run: (args) => String(numberOf(args, 'a') + numberOf(args, 'b')),
  },
  clock: {
    description: 'Tells the time: {}',
    run: () => new Date().toISOString(),
  },
  fail: {
    description: 'Fails: {message}',
    run: ({ message }) => {
      throw new ToolFault('execution_failed', typeof message === 'string' ? message : 'The tool failed')
    },
  },
  sleep: {
    description: 'Waits: {ms}',
    run: async (args, signal) => {
      const ms = numberOf(args, 'ms')
      if (ms < 0 || ms > MAX_SLEEP_MS) throw new ToolFault('invalid_arguments', `ms must be from 0 to ${MAX_SLEEP_MS}`)
      await pause(ms, signal)
      return `slept ${ms} ms`
    },
  },
}

class ToolFault extends Error {
  readonly code: string

  constructor(code: string, message: string) {
    super(message)
    this.code = code
  }
}

/** Runs a tool. What goes wrong in it is an answer, as a model would see it; only an interrupt is thrown. */
export async function runTool(name: string, args: unknown, signal: AbortSignal): Promise<ToolAnswer> {
  const tool = Object.hasOwn(tools, name) ? tools[name] : undefined
  try {
    if (tool === undefined) throw new ToolFault('tool_not_found', `There is no tool ${name}`)
    if (typeof args !== 'object' || args === null || Array.isArray(args)) {
      throw new ToolFault('invalid_arguments', 'The arguments must be a JSON object')
    }
    return { result: await tool.run(args as Record<string, unknown>, signal), isError: false }
  } catch (error) {
    if (!(error instanceof ToolFault)) throw error
    return { result: JSON.stringify({ error: error.code, message: error.message }), isError: true }
  }
}

function numberOf(args: Record<string, unknown>, key: string): number {
  const value = args[key]
  if (typeof value !== 'number' || !Number.isFinite(value)) {
    throw new ToolFault('invalid_arguments', `${key} must be a number`)
  }
  return value
}
