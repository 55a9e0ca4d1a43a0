import { randomInt } from 'node:crypto'
import { afterEach, describe, expect, test } from 'vitest'
import type { Turn, TurnList } from '../helpers/contract.ts'
import { client, onlyIfAwaited, until } from '../helpers/http.ts'
import { patience } from '../helpers/slowness.ts'
import { openStream } from '../helpers/sse.ts'
import { killLeftovers, type Served, serve } from '../process/child.ts'
import { scale } from '../promises/support.ts'
import { differences, readBack, violations, type Witness, witnessed } from './checker.ts'
import { quickStores } from './stores.ts'
import { newWitness, Storyteller, seenBy } from './storyteller.ts'

afterEach(killLeftovers)

const CLIENTS = 4

describe.each(Object.entries(quickStores))('%s', (_, place) => {
  const kills = scale(8, 200)

  test(`nothing that anybody was told is lost when the process is killed ${kills} times`, {
    timeout: patience(60_000 + kills * 5_000),
  }, async () => {
    const settings = { STORE_URL: await place(), RETAIN_EVENTS: '1000000', RETAIN_BYTES: '500000000' }
    let server: Served = await serve(settings)
    const url = () => server.url
    const api = client(url)
    const tellers = await Promise.all(
      Array.from({ length: CLIENTS }, async () => {
        const body = { agent: 'scripted', initial_turn: 'deferred' }
        const created = await api.post<{ session_id: string }>('/sessions', body)
        // Where a lease has to run out first, whoever takes a lost turn up may be killed as well before it has ended it.
        return new Storyteller(newWitness(created.body.session_id), { url, turnMs: 40_000 })
      }),
    )
    const witnesses = tellers.map(({ witness }) => witness)
    const telling = onlyIfAwaited(Promise.all(tellers.map((teller) => teller.run())))
    for (let i = 0; i < kills; i++) {
      // Not before somebody was told something; then at any instant.
      const before = seenBy(witnesses)
      await until('a story goes on', () => seenBy(witnesses) > before)
      await new Promise((resolve) => setTimeout(resolve, randomInt(0, 150)))
      server.child.kill('SIGKILL')
      await server.exited
      server = await serve(settings)
    }
    for (const teller of tellers) teller.stop()
    await telling
    let lost = 0
    const found: string[] = []
    for (const witness of witnesses) {
      const { body } = await api.get<TurnList>(`/sessions/${witness.session}/turns?limit=1000`)
      expect(body.turns.filter(({ status }) => ['queued', 'running'].includes(status))).toEqual([])
      const failed = body.turns.filter(({ status }: Turn) => status === 'failed')
      for (const turn of failed) expect(turn.error).toMatchObject({ code: 'TURN_LOST', status: 500 })
      lost += failed.length
      const next = await api.post(`/sessions/${witness.session}/turns`, { prompt: 'say Still here.' })
      expect(next.status, next.text).toBe(200)
      witness.keys.push('the last')
      const stream = await openStream(`${url()}/sessions/${witness.session}/events?after=0`)
      await stream.upTo(({ json }) => json.type === 'run_completed' && json.turn === body.total + 1)
      stream.leave()
      found.push(
        ...violations(
          witness,
          stream.frames.filter(({ json }) => json.seq !== undefined),
        ),
      )
      expect(witness.seen.size).toBeGreaterThan(0)
    }
    expect(found).toEqual([])
    // Else nobody was disturbed, and nothing was shown.
    expect(lost).toBeGreaterThan(0)
    server.child.kill('SIGTERM')
    expect(await server.exited).toBe(0)
  })
})

describe('the checker', () => {
  const witness = (): Witness => ({
    session: 's',
    seen: new Map([[1, 'a']]),
    acknowledged: new Map([['k', 1]]),
    keys: ['k'],
    faults: [],
  })
  const event = (seq: number, type: string, turn = 1) => ({
    block: String.fromCharCode(96 + seq),
    json: { type, seq, turn },
  })
  const whole = [event(1, 'run_started'), event(2, 'run_completed')]

  test('is content with what is whole', () => {
    expect(violations(witness(), whole)).toEqual([])
  })

  test.each([
    ['an event that is gone', [event(1, 'run_started')], 'has no end'],
    ['an event that is another', [{ ...event(1, 'run_started'), block: 'z' }, event(2, 'run_completed')], 'is another'],
    ['a gap', [event(1, 'run_started'), event(3, 'run_completed')], 'stands at 2'],
    ['a turn that ran twice', [...whole, event(3, 'run_started', 2), event(4, 'run_completed', 2)], 'started 2 turns'],
    [
      'turns that overlap',
      [event(1, 'run_started'), event(2, 'run_started', 2), event(3, 'run_completed', 2)],
      'while 1 ran',
    ],
    ['an acknowledged turn that is gone', [event(1, 'run_started', 2), event(2, 'run_completed', 2)], 'is gone'],
  ])('notices %s', (_, log, fault) => {
    expect(violations(witness(), log).join()).toContain(fault)
  })

  test('notices a client that was shown two things as one event', () => {
    const one = witness()
    witnessed(one, 1, 'b')
    expect(violations(one, whole).join()).toContain('shown as two')
  })

  test('notices a turn that was over and is not', () => {
    const one = witness()
    readBack(one, 1, 'completed')
    expect(violations(one, whole)).toEqual([])
    readBack(one, 1, 'running')
    expect(violations(one, whole).join()).toContain('is running again')
  })

  test('notices nodes that have not the same log', () => {
    expect(differences('s', [whole, whole, whole])).toEqual([])
    for (const other of [whole.slice(0, 1), [...whole, event(3, 'run_started', 2)], [event(1, 'x'), event(3, 'y')]]) {
      expect(differences('s', [whole, whole, other])).toEqual([expect.stringContaining('node 2')])
    }
  })
})
