/**
 * What a program may import.
 *
 * - The whole server: `serve(loadConfig({ env: process.env }), { agents })` is `suricate serve` with agents of your own;
 *   `buildApp` makes the same server for a program that listens, logs and closes by itself.
 * - The session API for a Fastify application of your own: `suricate`.
 * - The engine without HTTP: `EphemeralSessionService` and `openStore`, or `PersistentSessionService` and `openDurableStore`.
 * - The types that an agent's author needs.
 */
export type { HookHandler, HookInvocation, HookPatch, HookResponse } from './agents/hooks/hook.ts'
export { type AppParts, buildApp } from './app.ts'
export { type ApiKey, type Config, ConfigError, type ConfigSources, loadConfig, type SettingName } from './config.ts'
export type {
  AgentOption,
  AgentRun,
  AgentSession,
  Approval,
  ApprovalRequest,
  Comms,
  SessionAgent,
  SessionAgentBuilder,
  Spending,
  TurnContext,
  TurnInput,
  TurnOutcome,
} from './core/agent.ts'
export type { DurableStore, SessionRow, SessionWrite, TurnRow } from './core/durable-store.ts'
export { EphemeralSessionService } from './core/ephemeral-session-service.ts'
export { AgentError, InvalidParamsError, SessionError, type SessionErrorCode } from './core/errors.ts'
export type { EventLog, LogPage, Retention } from './core/event-log.ts'
export { type AgentEvent, type AgentOutput, type AgentReport, isTerminal } from './core/events.ts'
export { PersistentSessionService, type PersistentSessionServiceOptions } from './core/persistent-session-service.ts'
export type { EphemeralSessionServiceOptions } from './core/service-options.ts'
export type {
  CreateSessionRequest,
  RunResult,
  ServiceObserver,
  SessionService,
  SessionSummary,
  SessionView,
  StartTurnRequest,
  TurnHandle,
  TurnView,
} from './core/session-service.ts'
export type { SessionStore } from './core/session-store.ts'
export type { ExportedSession, Message } from './core/transcript.ts'
export { type SuricateOptions, suricate } from './embed.ts'
export { serve } from './main.ts'
export { openDurableStore, openStore } from './stores/index.ts'
export { VERSION } from './version.ts'
