import { type FileHandle, open } from 'node:fs/promises'
import { dirname } from 'node:path'

/**
 * Makes commits last through a loss of power, away from the event loop: SQLite alone would have the whole server wait for
 * the disk at every commit. A commit is in the log before it is synced, and nobody is told of it before that.
 */
export class WriteAheadLog {
  readonly #path: string
  #file: Promise<FileHandle> | undefined
  /** After a sync that failed nobody knows what is on the disk: nothing more is promised. */
  #failure: unknown

  constructor(path: string) {
    this.#path = path
  }

  /** Resolves once everything that was committed before is on the disk. */
  async sync(): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure
    try {
      this.#file ??= this.#open()
      await (await this.#file).datasync()
    } catch (error) {
      this.#failure = error
      throw error
    }
  }

  async close(): Promise<void> {
    await (await this.#file?.catch(() => undefined))?.close()
  }

  /** The file is there from the first commit on; that it is there has to last as well. */
  async #open(): Promise<FileHandle> {
    const folder = await open(dirname(this.#path), 'r')
    try {
      await folder.sync()
    } finally {
      await folder.close()
    }
    return open(`${this.#path}-wal`, 'r')
  }
}
