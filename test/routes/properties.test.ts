import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { createIdle, expectProblemDocument, type RunResult, readMessages, said } from '../helpers/contract.ts'
import { exchange, send } from '../helpers/http.ts'
import { openStream, textOf } from '../helpers/sse.ts'
import { useServer } from '../helpers/suite.ts'

const server = useServer({ MAX_SESSIONS: 100_000, BODY_LIMIT: 10_000 })
const { api } = server

/** Any text at all, half surrogate pairs, controls and line ends included, but what the contract refuses. */
const prompt = fc
  .oneof(
    fc.string({ unit: 'binary', maxLength: 60 }),
    fc.string({
      unit: fc.constantFrom('\r', '\n', ' ', '\t', ':', 'd', '\u2028', '\ud83e', '\udda6', '\ufeff', 'é'),
      maxLength: 40,
    }),
  )
  .filter((text) => !text.includes('\0') && text.trim() !== '')

describe('for any prompt', () => {
  test('a stream carries it frame by frame, and the transcript keeps it, half a surrogate pair as U+FFFD', async () => {
    const id = await createIdle(api, { agent: 'echo' })
    let turn = 0
    await fc.assert(
      fc.asyncProperty(prompt, async (text) => {
        turn++
        const expected = Buffer.from(text).toString()
        const stream = await openStream(`${server.url}/sessions/${id}/turns/stream`, { json: { prompt: text } })
        const frames = await stream.all()
        expect(stream.end).toBe('clean')
        expect(frames[0]?.json.prompt).toBe(expected)
        expect(textOf(frames)).toBe(expected)
        expect(frames.at(-1)?.json.result).toMatchObject({ turn, text: expected })
        const answer = await api.get<{ messages: unknown[] }>(`/sessions/${id}/messages?offset=${2 * turn - 2}`)
        expect(answer.body.messages).toEqual(said(expected, expected))
      }),
      { numRuns: 150, seed: 4711 },
    )
    expect(await readMessages(api, id)).toHaveLength(2 * turn)
  })
})

describe('for any JSON', () => {
  const members = fc.constantFrom(
    'prompt',
    'agent',
    'labels',
    'system_prompt',
    'initial_turn',
    'provider_params',
    'max_tokens',
    'host_mode',
    'output_schema',
    'budget_limits',
    'skill_references',
    '__proto__',
    'constructor',
    'x',
  )
  const value = fc.oneof(
    fc.jsonValue({ maxDepth: 3 }),
    fc.constantFrom('echo', 'scripted', 'deferred', 'run', 'llm', '', ' ', 0, -1, 1e308, true, null),
    fc.dictionary(members, fc.jsonValue({ maxDepth: 1 }), { maxKeys: 3 }),
  )
  const body = fc.oneof(fc.jsonValue({ maxDepth: 4 }), fc.array(fc.tuple(members, value), { maxLength: 6 }).map(toJson))

  /** Members in any order and number of times, as an object literal that JSON.stringify would not write. */
  function toJson(pairs: [string, unknown][]): { text: string } {
    return { text: `{${pairs.map(([name, inner]) => `${JSON.stringify(name)}:${JSON.stringify(inner)}`).join()}}` }
  }

  test.each(['/sessions', '/sessions/import', 'turns', 'interrupt', 'fork'])(
    'a POST to %s succeeds or is refused, and never breaks',
    async (path) => {
      const id = await createIdle(api)
      const url = server.url + (path.startsWith('/') ? path : `/sessions/${id}/${path}`)
      await fc.assert(
        fc.asyncProperty(body, async (json) => {
          const raw = typeof json === 'object' && json !== null && 'text' in json ? json.text : undefined
          const bytes = typeof raw === 'string' ? raw : JSON.stringify(json)
          const answer = await send(url, 'POST', { bytes, headers: { 'content-type': 'application/json' } })
          expect([200, 201, 400, 404, 409, 501], `${bytes} ${answer.text}`).toContain(answer.status)
          if (answer.status >= 400) expectProblemDocument(answer)
        }),
        { numRuns: 80, seed: 4712 },
      )
    },
  )
})

describe('for any bytes', () => {
  test('as a body the answer is 400 or, by chance, a session', async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 60 }), async (bytes) => {
        const answer = await send(`${server.url}/sessions`, 'POST', {
          bytes: Buffer.from(bytes),
          headers: { 'content-type': 'application/json' },
        })
        expect(answer.status, answer.text).toBe(400)
        expectProblemDocument(answer)
      }),
      { numRuns: 100, seed: 4713 },
    )
  })

  test('in a path or a query the answer is no error of the server', async () => {
    const segment = fc.uint8Array({ minLength: 1, maxLength: 30 }).map((bytes) => {
      return [...bytes].map((byte) => `%${byte.toString(16).padStart(2, '0')}`).join('')
    })
    await fc.assert(
      fc.asyncProperty(segment, fc.constantFrom('limit', 'label', 'active', 'after', 'x'), async (raw, name) => {
        for (const path of [`/sessions/${raw}`, `/${raw}`, `/sessions?${name}=${raw}`, `/sessions/${raw}/events`]) {
          const answer = await exchange(server.port, `GET ${path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n`)
          expect(answer.status, answer.text).toBeLessThan(500)
          if (answer.status >= 400) expectProblemDocument(answer)
        }
      }),
      { numRuns: 60, seed: 4714 },
    )
  })

  test('in a header the answer is no error of the server', async () => {
    const text = fc.string({
      unit: fc.integer({ min: 0x20, max: 0xff }).map((code) => String.fromCharCode(code)),
      maxLength: 30,
    })
    const names = fc.constantFrom(
      'last-event-id',
      'idempotency-key',
      'prefer',
      'accept',
      'x-request-id',
      'origin',
      'authorization',
    )
    const { body } = await api.post<RunResult>('/sessions', { prompt: 'x' })
    await fc.assert(
      fc.asyncProperty(names, text, async (name, content) => {
        const head = `HTTP/1.1\r\nHost: 127.0.0.1\r\n${name}: ${content}\r\n`
        const json = '{"prompt":"x"}'
        const requests = [
          `GET /sessions/${body.session_id}/turns/1/events ${head}\r\n`,
          `POST /sessions ${head}Content-Type: application/json\r\nContent-Length: ${json.length}\r\n\r\n${json}`,
        ]
        for (const request of requests) {
          const answer = await exchange(server.port, Buffer.from(request, 'latin1'))
          expect(answer.status, answer.text).toBeLessThan(500)
          if (answer.status >= 400) expectProblemDocument(answer)
        }
      }),
      { numRuns: 100, seed: 4715 },
    )
  })
})
