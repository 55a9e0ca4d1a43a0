import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Type } from '@sinclair/typebox'
import { count } from '../core/count.ts'
import { InvalidParamsError } from '../core/errors.ts'
import { msOf, time, timeOf } from '../core/time.ts'
import type { UsageQuery } from '../core/usage.ts'
import { json } from './schemas.ts'

const groupBy = {
  pattern: '^(agent|model|label\\..{1,128})$',
  description: 'What turns are told apart by: agent, model or label.<key>',
}

const UsageGroup = Type.Object(
  {
    key: Type.Unsafe<string | null>({
      type: ['string', 'null'],
      description: 'The agent, model or value of the label; null for turns whose session has none',
    }),
    turns: count('Turns that are over: completed, interrupted or failed'),
    tokens: Type.Ref('Usage'),
    tool_calls: count('Tool calls in these turns'),
    model_calls: count('Model calls in these turns'),
    duration_ms: count('How long they ran, all together'),
  },
  { title: 'UsageGroup', description: 'What the turns of one key came to' },
)

const UsageReport = Type.Object(
  {
    groups: Type.Array(UsageGroup, { description: 'Those with the most tokens first, then by key' }),
    from: time('The minute from which turns are counted'),
    to: time('The minute up to which turns are counted'),
    group_by: Type.Unsafe<UsageQuery['groupBy']>({ type: 'string', description: groupBy.description }),
    complete: Type.Boolean({
      description: 'False when turns were asked for that are not counted any more, or not yet',
    }),
  },
  { title: 'UsageReport', description: 'What turns cost' },
)

/** What turns cost, over all sessions. */
export const usageRoutes: FastifyPluginAsyncTypebox = async (app) => {
  app.get(
    '/usage',
    {
      schema: {
        operationId: 'readUsage',
        tags: ['server'],
        summary: 'Tell what turns cost, by agent, model or label',
        description:
          'Counts every turn that is over, by when it ended, also those of sessions that are gone. It is kept in minutes: ' +
          '`from` is rounded down to one and `to` up. In a durable store these are the turns of all servers, for 400 days; ' +
          'in memory those since the server started, and when there is too much of it the oldest goes first. `complete` ' +
          'is false where `from` asks for more than there is.',
        querystring: Type.Object(
          {
            group_by: Type.Unsafe<UsageQuery['groupBy']>({ type: 'string', ...groupBy, default: 'agent' }),
            from: Type.Optional(time('Turns that ended then or later; by default all that are counted')),
            to: Type.Optional(time('Turns that ended before; by default all until now')),
          },
          { additionalProperties: false },
        ),
        response: { 200: json(UsageReport, 'What they cost') },
      },
    },
    async ({ query }) => {
      const from = query.from === undefined ? undefined : msOf('/from', query.from)
      const to = query.to === undefined ? undefined : msOf('/to', query.to)
      if (from !== undefined && to !== undefined && to <= from)
        throw new InvalidParamsError('/to', 'must be after from')
      const report = await app.sessions.usage({ groupBy: query.group_by, from, to })
      return {
        groups: report.groups,
        from: timeOf(report.from),
        to: timeOf(report.to),
        group_by: report.groupBy,
        complete: report.complete,
      }
    },
  )
}
