import { constants } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { parse } from 'yaml'

/** Largest `SKILL.md` that is read, in bytes. */
export const MAX_FILE_BYTES = 1024 * 1024
/** Largest body that is put before a prompt, in bytes. */
export const MAX_BODY_BYTES = 32 * 1024

/** A `SKILL.md`, taken apart. */
export interface SkillFile {
  readonly name?: string
  readonly description: string
  readonly body: string
}

/** A skill's file cannot be used; the message continues "the skill …" and names no path of this machine. */
export class SkillFileError extends Error {}

/**
 * Reads a `SKILL.md`. Throws a `SkillFileError` for one that is too large, no text, or whose front matter is no YAML,
 * and the system's error for one that cannot be opened.
 */
export async function readSkillFile(file: string): Promise<SkillFile> {
  // Whoever opens a pipe without O_NONBLOCK waits for its other end.
  const handle = await open(file, constants.O_RDONLY | constants.O_NONBLOCK)
  try {
    return parseSkill(await textOf(handle))
  } finally {
    await handle.close()
  }
}

/** Front matter between lines of `---` at the very top, then the body; without it all of the text is the body. */
export function parseSkill(text: string): SkillFile {
  const [whole = '', yaml = ''] = /^---[ \t]*\r?\n([\s\S]*?)(?<=\n)---[ \t]*(?:\r?\n|$)/.exec(text) ?? []
  const body = text.slice(whole.length).trim()
  if (Buffer.byteLength(body) > MAX_BODY_BYTES) {
    throw new SkillFileError(`has a body of more than ${MAX_BODY_BYTES / 1024} KiB`)
  }
  const { name, description } = frontMatter(yaml)
  return {
    ...(typeof name === 'string' && name !== '' ? { name } : {}),
    description: typeof description === 'string' ? description.trim() : '',
    body,
  }
}

function frontMatter(yaml: string): { name?: unknown; description?: unknown } {
  let parsed: unknown
  try {
    parsed = parse(yaml, { logLevel: 'error' })
  } catch {
    throw new SkillFileError('has front matter that is no YAML')
  }
  if (parsed === null) return {}
  if (typeof parsed !== 'object' || Array.isArray(parsed)) {
    throw new SkillFileError('has front matter that is no mapping of names to values')
  }
  return parsed
}

async function textOf(handle: FileHandle): Promise<string> {
  const status = await handle.stat()
  if (!status.isFile()) throw new SkillFileError('is no regular file')
  if (status.size > MAX_FILE_BYTES) throw new SkillFileError(`is larger than ${MAX_FILE_BYTES / 1024 / 1024} MiB`)
  const bytes = await handle.readFile()
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    throw new SkillFileError('is not UTF-8 text')
  }
}
