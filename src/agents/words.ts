/** Words with the white space before them; what trails the last word stays with it, so that they add up to the text. */
export function splitWords(text: string): string[] {
  return text.match(/\s*\S+(?:\s+$)?/g) ?? (text === '' ? [] : [text])
}

export function countWords(text: string): number {
  return text.match(/\S+/g)?.length ?? 0
}
