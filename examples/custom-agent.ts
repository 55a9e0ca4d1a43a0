// A project of your own imports from 'suricate'.
import { loadConfig, serve } from '../src/index.ts'
import shout from './my-agent.ts'

await serve(loadConfig({ env: process.env }), { agents: [shout], defaultAgent: 'shout' })
