import { createHash } from 'node:crypto'
import { Readable } from 'node:stream'
import { afterEach, describe, expect, onTestFinished, test } from 'vitest'
import type { DurableStore } from '../../src/core/durable-store.ts'
import { openDurableStore } from '../../src/stores/index.ts'
import { TransferError } from '../../src/transfer/export-format.ts'
import { importSessions } from '../../src/transfer/import-sessions.ts'
import { createIdle, type RunResult, readMessages, type SessionList } from '../helpers/contract.ts'
import { sessionRow } from '../helpers/rows.ts'
import { reportOf } from '../helpers/usage.ts'
import { killLeftovers, run } from '../process/child.ts'
import { durableStores, type Node, startNode } from './stores.ts'

afterEach(killLeftovers)

interface Filled {
  dump: string
  /** Paths whose answers have to be the same everywhere. */
  paths: string[]
  answers: string[]
  ids: Record<'talker' | 'named' | 'archived', string>
}

const read = (node: Node, paths: string[]) =>
  Promise.all(paths.map(async (path) => (await node.api.get(path)).text.replace(/^retry: \d+\n/gm, '')))

const exported = (url: string) => run(['export', '--all'], { STORE_URL: url })
const imported = (url: string, input: string | Buffer) => run(['import', '--store-url', url], {}, { input })

/** Sessions of every kind, made by a server that has ended, and their export. */
async function fill(url: string): Promise<Filled> {
  const node = await startNode(url)
  const { api } = node
  const { body } = await api.post<RunResult>('/sessions', {
    agent: 'scripted',
    prompt: 'think hm\nsay one\ntool add {"a":1,"b":2}\nusage 7 9\nsay \u2028 é 😀 "quoted"',
    system_prompt: 'Be brief.',
    labels: { team: 'blue', 'odd key': 'x=ÿ' },
  })
  const talker = body.session_id
  await api.post(`/sessions/${talker}/turns`, { prompt: 'fail on purpose' })
  // More than one line of events, and of turns.
  await api.post(`/sessions/${talker}/turns`, { prompt: 'deltas 3000 500' })
  for (let i = 0; i < 120; i++) await api.post(`/sessions/${talker}/turns`, { prompt: `say ${i}` })
  const named = await createIdle(api, { agent: 'echo', comms_name: 'ada' })
  const inject = (text: string) => api.post(`/sessions/${named}/interactions`, { body: text })
  await inject('taken')
  await api.post(`/sessions/${named}/turns`, { prompt: 'hello' })
  await inject('waiting 😀')
  const gone = await api.post<RunResult>('/sessions', { agent: 'echo', prompt: 'hello' })
  const archived = gone.body.session_id
  await api.delete(`/sessions/${archived}`)
  const paths = [
    '/sessions',
    '/sessions?label=team%3Dblue',
    `/sessions/${archived}`,
    `/sessions/${archived}/events?after=0`,
    ...[talker, named].flatMap((id) => [
      `/sessions/${id}`,
      `/sessions/${id}/messages?limit=1000`,
      `/sessions/${id}/export`,
      `/sessions/${id}/turns?limit=1000`,
      `/sessions/${id}/turns/1`,
      `/sessions/${id}/turns/1/events`,
    ]),
    ...[2, 3, 123].map((turn) => `/sessions/${talker}/turns/${turn}/events`),
  ]
  const answers = await read(node, paths)
  await node.close()
  const { code, stdout: dump, stderr } = await exported(url)
  expect({ code, stderr }).toEqual({ code: 0, stderr: 'exported 3 sessions\n' })
  return { dump, paths, answers, ids: { talker, named, archived } }
}

const kinds = Object.entries(durableStores)
const pairs = kinds.flatMap(([from, source]) =>
  kinds.flatMap(([to, target]) => (from === to ? [] : [{ from, to, source, target }])),
)

describe.each(pairs)('from $from to $to', ({ source, target }) => {
  test('sessions move as they are, and only once', async () => {
    const { dump, paths, answers, ids } = await fill(await source())
    const url = await target()
    const first = await imported(url, dump)
    expect(first).toMatchObject({ code: 0, stdout: '', stderr: 'imported 3 sessions\n' })
    const node = await startNode(url)
    expect(await read(node, paths)).toEqual(answers)
    // It was not spent here.
    expect((await reportOf(node.api)).groups).toEqual([])
    await node.close()

    const again = await imported(url, dump)
    expect(again.code).toBe(0)
    expect(again.stderr.split('\n')).toEqual([
      `skipped ${ids.talker}: it is already there`,
      `skipped ${ids.named}: it is already there`,
      // Nobody misses what it takes the place of.
      'imported 1 session, skipped 2',
      '',
    ])
    const second = await startNode(url)
    expect(await read(second, paths)).toEqual(answers)
    const next = await second.api.post<RunResult>(`/sessions/${ids.named}/turns`, { prompt: 'go on' })
    expect(next.body).toMatchObject({ turn: 2 })
    expect((await reportOf(second.api)).groups).toMatchObject([{ key: 'echo', turns: 1 }])
    expect(JSON.stringify(await readMessages(second.api, ids.named))).toContain('[EVENT via webhook] waiting 😀')
  })
})

describe.each(kinds)('an import into %s', (name, place) => {
  const line = (value: unknown) => `${JSON.stringify(value)}\n`
  const head = line({ format: 'suricate-export', version: 1, created_at: '2026-01-01T00:00:00.000Z' })
  const session = (id: string, change: object = {}) => ({ session: sessionRow({ id, ...change }) })
  const [ONE = '', TWO = ''] = [1, 2].map((n) => `0199d3c0-0000-7000-8000-00000000000${n}`)
  const sealed = (body: string, sessions: number) =>
    body + line({ sessions, sha256: createHash('sha256').update(body).digest('hex') })
  const two = head + line(session(ONE)) + line(session(TWO))

  test.each<[string, string | Buffer, RegExp]>([
    ['of nothing', '', /no export on standard input; nothing was imported/],
    ['of what is not JSON', 'hello\n', /Line 1 is not JSON; nothing/],
    ['of what is not text', Buffer.from([0xff, 0xfe, 10]), /Line 1 is not JSON; nothing/],
    ['of other JSON', '{"a":1}\n', /Line 1 does not say that this is an export of Suricate; nothing/],
    ['of nothing at all as JSON', 'null\n', /Line 1 does not say/],
    [
      'of a version to come',
      line({ format: 'suricate-export', version: 2 }),
      /version 2, and this .* version 1; nothing/,
    ],
    ['with a line of something else', `${head}{"a":1}\n`, /Line 2 is not a line of an export; nothing/],
    ['with a line that is broken', `${two}{"turns":\n`, /Line 4 is not JSON; 1 session imported before that stays/],
    ['of turns without a session', `${head}{"turns":[]}\n`, /Line 2 belongs to no session/],
    ['that is cut off after a line', two, /cut off: it has no last line after line 3; 1 session imported before/],
    ['that is cut off in a line', sealed(two, 2).slice(0, -20), /cut off in the middle of line 4; 1 session imported/],
    ['with an altered byte', sealed(two, 2).replace('echo', 'ecHo'), /altered.*; 1 session imported before that stays/],
    ['with a session too few', sealed(two, 3), /altered/],
    [
      'that goes on after its end',
      `${sealed(two, 2)}${head}`,
      /Line 5 comes after the last line.*; 2 sessions imported/,
    ],
    [
      'without a message',
      sealed(head + line(session(ONE, { messageCount: 1 })), 1),
      /Session 0199\S+ is not whole before line 3; nothing/,
    ],
    [
      'with messages out of order',
      head + line(session(ONE)) + line({ messages: { from: 1, added: [{ role: 'user', content: 'x' }] } }),
      /Messages are missing before line 3/,
    ],
  ])('%s ends with a sentence', async (_, input, sentence) => {
    const store = (await openDurableStore(await place())) as DurableStore
    onTestFinished(() => store.close())
    const failed = importSessions(store, Readable.from([Buffer.from(input)]), () => {})
    await expect(failed).rejects.toThrow(TransferError)
    await expect(failed).rejects.toThrow(sentence)
  })

  test.each([
    ['that is not JSON', 'hello\n', 'Line 1 is not JSON; nothing was imported'],
    [
      'that is cut off',
      sealed(two, 2).slice(0, -20),
      'The export is cut off in the middle of line 4; 1 session imported before that stays',
    ],
    [
      'that was altered',
      sealed(two, 2).replace('echo', 'ecHo'),
      'The export was altered: it does not have the checksum that its last line gives; 1 session imported before that stays',
    ],
  ])('%s ends the command with 1', async (_, input, sentence) => {
    const { code, stdout, stderr } = await imported(await place(), input)
    expect({ code, stdout, stderr }).toEqual({ code: 1, stdout: '', stderr: `suricate: ${sentence}\n` })
  })

  test('keeps what came before a mistake, and can be run again', async () => {
    const url = await place()
    expect((await imported(url, two)).code).toBe(1)
    const again = await imported(url, sealed(two, 2))
    expect(again).toMatchObject({
      code: 0,
      stderr: `skipped ${ONE}: it is already there\nimported 1 session, skipped 1\n`,
    })
    const { api } = await startNode(url)
    const { body } = await api.get<SessionList>('/sessions')
    expect(body.sessions.map(({ session_id }) => session_id)).toEqual([ONE, TWO])
  })

  test('leaves out a session whose name is taken', async () => {
    const named = { metadata: { agent: 'echo', comms_name: 'ada' } }
    const body = head + line(session(ONE, named)) + line(session(TWO, named))
    const { code, stderr } = await imported(await place(), sealed(body, 2))
    expect(code).toBe(0)
    expect(stderr).toBe(`skipped ${TWO}: its name "ada" is that of ${ONE}\nimported 1 session, skipped 1\n`)
  })

  test('does not mind that the last line has no end', async () => {
    expect((await imported(await place(), sealed(two, 2).trimEnd())).stderr).toBe('imported 2 sessions\n')
  })

  test('is refused while a server uses the store, and so is an export, where it is for one', async () => {
    const url = await place()
    const { api } = await startNode(url)
    if (name === 'postgres') {
      expect((await imported(url, sealed(two, 2))).stderr).toBe('imported 2 sessions\n')
      expect((await exported(url)).stderr).toBe('exported 2 sessions\n')
      expect((await api.get<{ total: number }>('/sessions')).body.total).toBe(2)
      return
    }
    for (const { code, stdout, stderr } of await Promise.all([exported(url), imported(url, sealed(two, 2))])) {
      expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
      expect(stderr).toMatch(/^suricate: .* is in use by another process\n$/)
    }
  })

  test('of an empty store is whole', async () => {
    const url = await place()
    await (await startNode(url)).close()
    const { code, stdout, stderr } = await exported(url)
    expect({ code, stderr }).toEqual({ code: 0, stderr: 'exported 0 sessions\n' })
    expect((await imported(await place(), stdout)).stderr).toBe('imported 0 sessions\n')
  })
})

describe('the command line', () => {
  test.each([
    [['export', '--all'], /memory: ends with its process: set STORE_URL/],
    [['import'], /memory: ends with its process: set STORE_URL/],
    [['export', '--store-url', 'memory:'], /export needs --all/],
    [['export', '--all', '--store-url', 'floppy:'], /STORE_URL must begin with/],
    [['export', '--some'], /--some.*--help/],
    [['import', '--all'], /--all.*--help/],
  ])('%j ends with a sentence that says what would be right', async (args, sentence) => {
    const { code, stdout, stderr } = await run(args)
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(stderr).toMatch(/^suricate: .*\n$/)
    expect(stderr).toMatch(sentence)
  })
})
