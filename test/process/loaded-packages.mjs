/** Runs dist/cli.js with these arguments, and says on standard error which packages had been loaded when it ended. */
import { Session } from 'node:inspector'

const packages = new Set()
const session = new Session()
session.connect()
session.on('Debugger.scriptParsed', ({ params }) => {
  const [, name] = /.*node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(params.url) ?? []
  if (name !== undefined) packages.add(name)
})
session.post('Debugger.enable')

process.on('exit', () => process.stderr.write(`${JSON.stringify([...packages].sort())}\n`))
await import('../../dist/cli.js')
