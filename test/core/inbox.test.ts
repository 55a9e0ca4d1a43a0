import { describe, expect, test } from 'vitest'
import { decodeFrames } from '../../src/core/event-frame.ts'
import type { LoggedEvent } from '../../src/core/events.ts'
import { Inbox } from '../../src/core/inbox.ts'
import { type Incoming, Interaction } from '../../src/core/interaction.ts'
import { MemoryEventLog } from '../../src/core/memory-event-log.ts'
import { codeOf, errorOf, settled } from './support.ts'

const event = (body: unknown): Incoming => ({ kind: 'event', source: 's', body })
const ending = { error: 'why', code: 'CANCELLED' }

function newInbox() {
  const log = new MemoryEventLog({ events: 10_000, bytes: 64 * 1024 * 1024 })
  return { log, inbox: new Inbox('id', log) }
}

/** All of a log, once the tick is over in which it was written. */
async function eventsOf(log: MemoryEventLog): Promise<LoggedEvent[]> {
  await settled()
  const bytes = log.read(0)?.bytes
  return bytes === undefined ? [] : ([...decodeFrames(bytes)] as LoggedEvent[])
}

describe('an inbox', () => {
  test('gives what waits once, in the order in which it came', () => {
    const { inbox } = newInbox()
    expect(inbox.isEmpty).toBe(true)
    const put = [inbox.put(event('a'), false), inbox.put(event('b'), true)]
    expect(inbox.isEmpty).toBe(false)
    expect(inbox.take()).toEqual(put)
    expect(inbox.isEmpty).toBe(true)
    expect(inbox.take()).toEqual([])
  })

  test('is full at 16 Mi characters, but takes one that is larger where nothing else waits [R79]', async () => {
    const { inbox } = newInbox()
    const half = 'x'.repeat(8 * 1024 * 1024 - '[EVENT via s] '.length)
    inbox.put(event(half), false)
    inbox.put(event(half), false)
    expect(await codeOf(() => inbox.put(event(''), false))).toBe('INBOX_FULL')
    expect(inbox.take()).toHaveLength(2)
    inbox.put(event(`${half}${half}${half}`), false)
    expect(await codeOf(() => inbox.put(event(''), false))).toBe('INBOX_FULL')
    inbox.take()
    inbox.put(event('x'), false)
    inbox.put(event('y'), false)
  })

  test('keeps what it refused out of what waits', async () => {
    const { inbox } = newInbox()
    for (let i = 0; i < 1_024; i++) inbox.put(event(i), false)
    const error = await errorOf(() => inbox.put(event('x'), false))
    expect(error).toMatchObject({ code: 'INBOX_FULL', retryAfter: 1, data: { session_id: 'id' } })
    expect(inbox.take()).toHaveLength(1_024)
  })

  test('finds what waits, what is being dealt with and the newest 1,024 that are over [R88]', () => {
    const { inbox } = newInbox()
    const ended = Array.from({ length: 1_024 }, () => inbox.put(event('x'), false))
    for (const { id } of ended) expect(inbox.find(id)?.isOver).toBe(false)
    inbox.end(inbox.take(), 1, ending)
    for (const { id } of ended) expect(inbox.find(id)?.isOver).toBe(true)
    const waiting = inbox.put(event('x'), false)
    expect(inbox.find(waiting.id)).toBe(waiting)
    inbox.end(inbox.take(), 2, ending)
    expect(inbox.find(waiting.id)).toBe(waiting)
    expect(inbox.find(ended[0]?.id ?? '')).toBeUndefined()
    expect(inbox.find(ended[1]?.id ?? '')).toBe(ended[1])
    expect(inbox.find('nobody')).toBeUndefined()
  })

  test('forgets the text of what is over: its answer is in the transcript', () => {
    const { inbox } = newInbox()
    const interaction = inbox.put(event('long'), false)
    expect(interaction.text).toBe('[EVENT via s] long')
    inbox.end(inbox.take(), 1, ending)
    expect(interaction.text).toBe('')
  })

  test('that is closed ends what waits, once, leaves what was taken, and takes no more [R79]', async () => {
    const { inbox, log } = newInbox()
    const taken = inbox.put(event('taken'), false)
    inbox.take()
    const waiting = inbox.put(event('waiting'), false)
    inbox.close()
    inbox.close()
    expect(await eventsOf(log)).toMatchObject([
      { type: 'interaction_failed', seq: 1, turn: 0, interaction_id: waiting.id, code: 'INBOX_CLOSED' },
    ])
    expect(taken.isOver).toBe(false)
    expect(await codeOf(() => inbox.put(event('x'), false))).toBe('INBOX_CLOSED')
  })
})

describe('an interaction', () => {
  test('knows where in the log it stands', async () => {
    const { inbox, log } = newInbox()
    const interaction = inbox.put(event('x'), false)
    expect(interaction).toMatchObject({ turn: 0, firstSeq: 0, lastSeq: 0, isOver: false })
    log.append({ type: 'run_started', session_id: 'id', prompt: 'p' }, 3)
    interaction.start(log, 3)
    expect(interaction).toMatchObject({ turn: 3, firstSeq: 2, lastSeq: 0, isOver: false })
    inbox.end(inbox.take(), 3, ending)
    expect(interaction).toMatchObject({ turn: 3, firstSeq: 2, lastSeq: 3, isOver: true })
    const [, , last] = await eventsOf(log)
    expect([...decodeFrames(Buffer.from(interaction.terminalFrame()))]).toEqual([last])
  })

  test.each<[string, boolean]>([
    ['dismiss', true],
    [' \n DISMISS\t', true],
    ['dismissed', false],
    ['please dismiss', false],
    ['"dismiss"', false],
    ['', false],
  ])('a message of %j ends host mode: %s', (body, expected) => {
    expect(Interaction.of({ kind: 'message', source: 's', body }, false).isDismissal).toBe(expected)
    expect(Interaction.of(event(body), false).isDismissal).toBe(false)
    const asked: Incoming = { kind: 'request', source: 's', intent: body, params: body }
    expect(Interaction.of(asked, false).isDismissal).toBe(false)
    const answered: Incoming = { kind: 'response', source: 's', inReplyTo: 'x', status: 'completed', result: body }
    expect(Interaction.of(answered, false).isDismissal).toBe(false)
  })

  test.each<[string, Incoming]>([
    ['/body', event(1n)],
    ['/body', event(() => {})],
    ['/params', { kind: 'request', source: 's', intent: 'i', params: { n: 1n } }],
    ['/result', { kind: 'response', source: 's', inReplyTo: 'x', status: 'completed', result: Symbol('s') }],
  ])('that holds at %s what is no JSON is refused', async (path, incoming) => {
    expect(await errorOf(() => Interaction.of(incoming, false))).toMatchObject({
      code: 'INVALID_PARAMS',
      data: { errors: [{ path, message: 'must be text or JSON' }] },
    })
  })

  test('of nothing is null', () => {
    expect(Interaction.of(event(undefined), false).text).toBe('[EVENT via s] null')
  })
})
