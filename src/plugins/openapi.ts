import type { FastifyInstance, RouteOptions } from 'fastify'
import fp from 'fastify-plugin'
import { type OpenApiDocument, toVersion32 } from './openapi-document.ts'
import { reference } from './reference.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** The OpenAPI document, as served; for a version of the standard. */
    openapi(version?: '3.1' | '3.2'): Promise<OpenApiDocument>
  }
}

/** The document that the routes' schemas make, its pages, and a reference that a person can read and try. */
export const openapi = fp(
  async (app: FastifyInstance, { version }: { version: string }) => {
    const routes: RouteOptions[] = []
    const scopes = new Set<FastifyInstance>()
    app.addHook('onRoute', function (route) {
      if (route.schema === undefined || route.schema.hide || route.method === 'HEAD') return
      routes.push(route)
      scopes.add(this)
    })
    await app.register(reference)

    let document: Promise<OpenApiDocument> | undefined
    app.decorate('openapi', async (wanted: '3.1' | '3.2' = '3.1') => {
      document ??= import('./openapi-generator.ts').then(({ generateDocument }) => {
        const schemas = Object.assign({}, ...[...scopes].map((scope) => scope.getSchemas()))
        return generateDocument(routes, schemas, version)
      })
      return wanted === '3.1' ? document : toVersion32(await document)
    })

    const open = { schema: { hide: true }, config: { public: true } }
    app.get('/openapi.json', open, async () => app.openapi())
    app.get('/openapi-3.2.json', open, async () => app.openapi('3.2'))
    app.get('/openapi.yaml', open, async (_, reply) => {
      const { stringify } = await import('yaml')
      return reply.type('application/yaml; charset=utf-8').send(stringify(await app.openapi()))
    })
  },
  { name: 'openapi', dependencies: ['problems'] },
)
