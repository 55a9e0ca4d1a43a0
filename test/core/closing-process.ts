/**
 * A process of its own: sessions that are idle, interrupted, archived and drained, with deadlines of ten minutes, then a
 * service that is closed. It says how the turns ended, and ends when nothing keeps it alive any more.
 */
import { EventEmitter, once } from 'node:events'
import type { SessionAgentBuilder } from '../../src/core/agent.ts'
import { EphemeralSessionService } from '../../src/core/ephemeral-session-service.ts'
import { MemorySessionStore } from '../../src/stores/memory/memory-session-store.ts'

const LONG_MS = 600_000
const word = new EventEmitter()

const agent: SessionAgentBuilder = {
  name: 'waits',
  buildAgent: () => ({
    async *run({ prompt }, { signal }) {
      if (prompt === 'interrupt') await once(signal, 'abort')
      if (prompt === 'drain') await once(word, 'go on')
      return undefined
    },
  }),
}

const service = new EphemeralSessionService({
  store: new MemorySessionStore({ events: 100, bytes: 100_000 }),
  agents: [agent],
  defaultAgent: 'waits',
  maxSessions: 10,
  maxActiveTurns: 10,
  maxQueuedTurns: 1,
  archiveDrainMs: LONG_MS,
})

async function begin(prompt: string): Promise<string> {
  const { sessionId } = await service.createSession({ prompt })
  return sessionId
}

const idle = await begin('answer')
await service.turnEnded(idle, 1)
const interrupted = await begin('interrupt')
const archived = await begin('drain')
const live = await begin('drain')
// One who waits for a session that never comes, and one who gave up waiting.
void service.waitSessionRegistered('nobody')
const caller = new AbortController()
const waiting = service.turnEnded(live, 1, caller.signal).catch(() => {})
caller.abort()
await waiting
service.interrupt(interrupted)
service.archive(archived)
const closing = service.close({ drainMs: LONG_MS })
word.emit('go on')
await closing

const ends = [idle, interrupted, archived, live].map((id) => service.turn(id, 1).status)
process.stdout.write(`${ends.join(' ')}\n`)
