import { expect } from 'vitest'
import type { SessionAgentBuilder } from '../../src/core/agent.ts'
import type { Usage } from './contract.ts'
import type { Client } from './http.ts'

export interface Report {
  groups: {
    key: string | null
    turns: number
    tokens: Usage
    tool_calls: number
    model_calls: number
    duration_ms: number
  }[]
  from: string
  to: string
  group_by: string
  complete: boolean
}

/** Reports two calls and a tool, and fails or goes on as it is told. */
export const spender: SessionAgentBuilder = {
  name: 'spender',
  buildAgent: () => ({
    async *run({ prompt }) {
      const usage = { input_tokens: 10, output_tokens: 5, total_tokens: 15 }
      yield { type: 'tool_call_requested', id: 'c', name: 't', args: {} }
      yield { type: 'tool_execution_completed', id: 'c', name: 't', result: '', is_error: false, duration_ms: 1 }
      yield { type: 'turn_completed', stop_reason: 'tool_use', usage }
      if (prompt === 'fail') throw new Error('as it was told')
      yield { type: 'text_delta', delta: 'done' }
      yield { type: 'turn_completed', stop_reason: 'end_turn', usage }
      return {}
    },
  }),
}

export async function reportOf(api: Client, query = ''): Promise<Report> {
  const { status, body } = await api.get<Report>(`/usage${query}`)
  expect(status).toBe(200)
  return body
}
