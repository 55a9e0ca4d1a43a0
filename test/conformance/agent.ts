import { describe, expect, test } from 'vitest'
import { AGENT_OPTIONS, type SessionAgentBuilder, type TurnOutcome } from '../../src/core/agent.ts'
import { assertAgentOutput, assertTurnOutcome } from '../../src/core/agent-output.ts'
import type { AgentOutput, LoggedEvent } from '../../src/core/events.ts'
import { type CreateSessionRequest, SessionView, type TurnView } from '../../src/core/session-service.ts'
import { ExportedSession, transcriptFault } from '../../src/core/transcript.ts'
import { addUsage, NO_USAGE, type Usage } from '../../src/core/usage.ts'
import { createIdle, type Harness, runTurn, settled, textOf, turnEvents, useService } from '../core/support.ts'
import { turnGrammarFault } from './grammar.ts'
import { eventFaults, schemaFaults } from './schemas.ts'

export interface AgentCases {
  /** Prompts that the agent answers in its own time. */
  prompts: readonly string[]
  /** What a session is made with. */
  request?: CreateSessionRequest
  /** A turn that goes on, after so many deltas, until it is interrupted; left out for an agent that has none. */
  endless?: { prompt: string; request?: CreateSessionRequest; deltas: number }
  /** A prompt at which the agent fails, saying why. */
  failing?: { prompt: string; message: string; code?: string }
}

const everything = { offset: 0, limit: 1_000 }

/** What any agent has to do, whatever it talks to. It is held against the engine, as it would be in a server. */
export function agentConformance(builder: SessionAgentBuilder, cases: AgentCases): void {
  const { prompts, request = {}, endless, failing } = cases

  describe(`the agent ${builder.name}`, () => {
    test('says what it is', () => {
      expect(builder.name).toMatch(/^[\w-]{1,128}$/)
      expect(builder.description ?? 'x').toMatch(/\S/)
      for (const option of builder.accepts ?? []) expect(AGENT_OPTIONS).toContain(option)
      for (const tool of builder.tools ?? []) {
        expect(tool).toEqual({ name: expect.stringMatching(/^[\w-]+$/), description: expect.stringMatching(/\S/) })
      }
    })

    test.each(prompts.map((prompt) => [prompt]))('answers %j with a turn that is whole', async (prompt) => {
      const harness = useService({ agents: [builder] })
      const id = await createIdle(harness, request)
      const view = await runTurn(harness, id, prompt)
      expect(view).toMatchObject({ status: 'completed', error: undefined })
      await expectWhole(harness, id, view)
    })

    test('answers turn after turn, and the session’s usage is the sum of all', async () => {
      const harness = useService({ agents: [builder] })
      const id = await createIdle(harness, request)
      let sum: Usage = NO_USAGE
      for (const prompt of [...prompts, ...prompts]) {
        const view = await runTurn(harness, id, prompt)
        await expectWhole(harness, id, view)
        sum = addUsage(sum, view.result?.usage ?? NO_USAGE)
        expect(view.result?.session_usage).toEqual(sum)
      }
      expect(harness.service.read(id).billing).toEqual({ total_tokens: sum.total_tokens, usage: sum })
      expect(harness.faults).toEqual([])
    })

    test('keeps sessions that run at a time apart', async () => {
      const harness = useService({ agents: [builder] })
      const alone = await Promise.all(prompts.map((prompt) => answerOf(harness, request, prompt)))
      const together = await Promise.all(
        prompts.flatMap((prompt) => [answerOf(harness, request, prompt), answerOf(harness, request, prompt)]),
      )
      expect(together).toEqual(alone.flatMap((answer) => [answer, answer]))
    })

    test('yields and returns nothing but what agents may, and is over when it returns', async () => {
      for (const prompt of prompts) {
        const { outputs, outcome, run } = await drive(prompt, new AbortController().signal)
        for (const output of outputs) if (output.type !== 'turn_started') assertAgentOutput(output)
        if (outcome !== undefined) assertTurnOutcome(outcome)
        expect(await run.next()).toEqual({ done: true, value: undefined })
      }
    })

    test('comes to an end at once when its signal had aborted before it began', async () => {
      for (const prompt of endless === undefined ? prompts : [...prompts, endless.prompt]) {
        const over = drive(prompt, AbortSignal.abort(), endless?.request).then(
          () => 'returned',
          () => 'threw',
        )
        expect(['returned', 'threw']).toContain(await over)
      }
    })

    test('can be closed at its first word', async () => {
      for (const prompt of prompts) {
        const run = await start(prompt, new AbortController().signal)
        await run.next()
        expect((await run.return(undefined)).done).toBe(true)
      }
    })

    test('is never begun by a turn that is interrupted at once', async () => {
      const harness = useService({ agents: [builder] })
      const id = await createIdle(harness, request)
      const prompt = prompts[0] ?? ''
      const started = harness.service.startTurn(id, { prompt })
      harness.service.interrupt(id)
      const { turn } = await started
      expect(await harness.service.turnEnded(id, turn)).toMatchObject({
        status: 'interrupted',
        result: { text: '', turns: 0, stop_reason: 'cancelled' },
      })
      await expectWhole(harness, id, await runTurn(harness, id, prompt))
    })

    test('gives its place back when its session is archived', async () => {
      const harness = useService({ agents: [builder], maxSessions: 1 })
      for (let i = 0; i < 3; i++) {
        const id = await createIdle(harness, request)
        await runTurn(harness, id, prompts[0] ?? '')
        harness.service.archive(id)
        await settled()
        expect(harness.service.stats).toMatchObject({ sessions: 0, residents: 0 })
      }
      expect(harness.faults).toEqual([])
    })

    if (endless !== undefined) {
      test('stops by itself when it is interrupted, and is there for the next turn', async () => {
        let built = 0
        const counted: SessionAgentBuilder = {
          ...builder,
          buildAgent: (...args) => {
            built++
            return builder.buildAgent(...args)
          },
        }
        const harness = useService({ agents: [counted] })
        const { service } = harness
        const id = await createIdle(harness, { ...request, ...endless.request })
        const { turn } = await service.startTurn(id, { prompt: endless.prompt })
        let deltas = 0
        for await (const event of service.events(id, { turn })) {
          if (event.type === 'text_delta') deltas++
          if (event.type !== 'run_started' && deltas === endless.deltas) break
        }
        service.interrupt(id)
        const view = await service.turnEnded(id, turn)
        expect(view).toMatchObject({ status: 'interrupted', result: { stop_reason: 'cancelled' } })
        const events = await turnEvents(harness, id, turn)
        expect(turnGrammarFault(events)).toBeUndefined()
        expect(events.flatMap(eventFaults)).toEqual([])
        expect(view.result?.text).toBe(textOf(events))
        expect(transcriptFault(service.messages(id, everything).messages)).toBeUndefined()
        if (endless.request === undefined) await expectWhole(harness, id, await runTurn(harness, id, prompts[0] ?? ''))
        expect(built).toBe(1)
        expect(harness.faults).toEqual([])
      })
    }

    if (failing !== undefined) {
      test('fails with words for the caller, and answers the next turn', async () => {
        const harness = useService({ agents: [builder] })
        const id = await createIdle(harness, request)
        const view = await runTurn(harness, id, failing.prompt)
        expect(view).toMatchObject({
          status: 'failed',
          error: { code: failing.code ?? 'AGENT_ERROR', message: failing.message },
        })
        const events = await turnEvents(harness, id, view.turn)
        expect(turnGrammarFault(events)).toBeUndefined()
        expect(events.flatMap(eventFaults)).toEqual([])
        expect(events.at(-1)).toMatchObject({
          type: 'run_failed',
          error: failing.message,
          code: failing.code ?? 'AGENT_ERROR',
        })
        await expectWhole(harness, id, await runTurn(harness, id, prompts[0] ?? ''))
        expect(harness.faults).toEqual([])
      })
    }

    /** The agent alone, without an engine around it. */
    async function start(prompt: string, signal: AbortSignal, more: CreateSessionRequest = {}) {
      const session = {
        id: '0199d3c0-0000-7000-8000-000000000000',
        labels: {},
        messages: [],
        spent: { tokens: 0, durationMs: 0, toolCalls: 0 },
        emit: () => {},
      }
      const agent = await builder.buildAgent({ ...request, ...more }, session)
      return agent.run(
        { prompt },
        { signal, session, turn: 1, takeInjected: () => undefined, approve: async () => ({ approved: true }) },
      )
    }

    async function drive(prompt: string, signal: AbortSignal, more: CreateSessionRequest = {}) {
      const run = await start(prompt, signal, more)
      const outputs: AgentOutput[] = []
      let outcome: TurnOutcome | undefined
      for (;;) {
        const next = await run.next()
        if (next.done) {
          outcome = next.value ?? undefined
          break
        }
        outputs.push(next.value)
      }
      return { outputs, outcome, run }
    }
  })
}

async function answerOf(harness: Harness, request: CreateSessionRequest, prompt: string) {
  const id = await createIdle(harness, request)
  const { result } = await runTurn(harness, id, prompt)
  return { text: result?.text, turns: result?.turns, tool_calls: result?.tool_calls, usage: result?.usage }
}

/** A turn that completed: its events, its result and what it left in the transcript agree with each other. */
async function expectWhole(harness: Harness, id: string, view: TurnView): Promise<void> {
  const { service } = harness
  const events = await turnEvents(harness, id, view.turn)
  expect(turnGrammarFault(events)).toBeUndefined()
  expect(events.flatMap(eventFaults)).toEqual([])
  expect(new Set(events.map(({ turn }) => turn))).toEqual(new Set([view.turn]))
  const terminal = events.at(-1)
  expect(terminal).toMatchObject({
    type: 'run_completed',
    session_id: id,
    result: view.result,
    usage: view.result?.usage,
  })
  expect(view.result).toMatchObject({
    text: lastSaid(events),
    turns: events.filter(({ type }) => type === 'turn_started').length,
    tool_calls: events.filter(({ type }) => type === 'tool_call_requested').length,
  })
  const spent = events.flatMap((event) => (event.type === 'turn_completed' ? [event.usage] : []))
  expect(view.result?.usage).toEqual(spent.reduce(addUsage, NO_USAGE))
  expect(transcriptFault(service.messages(id, everything).messages)).toBeUndefined()
  expect(schemaFaults(SessionView, service.read(id))).toEqual([])
  expect(schemaFaults(ExportedSession, service.exportSession(id))).toEqual([])
}

/** The text since the last tool round: what a turn's answer is. */
function lastSaid(events: readonly LoggedEvent[]): string {
  let text = ''
  for (const event of events) {
    if (event.type === 'tool_call_requested') text = ''
    if (event.type === 'text_delta') text += event.delta
  }
  return text
}
