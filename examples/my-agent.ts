// A project of your own imports from 'suricate'.
import type { SessionAgentBuilder } from '../src/index.ts'

export default {
  name: 'shout',
  buildAgent: () => ({
    async *run({ prompt }) {
      for (const word of prompt.split(/(?<=\s)/)) yield { type: 'text_delta', delta: word.toUpperCase() }
      return {}
    },
  }),
} satisfies SessionAgentBuilder
