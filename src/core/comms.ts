import { type Static, Type } from '@sinclair/typebox'
import { StringEnum } from './string-enum.ts'
import { PeerMeta } from './transcript.ts'
import { Uuid } from './uuid.ts'

/** Sessions that have a `comms_name` reach one another by it, wherever their callers are. */

const closed = { additionalProperties: false }
const kind = <T extends string>(value: T) => Type.Literal(value, { description: 'Which kind it is' })
const to = Type.String({ minLength: 1, maxLength: 128, description: 'The name of a peer, as GET …/peers has it' })
const id = (description: string) => Type.String({ format: 'uuid', description })
const stream = Type.Optional(
  StringEnum(
    ['none', 'reserve_interaction'],
    'reserve_interaction gives it a run of its own in host mode, for those who follow its events; none is the default',
    'StreamReservation',
  ),
)

/** Longest name that a session may have among its peers, in characters. */
export const COMMS_NAME_MAX = 128

export const Peer = Type.Object(
  {
    name: Type.String({ description: 'What `to` names' }),
    peer_id: id('Its session'),
    address: Type.String({ description: 'inproc://<name>' }),
    source: Type.Literal('inproc', { description: 'How it is known: it lives in the same process' }),
    sendable_kinds: Type.Array(Type.String(), { description: 'What it can be sent' }),
    capabilities: Type.Record(Type.String(), Type.Unknown(), { description: 'What it can do; nothing so far' }),
    meta: PeerMeta,
  },
  { title: 'Peer', description: 'Another session that can be sent to', ...closed },
)
export type Peer = Static<typeof Peer>

const commands = [
  Type.Object(
    {
      kind: kind('input'),
      body: Type.String({ description: 'Text for this session itself' }),
      source: Type.Optional(
        StringEnum(['rpc', 'tcp', 'uds', 'stdin', 'webhook'], 'How it came in; rpc is the default', 'InputSource'),
      ),
      stream,
      allow_self_session: Type.Optional(
        Type.Boolean({ description: 'Has to be true: the session hears this as if somebody else had said it' }),
      ),
    },
    { title: 'CommsInput', description: 'Text for the session itself', ...closed },
  ),
  Type.Object(
    { kind: kind('peer_message'), to, body: Type.Optional(Type.String({ description: 'What it says' })) },
    { title: 'CommsPeerMessage', description: 'Tells a peer something; "dismiss" ends its host mode', ...closed },
  ),
  Type.Object(
    {
      kind: kind('peer_request'),
      to,
      intent: Type.String({ minLength: 1, description: 'What is asked for' }),
      params: Type.Optional(Type.Unknown({ description: 'Any JSON' })),
      stream,
    },
    { title: 'CommsPeerRequest', description: 'Asks a peer for something', ...closed },
  ),
  Type.Object(
    {
      kind: kind('peer_response'),
      to,
      in_reply_to: Uuid('The request that this answers'),
      status: Type.Optional(
        StringEnum(['completed', 'accepted', 'failed'], 'How far it is; completed is the default', 'ResponseStatus'),
      ),
      result: Type.Optional(Type.Unknown({ description: 'Any JSON' })),
    },
    { title: 'CommsPeerResponse', description: "Answers a peer's request", ...closed },
  ),
] as const

export const CommsCommand = Type.Union([...commands], {
  title: 'CommsCommand',
  description: 'Something to be sent, told apart by `kind`',
})
export type CommsCommand = Static<typeof CommsCommand>

const reserved = Type.Boolean({ description: 'A stream was asked for with `stream`' })
const envelope = id('What was sent: an interaction of the peer, under this id')

const receipts = [
  Type.Object(
    { kind: kind('input_accepted'), interaction_id: id('The interaction'), stream_reserved: reserved },
    { title: 'InputAccepted', description: 'It waits in the inbox', ...closed },
  ),
  Type.Object(
    {
      kind: kind('peer_message_sent'),
      envelope_id: envelope,
      acked: Type.Literal(false, { description: 'Peers do not acknowledge' }),
    },
    { title: 'PeerMessageSent', description: "It waits in the peer's inbox", ...closed },
  ),
  Type.Object(
    {
      kind: kind('peer_request_sent'),
      envelope_id: envelope,
      interaction_id: id("The interaction, in the peer's session"),
      stream_reserved: reserved,
    },
    { title: 'PeerRequestSent', description: "It waits in the peer's inbox; answers name its id", ...closed },
  ),
  Type.Object(
    { kind: kind('peer_response_sent'), envelope_id: envelope, in_reply_to: id('The request that was answered') },
    { title: 'PeerResponseSent', description: "It waits in the peer's inbox", ...closed },
  ),
] as const

export const CommsReceipt = Type.Union([...receipts], {
  title: 'CommsReceipt',
  description: 'What became of it, told apart by `kind`',
})
export type CommsReceipt = Static<typeof CommsReceipt>
