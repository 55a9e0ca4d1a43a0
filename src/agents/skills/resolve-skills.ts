import { SessionError } from '../../core/errors.ts'
import type { AgentOutput } from '../../core/events.ts'
import type { SkillCatalog } from './skill.ts'

/**
 * The skill that a prompt begins with, `/collection/name`, and the prompt without it. Whether there is such a skill is
 * for the caller to find out: what names none is plain text.
 */
export function inlineSkill(prompt: string): { id: string; rest: string } | undefined {
  const [whole, id] = /^\/([a-z0-9-/]+)(?:\s+|$)/.exec(prompt) ?? []
  if (whole === undefined || id === undefined || id.split('/').includes('')) return undefined
  return { id, rest: prompt.slice(whole.length) }
}

/**
 * Renders skills for a prompt, each once, in the order of `references`. Yields `skill_resolution_failed` for each that
 * fails, then `skills_resolved` for the others, and returns their text, `''` when there is none.
 */
export async function* resolveSkills(
  catalog: SkillCatalog,
  references: readonly string[],
): AsyncGenerator<AgentOutput, string, undefined> {
  const skills: string[] = []
  const blocks: string[] = []
  for (const [index, reference] of [...new Set(references)].entries()) {
    try {
      blocks.push(await catalog.render(reference, `/skill_references/${index}`))
      skills.push(reference)
    } catch (error) {
      yield { type: 'skill_resolution_failed', reference, error: sentence(error) }
    }
  }
  const text = blocks.join('\n\n')
  if (skills.length > 0) yield { type: 'skills_resolved', skills, injection_bytes: Buffer.byteLength(text) }
  return text
}

/** Without the pointer: a reference in the prompt stands in no member of the request. */
function sentence(error: unknown): string {
  if (!(error instanceof SessionError)) return 'the skill could not be read'
  return error.data.errors?.[0]?.message ?? error.message
}
