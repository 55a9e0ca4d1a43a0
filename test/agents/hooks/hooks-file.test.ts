import { describe, expect, test } from 'vitest'
import type { HookHandler } from '../../../src/agents/hooks/hook.ts'
import { parseHooks, readHooksFile } from '../../../src/agents/hooks/hooks-file.ts'

const look: HookHandler = () => undefined
const sources = { environment: { TOKEN: 'secret' }, handlers: { look } }
const inProcess = { type: 'in_process', name: 'look' }
const hook = { id: 'a', point: 'run_started', runtime: inProcess }
const parse = (...hooks: object[]) => parseHooks(JSON.stringify({ hooks }), 'hooks.json', sources)

describe('a hooks configuration', () => {
  test('has sensible defaults', () => {
    expect(parse(hook)).toEqual([
      {
        id: 'a',
        point: 'run_started',
        mode: 'foreground',
        capability: 'observe',
        priority: 100,
        failurePolicy: 'fail_open',
        timeoutMs: 5_000,
        allowDisable: false,
        handler: look,
      },
    ])
    expect(parse({ ...hook, capability: 'guardrail' })).toMatchObject([{ failurePolicy: 'fail_closed' }])
    expect(parse({ ...hook, capability: 'rewrite' })).toMatchObject([{ failurePolicy: 'fail_closed' }])
    expect(parse({ ...hook, point: 'run_completed', mode: 'background', capability: 'rewrite' })).toMatchObject([
      { failurePolicy: 'fail_open' },
    ])
  })

  test('leaves out what is not enabled, after looking at it', () => {
    expect(parse({ ...hook, enabled: false })).toEqual([])
    expect(() => parse({ ...hook, enabled: false, point: 'nowhere' })).toThrow('/hooks/0/point')
  })

  test.each<[object, string]>([
    [{ ...hook, id: '' }, '/hooks/0/id is not as it should be'],
    [{ ...hook, point: 'lunch' }, '/hooks/0/point must be one of run_started, run_completed'],
    [{ ...hook, mode: 'sideways' }, '/hooks/0/mode must be one of foreground, background'],
    [{ ...hook, timeout_ms: 0 }, '/hooks/0/timeout_ms is not as it should be'],
    [{ ...hook, colour: 'red' }, '/hooks/0/colour is not as it should be'],
    [{ ...hook, runtime: { type: 'shell' } }, '/hooks/0/runtime/type must be one of in_process, http'],
    [
      { ...hook, runtime: { type: 'in_process', name: 'nobody' } },
      '/hooks/0/runtime/name is exported in hooks by no module',
    ],
    [{ ...hook, runtime: { type: 'in_process' } }, '/hooks/0/runtime/name'],
    [{ ...hook, runtime: { type: 'http', url: 'ftp://a' } }, '/hooks/0/runtime/url must be an http(s) URL'],
    [{ ...hook, runtime: { type: 'http', url: 'http://a:b@c/' } }, '/hooks/0/runtime/url must not have a user'],
    [
      { ...hook, runtime: { type: 'http', url: 'http://a', headers: { 'x-a': `\${NOPE}` } } },
      '/hooks/0/runtime/headers/x-a needs the environment variable NOPE',
    ],
    [{ ...hook, runtime: { type: 'http', url: 'http://a', headers: { 'x a': 'b' } } }, 'x a is not a header'],
    [{ ...hook, mode: 'background', failure_policy: 'fail_closed' }, '/hooks/0 cannot fail closed in the background'],
    [{ ...hook, mode: 'background', capability: 'guardrail' }, '/hooks/0 cannot guardrail at run_started'],
  ])('is refused, and the member is named: %j [R70]', (entry, message) => {
    expect(() => parse(entry)).toThrow(`The hooks configuration hooks.json is wrong: `)
    expect(() => parse(entry)).toThrow(message)
  })

  test('names each hook once', () => {
    expect(() => parse(hook, hook)).toThrow('/hooks/1/id is that of another hook')
  })

  test.each([
    ['{', 'is not JSON'],
    ['[]', 'is wrong: / '],
    ['{"hooks": 1}', 'is wrong: /hooks '],
    ['{"hooks": [], "more": 1}', 'is wrong: /more '],
  ])('%s is none', (text, message) => {
    expect(() => parseHooks(text, 'hooks.json', sources)).toThrow(`The hooks configuration hooks.json ${message}`)
  })

  test('that is not there is named', () => {
    expect(() => readHooksFile('/nowhere/hooks.json', sources)).toThrow(
      'The hooks configuration /nowhere/hooks.json cannot be read: ENOENT',
    )
  })
})
