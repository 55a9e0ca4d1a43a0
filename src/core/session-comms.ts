import type { CommsCommand, CommsReceipt, Peer } from './comms.ts'
import { InboxClosedError, InvalidParamsError, PeerNotFoundError } from './errors.ts'
import type { Incoming } from './interaction.ts'
import type { SessionRegistry } from './session-registry.ts'
import type { SessionTask } from './session-task.ts'
import type { SessionMetadata } from './transcript.ts'

const SENDABLE = ['peer_message', 'peer_request', 'peer_response']

/** Who can be sent to, from one session; `named` are all that have a name. */
export function peersOf(named: readonly { id: string; metadata: SessionMetadata }[], sessionId: string): Peer[] {
  return named
    .filter(({ id }) => id !== sessionId)
    .map(({ id, metadata }) => ({
      name: metadata.comms_name as string,
      peer_id: id,
      address: `inproc://${metadata.comms_name}`,
      source: 'inproc',
      sendable_kinds: [...SENDABLE],
      capabilities: {},
      meta: metadata.peer_meta ?? {},
    }))
}

/** Where something that a session sends goes, as what, and what its sender is told. */
export interface Routed {
  /** The name of a peer; nothing for the session itself. */
  readonly to: string | undefined
  readonly incoming: Incoming
  readonly isSubscribed: boolean
  receipt(interactionId: string): CommsReceipt
}

/** Throws an `InvalidParamsError` for what a session of that name may not send. */
export function routed(command: CommsCommand, source: string | undefined): Routed {
  if (command.kind === 'input') {
    if (command.allow_self_session !== true) {
      throw new InvalidParamsError('/allow_self_session', 'has to be true where a session is given input of its own')
    }
    const stream_reserved = command.stream === 'reserve_interaction'
    return {
      to: undefined,
      incoming: { kind: 'event', source: command.source ?? 'rpc', body: command.body },
      isSubscribed: stream_reserved,
      receipt: (id) => ({ kind: 'input_accepted', interaction_id: id, stream_reserved }),
    }
  }
  if (source === undefined) {
    throw new InvalidParamsError('/kind', 'must be input: a session without a comms_name has no peers')
  }
  const { to } = command
  switch (command.kind) {
    case 'peer_message':
      return {
        to,
        incoming: { kind: 'message', source, body: command.body ?? '' },
        isSubscribed: false,
        receipt: (id) => ({ kind: 'peer_message_sent', envelope_id: id, acked: false }),
      }
    case 'peer_request': {
      const { intent, params = null } = command
      const stream_reserved = command.stream === 'reserve_interaction'
      return {
        to,
        incoming: { kind: 'request', source, intent, params },
        isSubscribed: stream_reserved,
        receipt: (id) => ({ kind: 'peer_request_sent', envelope_id: id, interaction_id: id, stream_reserved }),
      }
    }
    case 'peer_response': {
      const { in_reply_to, status = 'completed', result = null } = command
      return {
        to,
        incoming: { kind: 'response', source, inReplyTo: in_reply_to, status, result },
        isSubscribed: false,
        receipt: (id) => ({ kind: 'peer_response_sent', envelope_id: id, in_reply_to }),
      }
    }
  }
}

/** Puts what one session sends into the inbox that it is for. */
export function sendFrom(registry: SessionRegistry, session: SessionTask, command: CommsCommand): CommsReceipt {
  // Its name may be another's by now.
  if (session.isOver) throw new InboxClosedError(session.id)
  const { to, incoming, isSubscribed, receipt } = routed(command, session.metadata.comms_name)
  const target = to === undefined ? session : registry.getNamed(to)
  if (target === undefined || (target === session && to !== undefined)) throw new PeerNotFoundError(to as string)
  return receipt(target.inject(incoming, isSubscribed).id)
}
