/**
 * The event stream format, read from a fetch body. EventSource cannot send an Authorization header and hides comments
 * and the manner in which a stream ends, all of which matter here.
 * Format: https://html.spec.whatwg.org/multipage/server-sent-events.html
 */

const LINE_END = /\r\n|\n|\r/g

/** Takes text cut anywhere and gives back what is complete: events, comments and `retry` times, in their order. */
export class SseParser {
  #rest = ''
  #type = ''
  #data = []
  #id

  push(text) {
    const frames = []
    const input = this.#rest + text
    let start = 0
    for (;;) {
      LINE_END.lastIndex = start
      const end = LINE_END.exec(input)
      // A CR at the very end may be the first half of a CRLF.
      if (end === null || (end[0] === '\r' && end.index === input.length - 1)) break
      this.#line(input.slice(start, end.index), frames)
      start = end.index + end[0].length
    }
    this.#rest = input.slice(start)
    return frames
  }

  #line(line, frames) {
    if (line === '') return this.#dispatch(frames)
    if (line.startsWith(':')) return frames.push({ kind: 'comment', text: line.slice(1).trim() })
    const colon = line.indexOf(':')
    const field = colon < 0 ? line : line.slice(0, colon)
    const value = colon < 0 ? '' : line.slice(line[colon + 1] === ' ' ? colon + 2 : colon + 1)
    if (field === 'data') this.#data.push(value)
    else if (field === 'event') this.#type = value
    else if (field === 'id' && !value.includes('\0')) this.#id = value
    else if (field === 'retry' && /^\d+$/.test(value)) frames.push({ kind: 'retry', ms: Number(value) })
  }

  #dispatch(frames) {
    // A block without data says nothing, by the format's own rule.
    if (this.#data.length > 0) {
      frames.push({ kind: 'event', type: this.#type || 'message', id: this.#id, data: this.#data.join('\n') })
    }
    this.#type = ''
    this.#data = []
    this.#id = undefined
  }
}

/**
 * Yields the frames of each network chunk together. Returns at a clean end and throws at any other. A block that was
 * still open is dropped: only whole events count as seen, and the rest comes again on resume.
 */
export async function* readFrames(body) {
  const parser = new SseParser()
  const decoder = new TextDecoder()
  const reader = body.getReader()
  try {
    for (;;) {
      const { done, value } = await reader.read()
      if (done) return
      yield parser.push(decoder.decode(value, { stream: true }))
    }
  } finally {
    reader.cancel().catch(() => {})
  }
}
