import { expect, test } from 'vitest'
import { ConfigError, flagName, isLoopback, loadConfig, type SettingName, settings } from '../src/config.ts'

test('without any setting the defaults of the schema hold', () => {
  const config = loadConfig({ env: {} }) as Record<string, unknown>
  for (const [name, { default: standard }] of Object.entries(settings.properties)) {
    const isList = ['API_KEYS', 'AGENT', 'CORS_ORIGINS', 'ALLOWED_HOSTS', 'WEBHOOK_SECRETS'].includes(name)
    const isMap = name === 'CONTEXT_TOKENS'
    expect(config[name], name).toEqual(isMap ? new Map() : isList ? [] : standard)
  }
})

test('a flag wins over the environment, and an empty variable counts as not set', () => {
  const config = loadConfig({ env: { MAX_SESSIONS: '7', PORT: '' }, flags: { MAX_SESSIONS: '9' } })
  expect(config).toMatchObject({ MAX_SESSIONS: 9, PORT: 8080 })
})

test('flags are the names in lower case with dashes', () => {
  expect(flagName('STREAM_HEARTBEAT_MS')).toBe('stream-heartbeat-ms')
})

const wrong: [SettingName, string, string][] = [
  ['PORT', 'abc', 'PORT must be a whole number from 0 to 65535, got "abc"'],
  ['PORT', '70000', 'PORT must be a whole number from 0 to 65535, got "70000"'],
  ['PORT', '1.5', 'PORT must be a whole number from 0 to 65535, got "1.5"'],
  ['PORT', '1e3', 'PORT must be a whole number from 0 to 65535, got "1e3"'],
  ['MAX_SESSIONS', '0', 'MAX_SESSIONS must be a whole number from 1 to 10000000, got "0"'],
  ['INSECURE_NO_AUTH', 'maybe', 'INSECURE_NO_AUTH must be true or false, got "maybe"'],
  ['INSECURE_NO_AUTH', 'toString', 'INSECURE_NO_AUTH must be true or false, got "toString"'],
  ['LOG_LEVEL', 'loud', 'LOG_LEVEL must be one of fatal, error, warn, info, debug, trace, silent, got "loud"'],
  [
    'STORE_URL',
    'redis://x',
    'STORE_URL must begin with one of memory:, sqlite:, postgres:, postgresql:, got "redis://x"',
  ],
  [
    'MODEL',
    'gpt-4',
    'MODEL must be provider/name with one of anthropic, openai, google, compatible as the provider, got "gpt-4"',
  ],
  [
    'MODEL',
    'mistral/x',
    'MODEL must be provider/name with one of anthropic, openai, google, compatible as the provider, got "mistral/x"',
  ],
  [
    'MODEL',
    'toString/x',
    'MODEL must be provider/name with one of anthropic, openai, google, compatible as the provider, got "toString/x"',
  ],
  [
    'MODEL',
    'openai/',
    'MODEL must be provider/name with one of anthropic, openai, google, compatible as the provider, got "openai/"',
  ],
  ['MODEL', 'anthropic/x', 'MODEL is anthropic/x, which needs ANTHROPIC_API_KEY: set that as well'],
  ['MODEL', 'openai/x/y', 'MODEL is openai/x/y, which needs OPENAI_API_KEY: set that as well'],
  ['MODEL', 'google/x', 'MODEL is google/x, which needs GOOGLE_GENERATIVE_AI_API_KEY: set that as well'],
  ['MODEL', 'compatible/x', 'MODEL is compatible/x, which needs OPENAI_COMPATIBLE_BASE_URL: set that as well'],
  [
    'OPENAI_COMPATIBLE_BASE_URL',
    'localhost:11434',
    'OPENAI_COMPATIBLE_BASE_URL must be a URL like http://127.0.0.1:11434/v1, got "localhost:11434"',
  ],
  ['ANTHROPIC_BASE_URL', 'there', 'ANTHROPIC_BASE_URL must be a URL like http://127.0.0.1:11434/v1, got "there"'],
  ['CORS_ORIGINS', 'app.example', 'CORS_ORIGINS must list origins like https://app.example, got "app.example"'],
  [
    'CORS_ORIGINS',
    'https://a.example/x',
    'CORS_ORIGINS must list origins like https://app.example, got "https://a.example/x"',
  ],
]

test.each(wrong)('%s=%s stops the start with a sentence that names it', (name, value, sentence) => {
  expect(() => loadConfig({ env: { [name]: value } })).toThrow(new ConfigError(sentence))
})

test.each(['x', '{}', '[]', '[{}]', '[{"key":""}]', '[{"key":"with space"}]', '[null]', '[{"key":"k","name":5}]'])(
  'API_KEYS=%s is refused without repeating it',
  (value) => {
    expect(() => loadConfig({ env: { API_KEYS: value } })).toThrow(/^API_KEYS must be a JSON array like/)
  },
)

test('keys without a name are named by their place', () => {
  const { API_KEYS } = loadConfig({ env: { API_KEYS: '[{"key":"k1","name":"ci"},{"key":"k2"}]' } })
  expect(API_KEYS).toEqual([
    { key: 'k1', name: 'ci' },
    { key: 'k2', name: 'key 2' },
  ])
})

test('an address that others can reach needs keys, or the word that none are wanted', () => {
  expect(() => loadConfig({ env: { HOST: '0.0.0.0' } })).toThrow(/set API_KEYS=.*--insecure-no-auth/)
  expect(loadConfig({ env: { HOST: '0.0.0.0', API_KEYS: '[{"key":"k"}]' } }).HOST).toBe('0.0.0.0')
  expect(loadConfig({ env: { HOST: '0.0.0.0' }, flags: { INSECURE_NO_AUTH: true } }).HOST).toBe('0.0.0.0')
})

test.each([
  ['localhost', true],
  ['127.0.0.1', true],
  ['127.1.2.3', true],
  ['::1', true],
  ['0.0.0.0', false],
  ['127.0.0.1.example', false],
  ['192.168.0.1', false],
])('%s is loopback: %s', (host, expected) => {
  expect(isLoopback(host)).toBe(expected)
})
