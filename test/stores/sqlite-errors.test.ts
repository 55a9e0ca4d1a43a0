import { randomUUID } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import Database from 'libsql'
import { expect, onTestFinished, test } from 'vitest'
import { StoreRefusedError, StoreUnavailableError } from '../../src/core/errors.ts'
import { Statements } from '../../src/stores/sqlite/statements.ts'

function opened() {
  const folder = mkdtempSync(join(tmpdir(), 'suricate-sqlite-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const path = join(folder, 'test.db')
  const db = new Database(path)
  onTestFinished(() => void db.close())
  db.exec('create table t (a integer unique, b text check (b <> 0)) strict')
  return { path, db, statements: new Statements(db) }
}

const insert = 'insert into t values (?, ?)'

function errorOf(act: () => unknown): Error {
  try {
    act()
  } catch (error) {
    return error as Error
  }
  throw new Error('Nothing was thrown')
}

test.each([
  ['a constraint', insert, [1, '0']],
  ['a type', insert, ['one', 'x']],
  ['a value that no column takes', insert, [10n ** 30n, 'x']],
  ['a limit that is no integer', 'select 1 limit ?', [1e20]],
  ['a statement', 'select nothing from nowhere', []],
])('%s is refused', (_, sql, values) => {
  const { statements } = opened()
  expect(errorOf(() => statements.guarded(() => statements.all(sql, ...values)))).toBeInstanceOf(StoreRefusedError)
})

test('a full disk is a store that is away, and its error is not replaced by that of the rollback', () => {
  const { db, statements } = opened()
  const { page_count } = db.prepare('pragma page_count').get() as { page_count: number }
  db.exec(`pragma max_page_count = ${page_count}`)
  const write = () => statements.transaction(() => statements.run(insert, 1, randomUUID().repeat(10_000)))
  for (let i = 0; i < 2; i++) {
    const error = errorOf(write)
    expect(error).toBeInstanceOf(StoreUnavailableError)
    expect(error.cause).toMatchObject({ message: 'database or disk is full' })
  }
  db.exec('pragma max_page_count = 10000')
  expect(write()).toBe(1)
})

test('a file that another connection has locked is away', () => {
  const { path, statements } = opened()
  const other = new Database(path)
  onTestFinished(() => void other.close())
  other.exec('begin exclusive')
  expect(errorOf(() => statements.transaction(() => {}))).toBeInstanceOf(StoreUnavailableError)
})
