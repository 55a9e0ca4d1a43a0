import { describe, expect, test, vi } from 'vitest'
import type { Claim, Cluster } from '../../src/core/cluster.ts'
import type { DurableStore, SessionRow } from '../../src/core/durable-store.ts'
import { SessionExistsError, StoreUnavailableError } from '../../src/core/errors.ts'
import type { Journal } from '../../src/core/journal.ts'
import { NewSessions } from '../../src/core/new-sessions.ts'
import { OperationRouter } from '../../src/core/operation-router.ts'
import { OwnerRequests } from '../../src/core/owner-requests.ts'
import { ElsewhereError, Ownership } from '../../src/core/ownership.ts'
import type { Residents } from '../../src/core/residents.ts'
import type { Operations } from '../../src/core/session-operations.ts'
import type { SessionTask } from '../../src/core/session-task.ts'
import type { StoredSessions } from '../../src/core/stored-sessions.ts'
import { Mailbox, partOf } from '../helpers/cluster.ts'
import { sessionRow } from '../helpers/rows.ts'
import { codeOf, door, errorOf, settled } from './support.ts'

const sessionOf = (id: string) => partOf<SessionTask>('session', { id })

/** A claim that was made; of one that another server has `epoch` is not there. */
const made = (id: string, epoch: number | undefined, before = 1): Claim => ({ id, before, epoch, owner: 'b' })

/** A server whose claims are answered like this; those of sessions that are not there are not. */
function claiming(...claims: Claim[]) {
  const claim = vi.fn<Cluster['claim']>(async (ids) => claims.filter(({ id }) => ids.includes(id)))
  const release = vi.fn<Cluster['release']>(async () => {})
  return { ownership: new Ownership(partOf<Cluster>('cluster', { claim, release })), claim, release }
}

describe('a server that is alone', () => {
  test('has every session, and needs to hold none', async () => {
    const ownership = new Ownership(undefined)
    ownership.hold(sessionOf('s'), 7)
    expect(ownership.has('other')).toBe(true)
    expect(ownership.held).toEqual([])
    expect(ownership.epochOf(sessionOf('s'))).toBe(1)
    await ownership.release('s', 1)
    expect(ownership.isInDoubt).toBe(false)
  })
})

describe('a session', () => {
  test("is a server's from when it is held until it is given up", () => {
    const { ownership } = claiming()
    const session = sessionOf('s')
    expect(ownership.has('s')).toBe(false)
    ownership.hold(session)
    expect([ownership.has('s'), ownership.held, ownership.epochOf(session)]).toEqual([true, ['s'], 1])
    ownership.giveUp('s')
    expect([ownership.has('s'), ownership.held]).toEqual([false, []])
  })

  test('is known as of an epoch that belongs to its copy', () => {
    const { ownership } = claiming()
    const [old, fresh] = [sessionOf('s'), sessionOf('s')]
    ownership.hold(old, 3)
    expect([ownership.epochOf(old), ownership.epochOf(fresh)]).toEqual([3, 1])
  })
})

describe('a claim', () => {
  test('is made for all that are asked for in one step, once for each', async () => {
    const { ownership, claim } = claiming(made('s', 2), made('t', 6, 5))
    const claims = await Promise.all([ownership.claim('s'), ownership.claim('t'), ownership.claim('s')])
    expect(claims).toEqual([
      { before: 1, epoch: 2, isShared: true },
      { before: 5, epoch: 6, isShared: false },
      { before: 1, epoch: 2, isShared: true },
    ])
    await settled()
    expect(claim.mock.calls).toEqual([[['s', 't']]])
    // `hold` is for the caller.
    expect(ownership.has('s')).toBe(false)
    await ownership.claim('s')
    expect(claim).toHaveBeenCalledTimes(2)
  })

  test('that somebody else goes on with is not given back by whoever has an old copy', async () => {
    const { ownership } = claiming(made('s', 7, 6))
    const [, lost] = await Promise.all([ownership.claim('s'), ownership.takeBack([sessionOf('s')])])
    expect(lost.map(({ id }) => id)).toEqual(['s'])
    expect(ownership.isInDoubt).toBe(true)
  })

  test('is there for others to see as long as any of them is under way', async () => {
    const answers = [door<Claim[]>(), door<Claim[]>()]
    let asked = 0
    const ownership = new Ownership(
      partOf<Cluster>('cluster', { claim: () => (answers[asked++] as (typeof answers)[number]).promise }),
    )
    const first = ownership.claim('s')
    await settled()
    const second = ownership.claim('s')
    await settled()
    answers[0]?.open([made('s', 2)])
    await first
    await settled()
    expect(ownership.isClaiming('s')).toBe(true)
    answers[1]?.open([made('s', 3)])
    await second
    await settled()
    expect(ownership.isClaiming('s')).toBe(false)
  })

  test('is there for others to see until it is answered', async () => {
    const answer = door<Claim[]>()
    const ownership = new Ownership(partOf<Cluster>('cluster', { claim: () => answer.promise }))
    const claimed = ownership.claim('s')
    expect([ownership.isClaiming('s'), ownership.isClaiming('t')]).toEqual([true, false])
    await settled()
    expect(ownership.isClaiming('s')).toBe(true)
    answer.open([made('s', 2)])
    await claimed
    await settled()
    expect(ownership.isClaiming('s')).toBe(false)
  })

  test('is refused for a session that is not there, and for one that another server has', async () => {
    const { ownership } = claiming(made('s', undefined))
    const [missing, elsewhere] = [ownership.claim('t'), ownership.claim('s')]
    elsewhere.catch(() => {})
    expect(await errorOf(() => missing)).toMatchObject({ code: 'SESSION_NOT_FOUND', data: { session_id: 't' } })
    const error = await elsewhere.catch((error) => error)
    expect(error).toBeInstanceOf(ElsewhereError)
    expect(error).toMatchObject({ owner: 'b' })
    expect(ownership.isInDoubt).toBe(false)
  })

  test('that fails does so for all, and may have been made', async () => {
    const claim = vi.fn(() => Promise.reject(new StoreUnavailableError()))
    const ownership = new Ownership(partOf<Cluster>('cluster', { claim }))
    const all = await Promise.allSettled([ownership.claim('s'), ownership.claim('t'), ownership.claim('s')])
    expect(all.map((one) => one.status === 'rejected' && one.reason.code)).toEqual(all.map(() => 'STORE_UNAVAILABLE'))
    expect(claim).toHaveBeenCalledTimes(1)
    expect(ownership.isInDoubt).toBe(true)
    expect(ownership.isClaiming('s')).toBe(false)
  })
})

describe('a copy of a session', () => {
  /** A copy as of epoch 3 that is not held. */
  function copied() {
    const { ownership } = claiming()
    const session = sessionOf('s')
    ownership.hold(session, 3)
    ownership.giveUp('s')
    return { ownership, session }
  }

  test('goes on where nobody has written since', () => {
    const { ownership, session } = copied()
    expect(ownership.renew(session, { before: 3, epoch: 4 })).toBe(true)
    expect([ownership.has('s'), ownership.epochOf(session)]).toEqual([true, 4])
  })

  test.each([4, 2])('is old where what was claimed is of epoch %i', (before) => {
    const { ownership, session } = copied()
    expect(ownership.renew(session, { before, epoch: 5 })).toBe(false)
    expect([ownership.has('s'), ownership.epochOf(session)]).toEqual([false, 3])
  })

  test.each([3, 2])('stays as it is where epoch %i is claimed that was renewed already', (epoch) => {
    const { ownership, session } = copied()
    expect(ownership.renew(session, { before: 1, epoch })).toBe(true)
    expect(ownership.epochOf(session)).toBe(3)
  })
})

describe('sessions that are taken back', () => {
  test('are lost where the copy is old, or another server has them, or they are gone', async () => {
    const { ownership, claim, release } = claiming(made('same', 2), made('old', 6, 5), made('elsewhere', undefined))
    const sessions = ['same', 'old', 'elsewhere', 'gone'].map(sessionOf)
    const lost = await ownership.takeBack(sessions)
    expect(lost.map(({ id }) => id).sort()).toEqual(['elsewhere', 'gone', 'old'])
    expect(ownership.held).toEqual(['same'])
    expect(claim).toHaveBeenCalledTimes(1)
    // What was claimed for nothing others may have at once.
    expect(release.mock.calls).toEqual([['old', 6]])
  })

  test('are not lost where the store cannot be reached', async () => {
    const claim = () => Promise.reject(new StoreUnavailableError())
    const ownership = new Ownership(partOf<Cluster>('cluster', { claim }))
    expect(await codeOf(() => ownership.takeBack([sessionOf('s')]))).toBe('STORE_UNAVAILABLE')
  })

  test("may still be this server's for the store where giving them back fails", async () => {
    const { ownership, release } = claiming(made('old', 6, 5))
    release.mockRejectedValue(new StoreUnavailableError())
    expect((await ownership.takeBack([sessionOf('old')])).map(({ id }) => id)).toEqual(['old'])
    expect(ownership.isInDoubt).toBe(true)
  })
})

describe('an operation that another server asks for', () => {
  async function serving(isHeld: boolean) {
    const s = sessionOf('s')
    const mailbox = new Mailbox()
    const cluster = mailbox.cluster('b')
    const ownership = new Ownership(cluster)
    if (isHeld) ownership.hold(s)
    const residents = partOf<Residents>('residents', { with: async (_, act) => act(s) })
    const operations = partOf<Operations>('operations', { interrupt: async ({ id }) => ({ turn: id === 's' ? 2 : 0 }) })
    const { requests } = new OperationRouter(residents, operations, ownership, cluster)
    const asker = new OwnerRequests(mailbox.cluster('a'), async () => undefined)
    const answer = asker.ask('b', 'interrupt', 's', {})
    answer.catch(() => {})
    await settled()
    await requests?.serve()
    await settled()
    await asker.look()
    return { answer, ownership }
  }

  test('is done where the session is held', async () => {
    const { answer, ownership } = await serving(true)
    expect(await answer).toEqual({ turn: 2 })
    expect(ownership.isInDoubt).toBe(false)
  })

  test('is elsewhere where it is not held, and what the store says is looked at again', async () => {
    const { answer, ownership } = await serving(false)
    await expect(answer).rejects.toBeInstanceOf(ElsewhereError)
    expect(ownership.isInDoubt).toBe(true)
  })
})

interface Given {
  settled?: () => Promise<void>
  row?: SessionRow
  owned?: { isOver: boolean }
  named?: SessionRow
  isAlone?: boolean
}

/** Makes sessions, and what was done for them. */
function making({ settled = async () => {}, row, owned, named, isAlone = false }: Given = {}) {
  const did: unknown[] = []
  const cluster = isAlone ? undefined : partOf<Cluster>('cluster', {})
  const sessions = new NewSessions({
    store: partOf<DurableStore>('store', { cluster, named: async () => named }),
    journal: partOf<Journal>('journal', { settled }),
    residents: partOf<Residents>('residents', {
      makeRoom: async () => void did.push('room'),
      used: (id) => void did.push(['used', id]),
      forgetStale: async (which) => void did.push(['forgotten', which]),
      owned: () => (owned === undefined ? undefined : partOf<SessionTask>('session', owned)),
    }),
    sessions: partOf<StoredSessions>('sessions', { row: async () => row }),
  })
  const make = async () => {
    did.push('made')
    return { sessionId: 's' }
  }
  return { sessions, make, did }
}

describe('a new session', () => {
  test('is made where nothing is in its way, and is there once it is kept', async () => {
    const kept = door()
    const { sessions, make, did } = making({ settled: () => kept.promise })
    const isMade = sessions.make(make, async () => void did.push('refuse'))
    await settled()
    expect(did).toEqual(['refuse', 'room', 'made'])
    kept.open()
    expect(await isMade).toEqual({ sessionId: 's' })
    expect(did.at(-1)).toEqual(['used', 's'])
  })

  test('is not made where something is in its way', async () => {
    const { sessions, make, did } = making()
    const refuse = () => Promise.reject(new SessionExistsError('s'))
    expect(await codeOf(() => sessions.make(make, refuse))).toBe('SESSION_EXISTS')
    expect(did).toEqual([])
  })

  test.each([
    ['what has come in its way meanwhile', new SessionExistsError('s'), 'SESSION_EXISTS'],
    ['what the store says where nothing has', undefined, 'STORE_UNAVAILABLE'],
  ])('that is not kept is refused with %s', async (_, later, code) => {
    const { sessions, make, did } = making({ settled: () => Promise.reject(new StoreUnavailableError()) })
    const refuse = vi.fn(async () => {
      if (refuse.mock.calls.length > 1 && later !== undefined) throw later
    })
    expect(await codeOf(() => sessions.make(make, refuse))).toBe(code)
    expect(refuse).toHaveBeenCalledTimes(2)
    expect(did).toEqual(['room', 'made'])
  })
})

describe('the name of a new session', () => {
  test('is refused where another session has it', async () => {
    const { sessions, did } = making({ named: sessionRow({ id: 't' }) })
    expect(await errorOf(() => sessions.refuseTakenName('n', '/comms_name'))).toMatchObject({
      code: 'INVALID_PARAMS',
      data: { errors: [{ path: '/comms_name', message: 'is taken by another session' }] },
    })
    expect(did).toEqual([])
  })

  test('is free where only an old copy has it', async () => {
    const { sessions, did } = making()
    await sessions.refuseTakenName('n', '/comms_name')
    expect(did).toEqual([['forgotten', { name: 'n' }]])
  })

  test.each([
    ['it has none', undefined, false],
    ['there is one server', 'n', true],
  ])('is not looked for where %s', async (_, name, isAlone) => {
    const { sessions, did } = making({ isAlone, named: sessionRow({ id: 't' }) })
    await sessions.refuseTakenName(name, '/comms_name')
    expect(did).toEqual([])
  })
})

describe('the id of a session that is imported', () => {
  test.each<[string, Given]>([
    ['is live', { row: sessionRow({ id: 's' }) }],
    ['is archived and runs its last turn', { row: sessionRow({ id: 's', isArchived: true, isActive: true }) }],
    ['is not over here', { row: sessionRow({ id: 's', isArchived: true }), owned: { isOver: false } }],
  ])('is refused where there is one that %s', async (_, given) => {
    const { sessions, did } = making(given)
    expect(await errorOf(() => sessions.refuseTakenId('s'))).toMatchObject({ code: 'SESSION_EXISTS' })
    expect(did).toEqual([])
  })

  test.each<[string, Given]>([
    ['nobody has it', {}],
    ['it is over', { row: sessionRow({ id: 's', isArchived: true }), owned: { isOver: true } }],
  ])('is free where %s', async (_, given) => {
    const { sessions, did } = making(given)
    await sessions.refuseTakenId('s')
    expect(did).toEqual([['forgotten', { id: 's' }]])
  })
})
