import { readFileSync } from 'node:fs'
import { STATUS_CODES } from 'node:http'
import { describe, expect, onTestFinished, test } from 'vitest'
import { parse } from 'yaml'
import { settings } from '../../src/config.ts'
import { problemStatus } from '../../src/plugins/problems.ts'
import { startServer } from '../helpers/server.ts'
import { byteCount, directives, milliseconds, NGINX_CONF, only, parseNginx } from './nginx-config.ts'

const tree = parseNginx(NGINX_CONF)
const server = (name: string) => only(tree, `http/server/${name}`)
const { services } = parse(readFileSync(new URL('../../docker-compose.yml', import.meta.url), 'utf8')) as {
  services: Record<string, { image: string; stop_grace_period: string }> & { proxy: Proxy }
}
const { proxy } = services
const standard = (name: keyof typeof settings.properties) => settings.properties[name].default as number

interface Proxy {
  image: string
  user: string
  ports: string[]
  volumes: string[]
  tmpfs: string[]
  stop_grace_period: string
}

test('is what the proxy runs, which writes only where it may', () => {
  expect(proxy.volumes).toEqual(['./deploy/nginx.conf:/etc/nginx/nginx.conf:ro'])
  expect(proxy.user).toBe('nginx')
  expect(directives(tree, 'user')).toEqual([])
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((name) => `http/${name}_temp_path`)
  for (const path of ['pid', ...temporary]) expect(only(tree, path)[0], path).toMatch(new RegExp(`^${proxy.tmpfs}/`))
  expect(only(tree, 'error_log')[0]).toBe('stderr')
  expect(server('access_log')).toEqual(['off'])
})

test('leads from the published port to every node, at the port that it serves', () => {
  expect(server('listen')).toEqual([proxy.ports[0]?.split(':').at(-1)])
  const nodes = Object.entries(services).filter(([, { image }]) => image === 'suricate')
  const upstreams = directives(tree, 'http/upstream/server').map(({ args: [address, ...parameters] }) => {
    expect(parameters).toEqual(['resolve', 'max_fails=3', 'fail_timeout=5s'])
    return address
  })
  expect(upstreams).toEqual(nodes.map(([name]) => `${name}:${standard('PORT')}`))
  const [name] = only(tree, 'http/upstream')
  const passes = directives(tree, 'http/server/location/proxy_pass')
  expect(new Set(passes.map(({ args }) => args[0]))).toEqual(new Set([`http://${name}`]))
})

test('holds nothing back, in either direction', () => {
  expect(server('proxy_buffering')).toEqual(['off'])
  expect(server('gzip')).toEqual(['off'])
  expect(server('proxy_http_version')).toEqual(['1.1'])
  const headers = Object.fromEntries(directives(tree, 'http/server/proxy_set_header').map(({ args }) => args))
  expect(headers).toMatchObject({ Connection: '', Host: '$host' })
})

test('repeats nothing but what HTTP allows to be repeated', () => {
  expect(server('proxy_next_upstream')).toEqual(['error', 'timeout', 'http_503'])
})

describe('the times', () => {
  test('let a stream miss several heartbeats, and a turn take an hour', () => {
    const heartbeats = milliseconds(server('proxy_read_timeout')[0]) / standard('STREAM_HEARTBEAT_MS')
    expect(heartbeats).toBeGreaterThanOrEqual(3)
    const waits = directives(tree, 'http/server/location').filter(
      ({ block }) => directives(block, 'proxy_read_timeout')[0],
    )
    expect(waits).toHaveLength(1)
    expect(milliseconds(only(waits[0]?.block ?? [], 'proxy_read_timeout')[0])).toBeGreaterThanOrEqual(3_600_000)
    const [, pattern = ''] = waits[0]?.args ?? []
    const id = '0199d3c0-0000-7000-8000-000000000000'
    const paths = ['/sessions', `/sessions/${id}/turns`, `/sessions/${id}/turns/stream`, `/sessions/${id}/events`]
    expect(paths.map((path) => new RegExp(pattern).test(path))).toEqual([true, true, false, false])
  })

  test('close idle connections before the node does', async () => {
    const { app, close } = await startServer()
    onTestFinished(close)
    const own = milliseconds(only(tree, 'http/upstream/keepalive_timeout')[0])
    expect(own).toBeLessThanOrEqual(app.server.keepAliveTimeout / 2)
  })

  test('for a request to arrive are those of the settings', () => {
    expect(milliseconds(server('client_header_timeout')[0])).toBe(standard('HEADERS_TIMEOUT_MS'))
    expect(milliseconds(server('client_body_timeout')[0])).toBe(standard('REQUEST_TIMEOUT_MS'))
  })

  test('for a stop end before the container is killed', () => {
    const graceMs = milliseconds(proxy.stop_grace_period)
    expect(graceMs).toBeGreaterThan(milliseconds(only(tree, 'worker_shutdown_timeout')[0]))
  })
})

test('takes bodies that are as large as the nodes take them, in memory', () => {
  expect(byteCount(server('client_max_body_size')[0])).toBe(standard('BODY_LIMIT'))
  expect(byteCount(server('client_body_buffer_size')[0])).toBe(standard('BODY_LIMIT'))
  const uploads = directives(tree, 'http/server/location').filter(({ args }) => args.includes('/sessions/import'))
  expect(uploads.map(({ block }) => byteCount(only(block ?? [], 'client_max_body_size')[0]))).toEqual([
    standard('UPLOAD_LIMIT'),
  ])
})

test('what the proxy says itself is a problem that the nodes have too', () => {
  const answers = directives(tree, 'http/server/location').flatMap(({ block }) => {
    const returned = [...directives(block, 'if/return'), ...directives(block, 'return')]
    return returned.flatMap(({ args: [status, body] }) => {
      if (body === undefined) return []
      expect(only(block, 'default_type')).toEqual(['application/problem+json; charset=utf-8'])
      return [{ sent: Number(status), problem: JSON.parse(body) as Record<string, unknown> }]
    })
  })
  const codes = answers.map(({ sent, problem: { detail, ...problem } }) => {
    const code = problem.code as keyof typeof problemStatus
    const type = `urn:suricate:problem:${code.toLowerCase().replaceAll('_', '-')}`
    expect(problem).toEqual({ type, title: STATUS_CODES[sent], status: sent, code })
    expect(sent).toBe(problemStatus[code])
    expect(detail).toMatch(/^\w.{20,}$/)
    return code
  })
  expect(codes).toEqual(['PAYLOAD_TOO_LARGE', 'OUTCOME_UNKNOWN', 'STORE_UNAVAILABLE'])
})
