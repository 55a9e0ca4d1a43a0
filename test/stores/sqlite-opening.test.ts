import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, onTestFinished, test } from 'vitest'
import { backUpStore, openDurableStore } from '../../src/stores/index.ts'
import { createIdle, type RunResult, type SessionList } from '../helpers/contract.ts'
import { client } from '../helpers/http.ts'
import { newDatabase } from '../helpers/postgres.ts'
import { startServer } from '../helpers/server.ts'
import { ownServer } from '../helpers/suite.ts'

const root = mkdtempSync(join(tmpdir(), 'suricate-sqlite-'))
afterAll(() => rmSync(root, { recursive: true }))

let folders = 0
function newFolder(): string {
  const folder = join(root, String(++folders))
  mkdirSync(folder)
  return folder
}

async function filled(url: string): Promise<void> {
  const server = await startServer({ STORE_URL: url })
  await client(() => server.url).post('/sessions', { prompt: 'hello' })
  await server.close()
}

const refusal = (url: string, options = {}) =>
  openDurableStore(url, options).then(
    async (store) => {
      await store?.close()
      return 'opened'
    },
    (error: Error) => error.message,
  )

test.each([
  ['sqlite:', 'write sqlite:./suricate.db'],
  ['sqlite::memory:', 'write memory: for that'],
  ['sqlite:file::memory:?cache=shared', 'write memory: for that'],
  ['sqlite:file:x.db?mode=memory', 'write memory: for that'],
  ['sqlite://x.db', 'write sqlite:./x.db'],
  ['sqlite:///srv/x.db', 'write sqlite:/srv/x.db'],
  ['sqlite:////srv/x.db', 'write sqlite:/srv/x.db'],
  ['sqlite:file:x.db', 'write sqlite:x.db'],
  ['sqlite:file:///srv/x.db', 'write sqlite:/srv/x.db'],
  ['sqlite:./x.db?mode=ro', 'write sqlite:./x.db'],
  ['sqlite:libsql://host/x', 'is no path of a file'],
])('%s is refused at the start with the right form', async (url, right) => {
  await expect(startServer({ STORE_URL: url })).rejects.toThrow(right)
  expect(await refusal(url)).toMatch(/^STORE_URL=sqlite:/)
})

test('a directory, a folder that is not there and a file of something else are named in one sentence', async () => {
  const folder = newFolder()
  const other = join(folder, 'other.db')
  writeFileSync(other, 'something else '.repeat(100))
  expect(await refusal(`sqlite:${folder}`)).toBe(
    `${folder} is a directory: name a file in it, as ${folder}/suricate.db`,
  )
  expect(await refusal(`sqlite:${folder}/none/x.db`)).toBe(
    `There is no folder ${folder}/none for ${folder}/none/x.db: create it first`,
  )
  expect(await refusal(`sqlite:${other}`)).toBe(`${other} is no database of Suricate`)
})

describe('what reads a store makes none', () => {
  test('of SQLite', async () => {
    const folder = newFolder()
    const path = join(folder, 'x.db')
    expect(await refusal(`sqlite:${path}`, { create: false })).toBe(`There is no file ${path}`)
    expect(readdirSync(folder)).toEqual([])
    writeFileSync(path, '')
    expect(await refusal(`sqlite:${path}`, { create: false })).toBe(`${path} is no database of Suricate`)
  })

  test('of PostgreSQL', async () => {
    const url = await newDatabase()
    const found = () => refusal(url, { create: false })
    expect(await found()).toMatch(/has no tables of Suricate/)
    expect(await found()).toMatch(/has no tables of Suricate/)
    expect(await refusal(url)).toBe('opened')
    expect(await found()).toBe('opened')
  })
})

describe('a backup', () => {
  test('of a file that a server writes to has whole sessions, with which another server goes on', async () => {
    const folder = newFolder()
    const url = `sqlite:${join(folder, 'x.db')}`
    const { api, stream } = await ownServer({ STORE_URL: url })
    const before = await api.post<RunResult>('/sessions', { prompt: 'hello' })
    const busy = await createIdle(api, { agent: 'scripted' })
    const running = await stream(`/sessions/${busy}/turns/stream`, { json: { prompt: 'say so far\nhang' } })
    await running.upTo('text_delta')
    const copy = join(folder, 'copy.db')
    await backUpStore(url, copy)
    // After the copy: not in it.
    await api.post('/sessions', { prompt: 'later' })
    await api.post(`/sessions/${busy}/interrupt`, {})
    const other = await startServer({ STORE_URL: `sqlite:${copy}` })
    onTestFinished(() => other.close())
    const copied = client(() => other.url)
    const { body } = await copied.get<SessionList>('/sessions')
    expect(body.sessions.map(({ session_id }) => session_id).sort()).toEqual([before.body.session_id, busy].sort())
    expect((await copied.get(`/sessions/${before.body.session_id}/messages`)).text).toBe(
      (await api.get(`/sessions/${before.body.session_id}/messages`)).text,
    )
    // What ran was lost with the server that ran it.
    expect((await copied.get(`/sessions/${busy}/turns/1`)).body).toMatchObject({ status: 'failed' })
  })

  test('takes no other file away, and leaves nothing behind where it fails', async () => {
    const folder = newFolder()
    const url = `sqlite:${join(folder, 'x.db')}`
    await filled(url)
    const taken = join(folder, 'taken')
    writeFileSync(taken, 'mine')
    await expect(backUpStore(url, taken)).rejects.toThrow(`${taken} is there already: name another file`)
    await expect(backUpStore(url, folder)).rejects.toThrow('is a directory')
    await expect(backUpStore(url, join(folder, 'none/copy'))).rejects.toThrow('There is no folder')
    await expect(backUpStore(`sqlite:${folder}/y.db`, join(folder, 'copy'))).rejects.toThrow('There is no file')
    await expect(backUpStore(`sqlite:${taken}`, join(folder, 'copy'))).rejects.toThrow(/no database/)
    await expect(backUpStore('postgres://u:p@h/d', join(folder, 'copy'))).rejects.toThrow('pg_dump')
    await expect(backUpStore('memory:', join(folder, 'copy'))).rejects.toThrow(/sqlite:/)
    expect(readdirSync(folder).filter((name) => /copy|partial/.test(name))).toEqual([])
    expect(existsSync(join(folder, 'y.db'))).toBe(false)
  })
})
