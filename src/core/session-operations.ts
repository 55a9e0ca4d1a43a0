import type { Approval } from './agent.ts'
import type { EphemeralSessionService } from './ephemeral-session-service.ts'
import type { Incoming, Interaction } from './interaction.ts'
import type { Journal } from './journal.ts'
import type {
  InjectOptions,
  InjectRequest,
  InteractionHandle,
  InterruptTarget,
  SessionView,
  StartOptions,
  StartTurnRequest,
  TurnHandle,
} from './session-service.ts'
import type { SessionTask } from './session-task.ts'

/** What is done in a session where its turns run. All of it travels as JSON, where that is another server. */
export interface OperationArgs {
  startTurn: { request: StartTurnRequest; options: StartOptions }
  interrupt: { turn?: InterruptTarget }
  approve: { turn: number; callId: string; approval: Approval }
  inject: { request: InjectRequest; options: InjectOptions }
  /** What a peer has sent. */
  deliver: { incoming: Incoming; isSubscribed: boolean }
  archive: { mode: 'drain' | 'cancel' }
  fork: { turn?: number }
}

export interface OperationResults {
  startTurn: TurnHandle
  interrupt: { turn: number }
  approve: undefined
  inject: InteractionHandle
  deliver: string
  archive: undefined
  fork: SessionView
}

export type Operation = keyof OperationArgs

export type Operations = {
  [K in Operation]: (session: SessionTask, args: OperationArgs[K]) => Promise<OperationResults[K]>
}

/** Runs what may start a turn, where there is a place for one. */
export type DuringStart = <T>(start: () => Promise<T>) => Promise<T>

/** Each is answered once it is kept. Only for a session that is this server's. */
export function sessionOperations(
  engine: EphemeralSessionService,
  journal: Journal,
  duringStart: DuringStart,
): Operations {
  const kept = async <T>(result: T, sessionId: string): Promise<T> => {
    await journal.settled(sessionId)
    return result
  }
  const taken = async ({ id }: SessionTask, interaction: Interaction | undefined): Promise<void> => {
    await journal.settled(id)
    if (interaction?.refusal !== undefined) throw interaction.refusal
  }
  return {
    startTurn: async (session, { request, options }) => {
      const { id } = session
      const start = () => engine.startTurn(id, request, options)
      const handle = await (session.isActive ? start() : duringStart(start))
      return kept(handle, id)
    },
    interrupt: async ({ id, queue, turns }, { turn }) => {
      const wasInLine = turn === 'all' ? !queue.isEmpty : turns[(turn ?? 0) - 1]?.status === 'queued'
      const interrupted = engine.interrupt(id, turn)
      // Were it lost, the turn in line would run after all; one that runs is over for its caller at once.
      return wasInLine ? kept(interrupted, id) : interrupted
    },
    approve: async ({ id }, { turn, callId, approval }) => {
      engine.approve(id, turn, callId, approval)
      return undefined
    },
    inject: async (session, { request, options }) => {
      const handle = await engine.inject(session.id, request, options)
      await taken(session, session.inbox?.find(handle.interactionId))
      return handle
    },
    deliver: async (session, { incoming, isSubscribed }) => {
      const interaction = session.inject(incoming, isSubscribed)
      await taken(session, interaction)
      return interaction.id
    },
    archive: async ({ id }, { mode }) => {
      engine.archive(id, mode)
      return kept(undefined, id)
    },
    fork: async ({ id }, { turn }) => {
      const view = await engine.fork(id, turn)
      return kept(view, view.state.session_id)
    },
  }
}
