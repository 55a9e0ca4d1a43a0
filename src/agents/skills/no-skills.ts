import { SkillNotFoundError } from '../../core/errors.ts'
import type { SkillCatalog } from './skill.ts'

/** The catalog of a server that has no skills. */
export const noSkills: SkillCatalog = {
  list: async () => [],
  render: async (id, path) => {
    throw new SkillNotFoundError(id, path)
  },
}
