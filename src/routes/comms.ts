import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Type } from '@sinclair/typebox'
import type { FastifyRequest } from 'fastify'
import { CommsCommand, CommsReceipt, Peer } from '../core/comms.ts'
import { InvalidParamsError } from '../core/errors.ts'
import { json, SessionParams } from './schemas.ts'

const Peers = Type.Object(
  { peers: Type.Array(Peer, { description: 'Oldest first' }) },
  { title: 'Peers', description: 'Who this session can send to' },
)

/** What a command must look like, by its kind. */
const commands = new Map<unknown, (typeof CommsCommand.anyOf)[number]>(
  CommsCommand.anyOf.map((variant) => [variant.properties.kind.const, variant]),
)

/** Judges a command by its kind alone: the complaints of the other kinds would hide what is wrong. */
async function refuseOddCommand(request: FastifyRequest): Promise<void> {
  const { body } = request
  if (typeof body !== 'object' || body === null || Array.isArray(body)) {
    throw new InvalidParamsError('', 'must be an object')
  }
  const variant = commands.get((body as { kind?: unknown }).kind)
  if (variant === undefined) throw new InvalidParamsError('/kind', `must be one of ${[...commands.keys()].join(', ')}`)
  const validate = request.compileValidationSchema(variant)
  if (!validate(body)) throw Object.assign(new Error('The command is wrong'), { validation: validate.errors })
}

/** What sessions say to one another. */
export const commsRoutes: FastifyPluginAsyncTypebox = async (app) => {
  app.get(
    '/sessions/:session_id/peers',
    {
      schema: {
        operationId: 'listPeers',
        tags: ['interactions'],
        summary: 'List the peers that this session can reach',
        description: 'Every other session with a comms_name that is not archived.',
        params: SessionParams,
        response: { 200: json(Peers, 'The peers') },
      },
      config: { problems: ['SESSION_NOT_FOUND'] },
    },
    async ({ params }) => ({ peers: await app.sessions.peers(params.session_id) }),
  )

  app.post(
    '/sessions/:session_id/comms',
    {
      preValidation: refuseOddCommand,
      schema: {
        operationId: 'sendComms',
        tags: ['interactions'],
        summary: 'Send to a peer, or give the session input of its own',
        description:
          'In the name of the session, which needs a comms_name for anything but input. It waits in the inbox of whoever it is for.',
        params: SessionParams,
        body: CommsCommand,
        response: { 200: json(CommsReceipt, 'It is in the inbox') },
      },
      config: { problems: ['SESSION_NOT_FOUND', 'PEER_NOT_FOUND', 'INBOX_CLOSED', 'INBOX_FULL', 'SHUTTING_DOWN'] },
    },
    async ({ params, body }) => app.sessions.send(params.session_id, body),
  )
}
