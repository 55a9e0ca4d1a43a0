import { expect } from 'vitest'
import type { Answer, Client } from './http.ts'

/** Bodies as http-api.md names them, written down from that page alone. */

export interface Usage {
  input_tokens: number
  output_tokens: number
  total_tokens: number
  cache_creation_tokens?: number
  cache_read_tokens?: number
}

export interface RunResult {
  session_id: string
  turn: number
  text: string
  stop_reason: string
  turns: number
  tool_calls: number
  usage: Usage
  session_usage: Usage
}

export interface SessionSummary {
  session_id: string
  created_at: string
  updated_at: string
  message_count: number
  total_tokens: number
  is_active: boolean
  labels: Record<string, string>
}

export interface SessionList {
  sessions: SessionSummary[]
  total: number
  limit: number
  offset: number
}

export interface SessionView {
  state: Omit<SessionSummary, 'total_tokens'> & {
    agent: string
    model?: string
    turn: number
    last_assistant_text?: string
  }
  billing: { total_tokens: number; usage: Usage }
}

export interface Turn {
  session_id: string
  turn: number
  status: string
  prompt: string
  created_at: string
  started_at?: string
  ended_at?: string
  result?: RunResult
  error?: Problem
  truncated?: true
}

export interface TurnList {
  turns: Turn[]
  total: number
  limit: number
  offset: number
}

export interface Message {
  role: string
  content?: string
  blocks?: { block_type: string; data: Record<string, unknown> }[]
  stop_reason?: string
  results?: { tool_use_id: string; content: string; is_error: boolean }[]
}

export interface MessageList {
  messages: Message[]
  total: number
  limit: number
  offset: number
  next?: number
}

export interface ExportedSession {
  version: number
  id: string
  messages: Message[]
  created_at: string
  updated_at: string
  metadata: Record<string, unknown>
  usage: Usage
}

export interface Problem {
  type: string
  title: string
  status: number
  detail: string
  code: string
  request_id?: string
  session_id?: string
  turn?: number
  errors?: { path: string; message: string }[]
  session_created?: boolean
  active_turn?: { turn: number; status: string; started_at: string; last_seq: number }
  links?: { turn: string; events: string; interrupt: string }
}

export const UUID_V7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/
/** RFC 3339 in UTC with milliseconds. */
export const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/
/** A well-formed id that no server has given out. */
export const NOBODY = '0199d3c0-0000-7000-8000-000000000000'

/** What no answer may ever contain: stacks, files, error classes, the names that libraries give their errors. */
const INTERNALS =
  /\n\s+at |node_modules|node:|file:\/\/|\.[cm]?[jt]s:\d+|\/work\/|(Type|Reference|Range|Syntax)Error|FST_|HPE_|ERR_/

/** Holds an answer against section 3 of the contract: a problem document with this status and code, and no internals. */
export function expectProblem(answer: Answer, status: number, code: string): Problem {
  const problem = answer.body as Problem | undefined
  expect({ status: answer.status, code: problem?.code, text: answer.text }).toEqual({
    status,
    code,
    text: answer.text,
  })
  expectProblemDocument(answer)
  return problem as Problem
}

/** The same for a problem whose status and code the contract leaves open. */
export function expectProblemDocument(answer: Answer): Problem {
  expect(answer.headers['content-type']).toMatch(/^application\/problem\+json(; ?charset=utf-8)?$/)
  const problem = answer.body as Problem
  expect(problem).toMatchObject({
    type: `urn:suricate:problem:${String(problem.code).toLowerCase().replaceAll('_', '-')}`,
    title: expect.stringMatching(/\S/),
    status: answer.status,
    detail: expect.stringMatching(/\S/),
    code: expect.stringMatching(/^[A-Z][A-Z_]+$/),
  })
  // What could not be parsed as HTTP never became a request, and has no id.
  expect(problem.request_id).toBe(answer.headers['x-request-id'])
  expect(answer.text).not.toMatch(INTERNALS)
  return problem
}

/** A validation problem whose `errors` name the member that is wrong. */
export function expectInvalid(answer: Answer, path?: string): Problem {
  const problem = expectProblem(answer, 400, 'INVALID_PARAMS')
  if (path === undefined) return problem
  const paths = (problem.errors ?? []).map((error) => error.path)
  expect(paths, answer.text).toContainEqual(expect.stringContaining(path))
  for (const error of problem.errors ?? []) expect(error.message).toMatch(/\S/)
  return problem
}

export const NO_USAGE: Usage = { input_tokens: 0, output_tokens: 0, total_tokens: 0 }

export function usage(input_tokens: number, output_tokens: number): Usage {
  return { input_tokens, output_tokens, total_tokens: input_tokens + output_tokens }
}

/** Creates an idle session that has run nothing, and says its id. */
export async function createIdle(api: Client, body: Record<string, unknown> = {}): Promise<string> {
  const answer = await api.post<RunResult>('/sessions', { initial_turn: 'deferred', ...body })
  expect(answer.status, answer.text).toBe(201)
  return answer.body.session_id
}

export async function readTurn(api: Client, id: string, turn: number): Promise<Turn> {
  const answer = await api.get<Turn>(`/sessions/${id}/turns/${turn}`)
  expect(answer.status, answer.text).toBe(200)
  return answer.body
}

export async function readSession(api: Client, id: string): Promise<SessionView> {
  const answer = await api.get<SessionView>(`/sessions/${id}`)
  expect(answer.status, answer.text).toBe(200)
  return answer.body
}

export async function readMessages(api: Client, id: string): Promise<Message[]> {
  const answer = await api.get<MessageList>(`/sessions/${id}/messages?limit=1000`)
  expect(answer.status, answer.text).toBe(200)
  return answer.body.messages
}

/** A user's message and the text that answered it. */
export function said(prompt: string, text: string): Message[] {
  return [
    { role: 'user', content: prompt },
    { role: 'block_assistant', blocks: [{ block_type: 'text', data: { text } }], stop_reason: 'end_turn' },
  ]
}
