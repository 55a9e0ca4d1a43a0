// Runs before the server does: a wall clock that the parent process may set, as an operator or NTP may set a real one.
// Messages are numbers, by how many milliseconds the clock is wrong, or 'stop' for one that stands still.
const RealDate = Date
let offset = 0
let stopped

const now = () => stopped ?? RealDate.now() + offset

globalThis.Date = class extends RealDate {
  constructor(...args) {
    if (args.length === 0) super(now())
    else super(...args)
  }

  static now() {
    return now()
  }
}

process.on('message', (message) => {
  if (message === 'stop') stopped = now()
  else offset = message
  process.send('set')
})
process.channel?.unref()
