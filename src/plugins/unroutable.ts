import type { IncomingMessage } from 'node:http'

/** Those that the router knows and routes may have. */
const ROUTABLE = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'TRACE'])
const methods = new WeakMap<IncomingMessage, string>()

/**
 * What the router itself would refuse goes where no route is instead: there it passes all hooks, and is refused in the
 * same form as everything else. The router runs no hook for a path that cannot be decoded, and takes a method that the
 * parser knows and it does not (those of RTSP) for a bug of its own.
 */
export function toRoutable(request: IncomingMessage): string {
  const { method = '', url = '' } = request
  if (!ROUTABLE.has(method)) {
    methods.set(request, method)
    request.method = 'TRACE'
  }
  return isDecodable(url) ? url : '/undecodable'
}

/** The method as the client said it. */
export function methodOf(request: IncomingMessage): string {
  return methods.get(request) ?? request.method ?? ''
}

export function isDecodable(url: string): boolean {
  if (!url.includes('%')) return true
  try {
    decodeURIComponent(url)
    return true
  } catch {
    return false
  }
}
