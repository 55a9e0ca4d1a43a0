import type { FastifyInstance } from 'fastify'

export interface Route {
  method: string
  /** As it was declared: `/sessions/:session_id`. */
  path: string
}

/** Every route that a server answers to, read from its router, so that none can be forgotten. */
export function routesOf(app: FastifyInstance): Route[] {
  const routes: Route[] = []
  const parents: string[] = []
  for (const line of app.printRoutes({ commonPrefix: false }).split('\n')) {
    const [, indent = '', segment = '', methods] = /^([\s│]*)[├└]── (\S*)(?: \(([A-Z, ]+)\))?$/.exec(line) ?? []
    if (segment === '') continue
    const depth = indent.length / 4
    const parent = depth === 0 ? '' : (parents[depth - 1] as string)
    // The root has no segment of its own, so that its children begin where it does.
    const slash = segment === '*' && !parent.endsWith('/') ? '/' : ''
    const path = parent === '/' ? `/${segment}` : parent + slash + segment
    parents[depth] = path
    for (const method of methods?.split(', ') ?? []) routes.push({ method, path })
  }
  return routes
}

/** A path that the route matches. */
export function urlOf({ path }: Route, sessionId: string): string {
  return path.replace(':session_id', sessionId).replace(':turn', '1').replace('*', 'static/swagger-ui.css')
}
