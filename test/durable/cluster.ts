import type { ChildProcess } from 'node:child_process'
import { afterAll, beforeAll, onTestFinished } from 'vitest'
import type { AppParts } from '../../src/app.ts'
import { type Answer, type Client, client, until, within } from '../helpers/http.ts'
import { newDatabase } from '../helpers/postgres.ts'
import { startServer, type TestServer } from '../helpers/server.ts'
import { patience } from '../helpers/slowness.ts'
import { type EventStream, type Frame, type OpenStream, openStream } from '../helpers/sse.ts'
import { type ChildOptions, type Served, serve } from '../process/child.ts'
import { BrokenPath } from './broken-path.ts'

/** `CLUSTER_NODES=1` runs the same tests with fewer processes: what fails then, too, has nothing to do with a cluster. */
const PROCESSES = process.env.CLUSTER_NODES === undefined ? Number.POSITIVE_INFINITY : Number(process.env.CLUSTER_NODES)

export type Settings = Record<string, string | number>

export interface ClusterOptions {
  /** Every node reaches the database by a path of its own that a test can break. */
  breakable?: boolean
  /** How the process of each node is started. */
  child?: (index: number) => ChildOptions
  /** Of the test's own context, where tests run at the same time. */
  onFinished?: (end: () => Promise<void>) => void
}

/** Longer than it takes until a lost turn is known to be lost; whoever waits for one is answered by then. */
const ANSWER_MS = patience(20_000)

/** A client to whom no answer is an error that says what it asked for. */
function punctual(api: Client): Client {
  const inTime = <T>(what: string, answer: Promise<Answer<T>>) => within(`the answer to ${what}`, answer, ANSWER_MS)
  return {
    get: (path, headers) => inTime(`GET ${path}`, api.get(path, headers)),
    post: (path, json, headers) => inTime(`POST ${path} ${JSON.stringify(json)}`, api.post(path, json, headers)),
    delete: (path, headers) => inTime(`DELETE ${path}`, api.delete(path, headers)),
    send: (method, path, options) => inTime(`${method} ${path}`, api.send(method, path, options)),
  }
}

/** One server process of a cluster. Its address is another one after each start. */
export class ClusterNode {
  readonly api: Client
  /** Its way to the database, where that can be broken. */
  readonly path: BrokenPath | undefined
  readonly #env: Record<string, string>
  readonly #options: ChildOptions
  readonly #streams: EventStream[] = []
  #server: Served | undefined
  /** Somebody has ended it, or asked it to end. */
  #isEnded = false
  #report: (why: string) => void = () => {}
  /** Resolves, saying why, when its process ends and nobody wanted that; else never. */
  readonly died = new Promise<string>((resolve) => {
    this.#report = resolve
  })

  constructor(env: Record<string, string>, options: ChildOptions, path?: BrokenPath) {
    this.#env = env
    this.#options = options
    this.path = path
    this.api = punctual(client(() => this.url))
  }

  get url(): string {
    return this.server.url
  }

  get child(): ChildProcess {
    return this.server.child
  }

  /** The process that was started last, whether or not it still runs. */
  get server(): Served {
    if (this.#server === undefined) throw new Error('The node has not been started')
    return this.#server
  }

  async start(): Promise<void> {
    const server = await serve(this.#env, this.#options)
    let complaint = ''
    server.child.stderr?.on('data', (text) => {
      complaint += text
    })
    this.#isEnded = false
    this.#server = server
    const { pid } = server.child
    server.exited.then(
      (code) => {
        if (this.#isEnded) return
        this.#report(`node ${pid} ended with ${code}: ${complaint}${server.lines.slice(-5).join('\n')}`)
      },
      () => {},
    )
  }

  /** Starts it for as often as it takes, as a supervisor does: the database may be away. */
  async restart(): Promise<void> {
    await until('the node starts', () =>
      this.start().then(
        () => true,
        () => false,
      ),
    )
  }

  /** Nothing is finished, nobody is told. */
  async kill(): Promise<void> {
    this.#isEnded = true
    this.#server?.child.kill('SIGKILL')
    await this.#server?.exited
  }

  /** It stands still, with all its connections, until `wake`. */
  pause(): void {
    this.child.kill('SIGSTOP')
  }

  wake(): void {
    this.child.kill('SIGCONT')
  }

  /** Asks it to go; resolves with its exit code. */
  drain(): Promise<number | null> {
    this.#isEnded = true
    this.child.kill('SIGTERM')
    return this.server.exited
  }

  /** Opens a stream that is left at the end of the cluster, at the latest. */
  async stream(path: string, options?: OpenStream): Promise<EventStream> {
    const stream = await openStream(this.url + path, options)
    this.#streams.push(stream)
    return stream
  }

  /** Leaves nothing behind. */
  async end(): Promise<void> {
    for (const stream of this.#streams) stream.leave()
    // A process that stands still dies of it, too.
    await this.kill()
    this.path?.close()
  }
}

export interface Cluster {
  readonly nodes: readonly ClusterNode[]
  end(): Promise<void>
}

/** `count` server processes over one new database, which run until `end`. */
export async function startCluster(
  count: number,
  settings: Settings = {},
  { breakable = false, child = () => ({}) }: ClusterOptions = {},
): Promise<Cluster> {
  const url = await newDatabase()
  const started: ClusterNode[] = []
  const end = async () => {
    await Promise.all(started.map((node) => node.end()))
  }
  try {
    for (let index = 0; index < Math.min(count, PROCESSES); index++) {
      const path = breakable ? await BrokenPath.open(url) : undefined
      const all: Settings = { STORE_URL: path?.url ?? url, DRAIN_MS: 1_000, ...settings }
      const env = Object.fromEntries(Object.entries(all).map(([name, value]) => [name, String(value)]))
      const node = new ClusterNode(env, child(index), path)
      started.push(node)
      await node.start()
    }
  } catch (error) {
    await end()
    throw error
  }
  return { nodes: Array.from({ length: count }, (_, i) => started[i % started.length] as ClusterNode), end }
}

type Nodes<N extends number, T> = N extends 2 ? [T, T] : [T, T, T]

/** A node as its clients see it. */
export type Reachable = Pick<ClusterNode, 'api' | 'url' | 'stream'>

/** Servers of this process that share a database, for all tests of a file; asks for them at every use. */
export function useCluster<N extends 2 | 3>(count: N, settings: Settings = {}, parts: AppParts = {}) {
  const servers: TestServer[] = []
  const streams: EventStream[] = []
  beforeAll(async () => {
    const url = await newDatabase()
    for (let i = 0; i < count; i++) {
      servers.push(await startServer({ STORE_URL: url, DRAIN_MS: 1_000, ...settings }, parts))
    }
  })
  afterAll(async () => {
    for (const stream of streams) stream.leave()
    await Promise.all(servers.map((server) => server.close()))
  })
  return () =>
    servers.map(
      (server): Reachable => ({
        url: server.url,
        api: punctual(client(() => server.url)),
        stream: async (path, options) => {
          const stream = await openStream(server.url + path, options)
          streams.push(stream)
          return stream
        },
      }),
    ) as Nodes<N, Reachable>
}

/** A cluster of its own for one test. */
export async function ownCluster<N extends 2 | 3>(count: N, settings: Settings = {}, options: ClusterOptions = {}) {
  const cluster = await startCluster(count, settings, options)
  const { onFinished = onTestFinished } = options
  onFinished(() => cluster.end())
  return [...cluster.nodes] as Nodes<N, ClusterNode>
}

/** All events of a session, up to the end of that turn. */
export async function logOf(node: ClusterNode, id: string, turn: number): Promise<Frame[]> {
  const stream = await openStream(`${node.url}/sessions/${id}/events?after=0`)
  await stream.upTo(({ json }) => json.type === 'run_completed' && json.turn === turn)
  stream.leave()
  return stream.frames.filter(({ json }) => json.seq !== undefined)
}
