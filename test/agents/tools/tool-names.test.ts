import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { toolName } from '../../../src/agents/tools/tool-names.ts'

describe('the name of a tool', () => {
  test.each([
    ['files', 'read', 'files__read'],
    ['files', 'read_file', 'files__read_file'],
    ['my-files', '_read__all', 'my-files___read__all'],
    ['f', 'x'.repeat(61), `f__${'x'.repeat(61)}`],
  ])('of %s and %s is both together', (server, tool, expected) => {
    expect(toolName(server, tool)).toBe(expected)
  })

  test.each([
    ['that is too long', 'files', 'x'.repeat(58), /^files__x{48}_[0-9a-f]{8}$/],
    ['with other characters', 'my files', 'read.all/ä', /^my_files__read_all___[0-9a-f]{8}$/],
    ['that another pair could have', 'a__b', 'c', /^a__b__c_[0-9a-f]{8}$/],
    ['that another pair could have', 'a_', 'c', /^a___c_[0-9a-f]{8}$/],
  ])('%s ends in a hash of what it stands for', (_, server, tool, expected) => {
    expect(toolName(server, tool)).toMatch(expected)
    expect(toolName(server, tool)).toBe(toolName(server, tool))
  })

  test('is one that providers take, and no other pair has it', () => {
    const part = fc.oneof(fc.string({ minLength: 1 }), fc.stringMatching(/^[a_]{1,5}$/))
    fc.assert(
      fc.property(part, part, part, part, (server, tool, otherServer, otherTool) => {
        const [name, other] = [toolName(server, tool), toolName(otherServer, otherTool)]
        expect(name).toMatch(/^[A-Za-z0-9_-]{1,64}$/)
        expect(name === other).toBe(server === otherServer && tool === otherTool)
      }),
    )
  })
})
