import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Type } from '@sinclair/typebox'
import { CapabilityUnavailableError } from '../core/errors.ts'
import { json } from './schemas.ts'
import { unavailable } from './unavailable.ts'

const Skill = Type.Object(
  {
    id: Type.String({ description: 'What skill_references and preload_skills call it' }),
    name: Type.String({ description: 'Its name, as its SKILL.md has it' }),
    description: Type.String({ description: 'What it is good for, and when' }),
  },
  { title: 'Skill', description: 'Instructions that a session or a turn may be given' },
)

const Skills = Type.Object(
  { skills: Type.Array(Skill, { description: 'All there are, by id' }) },
  { title: 'Skills', description: 'The skills of this server' },
)

/** The skills of this server. */
export const skillRoutes: FastifyPluginAsyncTypebox = async (app) => {
  app.get(
    '/skills',
    {
      schema: {
        operationId: 'listSkills',
        tags: ['server'],
        summary: 'List the skills that a turn may refer to',
        description: 'The folders with a SKILL.md in SKILLS_DIR, as they are now. 501 on a server without it.',
        response: { 200: json(Skills, 'The skills') },
      },
      config: { problems: ['CAPABILITY_UNAVAILABLE'] },
    },
    async () => {
      if (app.skills === undefined) throw new CapabilityUnavailableError('listSkills', unavailable.skills)
      return { skills: [...(await app.skills.list())] }
    },
  )
}
