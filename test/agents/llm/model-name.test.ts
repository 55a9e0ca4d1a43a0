import { describe, expect, test } from 'vitest'
import { modelName } from '../../../src/agents/llm/model-name.ts'

describe('the provider of a model', () => {
  test.each([
    ['openai', 'gpt-4.1', 'openai/gpt-4.1'],
    ['open_a_i', 'gpt-4.1', 'openai/gpt-4.1'],
    ['gemini', 'gemini-2.5-pro', 'google/gemini-2.5-pro'],
    ['openai', 'openai/gpt-4.1', 'openai/gpt-4.1'],
    ['compatible', 'openai/gpt-oss', 'compatible/openai/gpt-oss'],
  ])('may be said apart from it, as %s, and by the name that it has elsewhere [R100]', (provider, model, expected) => {
    expect(modelName(model, provider)).toBe(expected)
  })

  test('may stand in it alone', () => {
    expect(modelName('anthropic/claude')).toBe('anthropic/claude')
  })

  test.each(['OpenAI', 'toString', ''])('that is none, %j, is refused', (provider) => {
    expect(() => modelName('m', provider)).toThrow(expect.objectContaining({ code: 'INVALID_PARAMS' }))
  })
})
