import { Type } from '@sinclair/typebox'
import type { Comms } from '../../core/agent.ts'
import { CommsCommand } from '../../core/comms.ts'
import { SessionError } from '../../core/errors.ts'
import type { JsonObject, Tool, ToolAnswer } from './tool.ts'
import { toolError } from './tool.ts'

const DESCRIPTIONS: Readonly<Record<string, string>> = {
  peer_message: 'Tell a peer something. It is not answered by itself; ask with peer_request.',
  peer_request:
    'Ask a peer for something. Its answer comes later, as a peer_response that names the id given back here.',
  peer_response: "Answer a peer's request, naming its id in in_reply_to.",
}

const LIST: Omit<Tool, 'execute'> = {
  name: 'list_peers',
  description: 'The peers that can be sent to, by their names.',
  inputSchema: { type: 'object', properties: {}, additionalProperties: false },
  needsApproval: false,
  timeoutMs: 10_000,
}

/** What a command looks like to a model: without the members that are for other callers. */
const SENDING = CommsCommand.anyOf.flatMap((variant): Omit<Tool, 'execute'>[] => {
  const name = variant.properties.kind.const
  const description = DESCRIPTIONS[name]
  if (description === undefined) return []
  const inputSchema = Type.Omit(Type.Object(variant.properties), ['kind', 'stream'], { additionalProperties: false })
  return [{ ...LIST, name, description, inputSchema: JSON.parse(JSON.stringify(inputSchema)) as JsonObject }]
})

/** Tools with which the model of a session that has a `comms_name` talks to its peers. */
export function commsTools(comms: Comms): Tool[] {
  return [
    {
      ...LIST,
      execute: () =>
        answer(async () => ({ peers: (await comms.peers()).map(({ name, meta }) => ({ name, ...meta })) })),
    },
    ...SENDING.map((tool) => ({
      ...tool,
      execute: (args: unknown) => answer(() => comms.send({ ...(args as object), kind: tool.name } as CommsCommand)),
    })),
  ]
}

/** A peer that is not there, or whose inbox is full, is something for the model to know. */
async function answer(act: () => Promise<unknown>): Promise<ToolAnswer> {
  try {
    return { content: JSON.stringify(await act()), isError: false }
  } catch (error) {
    if (error instanceof SessionError) return toolError('execution_failed', error.message)
    throw error
  }
}
