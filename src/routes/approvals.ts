import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Type } from '@sinclair/typebox'
import { json, TurnParams } from './schemas.ts'

const Answer = {
  approved: Type.Boolean({ description: 'Whether the tool may run' }),
  reason: Type.Optional(Type.String({ maxLength: 2_000, description: 'Why; the model is told, where it is refused' })),
}
const callId = Type.String({ minLength: 1, description: '`id` of the tool call, as tool_approval_requested has it' })

/** Who watches a session allows the tool calls that need it. */
export const approvalRoutes: FastifyPluginAsyncTypebox = async (app) => {
  app.post(
    '/sessions/:session_id/turns/:turn/approvals/:call_id',
    {
      schema: {
        operationId: 'answerApproval',
        tags: ['turns'],
        summary: 'Allow or refuse a tool call that waits for it',
        description:
          'The turn says tool_approval_requested and waits. The first answer counts; a refusal is an error that the ' +
          'model sees, and the turn goes on.',
        params: Type.Object({ ...TurnParams.properties, call_id: callId }),
        body: Type.Object(Answer, { title: 'ApprovalAnswer', description: 'The answer', additionalProperties: false }),
        response: {
          200: json(
            Type.Object(
              { ...TurnParams.properties, call_id: callId, ...Answer },
              { title: 'ApprovalAnswered', description: 'The answer as it was taken' },
            ),
            'The turn goes on',
          ),
        },
      },
      config: { problems: ['SESSION_NOT_FOUND', 'TURN_NOT_FOUND', 'APPROVAL_NOT_FOUND'] },
    },
    async ({ params, body }) => {
      await app.sessions.approve(params.session_id, params.turn, params.call_id, body)
      return { ...params, ...body }
    },
  )
}
