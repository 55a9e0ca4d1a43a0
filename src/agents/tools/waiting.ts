/** `promise`, as long as the signal does not abort. What is waited for goes on for others. */
export function waitedFor<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const left = () => reject(signal.reason)
    signal.addEventListener('abort', left, { once: true })
    // In any case: nobody else may be there to hear it fail.
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', left))
    if (signal.aborted) left()
  })
}

/** `promise`, or an error once it has taken `ms` milliseconds. */
export async function withinTime<T>(promise: Promise<T>, ms: number): Promise<T> {
  const late = new AbortController()
  const timer = setTimeout(() => late.abort(new Error(`It did not answer within ${ms} ms`)), ms)
  try {
    return await waitedFor(promise, late.signal)
  } finally {
    clearTimeout(timer)
  }
}
