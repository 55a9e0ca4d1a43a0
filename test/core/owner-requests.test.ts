import { describe, expect, test, vi } from 'vitest'
import type { Cluster } from '../../src/core/cluster.ts'
import {
  InvalidParamsError,
  SessionBusyError,
  SessionNotFoundError,
  SessionNotRunningError,
  ShuttingDownError,
  StoreUnavailableError,
} from '../../src/core/errors.ts'
import { OperationRouter } from '../../src/core/operation-router.ts'
import { type Execute, OwnerRequests } from '../../src/core/owner-requests.ts'
import { ElsewhereError, Ownership } from '../../src/core/ownership.ts'
import type { Residents } from '../../src/core/residents.ts'
import type { OperationArgs, Operations } from '../../src/core/session-operations.ts'
import type { SessionTask } from '../../src/core/session-task.ts'
import { Mailbox, partOf } from '../helpers/cluster.ts'
import { codeOf, door, errorOf, settled, useTimeouts } from './support.ts'

const useTimers = () => useTimeouts('setInterval', 'clearInterval', 'performance')

interface Given {
  execute?: Execute
  /** What the store does otherwise, for whoever asks and for the owner. */
  asker?: Partial<Cluster>
  owner?: Partial<Cluster>
}

/** Two servers, of which one asks the other, and what became of that. */
async function asking({ execute = async () => undefined, asker: ofAsker = {}, owner: ofOwner = {} }: Given) {
  const mailbox = new Mailbox()
  const asker = new OwnerRequests(mailbox.cluster('a', ofAsker), () => Promise.reject(new Error('asked by itself')))
  const owner = new OwnerRequests(mailbox.cluster('b', ofOwner), execute)
  const seen: { isOver: boolean } = { isOver: false }
  const answer = asker.ask('b', 'interrupt', 's', { turn: 1 }).finally(() => {
    seen.isOver = true
  })
  // Whoever looks at it later is told in time.
  answer.catch(() => {})
  await settled()
  const serve = async () => {
    await owner.serve()
    await settled()
  }
  return { mailbox, asker, owner, answer, seen, serve }
}

/** What is answered where `execute` did it and every notice came. */
async function answered(execute: Execute): Promise<unknown> {
  const { asker, answer, serve } = await asking({ execute })
  await serve()
  await asker.look()
  return answer
}

const refused = (error: unknown) => errorOf(() => answered(() => Promise.reject(error)))

describe('what the owner of a session is asked for', () => {
  test('is done there, and its result is the answer', async () => {
    const done: unknown[] = []
    const answer = answered(async (...given) => {
      done.push(given)
      return { turn: 1 }
    })
    expect(await answer).toEqual({ turn: 1 })
    expect(done).toEqual([['interrupt', 's', { turn: 1 }]])
  })

  test('may have no result', async () => {
    expect(await answered(async () => undefined)).toBeNull()
  })

  test.each([new SessionNotRunningError('s', 3), new InvalidParamsError('/prompt', 'must not be blank')])(
    'is refused as it is there: $code',
    async (error) => {
      const { code, message, data } = error
      const refusal = await refused(error)
      expect(refusal).toMatchObject({ code, message })
      expect(refusal.data).toEqual(data)
      expect(refusal).not.toHaveProperty('retryAfter')
    },
  )

  test('is refused with the turn that is in the way', async () => {
    const active = { turn: 4, status: 'running', started_at: '2026-01-01T00:00:00.000Z', last_seq: 9 } as const
    const refusal = await refused(new SessionBusyError('s', active, 'The line is full'))
    expect(refusal).toBeInstanceOf(SessionBusyError)
    expect(refusal).toMatchObject({ message: 'The line is full', sessionId: 's', activeTurn: active })
    expect(refusal.data).toEqual({ session_id: 's', turn: 4 })
  })

  test('is refused with the time after which to try again', async () => {
    expect(await refused(new ShuttingDownError(7))).toMatchObject({ code: 'SHUTTING_DOWN', retryAfter: 7 })
  })

  test('fails without the text of what nobody expected', async () => {
    const reply = vi.fn<Cluster['reply']>(async () => {})
    const { serve } = await asking({ execute: () => Promise.reject(new Error('password')), owner: { reply } })
    await serve()
    expect(reply.mock.calls).toEqual([[1, expect.stringContaining('INTERNAL_ERROR')]])
    expect(reply.mock.calls[0]?.[1]).not.toContain('password')
    expect(await refused(new Error('password'))).toMatchObject({ code: 'INTERNAL_ERROR' })
  })

  test('is elsewhere, where the owner has not got the session any more', async () => {
    const error = await answered(() => Promise.reject(new ElsewhereError('c'))).catch((error) => error)
    expect(error).toBeInstanceOf(ElsewhereError)
    expect(error).toMatchObject({ owner: 'b' })
  })

  test('is done once, however often the owner looks', async () => {
    const execute = vi.fn(async () => 'done')
    const { asker, answer, serve } = await asking({ execute })
    await serve()
    await serve()
    await asker.look()
    expect(await answer).toBe('done')
    expect(execute).toHaveBeenCalledTimes(1)
  })
})

describe('an answer', () => {
  test('whose notice is lost is found by looking again, and nothing goes on after it', async () => {
    const timers = useTimers()
    const { answer, seen, serve } = await asking({ execute: async () => 'done' })
    await serve()
    await timers.pass(499)
    expect(seen.isOver).toBe(false)
    await timers.pass(1)
    expect(seen.isOver).toBe(true)
    expect(await answer).toBe('done')
    expect(vi.getTimerCount()).toBe(0)
  })

  test('is found where looking for it fails at first', async () => {
    const timers = useTimers()
    let failures = 2
    const mailbox = new Mailbox()
    const { replies } = mailbox.cluster('a')
    const asker = new OwnerRequests(
      mailbox.cluster('a', {
        replies: (numbers) => (failures-- > 0 ? Promise.reject(new StoreUnavailableError()) : replies(numbers)),
      }),
      () => Promise.reject(new Error('asked by itself')),
    )
    const owner = new OwnerRequests(mailbox.cluster('b'), async () => 'done')
    const answer = asker.ask('b', 'interrupt', 's', {})
    await settled()
    await owner.serve()
    await timers.pass(500)
    await timers.pass(500)
    expect(await answer).toBe('done')
  })

  test('is not looked for where nothing was asked', async () => {
    const requests = new OwnerRequests(partOf<Cluster>('cluster', {}), async () => undefined)
    await expect(requests.look()).resolves.toBeUndefined()
  })

  test('is looked for once more where notices come while that is under way', async () => {
    useTimers()
    const first = door()
    const replies = vi.fn<Cluster['replies']>(async (numbers) => {
      if (replies.mock.calls.length > 1) return numbers.map((number) => ({ number, reply: '{"value":"done"}' }))
      await first.promise
      return []
    })
    const { asker, answer, seen } = await asking({ asker: { replies } })
    const notices = [asker.look(), asker.look()]
    await settled()
    expect(replies).toHaveBeenCalledTimes(1)
    first.open()
    await Promise.all(notices)
    await settled()
    expect(seen.isOver).toBe(true)
    expect(await answer).toBe('done')
    expect(replies).toHaveBeenCalledTimes(2)
  })

  test('of an owner that is gone before it began is that the session is elsewhere', async () => {
    const { mailbox, asker, answer } = await asking({})
    mailbox.gone.add('b')
    await asker.look()
    await expect(answer).rejects.toBeInstanceOf(ElsewhereError)
  })

  test('of an owner that is gone and had begun is known to nobody', async () => {
    const { mailbox, asker, answer, serve } = await asking({ execute: () => new Promise(() => {}) })
    await serve()
    mailbox.gone.add('b')
    await asker.look()
    const error = await errorOf(() => answer)
    expect(error).toMatchObject({ code: 'OUTCOME_UNKNOWN' })
    expect(error).not.toHaveProperty('retryAfter')
  })
})

describe('an owner that does not answer in ten seconds', () => {
  test('and has not begun is not to do it any more', async () => {
    const timers = useTimers()
    const execute = vi.fn(async () => undefined)
    const { answer, seen, serve } = await asking({ execute })
    await timers.pass(9_999)
    expect(seen.isOver).toBe(false)
    await timers.pass(1)
    await expect(answer).rejects.toBeInstanceOf(ElsewhereError)
    await serve()
    expect(execute).not.toHaveBeenCalled()
  })

  test('and has begun may have done it', async () => {
    const timers = useTimers()
    const { answer, serve } = await asking({ execute: () => new Promise(() => {}) })
    await serve()
    await timers.pass(10_000)
    expect(await errorOf(() => answer)).toMatchObject({ code: 'OUTCOME_UNKNOWN' })
  })

  test('may have begun where the store cannot say', async () => {
    const timers = useTimers()
    const { answer } = await asking({ asker: { withdraw: () => Promise.reject(new Error('gone')) } })
    await timers.pass(10_000)
    expect(await errorOf(() => answer)).toMatchObject({ code: 'OUTCOME_UNKNOWN' })
  })

  test('since its answer could not be written goes on with what comes next', async () => {
    const timers = useTimers()
    const reply = vi.fn<Cluster['reply']>(() => Promise.reject(new Error('gone')))
    const execute = vi.fn(async () => 'done')
    const { asker, answer, serve } = await asking({ execute, owner: { reply } })
    await serve()
    expect(reply).toHaveBeenCalledWith(1, '{"value":"done"}')
    await timers.pass(10_000)
    expect(await errorOf(() => answer)).toMatchObject({ code: 'OUTCOME_UNKNOWN' })
    const next = asker.ask('b', 'interrupt', 's', {})
    next.catch(() => {})
    await settled()
    await serve()
    expect(execute).toHaveBeenCalledTimes(2)
    await timers.pass(10_000)
    await expect(next).rejects.toMatchObject({ code: 'OUTCOME_UNKNOWN' })
  })
})

const s = partOf<SessionTask>('session', { id: 's' })
type Place = 'here' | 'elsewhere' | 'nowhere'

interface Routing {
  /** Where the session is, time after time; in the end it stays where it is. */
  places: Place[]
  /** What its owner answers before it says that it is elsewhere. */
  answers?: object[]
  asking?: () => void
}

/** A server that has operations done, and what it asked for and did. */
function routing({ places, answers = [], asking = () => {} }: Routing) {
  const asked: unknown[] = []
  const done: OperationArgs['interrupt'][] = []
  const cluster = partOf<Cluster>('cluster', {
    ask: async (owner, { operation, sessionId, args }) => {
      asking()
      return asked.push([owner, operation, sessionId, JSON.parse(args)])
    },
    replies: async ([number]) =>
      number === undefined ? [] : [{ number, reply: JSON.stringify(answers.shift() ?? { isElsewhere: true }) }],
  })
  const residents = partOf<Residents>('residents', {
    with: async (_, act) => {
      const place = places.length > 1 ? places.shift() : places[0]
      if (place === 'nowhere') throw new SessionNotFoundError('s')
      if (place === 'elsewhere') throw new ElsewhereError('b')
      return act(s)
    },
  })
  const operations = partOf<Operations>('operations', {
    interrupt: async (_, args) => {
      done.push(args)
      return { turn: 1 }
    },
  })
  return { router: new OperationRouter(residents, operations, new Ownership(cluster), cluster), asked, done }
}

describe('an operation', () => {
  test('is done here, where the session is here', async () => {
    const { router, asked, done } = routing({ places: ['here'] })
    expect(await router.run('interrupt', 's', { turn: 1 })).toEqual({ turn: 1 })
    expect([done, asked]).toEqual([[{ turn: 1 }], []])
  })

  test('is not done here by a request that may not any more', async () => {
    const { router, done } = routing({ places: ['here'] })
    const assertHeld = () => {
      throw new StoreUnavailableError()
    }
    await expect(router.run('interrupt', 's', {}, { assertHeld })).rejects.toMatchObject({ code: 'STORE_UNAVAILABLE' })
    expect(done).toEqual([])
  })

  test('is asked for where the session is', async () => {
    const { router, asked, done } = routing({ places: ['elsewhere'], answers: [{ value: { turn: 5 } }] })
    expect(await router.run('interrupt', 's', { turn: 5 })).toEqual({ turn: 5 })
    expect([asked, done]).toEqual([[['b', 'interrupt', 's', { turn: 5 }]], []])
  })

  test('is refused as the owner refuses it', async () => {
    const error = { code: 'SESSION_NOT_RUNNING', message: 'no', data: {} }
    const { router, asked } = routing({ places: ['elsewhere'], answers: [{ error }] })
    await expect(router.run('interrupt', 's', {})).rejects.toMatchObject(error)
    expect(asked).toHaveLength(1)
  })

  test('is done here once the session has come, though another had been asked', async () => {
    const { router, asked, done } = routing({ places: ['elsewhere', 'elsewhere', 'here'] })
    expect(await router.run('interrupt', 's', {})).toEqual({ turn: 1 })
    expect(asked).toHaveLength(2)
    expect(done).toHaveLength(1)
  })

  test('is given up where the session is between two servers for long', async () => {
    useTimers()
    // The last moment at which it is asked for again, and the one after.
    const waits = [15_000, 1]
    const { router, asked } = routing({
      places: ['elsewhere', 'elsewhere', 'elsewhere', 'here'],
      asking: () => vi.advanceTimersByTime(waits.shift() ?? 0),
    })
    const refusal = await errorOf(() => router.run('interrupt', 's', {}))
    expect(refusal.code).toBe('STORE_UNAVAILABLE')
    expect(refusal.cause).toBeInstanceOf(ElsewhereError)
    expect(asked).toHaveLength(2)
  })

  test('is asked of nobody where there is no such session', async () => {
    const { router, asked } = routing({ places: ['nowhere'] })
    expect(await codeOf(() => router.run('interrupt', 's', {}))).toBe('SESSION_NOT_FOUND')
    expect(asked).toEqual([])
  })

  test.each([
    ['would be refused there', { beforeAsking: () => Promise.reject(new SessionNotRunningError('s')) }],
    [
      'may not be done any more',
      {
        assertHeld: () => {
          throw new SessionNotRunningError('s')
        },
      },
    ],
  ])('is asked of nobody where it %s', async (_, conditions) => {
    const { router, asked } = routing({ places: ['elsewhere'], answers: [{ value: 'done' }] })
    await expect(router.run('interrupt', 's', {}, conditions)).rejects.toMatchObject({ code: 'SESSION_NOT_RUNNING' })
    expect(asked).toEqual([])
  })

  test.each([new SessionNotFoundError('s'), new ElsewhereError('b')])(
    'fails as it does where there is one server: $name',
    async (error) => {
      const residents = partOf<Residents>('residents', { with: () => Promise.reject(error) })
      const router = new OperationRouter(residents, partOf('operations', {}), new Ownership(undefined), undefined)
      expect(router.requests).toBeUndefined()
      await expect(router.run('interrupt', 's', {})).rejects.toBe(error)
    },
  )
})
