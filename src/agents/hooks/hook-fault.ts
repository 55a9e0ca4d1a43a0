/** A hook did not do what it is for. The message is for whoever watches: no address, no header, nothing that it said. */
export class HookFault extends Error {
  override readonly name = 'HookFault'
  readonly reason: 'timeout' | 'runtime_error'

  constructor(message: string, reason: 'timeout' | 'runtime_error' = 'runtime_error') {
    super(message)
    this.reason = reason
  }
}
