import { describe, expect, test, vi } from 'vitest'
import { runTools, type ToolCall, type ToolGuard } from '../../../src/agents/tools/run-tools.ts'
import { type Tool, type ToolAnswer, toolError } from '../../../src/agents/tools/tool.ts'
import type { Approval, ApprovalRequest } from '../../../src/core/agent.ts'
import type { AgentOutput } from '../../../src/core/events.ts'
import { until, within } from '../../helpers/http.ts'

function tool(name: string, more: Partial<Tool> = {}): Tool {
  return {
    name,
    description: '',
    inputSchema: { type: 'object', properties: { n: { type: 'number' } } },
    needsApproval: false,
    timeoutMs: 10_000,
    execute: async (args) => ({ content: `${name} ${JSON.stringify(args)}`, isError: false }),
    ...more,
  }
}

const call = (id: string, name: string, args: unknown = {}): ToolCall => ({ id, name, args })

/** Lets everything pass. */
const open: ToolGuard = {
  async *before({ args }) {
    return { args }
  },
  async *after(_, answer) {
    return answer
  },
}

interface Parts {
  guard?: Partial<ToolGuard>
  approve?: (request: ApprovalRequest) => Promise<Approval>
  /** Hears each output as it comes. */
  heard?: (output: AgentOutput) => void
}

/** A round that runs by itself. */
function start(calls: readonly ToolCall[], tools: readonly Tool[], { guard, approve, heard }: Parts = {}) {
  const turn = new AbortController()
  const outputs: AgentOutput[] = []
  const asked: ApprovalRequest[] = []
  const run = async (): Promise<ToolAnswer[]> => {
    const round = runTools({
      calls,
      tools: new Map(tools.map((one) => [one.name, one])),
      guard: { ...open, ...guard },
      context: {
        signal: turn.signal,
        approve: (request) => {
          asked.push(request)
          return approve?.(request) ?? Promise.resolve({ approved: true })
        },
      },
      approvalTimeoutMs: 1_234,
    })
    for (;;) {
      const next = await round.next()
      if (next.done) return next.value
      outputs.push(next.value)
      heard?.(next.value)
    }
  }
  const answers = within('the round', run())
  // A test that expects it to fail looks at it later.
  answers.catch(() => {})
  return { answers, outputs, asked, turn, said: () => outputs.map((output) => `${output.type} ${idOf(output)}`) }
}

function idOf(output: AgentOutput): string {
  return 'id' in output ? String(output.id) : ''
}

function gate() {
  let open = () => {}
  const passed = new Promise<void>((resolve) => {
    open = resolve
  })
  return { passed, open }
}

const errorOf = (answer: ToolAnswer | undefined) => JSON.parse(String(answer?.content))

describe('a round of tool calls', () => {
  test('runs side by side, reports each when it is done, and answers in the order of the model [R56 R57 R60]', async () => {
    const [slow, mid] = [gate(), gate()]
    const { answers, said } = start(
      [call('1', 'slow'), call('2', 'mid'), call('3', 'fast')],
      [
        tool('slow', { execute: () => slow.passed.then(() => ({ content: 'slow', isError: false })) }),
        tool('mid', { execute: () => mid.passed.then(() => ({ content: 'mid', isError: true })) }),
        tool('fast', { execute: async () => ({ content: 'fast', isError: false }) }),
      ],
      {
        heard: (output) => {
          if (output.type !== 'tool_result_received') return
          if (output.id === '3') mid.open()
          if (output.id === '2') slow.open()
        },
      },
    )
    expect(await answers).toEqual([
      { content: 'slow', isError: false },
      { content: 'mid', isError: true },
      { content: 'fast', isError: false },
    ])
    const started = ['1', '2', '3'].map((id) => `tool_execution_started ${id}`)
    const done = ['3', '2', '1'].flatMap((id) => [`tool_execution_completed ${id}`, `tool_result_received ${id}`])
    expect(said()).toEqual([...started, ...done])
  })

  test('tells what a tool was asked, what it said and how long it took', async () => {
    const { answers, outputs } = start([call('1', 'add', { n: 1 })], [tool('add')])
    await answers
    expect(outputs).toEqual([
      { type: 'tool_execution_started', id: '1', name: 'add' },
      {
        type: 'tool_execution_completed',
        id: '1',
        name: 'add',
        result: 'add {"n":1}',
        is_error: false,
        duration_ms: expect.any(Number),
      },
      { type: 'tool_result_received', id: '1', name: 'add', is_error: false },
    ])
  })

  test('of nothing is over at once', async () => {
    const { answers, outputs } = start([], [])
    expect(await answers).toEqual([])
    expect(outputs).toEqual([])
  })
})

describe('a tool', () => {
  test('that takes longer than its time is aborted, told of, and an error [R58]', async () => {
    let heard: unknown
    const hanging = tool('hang', {
      timeoutMs: 20,
      execute: (_, { signal }) => {
        signal.addEventListener('abort', () => {
          heard = signal.reason
        })
        return new Promise(() => {})
      },
    })
    const { answers, said, outputs } = start([call('1', 'hang')], [hanging])
    expect(errorOf((await answers)[0])).toMatchObject({ error: 'timeout', timeout_ms: 20 })
    expect(said()).toEqual([
      'tool_execution_started 1',
      'tool_execution_timed_out 1',
      'tool_execution_completed 1',
      'tool_result_received 1',
    ])
    expect(outputs[1]).toMatchObject({ name: 'hang', timeout_ms: 20 })
    expect(heard).toMatchObject({ name: 'TimeoutError' })
  })

  test('whose time is longer than any timer has it all', async () => {
    const { answers } = start([call('1', 'add')], [tool('add', { timeoutMs: 2 ** 40 })])
    expect((await answers)[0]?.isError).toBe(false)
  })

  test.each<[string, Tool['execute'], string]>([
    ['throws', async () => Promise.reject(new Error('out of luck')), 'out of luck'],
    [
      'throws at once',
      () => {
        throw new Error('at once')
      },
      'at once',
    ],
    ['throws what is no error', async () => Promise.reject('a text'), 'a text'],
    ['answers with nothing', async () => undefined as unknown as ToolAnswer, 'no text'],
    ['answers with a number', async () => ({ content: 7, isError: false }) as unknown as ToolAnswer, 'no text'],
  ])('that %s is an error, and the others are not [R58]', async (_, execute, message) => {
    const { answers } = start([call('1', 'odd'), call('2', 'add')], [tool('odd', { execute }), tool('add')])
    const [odd, add] = await answers
    expect(errorOf(odd)).toEqual({ error: 'execution_failed', message: expect.stringContaining(message) })
    expect([odd?.isError, add?.isError]).toEqual([true, false])
  })

  test('that says more than 1 MiB is cut, with a note', async () => {
    const { answers, outputs } = start(
      [call('1', 'big')],
      [tool('big', { execute: async () => ({ content: 'é'.repeat(1024 * 1024), isError: false }) })],
    )
    const content = String((await answers)[0]?.content)
    expect(Buffer.byteLength(content)).toBeLessThanOrEqual(1024 * 1024)
    expect(content).toMatch(/^é+\n\[The result was cut: it has 2097152 bytes/)
    expect(outputs[1]).toMatchObject({ result: content })
  })

  test.each<[string, ToolCall, object]>([
    ['is not there', call('1', 'nobody'), { error: 'tool_not_found', message: 'There is no tool nobody' }],
    ['is called with what is no JSON', call('1', 'add', '{"n": '), { error: 'invalid_arguments' }],
    ['is called with a list', call('1', 'add', [1]), { error: 'invalid_arguments' }],
    [
      'is called with what its schema does not allow',
      call('1', 'add', { n: 'x' }),
      { error: 'invalid_arguments', message: '/n must be number' },
    ],
  ])('that %s does not run, and that is the answer [R57 R58]', async (_, wrong, error) => {
    const execute = vi.fn<Tool['execute']>()
    const { answers, said } = start([wrong], [tool('add', { execute })])
    expect(errorOf((await answers)[0])).toMatchObject(error)
    expect(said()).toEqual(['tool_execution_completed 1', 'tool_result_received 1'])
    expect(execute).not.toHaveBeenCalled()
  })

  test('that is called with nothing, or with JSON as text, is called with what that means', async () => {
    const { answers } = start([call('1', 'add', ''), call('2', 'add', '{"n": 2}')], [tool('add')])
    expect((await answers).map(({ content }) => content)).toEqual(['add {}', 'add {"n":2}'])
  })
})

describe('approval', () => {
  const guarded = (execute: Tool['execute'] = async () => ({ content: 'done', isError: false })) =>
    tool('erase', { needsApproval: true, execute })

  test('is asked for with what would be done, and the tool runs after it', async () => {
    const answer = gate()
    const execute = vi.fn<Tool['execute']>(async () => ({ content: 'done', isError: false }))
    const { answers, asked, said } = start([call('1', 'erase', { n: 1 })], [guarded(execute)], {
      approve: async () => {
        await answer.passed
        return { approved: true }
      },
    })
    await until('approval is asked for', () => asked.length > 0)
    expect(asked).toEqual([{ id: '1', name: 'erase', args: { n: 1 }, timeoutMs: 1_234 }])
    expect(execute).not.toHaveBeenCalled()
    expect(said()).toEqual([])
    answer.open()
    expect(await answers).toEqual([{ content: 'done', isError: false }])
  })

  test.each<[Approval, string]>([
    [{ approved: false, reason: 'not on a Friday' }, 'not on a Friday'],
    [{ approved: false }, 'the call was refused'],
  ])('that is refused is the answer: %j', async (approval, message) => {
    const execute = vi.fn<Tool['execute']>()
    const { answers, said } = start([call('1', 'erase')], [guarded(execute)], { approve: async () => approval })
    expect(errorOf((await answers)[0])).toEqual({ error: 'access_denied', message })
    expect(said()).toEqual(['tool_execution_completed 1', 'tool_result_received 1'])
    expect(execute).not.toHaveBeenCalled()
  })

  test('of one call does not hold up another', async () => {
    const answer = gate()
    const { answers, said } = start([call('1', 'erase'), call('2', 'add')], [guarded(), tool('add')], {
      approve: async () => {
        await answer.passed
        return { approved: true }
      },
      heard: (output) => {
        if (output.type === 'tool_result_received' && output.id === '2') answer.open()
      },
    })
    await answers
    expect(said().slice(0, 3)).toEqual([
      'tool_execution_started 2',
      'tool_execution_completed 2',
      'tool_result_received 2',
    ])
  })

  test('is not asked for where the arguments are wrong', async () => {
    const { answers, asked } = start([call('1', 'erase', { n: 'x' })], [guarded()])
    expect(errorOf((await answers)[0])).toMatchObject({ error: 'invalid_arguments' })
    expect(asked).toEqual([])
  })
})

describe('an interrupt', () => {
  test('ends the round at once, whatever a tool still does, and the tool hears of it', async () => {
    const running = gate()
    let heard: unknown
    const deaf = tool('deaf', {
      execute: (_, { signal }) => {
        signal.addEventListener('abort', () => {
          heard = signal.reason
        })
        running.open()
        return new Promise(() => {})
      },
    })
    const { answers, said, turn } = start([call('1', 'deaf')], [deaf])
    await running.passed
    const reason = new Error('interrupted')
    turn.abort(reason)
    await expect(answers).rejects.toBe(reason)
    expect(heard).toBe(reason)
    expect(said()).toEqual(['tool_execution_started 1'])
  })

  test('while approval is waited for ends the round, and nothing runs later', async () => {
    const [waiting, late] = [gate(), gate()]
    const execute = vi.fn<Tool['execute']>()
    const { answers, turn } = start([call('1', 'erase')], [tool('erase', { needsApproval: true, execute })], {
      approve: async () => {
        waiting.open()
        await late.passed
        return { approved: true }
      },
    })
    await waiting.passed
    turn.abort(new Error('interrupted'))
    await expect(answers).rejects.toThrow('interrupted')
    late.open()
    // All that was waiting for it has had its turn after this.
    await new Promise(setImmediate)
    expect(execute).not.toHaveBeenCalled()
  })

  test('before the round lets nothing begin', async () => {
    const turn = AbortSignal.abort(new Error('interrupted'))
    const execute = vi.fn<Tool['execute']>()
    const round = runTools({
      calls: [call('1', 'add')],
      tools: new Map([['add', tool('add', { execute })]]),
      guard: open,
      context: { signal: turn, approve: async () => ({ approved: true }) },
      approvalTimeoutMs: 1_000,
    })
    await expect(round.next()).rejects.toThrow('interrupted')
    expect(execute).not.toHaveBeenCalled()
  })
})

test('a reader that leaves in the middle ends what still runs', async () => {
  let heard = false
  const hanging = tool('hang', {
    execute: (_, { signal }) => {
      signal.addEventListener('abort', () => {
        heard = true
      })
      return new Promise(() => {})
    },
  })
  const round = runTools({
    calls: [call('1', 'hang')],
    tools: new Map([['hang', hanging]]),
    guard: open,
    context: { signal: new AbortController().signal, approve: async () => ({ approved: true }) },
    approvalTimeoutMs: 1_000,
  })
  await round.next()
  await round.return([])
  expect(heard).toBe(true)
})

describe('a guard', () => {
  const event = (text: string): AgentOutput => ({ type: 'reasoning_delta', delta: text })

  test('speaks in place, and changes what a tool is called with and what it said', async () => {
    const { answers, outputs } = start([call('1', 'add', { n: 1 })], [tool('add')], {
      guard: {
        async *before({ args }) {
          yield event('before')
          return { args: { ...(args as object), n: 2 } }
        },
        async *after({ args }, { content }) {
          yield event('after')
          return { content: `${content} for ${JSON.stringify(args)}`, isError: true }
        },
      },
    })
    expect(await answers).toEqual([{ content: 'add {"n":2} for {"n":2}', isError: true }])
    expect(outputs.map(({ type }) => type)).toEqual([
      'reasoning_delta',
      'tool_execution_started',
      'reasoning_delta',
      'tool_execution_completed',
      'tool_result_received',
    ])
  })

  test('that denies a call before it is the answer, and the tool does not run', async () => {
    const execute = vi.fn<Tool['execute']>()
    const denied = toolError('hook_denied', 'not here')
    const { answers, said, asked } = start([call('1', 'add')], [tool('add', { execute, needsApproval: true })], {
      guard: {
        async *before() {
          return { answer: denied }
        },
      },
    })
    expect(await answers).toEqual([denied])
    expect(said()).toEqual(['tool_execution_completed 1', 'tool_result_received 1'])
    expect([asked, execute.mock.calls]).toEqual([[], []])
  })

  test('that denies an answer after it stands in its place', async () => {
    const denied = toolError('hook_denied', 'not to be told')
    const { answers, outputs } = start([call('1', 'add')], [tool('add')], {
      guard: {
        async *after() {
          return denied
        },
      },
    })
    expect(await answers).toEqual([denied])
    expect(JSON.stringify(outputs)).not.toContain('add {}')
  })

  test('hears of what a tool threw', async () => {
    const failing = tool('add', { execute: async () => Promise.reject(new Error('out of luck')) })
    const seen: ToolAnswer[] = []
    const { answers } = start([call('1', 'add')], [failing], {
      guard: {
        async *after(_, answer) {
          seen.push(answer)
          return answer
        },
      },
    })
    expect(await answers).toEqual(seen)
    expect(errorOf(seen[0])).toEqual({ error: 'execution_failed', message: 'out of luck' })
  })

  test('that throws ends the round with that, and the other tools', async () => {
    const running = gate()
    let heard = false
    const hanging = tool('hang', {
      execute: (_, { signal }) => {
        signal.addEventListener('abort', () => {
          heard = true
        })
        running.open()
        return new Promise(() => {})
      },
    })
    const { answers } = start([call('1', 'hang'), call('2', 'add')], [hanging, tool('add')], {
      guard: {
        async *before({ id, args }) {
          if (id === '1') return { args }
          await running.passed
          throw new Error('a hook failed')
        },
      },
    })
    await expect(answers).rejects.toThrow('a hook failed')
    expect(heard).toBe(true)
  })
})
