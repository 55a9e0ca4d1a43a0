import Fastify from 'fastify'
// A project of your own imports from 'suricate'.
import { suricate } from '../src/index.ts'

const app = Fastify()
app.get('/', async () => 'An application of its own, with sessions under /agents-api\n')
await app.register(suricate, { prefix: '/agents-api', maxSessions: 100, drainMs: 5_000 })

for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => void app.close())
console.log(await app.listen({ port: Number(process.env.PORT ?? 8080) }))
