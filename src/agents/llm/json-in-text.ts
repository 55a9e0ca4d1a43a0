import { parseJson } from '../../core/json.ts'

/** So many `{` are tried as the beginning of an object. */
const MAX_TRIES = 100
const THOUGHT = /<(think|thinking|thought|reasoning)>[\s\S]*?<\/\1>/gi
/** Where the opening tag is part of the model's template, only the closing one is in its answer. */
const END_OF_THOUGHT = /^[\s\S]*<\/(?:think|thinking|thought|reasoning)>/i

/** The value that a text is as a whole: JSON, bare or in a code block. */
export function valueIn(text: string): { value: unknown } | { fault: string } {
  try {
    return { value: parseJson(/^\s*```(?:\w+)?\s*\n([\s\S]*?)\n?\s*```\s*$/.exec(text)?.[1] ?? text) }
  } catch (error) {
    return { fault: (error as Error).message }
  }
}

/** The JSON objects that stand in a text, in order: around them prose and code blocks, before them what the model thought. */
export function objectsIn(text: string): unknown[] {
  const said = spansIn(text.replace(THOUGHT, '').replace(END_OF_THOUGHT, ''))
  // One of the tags may be part of the answer.
  return said.length > 0 ? said : spansIn(text)
}

function spansIn(text: string): unknown[] {
  const found: unknown[] = []
  const beginning = /\{\s*["}]/g
  for (let tries = 0; tries < MAX_TRIES; tries++) {
    const begins = beginning.exec(text)?.index
    if (begins === undefined) break
    const end = endOf(text, begins)
    beginning.lastIndex = begins + 1
    if (end === undefined) continue
    try {
      found.push(parseJson(text.slice(begins, end)))
      beginning.lastIndex = end
    } catch {
      // Braces that are no object; one inside of them may be.
    }
  }
  return found
}

/** Behind the brace that closes the one at `begins`. */
function endOf(text: string, begins: number): number | undefined {
  let depth = 0
  let isString = false
  for (let i = begins; i < text.length; i++) {
    const character = text[i]
    if (isString) {
      if (character === '\\') i++
      else if (character === '"') isString = false
    } else if (character === '"') isString = true
    else if (character === '{') depth++
    else if (character === '}' && --depth === 0) return i + 1
  }
  return undefined
}
