import { parseJson } from '../core/json.ts'

/** Arguments of a tool call as a model wrote them: JSON, `{}` for nothing at all, and the text itself where it is none. */
export function parseArguments(text: string): unknown {
  if (text.trim() === '') return {}
  try {
    return parseJson(text)
  } catch {
    return text
  }
}
