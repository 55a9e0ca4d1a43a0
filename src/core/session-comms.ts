import type { CommsCommand, CommsReceipt, Peer } from './comms.ts'
import { InboxClosedError, InvalidParamsError, PeerNotFoundError } from './errors.ts'
import type { SessionRegistry } from './session-registry.ts'
import type { SessionTask } from './session-task.ts'

const SENDABLE = ['peer_message', 'peer_request', 'peer_response']

/** Who can be sent to, from one session. */
export function peersOf(registry: SessionRegistry, session: SessionTask): Peer[] {
  return registry
    .named()
    .filter((other) => other !== session)
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

/** Puts what one session sends into the inbox that it is for. */
export function sendFrom(registry: SessionRegistry, session: SessionTask, command: CommsCommand): CommsReceipt {
  // Its name may be another's by now.
  if (session.isOver) throw new InboxClosedError(session.id)
  if (command.kind === 'input') {
    if (command.allow_self_session !== true) {
      throw new InvalidParamsError('/allow_self_session', 'has to be true where a session is given input of its own')
    }
    const isReserved = command.stream === 'reserve_interaction'
    const { id } = session.inject({ kind: 'event', source: command.source ?? 'rpc', body: command.body }, isReserved)
    return { kind: 'input_accepted', interaction_id: id, stream_reserved: isReserved }
  }
  const source = session.metadata.comms_name
  if (source === undefined) {
    throw new InvalidParamsError('/kind', 'must be input: a session without a comms_name has no peers')
  }
  const peer = registry.getNamed(command.to)
  if (peer === undefined || peer === session) throw new PeerNotFoundError(command.to)
  switch (command.kind) {
    case 'peer_message': {
      const { id } = peer.inject({ kind: 'message', source, body: command.body ?? '' }, false)
      return { kind: 'peer_message_sent', envelope_id: id, acked: false }
    }
    case 'peer_request': {
      const { intent, params = null } = command
      const isReserved = command.stream === 'reserve_interaction'
      const { id } = peer.inject({ kind: 'request', source, intent, params }, isReserved)
      return { kind: 'peer_request_sent', envelope_id: id, interaction_id: id, stream_reserved: isReserved }
    }
    case 'peer_response': {
      const { in_reply_to, status = 'completed', result = null } = command
      const { id } = peer.inject({ kind: 'response', source, inReplyTo: in_reply_to, status, result }, false)
      return { kind: 'peer_response_sent', envelope_id: id, in_reply_to }
    }
  }
}
