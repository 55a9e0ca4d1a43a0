import Fastify, { type FastifyInstance, type FastifyPluginAsync, type FastifyReply, type FastifyRequest } from 'fastify'
import { forReaders } from './openapi-document.ts'

/** Of the connection, not of the page. */
const HOP_HEADERS = ['connection', 'date', 'keep-alive', 'transfer-encoding']

/**
 * The pages at /docs, open to everyone: like the playground they hold nothing secret. They are an application of their
 * own, made for the first request, because most servers never show them and they would cost a good part of the start.
 */
export const reference: FastifyPluginAsync = async (app) => {
  let pages: Promise<FastifyInstance> | undefined
  app.addHook('onClose', async () => (await pages)?.close())
  const answer = async (request: FastifyRequest, reply: FastifyReply) => {
    pages ??= createPages(app)
    const { url, headers } = request.raw
    const page = await (await pages).inject({ method: 'GET', url: url ?? '', headers: conditions(headers) })
    if (page.statusCode === 404) return reply.callNotFound()
    for (const [name, value] of Object.entries(page.headers)) {
      if (value !== undefined && !HOP_HEADERS.includes(name)) reply.header(name, value)
    }
    return reply.code(page.statusCode).send(page.rawPayload)
  }
  for (const url of ['/docs', '/docs/*']) app.get(url, { schema: { hide: true }, config: { public: true } }, answer)
}

function conditions(headers: FastifyRequest['headers']): Record<string, string> {
  const names = ['if-none-match', 'if-modified-since', 'accept-encoding'] as const
  return Object.fromEntries(
    names.flatMap((name) => (headers[name] === undefined ? [] : [[name, String(headers[name])]])),
  )
}

async function createPages(server: FastifyInstance): Promise<FastifyInstance> {
  const [{ default: swagger }, { default: swaggerUi }, { default: helmet }] = await Promise.all([
    import('@fastify/swagger'),
    import('@fastify/swagger-ui'),
    import('@fastify/helmet'),
  ])
  const pages = Fastify({ logger: false })
  // The pages' own policy comes with them.
  await pages.register(helmet, { contentSecurityPolicy: false, strictTransportSecurity: false })
  await pages.register(swagger, {
    mode: 'static',
    specification: { document: forReaders(await server.openapi()) as never },
  })
  await pages.register(swaggerUi, {
    routePrefix: '/docs',
    staticCSP: true,
    // Plain HTTP is how this is mostly reached; asking for HTTPS would leave the page without its scripts.
    transformStaticCSP: (header) => header.replace('upgrade-insecure-requests;', ''),
    uiConfig: { tryItOutEnabled: true, displayRequestDuration: true },
  })
  await pages.ready()
  return pages
}
