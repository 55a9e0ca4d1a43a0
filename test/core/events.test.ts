import { Value } from '@sinclair/typebox/value'
import { describe, expect, test } from 'vitest'
import {
  AgentEvent,
  AgentOutputs,
  eventSchemas,
  isTerminal,
  LifecycleEvents,
  StreamNotices,
} from '../../src/core/events.ts'
import { StringEnum } from '../../src/core/string-enum.ts'

const byType = { ...LifecycleEvents, ...AgentOutputs, ...StreamNotices }

describe('the vocabulary', () => {
  test('has the types of the contract, in three groups that share none', () => {
    expect(Object.keys(LifecycleEvents)).toEqual([
      'run_started',
      'run_completed',
      'run_failed',
      'run_interrupted',
      'turn_started',
      'tool_approval_requested',
      'tool_approval_resolved',
      'interaction_started',
      'interaction_complete',
      'interaction_failed',
    ])
    expect(Object.keys(StreamNotices)).toEqual(['session_loaded', 'stream_truncated', 'heartbeat', 'done'])
    expect(eventSchemas).toHaveLength(Object.keys(byType).length)
  })

  test.each(Object.entries(byType))(
    'describes %s under its own name, as an object told apart by its type [R49]',
    (type, schema) => {
      const words = type.split('_').map((word) => `${word[0]?.toUpperCase()}${word.slice(1)}`)
      expect(schema).toMatchObject({
        $id: words.join(''),
        title: type,
        type: 'object',
        description: expect.stringMatching(/\S/),
      })
      expect(schema.properties.type).toMatchObject({ const: type })
      expect(schema.required).toContain('type')
    },
  )

  test.each(Object.entries({ ...LifecycleEvents, ...AgentOutputs }))('gives %s a place and a turn', (_, schema) => {
    expect(schema.properties).toMatchObject({
      seq: { type: 'integer', minimum: 1 },
      turn: { type: 'integer', minimum: 0 },
    })
    expect(schema.required).toEqual(expect.arrayContaining(['seq', 'turn']))
  })

  test.each(Object.entries(StreamNotices))('gives %s none: it is not in the log', (_, schema) => {
    expect(Object.keys(schema.properties)).not.toContain('seq')
  })

  test('is published as a union that a `type` chooses from', () => {
    const { oneOf } = AgentEvent as unknown as { oneOf: { $ref: string }[] }
    expect(oneOf.map(({ $ref }) => $ref)).toEqual(eventSchemas.map(({ $id }) => $id))
  })

  test('has three ends of a turn, and no other', () => {
    const terminal = Object.keys(byType).filter((type) => isTerminal({ type }))
    expect(terminal).toEqual(['run_completed', 'run_failed', 'run_interrupted'])
  })
})

describe('an enum of strings', () => {
  const Colour = StringEnum(['red', 'green'], 'a colour')

  test('is an `enum` with a description', () => {
    expect(JSON.parse(JSON.stringify(Colour))).toEqual({
      type: 'string',
      enum: ['red', 'green'],
      description: 'a colour',
    })
    expect(JSON.parse(JSON.stringify(StringEnum(['red'])))).toEqual({ type: 'string', enum: ['red'] })
  })

  test('takes its strings and nothing else', () => {
    expect(['red', 'green', 'blue', '', 1, null].map((value) => Value.Check(Colour, value))).toEqual([
      true,
      true,
      false,
      false,
      false,
      false,
    ])
  })
})
