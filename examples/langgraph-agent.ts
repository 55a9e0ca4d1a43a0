// An agent around a LangGraph.js graph, which needs no key: its nodes could as well call models.
// npm start -- --agent examples/langgraph-agent.ts --default-agent graph
import { Annotation, END, type LangGraphRunnableConfig, START, StateGraph } from '@langchain/langgraph'
import type { SessionAgentBuilder } from '../src/index.ts' // 'suricate', in a project of your own

const State = Annotation.Root({ question: Annotation<string>, facts: Annotation<string[]>, answer: Annotation<string> })

const graph = new StateGraph(State)
  .addNode('research', ({ question }) => {
    const words = question.split(/\s+/).filter((word) => word !== '')
    return { facts: [`${words.length} words`, `the longest is ${words.toSorted((a, b) => b.length - a.length)[0]}`] }
  })
  .addNode('write', ({ facts }, { writer }: LangGraphRunnableConfig) => {
    const pieces = ['Your question has ', facts.join(', and '), '.']
    for (const piece of pieces) writer?.(piece)
    return { answer: pieces.join('') }
  })
  .addEdge(START, 'research')
  .addEdge('research', 'write')
  .addEdge('write', END)
  .compile()

export default {
  name: 'graph',
  description: 'A LangGraph.js graph; each node is shown as a tool call',
  buildAgent: () => ({
    async *run({ prompt: question }, { signal }) {
      let answer = ''
      let nodes = 0
      const stream = await graph.stream({ question }, { streamMode: ['custom', 'updates'], signal })
      for await (const [mode, data] of stream) {
        if (mode === 'custom') {
          yield { type: 'text_delta', delta: String(data) }
          continue
        }
        for (const [name, update] of Object.entries(data)) {
          if ('answer' in update) answer = String(update.answer)
          if (!('facts' in update)) continue
          const call = { id: `node-${++nodes}`, name }
          yield { type: 'tool_call_requested', ...call, args: { question } }
          yield {
            type: 'tool_execution_completed',
            ...call,
            result: JSON.stringify(update),
            is_error: false,
            duration_ms: 0,
          }
          yield { type: 'tool_result_received', ...call, is_error: false }
        }
      }
      return { text: answer }
    },
  }),
} satisfies SessionAgentBuilder
