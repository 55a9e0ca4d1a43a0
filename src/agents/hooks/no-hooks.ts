import { InvalidParamsError } from '../../core/errors.ts'
import type { HookRegistry } from './hook.ts'

/** A server without hooks: there is none to run, and none to disable. */
export const noHooks: HookRegistry = {
  forSession(disable) {
    if (disable.length > 0) throw new InvalidParamsError('/hooks_override/disable/0', 'names a hook that is not here')
    return {
      has: () => false,
      async *run() {
        yield* []
        return { patches: [] }
      },
    }
  },
}
