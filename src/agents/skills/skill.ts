/** Instructions that a session or a turn may be given: a folder with a `SKILL.md`. */
export interface Skill {
  /** Path below the skills folder, with slashes: `collection/name`. */
  readonly id: string
  readonly name: string
  readonly description: string
}

/** The skills of this server. */
export interface SkillCatalog {
  list(): Promise<readonly Skill[]>
  /**
   * `<skill id="…">body</skill>`, with closing tags in the body escaped. Throws a `SkillNotFoundError`, whose path is
   * `path`, or a `SkillResolutionError` for one that cannot be used.
   */
  render(id: string, path: string): Promise<string>
}
