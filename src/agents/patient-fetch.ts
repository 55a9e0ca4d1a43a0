type Dispatcher = NonNullable<RequestInit['dispatcher']>

/** Where Node keeps the HTTP client of its `fetch`: https://undici.nodejs.org/#/docs/api/GlobalInstallation */
const CLIENT = Symbol.for('undici.globalDispatcher.1')

/**
 * Node's HTTP client gives a request up after 300 s without headers, or between two pieces of its body. Models and tools
 * may take longer: each call has a time-out of its own, which the caller's signal brings.
 */
const patient = {
  dispatch: (options: Parameters<Dispatcher['dispatch']>[0], handler: Parameters<Dispatcher['dispatch']>[1]) => {
    const client = (globalThis as unknown as Record<symbol, Dispatcher>)[CLIENT] as Dispatcher
    return client.dispatch({ ...options, headersTimeout: 0, bodyTimeout: 0 }, handler)
  },
} as Dispatcher

/** `fetch` without time-outs of its own. */
export const patientFetch: typeof fetch = (input, init) => fetch(input, { ...init, dispatcher: patient })
