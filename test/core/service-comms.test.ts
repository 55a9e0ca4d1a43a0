import { describe, expect, test } from 'vitest'
import { createIdle, errorOf, useService } from './support.ts'

describe('a name in a program of somebody else, which no schema has seen', () => {
  test.each(['', ' ', 'a\nb', 'a\u2028b', 'a\u0085b', 'x'.repeat(129)])('is refused: %j', async (name) => {
    const harness = useService()
    const { service } = harness
    const create = () => service.createSession({ initial_turn: 'deferred', comms_name: name })
    expect(await errorOf(create)).toMatchObject({ code: 'INVALID_PARAMS', data: { errors: [{ path: '/comms_name' }] } })
    expect(service.stats).toMatchObject({ sessions: 0, residents: 0 })
    const id = await createIdle(harness)
    const inject = () => service.inject(id, { body: 'x', source: name })
    expect(await errorOf(inject)).toMatchObject({ code: 'INVALID_PARAMS', data: { errors: [{ path: '/source' }] } })
  })

  test('may have 128 characters, of any script', async () => {
    const { service } = useService()
    const names = ['x'.repeat(128), 'Ärger & Söhne', '石', '"quoted"']
    const ids: string[] = []
    for (const comms_name of names) {
      ids.push((await service.createSession({ initial_turn: 'deferred', comms_name })).sessionId)
    }
    const reader = (await service.createSession({ initial_turn: 'deferred' })).sessionId
    expect(service.peers(reader).map(({ name, peer_id }) => [name, peer_id])).toEqual(
      names.map((name, at) => [name, ids[at]]),
    )
  })
})
