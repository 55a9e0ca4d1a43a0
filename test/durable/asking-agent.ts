import { setTimeout as sleep } from 'node:timers/promises'
import type { SessionAgentBuilder } from '../../src/core/agent.ts'

/** For servers in a process of their own: an agent that does what its session makes possible, as its prompt says. */
const asking: SessionAgentBuilder = {
  name: 'asking',
  buildAgent: () => ({
    async *run({ prompt }, { approve, comms, signal, takeInjected }) {
      const [what, ...rest] = prompt.split(' ')
      yield { type: 'text_delta', delta: `${what}: ` }
      if (what === 'approve') {
        const call = { id: 'call-1', name: 'rm', args: { path: '/' } }
        yield { type: 'tool_call_requested', ...call }
        const { approved, reason } = await approve({ ...call, timeoutMs: 60_000 })
        const result = reason ?? String(approved)
        yield {
          type: 'tool_execution_completed',
          id: call.id,
          name: call.name,
          result,
          is_error: !approved,
          duration_ms: 0,
        }
        return { text: result }
      }
      if (what === 'listen') {
        for (;;) {
          const injected = takeInjected()
          if (injected !== undefined) return { text: injected }
          await sleep(20, undefined, { signal })
        }
      }
      if (what === 'tell' && comms !== undefined) {
        const [to, body] = rest as [string, string]
        while (!(await comms.peers()).some(({ name }) => name === to)) await sleep(20, undefined, { signal })
        await comms.send({ kind: 'peer_message', to, body })
        return { text: 'told' }
      }
      return { text: prompt }
    },
  }),
}

export default asking
