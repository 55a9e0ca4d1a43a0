import { readdir, realpath, stat } from 'node:fs/promises'
import path from 'node:path'
import { SkillNotFoundError, SkillResolutionError } from '../../core/errors.ts'
import type { Skill, SkillCatalog } from './skill.ts'
import { readSkillFile, type SkillFile, SkillFileError } from './skill-file.ts'

const FILE = 'SKILL.md'
const SEGMENT = /^[a-z0-9-]+$/
/** Folders below one another; deeper ones are not looked into. */
const MAX_DEPTH = 8
const ABSENT = ['ENOENT', 'ENOTDIR', 'ELOOP', 'ENAMETOOLONG']

/**
 * The skills in a folder: `<dir>/<collection…>/<name>/SKILL.md`, in the open format. Ids are paths of `a-z`, `0-9` and `-`;
 * other folders, and what symbolic links bring in from outside, are no skills. The folder is looked at again for every
 * answer, so what is put into it is there at once; files are read again when they changed. A folder that is missing is
 * empty.
 */
export function openSkills(dir: string): SkillCatalog {
  return new SkillFolder(dir)
}

interface Known {
  readonly stamp: string
  /** Undefined for a file that cannot be used. */
  readonly skill: Skill | undefined
}

class SkillFolder implements SkillCatalog {
  readonly #dir: string
  /** By id, as of the last listing. */
  #known = new Map<string, Known>()

  constructor(dir: string) {
    this.#dir = path.resolve(dir)
  }

  async list(): Promise<readonly Skill[]> {
    const known = new Map<string, Known>()
    const root = await realpath(this.#dir).catch(() => undefined)
    if (root !== undefined) await this.#walk(root, root, [], known)
    this.#known = known
    return [...known.values()]
      .flatMap(({ skill }) => (skill === undefined ? [] : [skill]))
      .sort((a, b) => (a.id < b.id ? -1 : 1))
  }

  async render(id: string, path: string): Promise<string> {
    const { body } = await this.#read(id, path)
    return `<skill id="${id}">${body.replace(/<(\s*)\/(\s*skill)/gi, '<$1\\/$2')}</skill>`
  }

  async #read(id: string, pointer: string): Promise<SkillFile> {
    const segments = id.split('/')
    if (!segments.every((segment) => SEGMENT.test(segment))) throw new SkillNotFoundError(id, pointer)
    try {
      const root = await realpath(this.#dir)
      const file = await realpath(path.join(root, ...segments, FILE))
      if (!isWithin(root, file)) throw new SkillNotFoundError(id, pointer)
      return await readSkillFile(file)
    } catch (error) {
      if (error instanceof SkillNotFoundError) throw error
      if (ABSENT.includes(String((error as NodeJS.ErrnoException).code))) throw new SkillNotFoundError(id, pointer)
      const message = `names the skill ${id}, which ${error instanceof SkillFileError ? error.message : 'cannot be read'}`
      throw new SkillResolutionError(
        `${pointer} ${message}`,
        { errors: [{ path: pointer, message }] },
        { cause: error },
      )
    }
  }

  /** `folder` is a real path; so are those of `above`, the folders that it stands in, which a link may lead back to. */
  async #walk(root: string, folder: string, segments: string[], known: Map<string, Known>, above: string[] = []) {
    const entries = await readdir(folder, { withFileTypes: true }).catch(() => [])
    for (const entry of entries) {
      if (entry.name === FILE && segments.length > 0) await this.#add(root, folder, segments.join('/'), known)
      if (!SEGMENT.test(entry.name) || segments.length >= MAX_DEPTH) continue
      if (!entry.isDirectory() && !entry.isSymbolicLink()) continue
      const target = await realpath(path.join(folder, entry.name)).catch(() => root)
      const isNew = isWithin(root, target) && target !== folder && !above.includes(target)
      if (isNew) await this.#walk(root, target, [...segments, entry.name], known, [...above, folder])
    }
  }

  async #add(root: string, folder: string, id: string, known: Map<string, Known>): Promise<void> {
    try {
      const file = await realpath(path.join(folder, FILE))
      if (!isWithin(root, file)) return
      const { mtimeMs, ctimeMs, size, ino } = await stat(file)
      const stamp = [file, mtimeMs, ctimeMs, size, ino].join()
      const last = this.#known.get(id)
      known.set(id, last?.stamp === stamp ? last : { stamp, skill: await skillOf(file, id) })
    } catch {
      // Gone, or not for us to read: not a skill now, and looked at again with the next listing.
    }
  }
}

async function skillOf(file: string, id: string): Promise<Skill | undefined> {
  try {
    const { name = id.slice(id.lastIndexOf('/') + 1), description } = await readSkillFile(file)
    return { id, name, description }
  } catch (error) {
    if (error instanceof SkillFileError) return undefined
    throw error
  }
}

function isWithin(root: string, target: string): boolean {
  const way = path.relative(root, target)
  return way !== '' && way !== '..' && !way.startsWith(`..${path.sep}`) && !path.isAbsolute(way)
}
