import { microseconds } from '../agent.ts'
import { type Plant, plantFault } from './plant.ts'
import type { Samples } from './samples.ts'

/** A promise about streams that was not kept. It ends the benchmark. */
export class StreamFault extends Error {}

export interface Expected {
  /** `text_delta` events of a turn. */
  deltas: number
  /** The whole text, where it can be known beforehand. */
  text: string | undefined
}

export interface StreamCheckOptions {
  /** Names the stream in a fault. */
  name: string
  /** `seq` of the event before the first. */
  seq?: number
  /** The turn before the first. */
  turn?: number
  /** Every turn whose number is a multiple of this has all its JSON read; of the others only ids, types and counts. */
  sampleEvery?: number
  plant?: Plant | undefined
}

const LF = 10
const COLON = 58
const AT = 64
const d = 100
const e = 101
const i = 105
const t = 116
const ID_DIGITS = 'id: '.length
const EVENT_NAME = 'event: '.length
const DATA_JSON = 'data: '.length
const TEXT_DELTA = 'text_delta'.length

/** What the bench agent's turn consists of; the deltas come after `turn_started`. */
const ORDER = ['run_started', 'turn_started', 'text_complete', 'turn_completed', 'run_completed']
const DELTAS = 2

/**
 * Reads a stream byte by byte and throws a `StreamFault` at the first thing that is wrong with it: `seq` must rise by
 * exactly 1, a turn's events must come in their order, all deltas must be there, and exactly one terminal event, last.
 */
export class StreamCheck {
  seq: number
  turn: number
  events = 0
  turns = 0
  notices = 0
  bytes = 0
  /** When the first event of the newest turn arrived, and its last. Milliseconds of `performance.now()`. */
  firstAt = 0
  lastAt = 0
  /** Arrival of every event of the newest turn, if this is set. */
  arrivals: number[] | undefined
  /** Filled with milliseconds from a delta's making to its arrival, if this is set and the agent is `paced`. */
  delays: Samples | undefined
  onTurnEnd: (() => void) | undefined
  readonly #name: string
  readonly #sampleEvery: number
  readonly #plant: Plant | undefined
  #expected: Expected = { deltas: 0, text: undefined }
  #place = 0
  #deltas = 0
  #sampled = false
  #text = ''
  #held: Buffer | undefined
  #now = 0
  #microseconds = 0
  #blockId = -1
  #typeStart = 0
  #typeEnd = 0
  #dataStart = 0
  #dataEnd = 0

  constructor({ name, seq = 0, turn = 0, sampleEvery = 1, plant }: StreamCheckOptions) {
    this.#name = name
    this.seq = seq
    this.turn = turn
    this.#sampleEvery = sampleEvery
    this.#plant = plant
  }

  expect(expected: Expected): void {
    this.#expected = expected
  }

  body(arrived: Buffer, from: number, to: number): void {
    this.bytes += to - from
    this.#now = performance.now()
    if (this.delays !== undefined) this.#microseconds = microseconds()
    let bytes = arrived
    let at = from
    let end = to
    if (this.#held !== undefined) {
      bytes = Buffer.concat([this.#held, arrived.subarray(from, to)])
      at = 0
      end = bytes.length
      this.#held = undefined
    }
    if (this.#plant !== undefined) {
      bytes = plantFault(this.#plant, bytes.subarray(at, end))
      at = 0
      end = bytes.length
    }
    let block = at
    while (at < end) {
      let stop = at
      while (stop < end && bytes[stop] !== LF) stop++
      if (stop === end) break
      if (stop === at) {
        this.#endBlock(bytes)
        block = at + 1
      } else {
        this.#line(bytes, at, stop)
      }
      at = stop + 1
    }
    if (block < end) this.#held = Buffer.from(bytes.subarray(block, end))
  }

  /** The response is over: nothing may be missing. */
  end(): void {
    if (this.#held !== undefined) this.#fault(`ends within an event: ${JSON.stringify(this.#held.toString())}`)
    if (this.#place !== 0) this.#fault(`ends without a terminal event, where ${ORDER[this.#place]} should come`)
  }

  #line(bytes: Buffer, start: number, stop: number): void {
    switch (bytes[start]) {
      case i: {
        let id = 0
        for (let at = start + ID_DIGITS; at < stop; at++) id = id * 10 + (bytes[at] as number) - 48
        this.#blockId = id
        return
      }
      case e:
        this.#typeStart = start + EVENT_NAME
        this.#typeEnd = stop
        return
      case d:
        this.#dataStart = start + DATA_JSON
        this.#dataEnd = stop
        return
      case COLON:
        return
      default:
        if (bytes.toString('latin1', start, stop).startsWith('retry: ')) return
        this.#fault(`has a line that is no field: ${JSON.stringify(bytes.toString('utf8', start, stop))}`)
    }
  }

  #endBlock(bytes: Buffer): void {
    const id = this.#blockId
    this.#blockId = -1
    if (id === -1) {
      const notice = bytes.toString('latin1', this.#typeStart, this.#typeEnd)
      if (notice !== 'session_loaded') this.#fault(`has a frame ${notice} without an id`)
      this.notices++
      return
    }
    if (id !== this.seq + 1) this.#fault(faultOfOrder(this.seq, id))
    this.seq = id
    this.events++
    const first = bytes[this.#typeStart]
    if (first === t && this.#typeEnd - this.#typeStart === TEXT_DELTA && bytes[this.#typeStart + 5] === d) {
      this.#delta(bytes)
    } else {
      this.#other(bytes)
    }
  }

  #delta(bytes: Buffer): void {
    if (this.#place !== DELTAS) this.#fault(`has a text_delta at ${this.seq} where ${ORDER[this.#place]} should come`)
    if (this.#deltas++ === 0 && this.#expected.deltas === 0) this.#fault('has a text_delta that nobody asked for')
    this.arrivals?.push(this.#now)
    if (this.delays !== undefined) {
      let at = this.#dataEnd
      while (at > this.#dataStart && bytes[at] !== AT) at--
      this.delays.push(
        (this.#microseconds - Number.parseInt(bytes.toString('latin1', at + 1, this.#dataEnd), 10)) / 1000,
      )
    }
    if (this.#sampled) this.#text += this.#json(bytes, 'text_delta').delta
  }

  #other(bytes: Buffer): void {
    const type = bytes.toString('latin1', this.#typeStart, this.#typeEnd)
    const due = ORDER[this.#place]
    if (type !== due) this.#fault(`has a ${type} at ${this.seq} where ${due} should come`)
    if (type === 'run_started') {
      this.turn++
      this.firstAt = this.#now
      this.#deltas = 0
      this.#text = ''
      this.#sampled = this.turn % this.#sampleEvery === 0 || this.turns === 0
    }
    this.arrivals?.push(this.#now)
    if (this.#sampled) this.#sample(type, bytes)
    if (type === 'text_complete' && this.#deltas !== this.#expected.deltas) {
      this.#fault(`has ${this.#deltas} deltas in turn ${this.turn}, not ${this.#expected.deltas}`)
    }
    this.#place++
    if (this.#place < ORDER.length) return
    this.#place = 0
    this.turns++
    this.lastAt = this.#now
    this.onTurnEnd?.()
  }

  #sample(type: string, bytes: Buffer): void {
    const event = this.#json(bytes, type)
    if (type === 'text_complete') this.#checkText('text_complete', event.content)
    if (type === 'run_completed') this.#checkText('run_completed', (event.result as { text: unknown }).text)
  }

  #checkText(where: string, text: unknown): void {
    if (text !== this.#text) this.#fault(`has a text in ${where} of turn ${this.turn} that its deltas do not add up to`)
    if (this.#expected.text !== undefined && text !== this.#expected.text) {
      this.#fault(`has another text in turn ${this.turn} than the agent said`)
    }
  }

  #json(bytes: Buffer, type: string): Record<string, unknown> {
    const event = JSON.parse(bytes.toString('utf8', this.#dataStart, this.#dataEnd)) as Record<string, unknown>
    if (event.type !== type || event.seq !== this.seq || event.turn !== this.turn) {
      this.#fault(
        `says type ${event.type}, seq ${event.seq}, turn ${event.turn} in its data, not ${type}, ${this.seq}, ${this.turn}`,
      )
    }
    return event
  }

  #fault(problem: string): never {
    throw new StreamFault(`${this.#name} ${problem}`)
  }
}

function faultOfOrder(last: number, id: number): string {
  const what = id <= last ? 'comes twice or too late' : 'comes too early: something is lost or out of order'
  return `has an event ${id} right after ${last}, which ${what}`
}
