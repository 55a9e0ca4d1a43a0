import type { AgentOutput } from './events.ts'
import type { Block, Message, StopReason, ToolResult } from './transcript.ts'

/** Told to the next model call for a tool that never answered, so that the history stays acceptable to a provider. */
const UNANSWERED = JSON.stringify({ error: 'cancelled', message: 'The turn ended before this tool answered' })

/**
 * Folds one model call's events into what the transcript keeps of it: an assistant message and, if it asked for tools,
 * their results in the order in which the model asked.
 */
export class ModelCall {
  text = ''
  reasoning = ''
  textTold = false
  reasoningTold = false
  /** What the agent wants kept of this call, instead of what its events say. */
  blocks: Block[] | undefined
  readonly #toolUses: { id: string; name: string; args: unknown }[] = []
  readonly #results = new Map<string, ToolResult>()

  get hasContent(): boolean {
    return this.text !== '' || this.reasoning !== '' || this.#toolUses.length > 0 || this.blocks !== undefined
  }

  get toolCalls(): number {
    return this.#toolUses.length
  }

  /** True when tools were asked for and all have answered: whatever the model says next is another call. */
  get isRoundOver(): boolean {
    return this.#toolUses.length > 0 && this.#results.size === this.#toolUses.length
  }

  note(output: AgentOutput): void {
    switch (output.type) {
      case 'text_delta':
        this.text += output.delta
        return
      case 'text_complete':
        this.text = output.content
        this.textTold = true
        return
      case 'reasoning_delta':
        this.reasoning += output.delta
        return
      case 'reasoning_complete':
        this.reasoning = output.content
        this.reasoningTold = true
        return
      case 'tool_call_requested':
        this.#toolUses.push({ id: output.id, name: output.name, args: output.args })
        return
      case 'tool_execution_completed':
        this.#results.set(output.id, { tool_use_id: output.id, content: output.result, is_error: output.is_error })
        return
    }
  }

  /** The messages of this call; a tool that has no result gets one that says so. */
  messages(stopReason: StopReason): Message[] {
    // An empty answer is an answer too; a call that was cut off before it said anything is none.
    if (!this.hasContent && stopReason === 'cancelled') return []
    const blocks = this.blocks ?? this.#told()
    const messages: Message[] = [{ role: 'block_assistant', blocks, stop_reason: stopReason }]
    const results = blocks.flatMap((block) => (block.block_type === 'tool_use' ? [this.#resultOf(block.data.id)] : []))
    if (results.length > 0) messages.push({ role: 'tool_results', results })
    return messages
  }

  #resultOf(id: string): ToolResult {
    return this.#results.get(id) ?? { tool_use_id: id, content: UNANSWERED, is_error: true }
  }

  /** The blocks that follow from the events. */
  #told(): Block[] {
    const blocks: Block[] = []
    if (this.reasoning !== '') blocks.push({ block_type: 'reasoning', data: { text: this.reasoning } })
    if (this.text !== '') blocks.push({ block_type: 'text', data: { text: this.text } })
    for (const use of this.#toolUses) blocks.push({ block_type: 'tool_use', data: use })
    return blocks
  }
}
