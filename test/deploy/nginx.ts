import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, writeFileSync } from 'node:fs'
import net, { type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { RawSocket, until } from '../helpers/http.ts'
import { pathOf } from '../helpers/programs.ts'
import { NGINX_CONF } from './nginx-config.ts'

const NGINX = pathOf('nginx') ?? ''

/** Ends nginx and removes its folder when its input ends, however this process does. */
const KEEPER = 'folder=$1; shift; "$@" & cat >/dev/null; kill -TERM $!; wait $!; rm -rf "$folder"'

/** The real nginx with deploy/nginx.conf, on a free loopback port. */
export class Nginx {
  readonly url: string
  readonly port: number
  readonly #keeper: ChildProcess

  private constructor(port: number, keeper: ChildProcess) {
    this.url = `http://127.0.0.1:${port}`
    this.port = port
    this.#keeper = keeper
  }

  /**
   * Starts it before nodes that listen on these loopback ports. `replace` changes more of the configuration: each text
   * must be in there.
   */
  static async start(nodePorts: readonly number[], replace: Readonly<Record<string, string>> = {}): Promise<Nginx> {
    const folder = mkdtempSync(join(tmpdir(), 'suricate-nginx-'))
    const port = await freePort()
    writeFileSync(join(folder, 'nginx.conf'), configuration(folder, port, nodePorts, replace))
    // As root, its workers would not be allowed into the folder.
    const globals = `daemon off;${process.getuid?.() === 0 ? ' user root;' : ''}`
    const keeper = spawn(
      'sh',
      ['-c', KEEPER, 'sh', folder, NGINX, '-p', folder, '-c', join(folder, 'nginx.conf'), '-g', globals],
      { detached: true, stdio: ['pipe', 'ignore', 'pipe'] },
    )
    let said = ''
    keeper.stderr?.on('data', (text) => {
      said += text
    })
    const nginx = new Nginx(port, keeper)
    try {
      await until('nginx listens', () => accepts(port))
    } catch (error) {
      await nginx.stop()
      throw new Error(`nginx did not start: ${said}`, { cause: error })
    }
    return nginx
  }

  async stop(): Promise<void> {
    const gone = once(this.#keeper, 'exit')
    this.#keeper.stdin?.end()
    await gone
  }
}

/** The configuration as it is, but for the port, the nodes' addresses and the folder for its files. */
function configuration(
  folder: string,
  port: number,
  nodePorts: readonly number[],
  replace: Readonly<Record<string, string>>,
): string {
  const left = [...nodePorts]
  // An address needs no resolving, and versions before 1.27.3 know no such word.
  let text = NGINX_CONF.replaceAll(' /tmp/', ` ${folder}/`).replace(
    /^ *server node\d+:8080 resolve (.*)\n/gm,
    (_, parameters) => {
      const nodePort = left.shift()
      return nodePort === undefined ? '' : `server 127.0.0.1:${nodePort} ${parameters}\n`
    },
  )
  if (left.length > 0) throw new Error('deploy/nginx.conf has fewer nodes than this test')
  const own = {
    'listen 8080;': `listen 127.0.0.1:${port};`,
    'worker_processes auto;': 'worker_processes 2;',
  }
  for (const [from, to] of Object.entries({ ...own, ...replace })) {
    if (!text.includes(from)) throw new Error(`deploy/nginx.conf has no ${from}`)
    text = text.replace(from, () => to)
  }
  return text
}

async function accepts(port: number): Promise<boolean> {
  try {
    const socket = await RawSocket.connect(port)
    socket.destroy()
    return true
  } catch {
    return false
  }
}

/** A loopback port on which nobody listens. */
export async function freePort(): Promise<number> {
  const server = net.createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}
