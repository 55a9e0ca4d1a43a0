import { readdir, readFile } from 'node:fs/promises'
import { extname } from 'node:path'
import helmet from '@fastify/helmet'
import type { FastifyPluginAsync } from 'fastify'

const TYPES: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.svg': 'image/svg+xml',
}

const POLICY = {
  strictTransportSecurity: false,
  contentSecurityPolicy: {
    useDefaults: false,
    directives: {
      defaultSrc: ["'none'"],
      scriptSrc: ["'self'"],
      styleSrc: ["'self'"],
      connectSrc: ["'self'"],
      imgSrc: ["'self'", 'data:'],
      baseUri: ["'none'"],
      formAction: ["'none'"],
      frameAncestors: ["'none'"],
    },
  },
}

export interface PlaygroundOptions {
  /** Folder of the page's files. */
  playground: URL
}

/** The page at /playground: a few files, each read when it is first asked for. It holds nothing secret and asks for the key itself. */
export const playgroundRoutes: FastifyPluginAsync<PlaygroundOptions> = async (app, { playground }) => {
  // Here alone: on every answer of the API it would cost more than a short turn does, and browsers do not render those.
  await app.register(helmet, POLICY)
  const open = { schema: { hide: true }, config: { public: true } }
  app.get('/', open, async (_, reply) => reply.redirect('/playground', 302))
  for (const name of await readdir(playground)) {
    const type = TYPES[extname(name)]
    if (type === undefined) continue
    let content: Promise<Buffer> | undefined
    const url = name === 'index.html' ? '/playground' : `/playground/${name}`
    app.get(url, open, async (_, reply) => {
      content ??= readFile(new URL(name, playground))
      return reply
        .type(type)
        .header('cache-control', 'no-cache')
        .send(await content)
    })
  }
}
