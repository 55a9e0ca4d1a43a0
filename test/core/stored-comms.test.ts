import { describe, expect, test } from 'vitest'
import type { CommsCommand } from '../../src/core/comms.ts'
import type { DurableStore, SessionRow } from '../../src/core/durable-store.ts'
import { InboxFullError, InvalidParamsError, SessionNotFoundError } from '../../src/core/errors.ts'
import type { OperationRouter } from '../../src/core/operation-router.ts'
import { StoredComms } from '../../src/core/stored-comms.ts'
import type { StoredSessions } from '../../src/core/stored-sessions.ts'
import { partOf } from '../helpers/cluster.ts'
import { sessionRow } from '../helpers/rows.ts'
import { codeOf, errorOf } from './support.ts'

const named = (id: string, more: Partial<SessionRow> = {}): SessionRow =>
  sessionRow({ id, metadata: { agent: 'echo', comms_name: `name-${id}` }, ...more })

/** Sessions of a store, what is delivered to them, and why that may fail. */
function store(rows: readonly SessionRow[], failure?: Error) {
  const delivered: unknown[] = []
  const live = rows.filter(({ isArchived }) => !isArchived)
  const readable = async (id: string) => {
    const row = rows.find((row) => row.id === id)
    if (row === undefined) throw new SessionNotFoundError(id)
    return row
  }
  const comms = new StoredComms(
    partOf<DurableStore>('store', {
      named: async (name) => live.find(({ metadata }) => metadata.comms_name === name),
      allNamed: async () => live.filter(({ metadata }) => metadata.comms_name !== undefined),
    }),
    partOf<StoredSessions>('sessions', {
      readable,
      live: async (id) => {
        const row = await readable(id)
        if (row.isArchived) throw new SessionNotFoundError(id)
        return row
      },
    }),
    partOf<OperationRouter>('router', {
      run: async (...given) => {
        if (failure !== undefined) throw failure
        delivered.push(given)
        return 'i' as never
      },
    }),
  )
  return { comms, delivered }
}

const input: CommsCommand = { kind: 'input', body: 'hello', allow_self_session: true }
const messageTo = (to: string): CommsCommand => ({ kind: 'peer_message', to, body: 'hello' })

describe('peers of a session', () => {
  test('are the others that have a name, wherever they are', async () => {
    const { comms } = store([named('a'), named('b'), sessionRow({ id: 'c' }), named('d', { isArchived: true })])
    expect((await comms.peers('a')).map(({ name, peer_id }) => [name, peer_id])).toEqual([['name-b', 'b']])
    expect((await comms.of('b').peers()).map(({ peer_id }) => peer_id)).toEqual(['a'])
  })

  test("are nobody's business but a live session's", async () => {
    const { comms } = store([named('a', { isArchived: true })])
    expect(await codeOf(() => comms.peers('a'))).toBe('SESSION_NOT_FOUND')
    expect(await codeOf(() => comms.peers('nobody'))).toBe('SESSION_NOT_FOUND')
  })
})

describe('what a session sends', () => {
  test('to a peer is delivered where that is', async () => {
    const { comms, delivered } = store([named('a'), named('b')])
    expect(await comms.send('a', messageTo('name-b'))).toEqual({
      kind: 'peer_message_sent',
      envelope_id: 'i',
      acked: false,
    })
    const incoming = { kind: 'message', source: 'name-a', body: 'hello' }
    expect(delivered).toEqual([['deliver', 'b', { incoming, isSubscribed: false }]])
  })

  test('to itself is input, with a name or without', async () => {
    const { comms, delivered } = store([sessionRow({ id: 'a' })])
    const receipt = { kind: 'input_accepted', interaction_id: 'i', stream_reserved: true }
    expect(await comms.send('a', { ...input, stream: 'reserve_interaction' })).toEqual(receipt)
    const incoming = { kind: 'event', source: 'rpc', body: 'hello' }
    expect(delivered).toEqual([['deliver', 'a', { incoming, isSubscribed: true }]])
  })

  test.each([
    ['nobody of that name', 'name-x'],
    ['itself as a peer', 'name-a'],
    ['a peer that is archived', 'name-d'],
  ])('to %s is refused', async (_, to) => {
    const { comms, delivered } = store([named('a'), named('d', { isArchived: true })])
    const refusal = await errorOf(() => comms.send('a', messageTo(to)))
    expect(refusal.code).toBe('PEER_NOT_FOUND')
    expect(refusal.message).toContain(to)
    expect(delivered).toEqual([])
  })

  test('is refused where the peer is archived before it comes there', async () => {
    const { comms } = store([named('a'), named('b')], new SessionNotFoundError('b'))
    const refusal = await errorOf(() => comms.send('a', messageTo('name-b')))
    expect(refusal.code).toBe('PEER_NOT_FOUND')
    expect(refusal.message).toContain('name-b')
  })

  test('to itself is refused where it is archived before that comes', async () => {
    const { comms } = store([named('a')], new SessionNotFoundError('a'))
    expect(await errorOf(() => comms.send('a', input))).toMatchObject({
      code: 'INBOX_CLOSED',
      data: { session_id: 'a' },
    })
  })

  test.each([
    ['a full inbox', new InboxFullError('b', 1)],
    ['something else', new Error('gone')],
  ])('fails as its delivery does: %s', async (_, failure) => {
    const { comms } = store([named('a'), named('b')], failure)
    await expect(comms.send('a', messageTo('name-b'))).rejects.toBe(failure)
    await expect(comms.send('a', input)).rejects.toBe(failure)
  })

  test('is refused where the session may not send it', async () => {
    const { comms, delivered } = store([sessionRow({ id: 'a' }), named('b')])
    await expect(comms.send('a', messageTo('name-b'))).rejects.toBeInstanceOf(InvalidParamsError)
    expect(delivered).toEqual([])
  })

  test('is refused once it is archived, also while its last turn runs', async () => {
    const { comms, delivered } = store([named('a', { isArchived: true, isActive: true })])
    expect(await codeOf(() => comms.send('a', input))).toBe('INBOX_CLOSED')
    expect(delivered).toEqual([])
  })
})

describe('what the agent of a session sends', () => {
  test.each([
    ['is live', {}],
    ['is archived and runs its last turn', { isArchived: true, isActive: true }],
  ])('is delivered while that %s', async (_, state) => {
    const { comms, delivered } = store([named('a', state), named('b')])
    expect(await comms.of('a').send(messageTo('name-b'))).toMatchObject({ kind: 'peer_message_sent' })
    expect(delivered).toHaveLength(1)
  })

  test('is refused once the session is over', async () => {
    const { comms, delivered } = store([named('a', { isArchived: true }), named('b')])
    expect(await codeOf(() => comms.of('a').send(messageTo('name-b')))).toBe('INBOX_CLOSED')
    expect(delivered).toEqual([])
  })
})
