import { expect, test } from 'vitest'
import type { SessionAgentBuilder } from '../../src/core/agent.ts'
import { createIdle, expectInvalid, expectProblem, NOBODY, type RunResult } from '../helpers/contract.ts'
import { types } from '../helpers/sse.ts'
import { useServer } from '../helpers/suite.ts'

/** Asks for its one call, for as long as the prompt says, and answers with the answer. */
const asks: SessionAgentBuilder = {
  name: 'asks',
  buildAgent: () => ({
    async *run({ prompt }, { approve }) {
      const id = prompt.startsWith('id ') ? prompt.slice(3) : 'call/1 é'
      const call = { id, name: 'rm', args: { path: '/' } }
      yield { type: 'tool_call_requested', ...call }
      if (prompt === 'leave') {
        void approve({ ...call, timeoutMs: 60_000 })
        return { text: 'gone' }
      }
      const { approved, reason } = await approve({ ...call, timeoutMs: Number(prompt) || 60_000 })
      const result = reason ?? String(approved)
      yield {
        type: 'tool_execution_completed',
        id: call.id,
        name: call.name,
        result,
        is_error: !approved,
        duration_ms: 0,
      }
      return { text: `${approved}: ${result}` }
    },
  }),
}

const server = useServer({}, { agents: [asks] })
const { api } = server
const CALL = encodeURIComponent('call/1 é')

/** A turn that waits for permission. */
async function waiting(timeoutMs = 60_000) {
  const id = await createIdle(api, { agent: 'asks' })
  const stream = await server.stream(`/sessions/${id}/turns/stream`, { json: { prompt: String(timeoutMs) } })
  const { json } = await stream.upTo('tool_approval_requested')
  return { id, stream, asked: json, path: `/sessions/${id}/turns/1/approvals/${CALL}` }
}

test('a call that waits says what it would do and until when', async () => {
  const before = Date.now()
  const { asked } = await waiting()
  expect(asked).toMatchObject({ id: 'call/1 é', name: 'rm', args: { path: '/' } })
  expect(Date.parse(String(asked.expires_at))).toBeGreaterThanOrEqual(before + 60_000)
})

test.each([
  [{ approved: true }, 'true: true'],
  [{ approved: false }, 'false: false'],
  [{ approved: false, reason: 'too dangerous' }, 'false: too dangerous'],
])('%j lets the turn go on', async (answer, text) => {
  const { id, stream, path } = await waiting()
  const answered = await api.post(path, answer)
  expect(answered.status, answered.text).toBe(200)
  expect(answered.body).toEqual({ session_id: id, turn: 1, call_id: 'call/1 é', ...answer })
  const resolved = await stream.upTo('tool_approval_resolved')
  expect(resolved.json).toMatchObject({ id: 'call/1 é', name: 'rm', ...answer })
  const { json } = await stream.upTo('run_completed')
  expect(json.result).toMatchObject({ text })
})

test('the first answer counts', async () => {
  const { path, stream } = await waiting()
  const answers = await Promise.all([true, false].map((approved) => api.post(path, { approved })))
  expect(answers.map(({ status }) => status).sort()).toEqual([200, 404])
  await stream.all()
  expectProblem(await api.post(path, { approved: true }), 404, 'APPROVAL_NOT_FOUND')
})

test('without an answer in time it is refused', async () => {
  const { stream } = await waiting(20)
  const frames = await stream.all()
  const resolved = frames.find(({ event }) => event === 'tool_approval_resolved')
  expect(resolved?.json).toMatchObject({ approved: false, reason: 'nobody answered in time' })
  expect(frames.at(-1)?.event).toBe('run_completed')
})

test('an interrupt ends the wait and the turn', async () => {
  const { id, stream, path } = await waiting()
  expect((await api.post(`/sessions/${id}/interrupt`)).status).toBe(200)
  expect(types(await stream.all()).slice(-1)).toEqual(['run_interrupted'])
  expectProblem(await api.post(path, { approved: true }), 404, 'APPROVAL_NOT_FOUND')
})

test('a turn that is over waits for nothing', async () => {
  const { body } = await api.post<RunResult>('/sessions', { agent: 'asks', prompt: 'leave' })
  const path = `/sessions/${body.session_id}/turns/1/approvals/${CALL}`
  expectProblem(await api.post(path, { approved: true }), 404, 'APPROVAL_NOT_FOUND')
})

test('what is not there is not found, and what is no answer is refused', async () => {
  const { id, path } = await waiting()
  expectProblem(await api.post(`/sessions/${NOBODY}/turns/1/approvals/x`, { approved: true }), 404, 'SESSION_NOT_FOUND')
  expectProblem(await api.post(`/sessions/${id}/turns/7/approvals/x`, { approved: true }), 404, 'TURN_NOT_FOUND')
  expectProblem(await api.post(`/sessions/${id}/turns/1/approvals/x`, { approved: true }), 404, 'APPROVAL_NOT_FOUND')
  expectInvalid(await api.post(path, {}))
  expectInvalid(await api.post(path, { approved: 'yes' }), '/approved')
  expectInvalid(await api.post(path, { approved: true, because: 'x' }))
})

test.each([129, 4_572, 7_900])('a call may have an id of %i characters', async (length) => {
  const callId = `call_${'aB3_'.repeat(2_000)}`.slice(0, length)
  const id = await createIdle(api, { agent: 'asks' })
  const stream = await server.stream(`/sessions/${id}/turns/stream`, { json: { prompt: `id ${callId}` } })
  await stream.upTo('tool_approval_requested')
  const answered = await api.post(`/sessions/${id}/turns/1/approvals/${callId}`, { approved: true })
  expect(answered.body).toMatchObject({ call_id: callId, approved: true })
  expect((await stream.upTo('run_completed')).json.result).toMatchObject({ text: 'true: true' })
})

test('what else stands in the path is no longer than 128 characters', async () => {
  const long = 'x'.repeat(129)
  for (const path of [`${long}/turns/1/approvals/c`, `${NOBODY}/turns/${long}/approvals/c`]) {
    expectProblem(await api.post(`/sessions/${path}`, { approved: true }), 414, 'URI_TOO_LONG')
  }
})
